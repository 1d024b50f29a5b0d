"""The service manager hears that events are handled, and nothing when they are not."""

from __future__ import annotations

import asyncio
import itertools
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from swanroam.daemon import controller as controller_module
from swanroam.daemon import service_manager
from swanroam.daemon.service_manager import WATCHDOG, watchdog_interval
from swanroam.daemon.watchdog import Watchdog
from unit import skipping_loop
from unit.fake_host import FakeHost, KernelState, Stage, configuration, on_stage


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """What was said, and when."""
    said: list[tuple[str, float]] = []
    monkeypatch.setattr(
        service_manager, "tell", lambda state, environment: said.append((state, asyncio.get_running_loop().time()))
    )
    return said


def watched(seconds: float, pid: int | None = None) -> dict[str, str]:
    return {"WATCHDOG_USEC": str(int(seconds * 1e6)), "WATCHDOG_PID": str(os.getpid() if pid is None else pid)}


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        (watched(60), 60.0),
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        (watched(60, pid=1), None),
        ({}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_who_is_watched_is_told_by_the_environment(environment: dict[str, str], interval: float | None) -> None:
    assert watchdog_interval(environment) == interval


def test_an_idle_controller_is_alive(tmp_path: Path, told: list[tuple[str, float]]) -> None:
    async def story(stage: Stage) -> None:
        watchdog = Watchdog(lambda: stage.controller.turned, controller_module.VERIFY, watched(60))
        watching = asyncio.create_task(watchdog.run())
        await asyncio.sleep(600)
        watching.cancel()

        times = [time for state, time in told if state == WATCHDOG]
        assert len(times) >= 30
        assert max(later - sooner for sooner, later in itertools.pairwise(times)) <= 20.0

    on_stage(tmp_path, story)


def test_a_controller_that_hangs_is_not_spoken_for_and_that_is_logged_once(
    tmp_path: Path, told: list[tuple[str, float]]
) -> None:
    class Hanging(FakeHost):
        async def apply(self, wanted: KernelState) -> bool:
            if self.applied:
                await asyncio.sleep(10_000)
            return await super().apply(wanted)

    async def story(stage: Stage) -> None:
        watchdog = Watchdog(lambda: stage.controller.turned, controller_module.VERIFY, watched(60))
        watching = asyncio.create_task(watchdog.run())
        with capture_logs() as logged:
            await asyncio.sleep(200)
        watching.cancel()

        assert max(time for _, time in told) <= 60.0
        assert [entry["event"] for entry in logged] == ["controller_hangs"]

    on_stage(tmp_path, story, host=Hanging())


def test_a_controller_that_has_just_been_started_does_not_hang(tmp_path: Path, told: list[tuple[str, float]]) -> None:
    """However long the machine has been running: the loop's clock begins with that."""

    class Slow(FakeHost):
        async def apply(self, wanted: KernelState) -> bool:
            await asyncio.sleep(1)
            return await super().apply(wanted)

    async def story() -> None:
        await asyncio.sleep(100_000)
        stage = Stage(configuration(tmp_path, "", "give_up: 30s"), Slow())
        watchdog = Watchdog(lambda: stage.controller.turned, controller_module.VERIFY, watched(60))
        working = [asyncio.create_task(part) for part in (stage.controller.run(), watchdog.run())]
        with capture_logs() as logged:
            await asyncio.sleep(100)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)

        assert [entry["event"] for entry in logged] == []
        assert told[0] == (WATCHDOG, 100_000.0)

    skipping_loop.run(story())


def test_where_nobody_watches_nothing_is_said(told: list[tuple[str, float]]) -> None:
    skipping_loop.run(Watchdog(lambda: 0.0, 15.0, {}).run())

    assert told == []

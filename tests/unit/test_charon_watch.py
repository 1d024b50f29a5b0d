"""The watch while charon does not answer: hung, stopped, or without a kernel that can be read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from swanroam.daemon import charon as charon_module
from swanroam.daemon.charon import CharonWatch
from swanroam.daemon.controller import HostError
from swanroam.ike.associations import IkeSa
from swanroam.ike.messages import ViciTimeoutError, ViciUnavailableError
from swanroam.ike.vici import ViciClient
from unit.fake_host import A, FakeCharon, P, Stage, on_stage


@pytest.mark.parametrize(
    "error",
    [
        ViciTimeoutError("charon did not finish within 10 s: list-sas"),
        ViciUnavailableError("nobody listens on charon's VICI socket"),
        HostError("cannot list policies: no memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_read_is_told_once_asked_again_and_takes_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(charon_module, "POLL", 0.001)
    readings = 0

    class Mute(FakeCharon):
        async def read_back(self) -> tuple[Sequence[IkeSa], dict[int, list[str]]]:
            nonlocal readings
            readings += 1
            if readings <= 5:
                raise error
            return (), {}

    async def story(stage: Stage) -> None:
        stage.associated((A, P))
        await stage.until(lambda: stage.peer.machine.associations)
        watch = CharonWatch(ViciClient(tmp_path / "vici"), stage.controller, Mute())
        with capture_logs() as logged:
            watching = asyncio.create_task(watch.run())
            await stage.until(lambda: readings == 5)
            assert watch.trouble == str(error)
            assert stage.peer.machine.associations, "an IKE_SA is gone when charon says so, not when it says nothing"
            await stage.until(lambda: not watch.trouble)
            watching.cancel()
            await asyncio.wait([watching])
        assert [entry["reason"] for entry in logged if entry["event"] == "charon_not_read"] == [str(error)]

    on_stage(tmp_path, story)

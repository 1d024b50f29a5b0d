"""The follower while the kernel can't be asked: it says so once, asks again, and misses nothing in the end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from structlog.testing import capture_logs

from swanroam.daemon import addresses as addresses_module
from swanroam.daemon.addresses import AddressFollower
from swanroam.kernel.address_watch import AddressesNotRead, AddressWatchError
from swanroam.kernel.addresses import AddressSelection, HostAddresses, IPAddress, LinkState, LocalAddress, RouteChoice
from unit.fake_host import A, B, P, Stage, on_stage

HOST = HostAddresses(
    frozenset({LocalAddress(A, 24, "eth0", 1, 0), LocalAddress(B, 24, "eth0", 1, 0)}),
    frozenset({LinkState(1, "eth0", True, True)}),
)


class Watch:
    """Fails so many times at each question."""

    failures = 3
    error: type[AddressWatchError] = AddressesNotRead

    def __init__(self, selection: AddressSelection) -> None:
        self._readings = self._lookups = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def __anext__(self) -> HostAddresses:
        self._readings += 1
        if self._readings > self.failures + 1:
            await asyncio.Event().wait()
        if self._readings <= self.failures:
            raise self.error("the kernel does not answer")
        return HOST

    async def source_for(self, destination: IPAddress) -> RouteChoice | None:
        self._lookups += 1
        if self._lookups <= self.failures:
            raise self.error("no route could be looked up")
        return RouteChoice(A, "eth0")


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> type[Watch]:
    monkeypatch.setattr(addresses_module, "AddressWatch", Watch)
    monkeypatch.setattr(addresses_module, "RETRY", 0.001)
    return Watch


def test_it_asks_again_until_it_knows(tmp_path: Path, watch: type[Watch]) -> None:
    async def story(stage: Stage) -> None:
        follower = AddressFollower(stage.controller.config.addresses, stage.controller)
        stage.associated((A, P))
        stage.change(1, P)
        await stage.until(lambda: stage.peer.machine.pair)
        with capture_logs() as logged:
            following = asyncio.create_task(follower.run())
            await stage.until(lambda: follower._told)
            following.cancel()
            await asyncio.wait([following])
        reasons = [entry["reason"] for entry in logged if entry["event"] == "addresses_not_read"]
        assert reasons == ["the kernel does not answer", "no route could be looked up"]
        assert stage.controller.own_addresses == {A, B}

    on_stage(tmp_path, story)


def test_a_watch_that_hears_nothing_any_more_ends_it(
    tmp_path: Path, watch: type[Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "error", AddressWatchError)

    async def story(stage: Stage) -> None:
        with pytest.raises(ExceptionGroup) as caught:
            await AddressFollower(stage.controller.config.addresses, stage.controller).run()
        assert caught.group_contains(AddressWatchError, match="does not answer")

    on_stage(tmp_path, story)

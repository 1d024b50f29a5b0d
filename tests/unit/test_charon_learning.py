"""What the machines and the guards learn from charon's IKE_SAs, and what of the kernel has to bear it out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from swanroam.daemon.charon import CharonWatch
from swanroam.daemon.restoring import PATIENCE
from swanroam.daemon.translation import ANY_TRAFFIC, ProtectedTraffic
from swanroam.ike.associations import ChildSa, ChildState, Endpoint, IkeSa
from swanroam.ike.orphans import Ends
from swanroam.ike.vici import ViciClient
from swanroam.protocol.events import Association
from swanroam.protocol.host_state import Pair
from unit.child_sas import CONTROL, DATA, IKE, selectors
from unit.fake_host import ITS, A, FakeCharon, FakeHost, P, Stage, configuration, on_stage

TCP, UDP = ProtectedTraffic(6), ProtectedTraffic(17)


def data(protocol: str) -> ChildSa:
    """A transport-mode child for a protocol."""
    ends = {"local_ts": selectors(f"{A}/32[{protocol}]"), "remote_ts": selectors(f"{P}/32[{protocol}]")}
    return replace(DATA, name=f"data-{protocol}", **ends)


def with_children(*children: ChildSa) -> IkeSa:
    remote = Endpoint(P, 500, ITS)
    return replace(IKE, unique_id=1, local=Endpoint(A, 500, "mobile.example.org"), remote=remote, children=children)


@dataclass
class Charon:
    """What is read next, and who reads it."""

    watch: CharonWatch
    stage: Stage
    fake: FakeCharon

    async def has(self, *ike_sas: IkeSa, lacking: str = "") -> None:
        """charon has these; the kernel lacks this of the first one."""
        self.fake.ike_sas = ike_sas
        self.fake.lacking = [lacking] if lacking else []
        await self.watch.read()

    @property
    def association(self) -> Association:
        (association,) = self.watch._known[ITS]
        return association


def charon_on(stage: Stage) -> Charon:
    fake = FakeCharon()
    return Charon(CharonWatch(ViciClient(stage.controller.config.vici_socket), stage.controller, fake), stage, fake)


def with_charon(directory: Path, story: Callable[[Charon], Awaitable[None]]) -> None:
    async def run() -> None:
        await story(charon_on(Stage(configuration(directory), FakeHost())))

    asyncio.run(run())


def test_what_was_protected_once_stays_guarded(tmp_path: Path) -> None:
    async def story(charon: Charon) -> None:
        async def protected(*children: ChildSa) -> frozenset[ProtectedTraffic]:
            await charon.has(with_children(*children))
            return charon.stage.peer.protected

        assert await protected() == ANY_TRAFFIC, "as long as nothing is known"
        assert await protected(data("tcp")) == {TCP}
        assert await protected(data("udp")) == {TCP, UDP}
        assert await protected() == {TCP, UDP}

    with_charon(tmp_path, story)


@pytest.mark.parametrize(
    ("children", "lacking"),
    [
        ([CONTROL], ""),
        ([data("tcp")], ""),
        ([CONTROL, replace(data("tcp"), state=ChildState.DELETING)], ""),
        ([CONTROL, data("tcp")], "its inbound SA is not in the kernel"),
    ],
    ids=["no data child", "no control child", "about to go", "not in the kernel"],
)
def test_filters_stand_when_each_child_is_there_and_the_kernel_has_it(
    tmp_path: Path, children: list[ChildSa], lacking: str
) -> None:
    async def story(charon: Charon) -> None:
        await charon.has(with_children(CONTROL, data("tcp")))
        assert charon.association.complete
        await charon.has(with_children(*children), lacking=lacking)
        assert not charon.association.complete

    with_charon(tmp_path, story)


def test_when_an_ike_sa_has_gone_what_was_loaded_for_it_goes_too(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        charon = charon_on(stage)
        told = charon.fake.unloaded
        first = with_children(CONTROL, data("tcp"))
        await charon.has(first)
        await charon.has(first, replace(first, unique_id=2))
        assert told == []
        await charon.has(first)
        await stage.until(lambda: told == [ITS])

    on_stage(tmp_path, story)


def test_what_a_dead_charon_had_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(stage: Stage) -> None:
        charon = charon_on(stage)

        async def look(machines: object) -> set[Ends]:
            return {frozenset((A, P))}

        monkeypatch.setattr(charon.watch._leftovers, "look", look)
        await charon.has(with_children(CONTROL, data("tcp")))
        await stage.until(lambda: stage.sent)
        stage.acknowledge()
        await stage.until(lambda: stage.peer.machine.managed)
        charon.watch._restoring.charon_came()
        await charon.has()
        await asyncio.sleep(PATIENCE)
        await charon.has()
        await stage.until(lambda: charon.fake.restored == [Pair(A, P)])

    on_stage(tmp_path, story)


def test_an_ike_sa_that_the_peer_has_lost_is_ended(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        charon = charon_on(stage)
        older = replace(with_children(CONTROL, data("tcp")), name=stage.peer.settings.connection, established_ago=300)
        newer = replace(older, unique_id=2, initiator=False, established_ago=20)
        await charon.has(replace(older, initiator=True), newer)
        await stage.until(lambda: charon.fake.ended == [1])

    on_stage(tmp_path, story)


def test_a_child_sa_that_is_there_twice_is_ended_once(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        charon = charon_on(stage)
        twice = [replace(CONTROL, unique_id=number, spi_in=number, installed_ago=20) for number in (41, 42)]
        ike_sa = replace(with_children(*twice, data("tcp")), name=stage.peer.settings.connection)
        await charon.has(ike_sa)
        await stage.until(lambda: charon.fake.ended == [42])
        assert charon.association.control

    on_stage(tmp_path, story)

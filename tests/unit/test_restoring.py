"""When filters that a dead charon had are made anew, and which."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path

import pytest

from swanroam.config import PeerSettings
from swanroam.daemon.restoring import AT_A_TIME, LONGEST_PAUSE, PATIENCE, Restoring, children_of
from swanroam.ike.definitions import ConnectionDefinition
from swanroam.protocol.events import Association, AssociationsRead
from swanroam.protocol.host_state import Pair
from unit.fake_host import ITS, A, FakeCharon, P, Stage, configuration, on_stage

LEFT = {frozenset((A, P))}
NONE: dict[str, list[Association]] = {}
ELSEWHERE = frozenset((A, ip_address("10.9.9.9")))
DEFINED = ConnectionDefinition(
    "home",
    {
        "children": {
            "data": {"mode": b"transport"},
            "web": {"mode": b"transport"},
            "site": {"mode": b"tunnel"},
            "swanroam": {"mode": b"tunnel"},
        }
    },
)


def having(*, control: bool) -> dict[str, list[Association]]:
    return {ITS: [Association(Pair(A, P), 1, control, control)]}


async def lost(stage: Stage) -> None:
    """Managed, and charon has no IKE_SA any more."""
    stage.associated((A, P))
    await stage.until(lambda: stage.sent)
    stage.acknowledge()
    await stage.until(lambda: stage.peer.machine.managed)
    stage.submit(AssociationsRead(()))
    await stage.until(lambda: not stage.peer.machine.associations)


def test_it_is_tried_when_nobody_else_has_for_a_while(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        restoring = Restoring(FakeCharon().restore)
        await lost(stage)
        assert restoring.due([stage.peer], NONE, LEFT, 0.0) == []
        assert restoring.due([stage.peer], NONE, LEFT, PATIENCE - 0.1) == []
        assert restoring.due([stage.peer], NONE, LEFT, PATIENCE) == [(stage.peer, Pair(A, P))]

    on_stage(tmp_path, story)


def test_an_ike_sa_without_a_control_child_does_not_count(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        restoring = Restoring(FakeCharon().restore)
        await lost(stage)
        assert not restoring.due([stage.peer], having(control=False), LEFT, 0.0)
        assert restoring.due([stage.peer], having(control=False), LEFT, PATIENCE)

    on_stage(tmp_path, story)


@pytest.mark.parametrize("left", [set(), {ELSEWHERE}], ids=["its SAs went with it", "others' SAs"])
def test_what_was_ended_in_order_is_left_alone(tmp_path: Path, left: set[frozenset[object]]) -> None:
    async def story(stage: Stage) -> None:
        restoring = Restoring(FakeCharon().restore)
        await lost(stage)
        assert not any(restoring.due([stage.peer], NONE, left, float(now)) for now in range(60))  # type: ignore[arg-type]

    on_stage(tmp_path, story)


def test_what_has_come_back_is_the_administrators_again_until_charon_dies_once_more(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        restoring = Restoring(FakeCharon().restore)
        await lost(stage)
        assert not restoring.due([stage.peer], having(control=True), LEFT, 0.0)
        assert not any(restoring.due([stage.peer], NONE, LEFT, float(now)) for now in range(60))
        restoring.charon_came()
        assert any(restoring.due([stage.peer], NONE, LEFT, float(now)) for now in range(60, 70))

    on_stage(tmp_path, story)


def test_one_attempt_at_a_time_for_each_peer_and_growing_pauses_between_them(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        began = list[float]()
        loop = asyncio.get_running_loop()

        async def restore(peer: PeerSettings, pair: Pair, children: Collection[str]) -> str:
            began.append(loop.time())
            assert not restoring.due([stage.peer], NONE, LEFT, loop.time() + 1000)
            await asyncio.sleep(10)
            return "it does not answer"

        restoring = Restoring(restore)
        await lost(stage)
        while len(began) < 7:
            for peer, pair in restoring.due([stage.peer], NONE, LEFT, loop.time()):
                await restoring.attempt(peer, pair)
            await asyncio.sleep(1)
        pauses = [later - earlier for earlier, later in pairwise(began)]
        assert pauses == sorted(pauses)
        assert LONGEST_PAUSE + 10 <= pauses[-1] <= LONGEST_PAUSE + 12

    on_stage(tmp_path, story)


def test_peers_that_are_out_of_reach_leave_charon_room_for_others(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        running = most = 0

        async def restore(peer: PeerSettings, pair: Pair, children: Collection[str]) -> str:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(1)
            running -= 1
            return ""

        restoring = Restoring(restore)
        await lost(stage)
        restoring.due([stage.peer], NONE, LEFT, 0.0)
        await asyncio.gather(*(restoring.attempt(stage.peer, Pair(A, P)) for _ in range(10)))
        assert most == AT_A_TIME

    on_stage(tmp_path, story)


@pytest.mark.parametrize(
    ("known", "chosen", "expected"),
    [
        ({"swanroam", "web"}, None, {"swanroam", "web"}),
        ({"swanroam"}, None, {"swanroam", "data", "web"}),
        ({"swanroam"}, ("data", "gone"), {"swanroam", "data"}),
    ],
    ids=["charon has told them", "after a restart of the controller", "configured"],
)
def test_which_child_sas_are_made(
    tmp_path: Path, known: set[str], chosen: tuple[str, ...] | None, expected: set[str]
) -> None:
    (peer,) = configuration(tmp_path).peers
    assert children_of(replace(peer, children=chosen), known, "swanroam", DEFINED) == expected

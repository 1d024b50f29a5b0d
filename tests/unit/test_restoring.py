"""When filters that a dead charon had are made anew, and which."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from swanroam.daemon.restoring import LONGEST_PAUSE, PATIENCE, Restoring, children_of
from swanroam.ike.definitions import ConnectionDefinition
from swanroam.protocol.events import AssociationsRead
from swanroam.protocol.host_state import Pair
from unit.fake_host import A, P, Stage, configuration, on_stage

LEFT = {frozenset((A, P))}
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


async def managed(stage: Stage) -> None:
    stage.associated((A, P))
    await stage.until(lambda: stage.sent)
    stage.acknowledge()
    await stage.until(lambda: stage.peer.machine.managed)


async def charon_dies(stage: Stage) -> None:
    stage.submit(AssociationsRead(()))
    await stage.until(lambda: not stage.peer.machine.associations)


def test_it_is_tried_when_nobody_else_has_for_a_while_and_again_at_growing_intervals(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        restoring, due = Restoring(), [(stage.peer, Pair(A, P))]
        await managed(stage)
        await charon_dies(stage)
        attempts = [now for now in range(300) if restoring.due([stage.peer], LEFT, float(now)) == due]
        assert attempts[0] == PATIENCE
        pauses = [later - earlier for earlier, later in pairwise(attempts)]
        assert pauses == sorted(pauses)
        assert pauses[-1] == LONGEST_PAUSE

    on_stage(tmp_path, story)


def test_what_is_there_or_was_ended_in_order_is_left_alone(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        restoring = Restoring()
        await managed(stage)
        later = (float(now) for now in range(1000))
        assert not any(restoring.due([stage.peer], LEFT, next(later)) for _ in range(20)), "charon has an IKE_SA"
        await charon_dies(stage)
        assert not any(restoring.due([stage.peer], set(), next(later)) for _ in range(20)), "its SAs went with it"
        elsewhere = {frozenset((A, A + 1))}
        assert not any(restoring.due([stage.peer], elsewhere, next(later)) for _ in range(20)), "others' SAs"
        assert any(restoring.due([stage.peer], LEFT, next(later)) for _ in range(20))

    on_stage(tmp_path, story)


def test_a_host_that_has_no_controller_is_left_alone(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        restoring = Restoring()
        stage.associated((A, P))
        await stage.until(lambda: stage.peer.machine.associations)
        await charon_dies(stage)
        assert not any(restoring.due([stage.peer], LEFT, float(now)) for now in range(60))

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

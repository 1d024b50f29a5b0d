"""Which of two IKE_SAs the peer has lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swanroam.daemon.doubles import ONCE_IN, Doubles
from swanroam.ike.associations import ChildState, Endpoint, IkeSa
from unit.child_sas import CONTROL, DATA, IKE, selectors
from unit.fake_host import B

OLDER = replace(IKE, name="home", unique_id=1, initiator=True, established_ago=300, children=(DATA, CONTROL))
NEWER = replace(OLDER, unique_id=2, initiator=False, established_ago=20)
OTHER_DATA = replace(DATA, local_ts=selectors("10.8.0.0/16"))


def lost(*ike_sas: IkeSa) -> list[int]:
    return [ike_sa.unique_id for ike_sa in Doubles(CONTROL.name).lost("home", ike_sas, 0.0)]


def test_the_older_one_is_lost_once_the_peers_has_stood_beside_it_for_a_while() -> None:
    assert lost(OLDER, NEWER) == lost(NEWER, OLDER) == [1]
    assert lost(OLDER) == []


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (OLDER, replace(NEWER, initiator=True)),
        (OLDER, replace(NEWER, established_ago=3)),
        (OLDER, replace(NEWER, established_ago=299)),
        (OLDER, replace(NEWER, children=(DATA,))),
        (OLDER, replace(NEWER, children=(OTHER_DATA, CONTROL))),
        (OLDER, replace(NEWER, children=(replace(DATA, state=ChildState.DELETING), CONTROL))),
        (OLDER, replace(NEWER, local=Endpoint(B, 4500, NEWER.local.identity))),
        (OLDER, replace(NEWER, name="site")),
        (replace(OLDER, name="site"), NEWER),
        (replace(OLDER, children=()), NEWER),
        (replace(OLDER, children=(DATA,)), NEWER),
    ],
    ids=[
        "ours",
        "perhaps a reauthentication",
        "made at the same moment",
        "without the control child",
        "with other selectors",
        "with a child that goes",
        "another address",
        "another connection",
        "of another connection",
        "without children",
        "left over from a return to the address",
    ],
)
def test_otherwise_both_stay(older: IkeSa, newer: IkeSa) -> None:
    assert lost(older, newer) == []


def test_whoever_makes_doubles_again_and_again_is_let_be() -> None:
    doubles = Doubles(CONTROL.name)
    assert doubles.lost("home", [OLDER, NEWER], 0.0) == [OLDER]
    assert doubles.lost("home", [OLDER, NEWER], ONCE_IN - 1) == []
    assert doubles.lost("home", [OLDER, NEWER], ONCE_IN) == [OLDER]

"""Which of two IKE_SAs the peer has lost, and which of two CHILD_SAs is one too many."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swanroam.daemon.doubles import COEXISTENCE, ONCE_IN, Doubles
from swanroam.ike.associations import ChildSa, ChildState, Endpoint, IkeSa
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


FIRST = replace(CONTROL, unique_id=11, spi_in=0xA1, installed_ago=COEXISTENCE)
SECOND = replace(FIRST, unique_id=12, spi_in=0xA2)


def superfluous(*children: ChildSa, **changed: object) -> list[int]:
    ike_sa = replace(OLDER, children=(DATA, *children), **changed)  # type: ignore[arg-type]
    return [child.unique_id for _, child in Doubles(CONTROL.name).children("home", [ike_sa], 0.0)]


def test_of_two_child_sas_that_are_the_same_the_younger_is_ended() -> None:
    assert superfluous(FIRST, SECOND) == superfluous(SECOND, FIRST) == [12]
    assert superfluous(replace(FIRST, installed_ago=30), SECOND) == [12]
    assert superfluous(FIRST, replace(SECOND, installed_ago=30)) == [11]
    assert superfluous(FIRST) == []


@pytest.mark.parametrize(
    "second",
    [
        replace(SECOND, installed_ago=COEXISTENCE - 1),
        replace(SECOND, installed_ago=None),
        replace(SECOND, state=ChildState.REKEYED),
        replace(SECOND, name="data", unique_id=13),
        replace(SECOND, remote_ts=selectors("fd53::3/128")),
        replace(SECOND, per_cpu=True),
    ],
    ids=["perhaps a rekey", "of unknown age", "replaced", "another", "with other selectors", "one for each processor"],
)
def test_otherwise_both_child_sas_stay(second: ChildSa) -> None:
    assert superfluous(FIRST, second) == []


def test_only_the_initiator_ends_one_and_only_of_its_own_connections() -> None:
    assert superfluous(FIRST, SECOND, initiator=False) == []
    assert superfluous(FIRST, SECOND, name="site") == []


def test_whoever_makes_double_child_sas_again_and_again_is_let_be() -> None:
    doubles, ike_sa = Doubles(CONTROL.name), replace(OLDER, children=(FIRST, SECOND))
    assert doubles.children("home", [ike_sa], 0.0) == [(ike_sa, SECOND)]
    assert doubles.children("home", [ike_sa], ONCE_IN - 1) == []
    assert doubles.children("home", [ike_sa], ONCE_IN) == [(ike_sa, SECOND)]

"""Which of two IKE_SAs the peer has lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swanroam.daemon.doubles import lost_by_peer
from swanroam.ike.associations import Endpoint
from unit.child_sas import CONTROL, DATA, IKE
from unit.fake_host import B

OLDER = replace(IKE, unique_id=1, initiator=True, established_ago=300, children=(DATA, CONTROL))
NEWER = replace(OLDER, unique_id=2, initiator=False, established_ago=20)


def test_the_older_one_is_lost_once_the_peers_has_stood_beside_it_for_a_while() -> None:
    assert list(lost_by_peer([OLDER, NEWER])) == [OLDER]
    assert list(lost_by_peer([NEWER, OLDER])) == [OLDER]
    assert list(lost_by_peer([OLDER])) == []


@pytest.mark.parametrize(
    "newer",
    [
        replace(NEWER, initiator=True),
        replace(NEWER, established_ago=3),
        replace(NEWER, established_ago=299),
        replace(NEWER, children=(DATA,)),
        replace(NEWER, local=Endpoint(B, 4500, NEWER.local.identity)),
    ],
    ids=["ours", "perhaps a reauthentication", "made at the same moment", "without all children", "another address"],
)
def test_otherwise_both_stay(newer: object) -> None:
    assert list(lost_by_peer([OLDER, newer])) == []  # type: ignore[list-item]

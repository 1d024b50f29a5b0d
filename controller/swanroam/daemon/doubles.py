"""IKE_SAs of which the peer has nothing any more, told by the one that it has made in their place.

A charon that was killed forgets its IKE_SAs. What it makes anew for the same addresses stands here beside the old one,
whose CHILD_SAs seem to be in use: the policies, by which charon tells, are the same. So dead peer detection never finds
out (child_sa.c, `get_usestats`). Should the peer have the old one after all, nothing is lost: the newer one has all
its CHILD_SAs, and is what the kernel sends by.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from swanroam.ike.associations import ChildSa, IkeSa
from swanroam.ike.clones import is_of
from swanroam.ike.selectors import IPAddress

COEXISTENCE = 10
"""Seconds after which two are not those of a reauthentication any more (make_before_break in strongswan.conf)."""
APART = 5
"""Seconds between the two: those that both hosts have made at the same moment are closer together."""
ONCE_IN = 3600.0
"""Seconds in which one is ended for a pair of addresses: whoever makes doubles on purpose is not to be fought."""


class Doubles:
    """`control`: name of the control child, which only those have that are swanroam's business."""

    def __init__(self, control: str) -> None:
        self._control = control
        self._ended: dict[tuple[IPAddress | None, IPAddress | None], float] = {}

    def lost(self, connection: str, ike_sas: Iterable[IkeSa], now: float) -> list[IkeSa]:
        """Of those with one peer, what it has lost and is to be ended: each is named once. `now` in seconds."""
        found = []
        for older, newer in product([one for one in ike_sas if is_of(connection, one.name)], repeat=2):
            pair = older.hosts
            if newer.hosts != pair or now < self._ended.get(pair, now):
                continue
            if self._has_taken_the_place(newer, older):
                self._ended[pair] = now + ONCE_IN
                found.append(older)
        return found

    def _has_taken_the_place(self, newer: IkeSa, older: IkeSa) -> bool:
        if older.established_ago is None or newer.established_ago is None or newer.initiator:
            return False
        if newer.established_ago < COEXISTENCE or older.established_ago < newer.established_ago + APART:
            return False
        mine, theirs = _usable(older), _usable(newer)
        return any(child.name == self._control for child in mine) and all(
            any(child.name == other.name and child.same_selectors(other) for other in theirs) for child in mine
        )


def _usable(ike_sa: IkeSa) -> list[ChildSa]:
    return [child for child in ike_sa.children if child.is_usable]

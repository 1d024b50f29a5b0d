"""IKE_SAs and CHILD_SAs that are there twice, and which of the two is to go.

IKE_SAs of which the peer has nothing any more are told by the one that it has made in their place.

A charon that was killed forgets its IKE_SAs. What it makes anew for the same addresses stands here beside the old one,
whose CHILD_SAs seem to be in use: the policies, by which charon tells, are the same. So dead peer detection never finds
out (child_sa.c, `get_usestats`). Should the peer have the old one after all, nothing is lost: the newer one has all
its CHILD_SAs, and is what the kernel sends by.

A CHILD_SA is there twice within its IKE_SA when both hosts have made it at the same moment: where its SAs have expired
without a rekey, each charon makes another one (child_delete.c, "recreate after hard expire"). The kernel expires what
it has just got when the time of day jumps far ahead within a second (xfrm_timer_handler() in net/xfrm/xfrm_state.c).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import combinations, product

from swanroam.ike.associations import ChildSa, IkeSa
from swanroam.ike.clones import is_of

COEXISTENCE = 10
"""Seconds after which two are not those of a reauthentication any more (make_before_break in strongswan.conf)."""
APART = 5
"""Seconds between the two: those that both hosts have made at the same moment are closer together."""
ONCE_IN = 3600.0
"""Seconds in which one is ended for a pair of addresses, or of a name: whoever makes doubles on purpose is not to be
fought."""


class Doubles:
    """`control`: name of the control child, which only those have that are swanroam's business."""

    def __init__(self, control: str) -> None:
        self._control = control
        self._due: dict[Hashable, float] = {}
        """When the next one may be ended."""

    def lost(self, connection: str, ike_sas: Iterable[IkeSa], now: float) -> list[IkeSa]:
        """Of those with one peer, what it has lost and is to be ended: each is named once. `now` in seconds."""
        found = []
        for older, newer in product([one for one in ike_sas if is_of(connection, one.name)], repeat=2):
            same = newer.hosts == older.hosts and self._has_taken_the_place(newer, older)
            if same and self._is_due(older.hosts, now):
                found.append(older)
        return found

    def children(self, connection: str, ike_sas: Iterable[IkeSa], now: float) -> list[tuple[IkeSa, ChildSa]]:
        """Of those with one peer, what this host is to end. `now` in seconds.

        Only the initiator of the IKE_SA ends one, so that the hosts do not end both: the younger, or of the higher SPI.
        """
        found = []
        for ike_sa in ike_sas:
            if not ike_sa.initiator or not is_of(connection, ike_sa.name):
                continue
            for one, other in combinations(_usable(ike_sa), 2):
                if _are_the_same(one, other) and self._is_due((ike_sa.unique_id, one.name), now):
                    found.append((ike_sa, max(one, other, key=_youth)))
        return found

    def _is_due(self, key: Hashable, now: float) -> bool:
        """One may be ended now; for what comes next it is too early then."""
        if now < self._due.get(key, now):
            return False
        self._due[key] = now + ONCE_IN
        return True

    def _has_taken_the_place(self, newer: IkeSa, older: IkeSa) -> bool:
        if older.established_ago is None or newer.established_ago is None or newer.initiator:
            return False
        if newer.established_ago < COEXISTENCE or older.established_ago < newer.established_ago + APART:
            return False
        mine, theirs = _usable(older), _usable(newer)
        return any(child.name == self._control for child in mine) and all(
            any(child.name == other.name and child.same_selectors(other) for other in theirs) for child in mine
        )


def _are_the_same(one: ChildSa, other: ChildSa) -> bool:
    """And have been there together for longer than a rekey lasts."""
    old_enough = all(child.installed_ago is not None and child.installed_ago >= COEXISTENCE for child in (one, other))
    return old_enough and one.name == other.name and one.same_selectors(other) and not (one.per_cpu or other.per_cpu)


def _youth(child: ChildSa) -> tuple[int, int]:
    return -(child.installed_ago or 0), child.spi_in or 0


def _usable(ike_sa: IkeSa) -> list[ChildSa]:
    return [child for child in ike_sa.children if child.is_usable]

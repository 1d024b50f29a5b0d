"""IKE_SAs of which the peer has nothing any more, told by the one that it has made in their place.

A charon that was killed forgets its IKE_SAs. What it makes anew for the same addresses stands here beside the old one,
whose CHILD_SAs seem to be in use: the policies, by which charon tells, are the same. So dead peer detection never finds
out (child_sa.c, `get_usestats`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

from swanroam.ike.associations import IkeSa

COEXISTENCE = 10
"""Seconds after which two are not those of a reauthentication any more (make_before_break in strongswan.conf)."""
APART = 5
"""Seconds between the two: those that both hosts have made at the same moment are closer together."""


def lost_by_peer(ike_sas: Iterable[IkeSa]) -> Iterator[IkeSa]:
    """Those in whose place there is a later one: made by the peer, for the same addresses, with all their children."""
    for older, newer in product(tuple(ike_sas), repeat=2):
        if older.established_ago is None or newer.established_ago is None or newer.initiator:
            continue
        same_pair = (older.local.host, older.remote.host) == (newer.local.host, newer.remote.host)
        later = newer.established_ago >= COEXISTENCE and older.established_ago >= newer.established_ago + APART
        if same_pair and later and _children(older) <= _children(newer):
            yield older


def _children(ike_sa: IkeSa) -> set[str]:
    return {child.name for child in ike_sa.children if child.is_usable}

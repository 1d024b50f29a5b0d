"""Filters that a charon that died had with a peer are made anew, when nobody else sees to it.

The peer may not notice for hours: packets go on under the keys that the kernel still has, and traffic is proof enough
for its dead peer detection (RFC 7296 §2.4). But nothing can be agreed on any more, so the next move would fail.

An IKE_SA is otherwise the administrator's to start and to stop. Here one was started, and nobody has stopped it: a
charon that ends in order takes its SAs with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Set
from dataclasses import dataclass

from swanroam.config import PeerSettings
from swanroam.daemon.leftovers import used_ends
from swanroam.daemon.peer import Peer
from swanroam.ike.associations import Mode
from swanroam.ike.definitions import ConnectionDefinition
from swanroam.ike.orphans import Ends
from swanroam.protocol.host_state import Pair

PATIENCE = 5.0
"""Seconds in which the configuration of either host may bring the IKE_SA up."""
LONGEST_PAUSE = 60.0
"""Seconds between two attempts."""


@dataclass(slots=True)
class _Missing:
    pair: Pair
    due: float
    pause: float = PATIENCE


class Restoring:
    """Use as: `due` after each reading of charon's IKE_SAs."""

    def __init__(self) -> None:
        self._missing: dict[str, _Missing] = {}

    def due(self, peers: Iterable[Peer], left: Set[Ends], now: float) -> list[tuple[Peer, Pair]]:
        """With whom an attempt is due, and for which pair. `left`: between which addresses there are SAs of a dead
        charon. `now` in seconds."""
        missing: dict[str, _Missing] = {}
        found = []
        for peer in peers:
            machine, identity = peer.machine, peer.settings.identity
            pair = machine.pair
            if pair is None or machine.associations or not left & used_ends(machine):
                continue
            entry = self._missing.get(identity)
            if entry is None or entry.pair != pair:
                entry = _Missing(pair, now + PATIENCE)
            if now >= entry.due:
                entry.pause = min(entry.pause * 2, LONGEST_PAUSE)
                entry.due = now + entry.pause
                found.append((peer, pair))
            missing[identity] = entry
        self._missing = missing
        return found


def children_of(peer: PeerSettings, known: Collection[str], control: str, defined: ConnectionDefinition) -> set[str]:
    """Which CHILD_SAs belong to a peer: those `known`, or, as long as charon has told of none, its connection's."""
    if set(known) - {control}:
        return set(known)
    chosen = peer.children
    transport = {name for name, child in defined.children.items() if child.mode is Mode.TRANSPORT}
    return {control, *(transport if chosen is None else transport & set(chosen))}

"""Filters that a charon that died had with a peer are made anew, when nobody else sees to it.

The peer may not notice for hours: packets go on under the keys that the kernel still has, and traffic is proof enough
for its dead peer detection (RFC 7296 §2.4). But nothing can be agreed on any more, so the next move would fail.

An IKE_SA is otherwise the administrator's to start and to stop. Here one was started, and nobody has stopped it: a
charon that ends in order takes its SAs with it. Once there is one again, what becomes of it is his business again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Set
from dataclasses import dataclass

from swanroam.config import PeerSettings
from swanroam.daemon.leftovers import ends_of
from swanroam.daemon.peer import Peer
from swanroam.ike.associations import Mode
from swanroam.ike.definitions import ConnectionDefinition
from swanroam.ike.orphans import Ends
from swanroam.protocol.events import Association
from swanroam.protocol.host_state import Pair

PATIENCE = 5.0
"""Seconds in which the configuration of either host may bring the IKE_SA up."""
LONGEST_PAUSE = 60.0
"""Seconds between two attempts."""
AT_A_TIME = 2
"""Peers with which it is tried at the same time: those that are out of reach must not keep back the others' moves."""
Restore = Callable[[PeerSettings, Pair, Collection[str]], Awaitable[str]]
"""Makes the filters for a pair. Returns why they are not there; empty: they are."""


@dataclass(slots=True)
class _Missing:
    pair: Pair
    due: float
    pause: float = PATIENCE
    under_way: bool = False


class Restoring:
    """Use as: `charon_came` when it has connected, `due` after each reading of its IKE_SAs, `attempt` for those."""

    def __init__(self, restore: Restore) -> None:
        self._restore = restore
        self._missing: dict[str, _Missing] = {}
        self._stood: set[str] = set()
        """Peers with which charon has had a control CHILD_SA since it came."""
        self._turns = asyncio.Semaphore(AT_A_TIME)

    def charon_came(self) -> None:
        """It may be another process than before."""
        self._stood.clear()
        self._missing.clear()

    def due(
        self,
        peers: Iterable[Peer],
        associations: Mapping[str, Collection[Association]],
        left: Set[Ends],
        now: float,
    ) -> list[tuple[Peer, Pair]]:
        """With whom an attempt is due, and for which pair.

        `associations`: charon's, by identity. `left`: between which addresses there are SAs of a dead charon. `now` in
        seconds.
        """
        found: list[tuple[Peer, Pair]] = []
        for peer in peers:
            machine, identity = peer.machine, peer.settings.identity
            pair = machine.pair
            if any(association.control for association in associations.get(identity, ())):
                self._stood.add(identity)
            wanted = machine.managed and machine.correspondent.unproven is None and identity not in self._stood
            if pair is None or not wanted or ends_of(pair) not in left:
                self._missing.pop(identity, None)
                continue
            entry = self._missing.get(identity)
            if entry is None or entry.pair != pair:
                entry = self._missing[identity] = _Missing(pair, now + PATIENCE)
            if now >= entry.due and not entry.under_way:
                found.append((peer, pair))
        return found

    async def attempt(self, peer: Peer, pair: Pair) -> None:
        """Restores the filters of one that was due."""
        entry = self._missing.get(peer.settings.identity)
        if entry is None:  # it is back
            return
        entry.under_way = True
        try:
            async with self._turns:
                failure = await self._restore(peer.settings, pair, peer.children)
        finally:
            entry.under_way = False
            entry.pause = min(entry.pause * 2, LONGEST_PAUSE)
            entry.due = asyncio.get_running_loop().time() + entry.pause
        if failure:
            peer.log.warning("filters_not_restored", detail=f"{pair}: {failure}")
        else:
            peer.log.warning("filters_restored", detail=f"{pair}: charon died, and had no IKE_SA with it any more")


def children_of(peer: PeerSettings, known: Collection[str], control: str, defined: ConnectionDefinition) -> set[str]:
    """Which CHILD_SAs belong to a peer: those `known`, or, as long as charon has told of none, its connection's."""
    if set(known) - {control}:
        return set(known)
    chosen = peer.children
    transport = {name for name, child in defined.children.items() if child.mode is Mode.TRANSPORT}
    return {control, *(transport if chosen is None else transport & set(chosen))}

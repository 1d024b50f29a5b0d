"""What a charon that died has left in the kernel between this host and its peers: taken away once it serves nobody.

Until then it stays. The peer's charon may not have noticed, and then connections go on under the keys that the kernel
still has, the carrier's among them. They end when a new CHILD_SA has come in their place, or with their address.

Only what is there when charon is first heard of, or heard of again, is ever taken away. What comes later is the work of
a charon that lives, or of somebody who knows why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Set

import structlog

from swanroam.daemon.controller import HostError
from swanroam.ike.orphans import Ends, Orphans, find_orphans, remove_orphans
from swanroam.ike.vici import ViciClient
from swanroam.kernel.xfrm.errors import XfrmError
from swanroam.kernel.xfrm.socket import XfrmSocket
from swanroam.protocol.host_state import Pair
from swanroam.protocol.peer import PeerMachine

log = structlog.get_logger("swanroam")

IN_FLIGHT = 3.0
"""Seconds for which an SA is kept when another has come in its place: packets of the peer may still be under way, and
the peer may have to find out."""


class Leftovers:
    """Use as: `charon_came` when it has connected, `look` after each reading of its IKE_SAs."""

    def __init__(self, client: ViciClient) -> None:
        self._client = client
        self._left: Orphans | None = {}
        """What may have to go; None: to be looked for."""
        self._known: set[Ends] = set()
        """Pairs of addresses that were ours to look after since then."""
        self._replaced: dict[Ends, float] = {}
        """Pairs for which there are new CHILD_SAs, and since when."""

    def charon_came(self) -> None:
        """It may be another process than before."""
        self._left = None

    async def look(self, machines: Iterable[PeerMachine]) -> Set[Ends]:
        """Takes away what serves nobody any more. Returns between which addresses something is left. Raises HostError,
        ViciError.
        """
        try:
            if self._left is None:
                async with XfrmSocket() as xfrm:
                    self._left = await find_orphans(self._client, xfrm)
                self._known.clear()
                self._replaced.clear()
            if self._left and (due := self._due(list(machines), asyncio.get_running_loop().time())):
                await self._remove(due)
        except XfrmError as error:
            raise HostError(str(error)) from error
        return set(self._left.values())

    def _due(self, machines: Iterable[PeerMachine], now: float) -> set[Ends]:
        """The pairs whose leftovers may go."""
        in_use = {ends for machine in machines for ends in _in_use(machine)}
        self._known |= in_use
        complete = {ends for machine in machines if (ends := _complete(machine))}
        self._replaced = {ends: self._replaced.get(ends, now) for ends in complete}
        replaced = {ends for ends, since in self._replaced.items() if now >= since + IN_FLIGHT}
        return (self._known - in_use) | replaced

    async def _remove(self, due: set[Ends]) -> None:
        assert self._left is not None
        async with XfrmSocket() as xfrm:
            present = await find_orphans(self._client, xfrm)
            chosen = {orphan for orphan in self._left if present.get(orphan) in due}
            await remove_orphans(xfrm, chosen)
        self._left = {orphan: ends for orphan, ends in self._left.items() if orphan in present.keys() - chosen}
        for orphan in chosen:
            log.info("leftover_of_charon_removed", what=str(orphan))


def ends_of(pair: Pair) -> Ends:
    """Between which addresses its SAs are."""
    return frozenset((pair.local, pair.remote))


def _in_use(machine: PeerMachine) -> set[Ends]:
    own, peer = machine.own, machine.peer
    if not machine.managed or own is None or peer is None:
        return set()
    remotes = (*peer.addresses, *machine.correspondent.lingering)
    return {frozenset((local, remote)) for local in own.addresses for remote in remotes}


def _complete(machine: PeerMachine) -> Ends | None:
    """The current pair, when its filters stand."""
    pair = machine.pair
    if pair is None or not machine.managed:
        return None
    stands = any(association.pair == pair and association.complete for association in machine.associations)
    return ends_of(pair) if stands else None

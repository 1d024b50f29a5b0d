"""Which peers there are while the daemon runs: they come, change and go with the configuration.

A peer that is not configured any more has connections, perhaps, that need what this host does for them. So it may not
move any more at once, and goes when nothing of a handover is left of it: as when the daemon stops, guards go last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from swanroam.config import Config, PeerSettings
from swanroam.daemon.controller import Controller, HostError, in_use
from swanroam.daemon.peer import Peer
from swanroam.protocol.events import TimerExpired

log = structlog.get_logger("swanroam")

DEPARTURES = 1.0
"""Seconds between two looks at whether something is left of a peer that is to go."""


class Inhabited(Protocol):
    """The host, as far as it knows the peers. See `LocalHost`."""

    async def serve(self, peers: Iterable[PeerSettings]) -> None: ...

    async def dismiss(self, peer: PeerSettings) -> None: ...


class NotNowError(Exception):
    """Other peers can't be had in this moment; the message says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `commit` needs, with everything done that could fail."""

    config: Config
    new: tuple[Peer, ...]


class Membership:
    """`changed` is called when there are other peers, `gone` with the identity of one that has gone."""

    def __init__(
        self, controller: Controller, host: Inhabited, changed: Callable[[], None], gone: Callable[[str], None]
    ) -> None:
        self._controller = controller
        self._host = host
        self._changed = changed
        self._gone = gone
        self.turn = asyncio.Lock()
        """To be held from `prepare` to the end of `commit`: no peer goes meanwhile."""
        self._wake = asyncio.Event()

    async def prepare(self, config: Config) -> Prepared:
        """Raises NotNowError, HostError, JournalError; then everything is as it was."""
        present = self._controller.peers
        for settings in config.peers:
            peer = present.get(settings.identity)
            if peer is not None and peer.settings.connection != settings.connection and in_use(peer.machine):
                raise NotNowError(
                    f"peer {settings.name}: its connection can't be exchanged while a handover is under way: try again "
                    "when `swanroam status` shows none"
                )
        leaving = self._missing(config)
        taken = {peer.settings.control_address: peer.settings.name for peer in leaving}
        for settings in config.peers:
            if (other := taken.get(settings.control_address)) is not None:
                raise NotNowError(
                    f"peer {settings.name}: its inner address {settings.control_address} is that of {other}, which has "
                    f"to go first: reload without {settings.name}, then with it"
                )
        new = tuple(
            self._controller.new_peer(settings, config) for settings in config.peers if settings.identity not in present
        )
        for peer in new:
            self._controller.restore(peer)
        try:
            await self._host.serve([*config.peers, *(peer.settings for peer in leaving)])
        except HostError:
            await self._host.serve([peer.settings for peer in present.values()])
            raise
        return Prepared(config, new)

    async def commit(self, prepared: Prepared) -> None:
        """Makes it so. Peers of which nothing is left to do have gone when it returns."""
        await self._controller.between_events(lambda: self._exchange(prepared))
        self._changed()
        await self._depart()
        self._wake.set()

    async def run(self) -> None:
        """Sees peers off, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._leaving:
                await asyncio.sleep(DEPARTURES)
                async with self.turn:
                    await self._depart()

    @property
    def _leaving(self) -> list[Peer]:
        return [peer for peer in self._controller.peers.values() if peer.leaving]

    def _missing(self, config: Config) -> list[Peer]:
        """Present peers that are not in a configuration."""
        kept = {settings.identity for settings in config.peers}
        return [peer for identity, peer in self._controller.peers.items() if identity not in kept]

    def _exchange(self, prepared: Prepared) -> None:
        config, now = prepared.config, asyncio.get_running_loop().time()
        for peer in self._missing(config):
            if not peer.leaving:
                peer.log.info("peer_leaving", detail="not configured any more; it goes when no connection needs it")
            peer.depart(now)
        self._controller.config = config
        for settings in config.peers:
            if (known := self._controller.peers.get(settings.identity)) is not None:
                known.reconfigure(settings, config, now)
        for peer in prepared.new:
            self._controller.join(peer)
        for peer in self._controller.peers.values():
            self._controller.submit(peer, TimerExpired())

    async def _depart(self) -> None:
        for peer in self._leaving:
            if not await self._controller.done_with(peer):
                continue
            await self._controller.between_events(lambda peer=peer: self._remove(peer))  # type: ignore[misc]
            if peer.settings.identity in self._controller.peers:
                continue  # it is needed again
            self._gone(peer.settings.identity)
            await self._host.dismiss(peer.settings)
            try:
                await self._host.serve([other.settings for other in self._controller.peers.values()])
            except HostError as error:
                log.warning("inner_routes_not_removed", error=str(error), remedy="they lead nowhere, and do no harm")
            self._changed()
            peer.log.info("peer_removed", detail="its IKE_SAs are charon's, and stay")

    def _remove(self, peer: Peer) -> None:
        if peer.leaving and not in_use(peer.machine):
            self._controller.leave(peer)

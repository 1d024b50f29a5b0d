"""Which of this host's addresses each peer should see: from the address watch to the machines."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import Any

import structlog

from swanroam.config import AddressSettings
from swanroam.daemon.api import RequestError
from swanroam.daemon.controller import Controller
from swanroam.daemon.peer import Peer
from swanroam.kernel.address_choice import AddressChooser, AddressHistory, Keep, Lost, MoveTo, WaitUntil
from swanroam.kernel.address_watch import AddressesNotRead, AddressWatch
from swanroam.kernel.addresses import AddressSelection, HostAddresses
from swanroam.kernel.carrier_devices import DEVICE_NAMES
from swanroam.kernel.sysctls import NO_ADDRESSES, drops_ipv6, turn_on_ipv6
from swanroam.protocol.events import AddressesRead
from swanroam.protocol.handover import Cause
from swanroam.protocol.messages import IPAddress

log = structlog.get_logger("swanroam")

SOON = 0.1
"""Seconds between two decisions while the peer is moving."""
POLL = 5.0
"""Seconds between two decisions when nothing is heard: a peer's own move can change what routing picks towards it."""

RETRY = 1.0
"""Seconds after which the kernel is asked again what it did not answer."""


class AddressFollower:
    """Keeps the machines informed about this host's addresses, for as long as `run` runs."""

    def __init__(self, settings: AddressSettings, controller: Controller) -> None:
        self._settings = settings
        self._controller = controller
        self._history = AddressHistory()
        self._choosers: dict[str, AddressChooser] = {}
        """By the peer's identity."""
        self._watch: AddressWatch | None = None
        self._told: dict[str, AddressesRead] = {}
        self._host: HostAddresses | None = None
        self._wake = asyncio.Event()
        self._trouble = ""
        """Why the kernel could not be asked last time; empty when it could."""

    def look(self) -> None:
        """Something may have changed: decide soon."""
        self._wake.set()

    def reconfigure(self, settings: AddressSettings) -> None:
        """Other settings, and perhaps other peers, from now on."""
        self._settings = settings
        for chooser in self._choosers.values():
            chooser.reconfigure(settings.prefer, settings.readd_window)
        if self._watch is not None:
            self._watch.select(self._selection())
        self._wake.set()

    def forget(self, identity: str) -> None:
        """A peer has gone."""
        self._choosers.pop(identity, None)
        self._told.pop(identity, None)

    def _chooser(self, peer: Peer) -> AddressChooser:
        new = AddressChooser(self._settings.prefer, self._settings.readd_window)
        return self._choosers.setdefault(peer.settings.identity, new)

    def _selection(self) -> AddressSelection:
        settings = self._settings
        return AddressSelection(settings.interfaces, settings.ignore_interfaces, settings.ignore)

    def pinned(self, peer: Peer) -> str | None:
        """The address that was ordered for this peer, while it stands."""
        address = self._chooser(peer).pinned
        return None if address is None else str(address)

    def interface_of(self, address: IPAddress) -> int:
        """The index of the interface that has an address of this host; 0 if none has."""
        local = self._host.find(address) if self._host is not None else None
        return local.index if local is not None else 0

    async def run(self) -> None:
        """Raises AddressWatchError when the kernel can't be listened to any more."""
        async with AddressWatch(self._selection()) as watch, asyncio.TaskGroup() as tasks:
            self._watch = watch
            tasks.create_task(self._decide_when_woken(watch))
            while True:
                try:
                    host = await anext(watch)
                except AddressesNotRead as error:
                    await self._not_read(error)
                else:
                    self._seen(host)

    def _seen(self, host: HostAddresses) -> None:
        self._trouble = ""
        self._host = host
        self._history.observe(host, self._now())
        addresses = frozenset(local.address for local in host.addresses)
        if addresses != self._controller.own_addresses:
            log.info("addresses_changed", addresses=sorted(map(str, addresses)))
            self._controller.own_addresses = addresses
        self._controller.pass_over(host.uncounted)
        self._wake.set()

    async def _not_read(self, error: AddressesNotRead) -> None:
        """Said once, and tried again after a pause."""
        if str(error) != self._trouble:
            log.warning("addresses_not_read", reason=str(error), retry_in_s=RETRY)
        self._trouble = str(error)
        await asyncio.sleep(RETRY)

    async def order(self, request: dict[str, Any]) -> dict[str, Any]:
        """API: a planned move. `address` is one of this host's, or `auto` to follow routing again."""
        peers = self._named(request.get("peer"))
        text = str(request.get("address"))
        if text == "auto":
            for peer in peers:
                self._chooser(peer).unpin()
        else:
            address = self._usable(text)
            obstacles = {peer.settings.name: self._obstacle(peer, address) for peer in peers}
            peers = [peer for peer in peers if not obstacles[peer.settings.name]]
            if not peers:  # of several, those that can move do
                raise RequestError("; ".join(obstacles.values()))
            for peer in peers:
                self._chooser(peer).pin(address)
        self._wake.set()
        return {"peers": [peer.settings.name for peer in peers]}

    def _named(self, name: object) -> list[Peer]:
        if name is None:
            peers = [peer for peer in self._controller.peers.values() if peer.settings.moves.we_may]
            if not peers:
                raise RequestError("no peer is configured towards which this host may move (peers: moves)")
            return peers
        settings = self._controller.config.peer(str(name))
        if settings is None or settings.identity not in self._controller.peers:
            known = ", ".join(peer.settings.name for peer in self._controller.peers.values())
            raise RequestError(f"no peer is called {name!r}; there are: {known}")
        return [self._controller.peers[settings.identity]]

    def _usable(self, text: str) -> IPAddress:
        try:
            address = ip_address(text)
        except ValueError:
            raise RequestError(f"{text!r} is not an IP address") from None
        local = self._host.find(address) if self._host is not None else None
        if local is None or not local.usable:
            have = ", ".join(sorted(str(own) for own in self._controller.own_addresses)) or "none"
            raise RequestError(f"{address} is not a usable address of this host; it has: {have}")
        return address

    @staticmethod
    def _obstacle(peer: Peer, address: IPAddress) -> str:
        """Why this host can't move to the address towards the peer; empty when it can."""
        machine = peer.machine
        name = peer.settings.name
        if not peer.settings.moves.we_may:
            return f"{name}: the configuration lets only the peer move (moves: peer)"
        if not machine.mobile.managed or machine.own is None:
            return f"{name} has not answered yet: is swanroam running there? see `swanroam status`"
        if machine.own.current.version != address.version:
            return f"{name} is reached by IPv{machine.own.current.version}: {address} is another family"
        return ""

    async def _decide_when_woken(self, watch: AddressWatch) -> None:
        wait = POLL
        while True:
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            wait = POLL
            try:
                for identity, peer in tuple(self._controller.peers.items()):
                    wait = min(wait, await self._decide(watch, identity, peer))
            except AddressesNotRead as error:
                await self._not_read(error)
                self._wake.set()

    async def _decide(self, watch: AddressWatch, identity: str, peer: Peer) -> float:
        """Tells one machine what is preferred now; returns in how many seconds to decide again."""
        pair = peer.machine.pair
        if pair is None or self._host is None or not peer.settings.moves.we_may:
            return POLL
        routed = await watch.source_for(pair.remote)
        if peer.machine.pair != pair:
            return SOON  # the peer has moved meanwhile
        again = POLL
        if routed is not None and routed.interface in DEVICE_NAMES.values():
            # The peer's address is not proven yet: what leads there is the carrier to its last one, and the kernel
            # picks an address that we hold on that device. Nothing follows from it.
            routed, again = None, SOON
        now = self._now()
        decision = self._chooser(peer).decide(self._host, self._history, routed, pair.local, now)
        preferred: IPAddress | None = None
        cause = Cause.UNKNOWN
        match decision:
            case Keep():
                preferred = pair.local
                peer.recorder.address_kept(pair.local)
            case MoveTo(local, reason):
                preferred, cause = local.address, Cause(reason.value)
                if (since := self._history.gone(pair.local)) is not None:
                    peer.recorder.address_lost(pair.local, cause, since)
                peer.log.debug("address_preferred", address=str(preferred), reason=reason.value)
                if drops_ipv6(local.interface):
                    remedy = f"{turn_on_ipv6([local.interface])} ({NO_ADDRESSES})"
                    peer.log.warning("control_channel_deaf", interface=local.interface, remedy=remedy)
            case WaitUntil(time):
                again = min(again, max(0.01, time - now))
            case Lost(reason):
                if identity not in self._told or self._told[identity].preferred is not None:
                    peer.log.warning("address_lost", address=str(pair.local), reason=reason.value)
                    peer.recorder.address_lost(pair.local, Cause(reason.value), self._history.gone(pair.local))
        usable = frozenset(local.address for local in self._host.addresses if local.usable)
        event = AddressesRead(preferred, usable, cause)
        if self._told.get(identity) != event:
            self._told[identity] = event
            self._controller.submit(peer, event)
        return again

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

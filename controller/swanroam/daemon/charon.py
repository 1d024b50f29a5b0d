"""charon as the machines see it: which IKE_SAs there are with each peer, and who owns which inner address.

charon's events are hints (some changes raise none): after each, and every POLL seconds, the associations are read
anew, compared with what the kernel holds, and a machine hears of them when they differ from what it knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from contextlib import aclosing
from ipaddress import IPv6Address

import structlog

from swanroam.daemon.border import Associations
from swanroam.daemon.controller import Controller, HostError
from swanroam.daemon.doubles import Doubles
from swanroam.daemon.leftovers import Leftovers
from swanroam.daemon.peer import Peer
from swanroam.daemon.restoring import Restoring
from swanroam.daemon.translation import ANY_TRAFFIC, ProtectedTraffic
from swanroam.ike.associations import ChildSa, IkeSa, Mode
from swanroam.ike.messages import ViciError
from swanroam.ike.selectors import ANY_PORT, TrafficSelector
from swanroam.ike.vici import ViciClient, ViciConnected, ViciDisconnected
from swanroam.protocol.events import Association, AssociationsRead
from swanroam.protocol.handover import Step
from swanroam.protocol.host_state import Pair

log = structlog.get_logger("swanroam")

EVENTS = ("ike-updown", "ike-rekey", "ike-update", "child-updown", "child-rekey")
POLL = 5.0
"""Seconds between two readings when no event comes: some changes of a CHILD_SA raise none."""
SETTLE = 0.02
"""Seconds to let a burst of events pass: an IKE_SA with two children raises three."""


class CharonWatch:
    """Keeps the machines informed about charon, for as long as `run` runs."""

    def __init__(self, client: ViciClient, controller: Controller, associations: Associations) -> None:
        self.connected = False
        self.trouble = ""
        """Why charon can't be asked at present; empty when it can."""
        self._client = client
        self._controller = controller
        self._associations = associations
        self._leftovers = Leftovers(client)
        self._doubles = Doubles(controller.config.control.child)
        self._restoring = Restoring(associations.restore)
        self._wake = asyncio.Event()
        self._owners: dict[IPv6Address, str] = {}
        self._known: dict[str, tuple[Association, ...]] = {}

    def owner(self, inner: IPv6Address) -> str | None:
        """The IKE identity whose control CHILD_SA has this inner address, as charon authenticated it."""
        return self._owners.get(inner)

    def look(self) -> None:
        """Something may have changed: read soon."""
        self._wake.set()

    def forget(self, identity: str) -> None:
        """A peer has gone."""
        self._known.pop(identity, None)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._read_when_woken())

    async def _listen(self) -> None:
        async with aclosing(self._client.events(EVENTS)) as events:
            async for event in events:
                match event:
                    case ViciConnected():
                        self.connected = True
                        self._leftovers.charon_came()
                        self._restoring.charon_came()
                        log.info("charon_connected", socket=str(self._client.socket_path))
                    case ViciDisconnected(reason):
                        self.connected = False
                        log.warning("charon_lost", reason=reason)
                self._wake.set()

    async def _read_when_woken(self) -> None:
        while True:
            try:
                async with asyncio.timeout(POLL):
                    await self._wake.wait()
                await asyncio.sleep(SETTLE)
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self.read()
                self.trouble = ""
            except (ViciError, HostError) as error:
                if str(error) != self.trouble:
                    log.warning("charon_not_read", reason=str(error))
                self.trouble = str(error)

    async def read(self) -> None:
        """Reads all IKE_SAs and tells the machines what is new. Raises ViciError, HostError."""
        ike_sas, contradictions = await self._associations.read_back()
        now = asyncio.get_running_loop().time()
        self._owners = _owners(
            (address, ike_sa.remote.identity) for ike_sa in ike_sas for address in self._inner_addresses(ike_sa)
        )
        for identity, peer in tuple(self._controller.peers.items()):
            of_peer = [ike_sa for ike_sa in ike_sas if ike_sa.remote.identity == identity]
            self._learn(peer, of_peer)
            for ike_sa in self._doubles.lost(peer.settings.connection, of_peer, now):
                peer.log.info("lost_ike_sa_ended", ike_id=ike_sa.unique_id, detail="the peer has made another one")
                self._controller.start(peer, self._associations.end_ike_sa(ike_sa))
            for ike_sa, child in self._doubles.children(peer.settings.connection, of_peer, now):
                peer.log.info("double_child_sa_ended", ike_id=ike_sa.unique_id, detail=f"{child.name} was there twice")
                self._controller.start(peer, self._associations.end_child_sa(ike_sa, child))
            lacking = {ike_sa.unique_id: contradictions.get(ike_sa.unique_id, []) for ike_sa in of_peer}
            self._contradicted(peer, [problem for problems in lacking.values() for problem in problems])
            associations = tuple(
                sorted(
                    (
                        association
                        for ike_sa in of_peer
                        if (association := self._association(peer, ike_sa, intact=not lacking[ike_sa.unique_id]))
                    ),
                    key=lambda association: association.ike_id,
                )
            )
            known = self._known.get(identity, ())
            if associations != known:
                self._known[identity] = associations
                self._controller.submit(peer, AssociationsRead(associations))
            if {association.ike_id for association in known} - {association.ike_id for association in associations}:
                self._controller.start(peer, self._associations.unload_unused(peer.settings))
        peers = tuple(self._controller.peers.values())
        left = await self._leftovers.look([peer.machine for peer in peers])
        for peer, pair in self._restoring.due(peers, self._known, left, asyncio.get_running_loop().time()):
            self._controller.start(peer, self._restoring.attempt(peer, pair))

    @staticmethod
    def _contradicted(peer: Peer, problems: list[str]) -> None:
        """To be told, unless filters are on the move: then one CHILD_SA after the other is elsewhere."""
        handovers = (peer.machine.mobile.handover, peer.machine.correspondent.handover)
        moving = any(handover is not None and not handover.reached(Step.FILTERS) for handover in handovers)
        text = "" if moving else "; ".join(problems)
        if text and text != peer.contradiction:
            peer.log.warning("kernel_contradicts_charon", detail=text)
        peer.contradiction = text

    def _inner_addresses(self, ike_sa: IkeSa) -> list[IPv6Address]:
        control = ike_sa.child(self._controller.config.control.child)
        return [
            selector.start
            for selector in (control.remote_ts if control is not None else ())
            if isinstance(selector.start, IPv6Address) and selector.is_host(selector.start)
        ]

    def _learn(self, peer: Peer, ike_sas: Collection[IkeSa]) -> None:
        """Which CHILD_SAs belong to the peer, and what they protect."""
        chosen = peer.settings.children
        found = [
            child
            for ike_sa in ike_sas
            for child in ike_sa.children
            if child.is_usable and (chosen is None or child.name in chosen)
        ]
        control = self._controller.config.control.child
        peer.children |= {child.name: child.mode for child in found if child.name != control}
        data = [child for child in found if child.mode is Mode.TRANSPORT]
        protected = frozenset(traffic for child in data for traffic in _protected(child))
        if protected and protected != peer.protected:
            peer.protected = protected if peer.protected == ANY_TRAFFIC else protected | peer.protected

    def _association(self, peer: Peer, ike_sa: IkeSa, *, intact: bool) -> Association | None:
        local, remote = ike_sa.local.host, ike_sa.remote.host
        if local is None or remote is None or local.version != remote.version:
            return None
        control = ike_sa.child(self._controller.config.control.child)
        complete = intact and all(
            (child := ike_sa.child(name)) is not None and child.mode is mode for name, mode in peer.children.items()
        )
        return Association(Pair(local, remote), ike_sa.unique_id, control is not None, complete)


def _owners(claims: Iterable[tuple[IPv6Address, str]]) -> dict[IPv6Address, str]:
    """Who owns which inner address. One that two identities have is nobody's: selectors let anybody claim it."""
    owners: dict[IPv6Address, str] = {}
    disputed: set[IPv6Address] = set()
    for address, identity in claims:
        if owners.setdefault(address, identity) != identity:
            disputed.add(address)
    return {address: identity for address, identity in owners.items() if address not in disputed}


def _protected(child: ChildSa) -> list[ProtectedTraffic]:
    return [
        ProtectedTraffic(local.protocol or remote.protocol, _port(local), _port(remote))
        for local in child.local_ts
        for remote in child.remote_ts
    ]


def _port(selector: TrafficSelector) -> int | None:
    """The one port of a selector; a range is guarded whole, as XFRM selectors have no ranges."""
    first, last = selector.ports
    return first if first == last and selector.ports != ANY_PORT else None

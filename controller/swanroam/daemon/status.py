"""Puts together the status document: everything that `swanroam status` shows. `status_document` has its type."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from swanroam import __version__
from swanroam.daemon.addresses import AddressFollower
from swanroam.daemon.charon import CharonWatch
from swanroam.daemon.control_channel import ControlChannel
from swanroam.daemon.controller import Controller
from swanroam.daemon.peer import Peer
from swanroam.daemon.peer_state import PeerState, peer_state
from swanroam.daemon.reload import Reloading
from swanroam.daemon.socket_names import key_of
from swanroam.daemon.socket_places import connected
from swanroam.daemon.socket_report import endpoint
from swanroam.daemon.status_document import (
    VERSION,
    BindingDocument,
    ConnectionsDocument,
    HandoverDocument,
    PeerDocument,
    SocketDocument,
    StatusDocument,
)
from swanroam.history.store import HistoryFile
from swanroam.kernel.sockets import SocketDiagError, SocketProtocol, sockets_on
from swanroam.protocol.binding import Binding
from swanroam.protocol.events import Fact
from swanroam.protocol.handover import Handover, Result
from swanroam.protocol.host_state import Carried, Pair
from swanroam.protocol.messages import IPAddress
from swanroam.protocol.peer import PeerMachine
from swanroam.protocol.transfer import Key

Owners = Callable[[Pair, Pair], Awaitable[Mapping[Key, tuple[str, ...]]]]
"""Programs that have the sockets of an address pair, which go to the other pair if they can."""


class Status:
    """Puts the document together."""

    def __init__(
        self,
        controller: Controller,
        charon: CharonWatch,
        addresses: AddressFollower,
        channel: ControlChannel,
        carrier_drops: Callable[[], Awaitable[dict[str, int]]],
        owners: Owners,
        reloading: Reloading,
        history: HistoryFile,
    ) -> None:
        self._controller = controller
        self._charon = charon
        self._addresses = addresses
        self._channel = channel
        self._carrier_drops = carrier_drops
        self._owners = owners
        self._reloading = reloading
        self._history = history
        self._started = asyncio.get_running_loop().time()

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """API: the document. With `connections` in the request, all connections are counted."""
        document = await self.document(connections=bool(request.get("connections")))
        return dict(document)

    async def document(self, *, connections: bool) -> StatusDocument:
        """The document, with the number of connections of each peer or without."""
        now = asyncio.get_running_loop().time()
        configuration = await self._reloading.document()
        every = tuple(self._controller.peers.values())
        peers = [await self._peer(peer, now) for peer in every]
        if connections:
            for peer, entry in zip(every, peers, strict=True):
                entry["connections"] = await _connections(peer.machine.pair)
        problems = self.problems() + [f"{peer['name']}: {peer['problem']}" for peer in peers if peer["problem"]]
        return {
            "version": VERSION,
            "swanroam": __version__,
            "identity": self._controller.config.identity,
            "uptime": round(now - self._started, 3),
            "configuration": configuration,
            "addresses": sorted(map(str, self._controller.own_addresses)),
            "charon_connected": self._charon.connected,
            "problems": problems,
            "control_channel": {"dropped": dict(self._channel.dropped), "unsent": dict(self._channel.unsent)},
            "carrier": {"dropped": await self._carrier_drops()},
            "peers": peers,
        }

    def problems(self) -> list[str]:
        """What an operator should look at, and is not about one peer."""
        problems = [self._charon.trouble] if self._charon.trouble else []
        if refused := self._reloading.refused:
            problems.append(
                f"the configuration file was refused at the last reload, and what was read before is at work: "
                f"{'; '.join(refused)}. Mend it, then: swanroam reload"
            )
        if self._controller.not_journalled:
            problems.insert(
                0,
                f"{self._controller.not_journalled}. Handovers go on, but a crash or reboot now would lose what was "
                "done since",
            )
        if self._history.trouble:
            problems.append(f"{self._history.trouble}. Handovers go on, and `swanroam history` will not know of them")
        if self._controller.not_applied:
            problems.insert(0, f"not done, and tried again: {self._controller.not_applied}")
        return problems

    def problem(self, peer: Peer) -> str:
        """The same of a peer; empty when all is fine."""
        return _problem(peer, self._controller.config.control.child)

    async def _peer(self, peer: Peer, now: float) -> PeerDocument:
        machine = peer.machine
        mobile, correspondent = machine.mobile, machine.correspondent
        carried = sorted(machine.wanted().carried)
        return {
            "name": peer.settings.name,
            "identity": peer.settings.identity,
            "connection": peer.settings.connection,
            "filters": peer.settings.filters.value,
            "state": f"charon is lost; before: {_state(peer)}" if self._charon.trouble else _state(peer),
            "problem": self.problem(peer),
            "contradiction": peer.contradiction,
            "managed": machine.managed,
            "swanroam": machine.software,
            "leaving": peer.leaving,
            "settings_wait": peer.waiting,
            "pinned": self._addresses.pinned(peer),
            "own": _binding(machine.own),
            "peer": _binding(machine.peer),
            "proven": _text(correspondent.proven),
            "unproven": _text(correspondent.unproven),
            "held_back": correspondent.credit.held_back,
            "sought_at": None if (places := mobile.seeker.sought_at) is None else [str(place) for place in places],
            "sequence": mobile.sequence,
            "last_sequence": correspondent.last_sequence,
            "refused": sum(correspondent.refusals.values()),
            "refusals": {ground.value: count for ground, count in correspondent.refusals.items()},
            "guarded_after_release": [str(address) for address in correspondent.lingering],
            "associations": [
                {
                    "ike_id": association.ike_id,
                    "local": str(association.pair.local),
                    "remote": str(association.pair.remote),
                    "control": association.control,
                    "complete": association.complete,
                }
                for association in machine.associations
            ],
            "carried": [
                {
                    "local": str(entry.inner.local),
                    "remote": str(entry.inner.remote),
                    "outer": f"{entry.outer.local} - {entry.outer.remote}",
                    "control_only": entry.control_only,
                }
                for entry in carried
            ],
            "transport": {
                "method": peer.settings.transport.value,
                "moved": machine.transfers.tally.moved,
                "moving": machine.transfers.busy,
            },
            "connections": None,
            "sockets": await self._sockets(carried, machine),
            "handover": _handover(mobile.handover, now),
            "peer_handover": _handover(correspondent.handover, now),
            "history": [_described(handover, now) for handover in peer.history],
        }

    async def _sockets(self, carried: Collection[Carried], machine: PeerMachine) -> list[SocketDocument]:
        pairs = {entry.inner for entry in carried if not entry.control_only}
        kept, current = machine.transfers.tally.kept, machine.pair
        found: list[SocketDocument] = []
        for pair in sorted(pairs):
            present = await sockets_on(pair.local, pair.remote)
            owners = await self._owners(pair, current) if present and current is not None else {}
            for entry in present:
                why = kept.get((pair, key_of(entry)))
                found.append(
                    {
                        "protocol": entry.protocol.name.lower(),
                        "state": entry.state.name,
                        "local": endpoint(entry.local, entry.local_port),
                        "remote": endpoint(entry.remote, entry.remote_port),
                        "owners": list(owners.get(key_of(entry), ())),
                        "stays": "" if why is None else why.detail or why.obstacle.name.lower(),
                    }
                )
        return found


def _state(peer: Peer) -> str:
    mobile, correspondent = peer.machine.mobile, peer.machine.correspondent
    match peer_state(peer.machine):
        case PeerState.NO_IKE_SA:
            return "no IKE_SA with it"
        case PeerState.NO_CONTROL_CHILD:
            return "not managed: no control CHILD_SA"
        case PeerState.UNMANAGED:
            return f"not managed: its controller has not {'answered' if mobile.settings.active else 'registered'}"
        case PeerState.LOST:
            return "lost: we moved, and it is not where it was"
        case PeerState.SILENT:
            return "its controller does not answer"
        case PeerState.MOVING:
            assert mobile.handover is not None
            return f"we are moving ({mobile.handover.result.value})"
        case PeerState.PEER_MOVING:
            assert correspondent.handover is not None
            return f"it is moving ({correspondent.handover.result.value})"
        case PeerState.READY:
            return "protected and ready to move"


def _problem(peer: Peer, control: str) -> str:
    """What an operator should look at, with the remedy; empty when all is fine."""
    machine, mobile = peer.machine, peer.machine.mobile
    if not machine.associations:
        if not machine.managed:
            return ""  # a peer that is not there now
        return (
            "its IKE_SA has gone, and what its policies do not protect is blocked: let the host that connects initiate "
            f"it (if that is this one: swanctl --initiate --ike {peer.settings.connection})"
        )
    if peer.contradiction:
        return (
            f"charon and the kernel contradict each other: {peer.contradiction}. Who has changed what is charon's? "
            "swanctl --rekey --child NAME puts a CHILD_SA in place again"
        )
    if mobile.refusal:
        return f"it refuses our address: {mobile.refusal}"
    if not machine.managed:
        return _why_unmanaged(peer, control)
    if mobile.seeker.sought_at:
        return (
            "it is not where it was when we moved: its path is dead, its controller was stopped, or it has moved as "
            "well. It is looked for by what stands in `fallback` (default: remote_addrs of the connection)"
        )
    if mobile.silent:
        return "its controller does not answer: is swanroam running there? Connections go on while no address changes"
    if peer.trouble is not None:
        return f"{_TROUBLES[peer.trouble.fact]}: {peer.trouble.detail}"
    last = peer.history[-1] if peer.history else None
    if mobile.handover is None and last is not None and last.result in (Result.REFUSED, Result.UNANSWERED):
        return f"the move to {last.new} failed: {last.detail}"
    return ""


_TROUBLES = {
    Fact.CHANGE_REFUSED: "its move was refused",
    Fact.PATH_NOT_PROVEN: "its new address is not proven",
    Fact.FILTERS_FAILED: "no security filters",
    Fact.PEER_FORGOTTEN: "no longer managed",
}


def _why_unmanaged(peer: Peer, control: str) -> str:
    without = "Without it a change of address ends the connections, as it would without swanroam here"
    if not _has_control(peer.machine):
        return (
            f"charon has no CHILD_SA {control} with it, so its controller can't be asked: swanctl --initiate --ike "
            f"{peer.settings.connection} --child {control}; if that fails, is swanroam set up there? {without}"
        )
    return f"is swanroam running there? {without}" if peer.machine.mobile.silent else ""


def _has_control(machine: PeerMachine) -> bool:
    return any(association.control for association in machine.associations)


async def _connections(pair: Pair | None) -> ConnectionsDocument | None:
    if pair is None:
        return None
    try:
        protocols = Counter(entry.protocol for entry in await connected(pair))
    except SocketDiagError:
        return None
    return {"tcp": protocols[SocketProtocol.TCP], "udp": protocols[SocketProtocol.UDP]}


def _binding(binding: Binding | None) -> BindingDocument | None:
    if binding is None:
        return None
    return {"current": str(binding.current), "deprecated": [str(address) for address in binding.deprecated]}


def _handover(handover: Handover | None, now: float) -> HandoverDocument | None:
    return None if handover is None else _described(handover, now)


def _described(handover: Handover, now: float) -> HandoverDocument:
    return {
        "id": handover.name,
        "old": str(handover.old),
        "new": str(handover.new),
        "sequence": handover.sequence,
        "cause": handover.cause.value,
        "result": handover.result.value,
        "detail": handover.detail,
        "age": round(now - handover.started, 3),
        "seconds": handover.step_seconds,
    }


def _text(address: IPAddress | None) -> str | None:
    return None if address is None else str(address)

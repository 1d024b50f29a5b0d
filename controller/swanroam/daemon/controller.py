"""The heart of the daemon: one queue of events, one machine for each peer, one order of doing things.

For each event: feed the machine; journal what it now knows; apply what it wants to the kernel; then carry out its
actions. What takes time (charon, counting sockets) runs in tasks of its own, whose results come back as events.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from ipaddress import IPv6Address
from typing import Any, Protocol

import structlog

from swanroam.config import Config, FilterMethod, PeerSettings, TransportMethod
from swanroam.daemon.journal import Journal, JournalError
from swanroam.daemon.translation import (
    ANY_TRAFFIC,
    HostFacts,
    KernelState,
    ProtectedTraffic,
    carrier_settings,
    kernel_state,
)
from swanroam.ike.associations import Mode
from swanroam.protocol.authorisation import Policy, Surroundings
from swanroam.protocol.events import (
    Action,
    EndSockets,
    EstablishFilters,
    Event,
    Fact,
    MigrateFilters,
    ReadUsage,
    ReleaseFilters,
    Report,
    ResolveFallbacks,
    Send,
    StateApplied,
    TimerExpired,
    UsageRead,
)
from swanroam.protocol.handover import Handover, Step
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import INSTANCE_SIZE, IPAddress, Message, Method
from swanroam.protocol.mobile import MobileSettings
from swanroam.protocol.peer import PeerMachine
from swanroam.protocol.peer import PeerSettings as MachineSettings
from swanroam.protocol.transfer import TransferOrder

log = structlog.get_logger("swanroam")

RETRANSMIT_CEILING = 5.0
"""Seconds: the longest pause between two retransmissions."""
RETRY_APPLY = 1.0
"""Seconds after which a kernel state that could not be applied is tried again."""
VERIFY = 15.0
"""Seconds without an event after which the kernel is compared with what it should have."""
HISTORY = 50
"""Finished handovers that `status` can show."""

_WARNINGS = frozenset(
    {
        Fact.PEER_SILENT,
        Fact.PEER_NOT_FOUND,
        Fact.CHANGE_REFUSED_BY_PEER,
        Fact.CHANGE_REFUSED,
        Fact.PATH_NOT_PROVEN,
        Fact.FILTERS_FAILED,
        Fact.PEER_FORGOTTEN,
        Fact.SOCKETS_ENDED,
    }
)

_TROUBLES = _WARNINGS - {
    Fact.PEER_SILENT,
    Fact.PEER_NOT_FOUND,
    Fact.CHANGE_REFUSED_BY_PEER,
    Fact.SOCKETS_ENDED,
}
"""Warnings that `status` goes on showing; the others are seen in the machine's own state."""
_MENDED = frozenset({Fact.HANDOVER_FINISHED, Fact.PEER_REGISTERED, Fact.CHANGE_ACCEPTED, Fact.PATH_PROVEN})
"""What ends a trouble."""


class Host(Protocol):
    """This host's kernel and charon, as the controller uses them."""

    async def apply(self, wanted: KernelState) -> bool:
        """Makes the kernel as wanted; tells whether anything changed. Raises HostError."""

    def sealed(self) -> frozenset[int]:
        """IP versions in which new addresses of this host are guarded before they are known."""

    def forget(self) -> None:
        """Somebody may have changed the kernel: the next `apply` has to look."""

    async def establish(
        self, peer: PeerSettings, action: EstablishFilters, children: Collection[str], wanted: Callable[[], bool]
    ) -> Event:
        """Puts filters in place; the event tells how it went. Once `wanted` is false, those of other pairs stay."""

    async def migrate(self, peer: PeerSettings, action: MigrateFilters, children: Collection[str]) -> Event | None:
        """Moves existing filters to a pair; the event tells how it went. None: overtaken by another call."""

    async def release(self, peer: PeerSettings, action: ReleaseFilters, current: Pair | None) -> Event | None:
        """Terminates the IKE_SAs of an address; `current` is the pair that stays. None when some are left."""

    async def resolve(self, peer: PeerSettings, action: ResolveFallbacks) -> Event:
        """Finds out the addresses at which a peer may be."""


class Sockets(Protocol):
    """The sockets of this host's programs, as the controller uses them."""

    async def usage(self, action: ReadUsage, others: Collection[IPAddress], *, own: bool) -> Event:
        """Counts the sockets between an address (ours if `own`, else the peer's) and the others."""

    async def end(self, action: EndSockets, others: Collection[IPAddress]) -> None:
        """Ends the sockets between an address of ours and the others, with a reset."""

    async def transfer(self, peer: PeerSettings, order: TransferOrder) -> Event | None:
        """Carries out a step of moving sockets; the event tells what came of it."""


class HostError(Exception):
    """The kernel could not be made as wanted; the message says what failed and what to do."""


class Peer:
    """A configured peer: its settings, its machine, and what is known of it besides."""

    def __init__(self, settings: PeerSettings, config: Config, instance: bytes) -> None:
        self.settings = settings
        self.machine = PeerMachine(_machine_settings(settings, config, instance), secrets.token_bytes, random.random)
        self.protected: frozenset[ProtectedTraffic] = ANY_TRAFFIC
        self.children: dict[str, Mode] = {config.control.child: Mode.TUNNEL}
        """The CHILD_SAs that every IKE_SA with it must have, and in which mode: all that are or were installed."""
        self.log = log.bind(peer=settings.name)
        self.history: deque[Handover] = deque(maxlen=HISTORY)
        self.trouble: Report | None = None
        """The last thing that went wrong with this peer and was not mended since."""
        self.contradiction = ""
        """What the kernel lacks of what charon says it has; empty while they agree."""


class Controller:
    """Feeds the machines and does what they say.

    Making one takes over the journal of the last run. Raises JournalError when it can't be read or written.
    """

    def __init__(
        self,
        config: Config,
        host: Host,
        sockets: Sockets,
        journal: Journal,
        send: Callable[[IPv6Address, Message], None],
    ) -> None:
        self.config = config
        self._host = host
        self._sockets = sockets
        self._journal = journal
        self._send = send
        instance = secrets.token_bytes(INSTANCE_SIZE)
        self.peers = {peer.identity: Peer(peer, config, instance) for peer in config.peers}
        self.own_addresses: frozenset[IPAddress] = frozenset()
        self._uncounted: frozenset[IPAddress] = frozenset()
        """This host's addresses that the configuration passes over."""
        self._queue: asyncio.Queue[tuple[Peer, Event]] = asyncio.Queue()
        self.not_applied = ""
        """Why the kernel is not as it should be; empty when it is."""
        self._applied: KernelState | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._stored = self._journal.load()
        now = asyncio.get_running_loop().time()
        for identity, peer in self.peers.items():
            if identity in self._stored:
                try:
                    peer.machine.restore(self._stored[identity], now)
                except ValueError as error:
                    raise journal.damaged(f"{identity}: {error}") from error
        self._write_journal()  # what can't be written is to be known before the kernel is touched

    # --- from outside -------------------------------------------------------------------------------------------

    def submit(self, peer: Peer, event: Event) -> None:
        """Queues an event."""
        self._queue.put_nowait((peer, event))

    def pass_over(self, addresses: frozenset[IPAddress]) -> None:
        """This host's addresses whose packets are none of our business, as they are now."""
        outer = frozenset(address for address in addresses if address not in self.config.control.prefix)
        if outer != self._uncounted:
            self._uncounted = outer
            for peer in self.peers.values():
                self.submit(peer, TimerExpired())

    async def quiesced(self) -> bool:
        """Nothing of any handover is left on this host: the controller may go and take everything with it.

        Sockets that are connected to an address which a peer has released count as well: only guards keep what the
        kernel sends for them from leaving in clear.
        """
        for peer in self.peers.values():
            if _in_use(peer.machine):
                return False
            for address in peer.machine.correspondent.lingering:
                usage = await self._sockets.usage(ReadUsage(address), (), own=False)
                if not isinstance(usage, UsageRead) or usage.sockets:
                    return False
        return True

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            await self._apply_all()
            while True:
                try:
                    async with asyncio.timeout(VERIFY):
                        peer, event = await self._queue.get()
                except TimeoutError:
                    await self._verify()
                else:
                    await self._process(peer, event)

    async def _verify(self) -> None:
        """In a quiet moment: mends what somebody else has changed of ours."""
        self._applied = None
        self._host.forget()
        try:
            if await self._apply_all():
                log.warning(
                    "kernel_mended", detail="something of ours was changed or missing; it is as it should be now"
                )
        except (HostError, JournalError) as error:
            self.not_applied = str(error)
            log.error("host_state_not_applied", error=str(error), retry_in_s=VERIFY)

    async def _process(self, peer: Peer, event: Event) -> None:
        loop = asyncio.get_running_loop()
        others = (other.machine.peer for other in self.peers.values() if other is not peer)
        peer.machine.surroundings = Surroundings(
            own=self.own_addresses,
            others=frozenset(address for binding in others if binding is not None for address in binding.addresses),
        )
        actions = peer.machine.feed(event, loop.time())
        try:
            changed = await self._apply_all()
        except (HostError, JournalError) as error:
            self.not_applied = str(error)
            peer.log.error("host_state_not_applied", error=str(error), retry_in_s=RETRY_APPLY)
            loop.call_later(RETRY_APPLY, self.submit, peer, TimerExpired())
            # Nothing may be promised to the peer that this host does not do; it will ask again.
            actions = [action for action in actions if not isinstance(action, Send)]
        else:
            if changed:
                actions += peer.machine.feed(StateApplied(), loop.time())
        for action in actions:
            self._carry_out(peer, action)
        if peer.trouble is not None and peer.trouble.fact is Fact.FILTERS_FAILED and _complete(peer.machine):
            peer.trouble = None
        self._set_timer(peer)

    async def _apply_all(self) -> bool:
        """Journal first, then the kernel: what a crash leaves behind is always known."""
        self._write_journal()
        wanted = kernel_state(
            [(peer.machine.wanted(), peer.protected) for peer in self.peers.values()],
            self.config.control.prefix,
            carrier_settings(self.config).clear_mark,
            HostFacts(self._host.sealed(), self._uncounted),
        )
        changed = False
        if wanted != self._applied:
            self._applied = None  # should it fail half-way, the next event tries again
            changed = await self._host.apply(wanted)
            self._applied = wanted
        self.not_applied = ""
        return changed

    def _write_journal(self) -> None:
        snapshots = {identity: peer.machine.snapshot() for identity, peer in self.peers.items()}
        self._journal.store(self._stored | snapshots)

    def _carry_out(self, peer: Peer, action: Action) -> None:
        match action:
            case Send(message):
                peer.log.debug("message_sent", message=type(message).__name__, sequence=message.sequence)
                self._send(peer.settings.control_address, message)
            case EstablishFilters():
                work = self._host.establish(
                    peer.settings, action, peer.children, lambda: peer.machine.pair == action.pair
                )
                self._start(peer, work)
            case MigrateFilters():
                self._start(peer, self._host.migrate(peer.settings, action, peer.children))
            case ReleaseFilters():
                self._start(peer, self._host.release(peer.settings, action, peer.machine.pair))
            case ResolveFallbacks():
                self._start(peer, self._host.resolve(peer.settings, action))
            case ReadUsage(address):
                machine = peer.machine
                own = machine.own is not None and address in machine.own.addresses
                self._start(peer, self._sockets.usage(action, machine.counterparts(address), own=own))
            case EndSockets(address):
                self._start(peer, self._sockets.end(action, peer.machine.counterparts(address)))
            case Report():
                self._report(peer, action)
            case _:
                self._start(peer, self._sockets.transfer(peer.settings, action))

    def _start(self, peer: Peer, work: Awaitable[Event | None]) -> None:
        async def finish() -> None:
            if (event := await work) is not None:
                self.submit(peer, event)

        assert self._tasks is not None
        self._tasks.create_task(finish())

    def _set_timer(self, peer: Peer) -> None:
        if (timer := self._timers.pop(peer.settings.identity, None)) is not None:
            timer.cancel()
        if (deadline := peer.machine.deadline()) is not None:
            loop = asyncio.get_running_loop()
            self._timers[peer.settings.identity] = loop.call_at(deadline, self.submit, peer, TimerExpired())

    def _report(self, peer: Peer, report: Report) -> None:
        fields: dict[str, Any] = {}
        if report.handover is not None:
            fields["handover"] = report.handover.name
        if report.fact is Fact.HANDOVER_FINISHED and report.handover is not None:
            handover = report.handover
            peer.history.append(handover)
            fields |= {"old": str(handover.old), "new": str(handover.new), "result": handover.result.value}
            fields |= {"seconds": handover.step_seconds}
            if handover.detail:
                fields["detail"] = handover.detail
        elif report.fact is Fact.HANDOVER_STEP and report.handover is not None:
            fields |= {"step": report.detail, "seconds": report.handover.step_seconds[report.detail]}
            if report.handover.steps[-1][0] is Step.TRANSPORT:
                tally = peer.machine.transfers.tally
                fields |= {"moved": tally.moved, "kept": len(tally.kept)}
        elif report.detail:
            fields["detail"] = report.detail
        if report.fact in _WARNINGS:
            if report.fact in _TROUBLES:
                peer.trouble = report
            peer.log.warning(report.fact.value, **fields)
        else:
            if report.fact in _MENDED:
                peer.trouble = None
            peer.log.info(report.fact.value, **fields)


def _in_use(machine: PeerMachine) -> bool:
    own, peer = machine.own, machine.correspondent.binding
    return bool((own and own.deprecated) or (peer and peer.deprecated) or machine.mobile.handover)


def _complete(machine: PeerMachine) -> bool:
    """The filters stand for the current addresses."""
    return any(association.complete and association.pair == machine.pair for association in machine.associations)


def _machine_settings(peer: PeerSettings, config: Config, instance: bytes) -> MachineSettings:
    method = Method.MIGRATE if peer.filters is FilterMethod.MIGRATE else Method.RENEGOTIATE
    return MachineSettings(
        mobile=MobileSettings(
            active=peer.moves.we_may,
            method=method,
            first_retransmit=config.timing.first_retransmit,
            ceiling=RETRANSMIT_CEILING,
            give_up=config.timing.give_up,
            refresh=config.timing.refresh,
            grace=peer.grace,
            end_after=config.sockets.end_after,
            instance=instance,
        ),
        policy=Policy(may_move=peer.moves.peer_may, allowed=peer.allow),
        transport=peer.transport is TransportMethod.MOVE,
        forget_after=config.timing.refresh * 10,
    )

"""The heart of the daemon: one queue of events, one machine for each peer, one order of doing things.

For each event: feed the machine; journal what it now knows; apply what it wants to the kernel; then carry out its
actions. What takes time (charon, counting sockets) runs in tasks of its own, whose results come back as events.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any

import structlog

from swanroam.config import Config, PeerSettings
from swanroam.daemon.border import Host, Sockets
from swanroam.daemon.counts import Counts
from swanroam.daemon.journal import Journal, JournalError
from swanroam.daemon.peer import Peer
from swanroam.daemon.recorder import Write
from swanroam.daemon.surroundings import asked_about, surroundings
from swanroam.daemon.translation import (
    HostFacts,
    KernelState,
    carrier_settings,
    kernel_state,
)
from swanroam.protocol.authorisation import Surroundings
from swanroam.protocol.events import (
    Action,
    EndSockets,
    EstablishFilters,
    Event,
    Fact,
    FallbacksResolved,
    MessageReceived,
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
from swanroam.protocol.messages import INSTANCE_SIZE, IPAddress, Message
from swanroam.protocol.peer import PeerMachine

log = structlog.get_logger("swanroam")

RETRY_APPLY = 1.0
"""Seconds after which a kernel state that could not be applied is tried again."""
VERIFY = 15.0
"""Seconds between two comparisons of the kernel with what it should have."""
MAX_PENDING = 64
"""Messages of one peer that may wait to be handled."""


class HostError(Exception):
    """The kernel could not be made as wanted; the message says what failed and what to do."""


@dataclass(frozen=True, slots=True)
class _Job:
    """Something to be done to the peers between two events."""

    work: Callable[[], None]
    done: asyncio.Future[None]


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
        write: Write,
    ) -> None:
        """`send` a message to a peer's inner address; `write` into the history."""
        self.config = config
        self._host = host
        self._sockets = sockets
        self._journal = journal
        self._send = send
        self._write = write
        self._instance = secrets.token_bytes(INSTANCE_SIZE)
        self.peers = {peer.identity: self.new_peer(peer, config) for peer in config.peers}
        self.counts = Counts()
        self.turned = 0.0
        """When the queue was last looked at, on the loop's clock: every VERIFY seconds at least."""
        self.own_addresses: frozenset[IPAddress] = frozenset()
        self._uncounted: frozenset[IPAddress] = frozenset()
        """This host's addresses that the configuration passes over."""
        self._queue: asyncio.Queue[tuple[Peer, Event] | _Job] = asyncio.Queue()
        self.not_applied = ""
        """Why the kernel is not as it should be; empty when it is."""
        self.not_journalled = ""
        """Why the journal does not say what is done; empty when it does."""
        self._applied: KernelState | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._stored = self._journal.load()
        for peer in self.peers.values():
            self.restore(peer)
        self._journal.store(self._snapshots())  # what can't be written is to be known before the kernel is touched

    @property
    def carriers(self) -> int:
        """Address pairs whose packets the kernel carries, as applied last."""
        applied = self._applied
        return sum(not carrier.control_only for carrier in applied.carriers) if applied is not None else 0

    def new_peer(self, settings: PeerSettings, config: Config) -> Peer:
        """One that writes into the same history, and says to its host that it is of this run; it is nowhere yet."""
        return Peer(settings, config, self._instance, self._write)

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

    def receive(self, peer: Peer, message: Message) -> bool:
        """Queues a message of the peer, unless too many of its wait already: then it will be repeated."""
        if peer.pending >= MAX_PENDING:
            return False
        peer.pending += 1
        self.counts.message_received(message)
        self.submit(peer, MessageReceived(message))
        return True

    async def between_events(self, work: Callable[[], None]) -> None:
        """Does something to the peers, and what follows from it for journal and kernel. Works while `run` does."""
        job = _Job(work, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(job)
        await job.done

    def restore(self, peer: Peer) -> None:
        """What an earlier run knew of it, or this one before it left. Raises JournalError."""
        identity = peer.settings.identity
        if identity in self._stored:
            try:
                peer.machine.restore(self._stored[identity], asyncio.get_running_loop().time())
            except ValueError as error:
                raise self._journal.damaged(f"{identity}: {error}") from error

    def join(self, peer: Peer) -> None:
        """A new peer, restored if it has been here before. Between events."""
        self.peers[peer.settings.identity] = peer

    def leave(self, peer: Peer) -> None:
        """A peer of which nothing is left to do. Between events."""
        identity = peer.settings.identity
        del self.peers[identity]
        self._stored[identity] = peer.machine.snapshot()  # should it come back, its sequences must go on
        self.counts.of_gone(peer.machine)
        if (timer := self._timers.pop(identity, None)) is not None:
            timer.cancel()

    async def quiesced(self) -> bool:
        """Nothing of any handover is left on this host: the controller may go and take everything with it."""
        for peer in self.peers.values():
            if not await self.done_with(peer):
                return False
        return True

    async def done_with(self, peer: Peer) -> bool:
        """Nothing of any handover is left of this peer.

        Sockets that are connected to an address which it has released count as well: only guards keep what the kernel
        sends for them from leaving in clear.
        """
        if in_use(peer.machine):
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
            loop = asyncio.get_running_loop()
            self.turned = loop.time()  # not since the machine was started
            await self._apply_all()
            due = loop.time() + VERIFY
            while True:
                self.turned = loop.time()
                if loop.time() >= due:  # also while one event comes after the other
                    await self._verify()
                    due = loop.time() + VERIFY
                try:
                    async with asyncio.timeout_at(due):
                        item = await self._queue.get()
                except TimeoutError:
                    continue
                if isinstance(item, _Job):
                    await self._perform(item)
                elif item[0] is self.peers.get(item[0].settings.identity):  # it may have gone
                    await self._process(*item)

    async def _perform(self, job: _Job) -> None:
        try:
            job.work()
            await self._apply_all()
        except HostError as error:
            self._not_applied(error, RETRY_APPLY)
            for peer in tuple(self.peers.values())[:1]:  # any will do
                asyncio.get_running_loop().call_later(RETRY_APPLY, self.submit, peer, TimerExpired())
        except Exception as error:  # noqa: BLE001 - it is handed to who has given the job
            job.done.set_exception(error)
            return
        job.done.set_result(None)

    async def _verify(self) -> None:
        """Mends what somebody else has changed of ours."""
        self._applied = None
        self._host.forget()
        try:
            if await self._apply_all():
                log.warning(
                    "kernel_mended", detail="something of ours was changed or missing; it is as it should be now"
                )
                self.counts.mended += 1
        except HostError as error:
            self._not_applied(error, VERIFY)

    def _not_applied(self, error: HostError, retry: float) -> None:
        self.not_applied = str(error)
        log.error("host_state_not_applied", error=str(error), retry_in_s=retry)

    async def _process(self, peer: Peer, event: Event) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(event, MessageReceived):
            peer.pending -= 1
        try:
            if (asked := asked_about(event)) is not None:
                peer.machine.surroundings = await self._surroundings(peer, asked)
        except HostError as error:
            peer.log.error("address_change_not_checked", error=str(error))
            if not isinstance(event, FallbacksResolved):
                return  # the peer will repeat it
            event = FallbacksResolved(())  # asked for again in the next round
        peer.recorder.answered(event)
        actions = peer.feed(event, loop.time())
        try:
            changed = self._stirred(peer, event) and await self._apply_all()
        except HostError as error:
            self.not_applied = str(error)
            peer.standing = None
            peer.log.error("host_state_not_applied", error=str(error), retry_in_s=RETRY_APPLY)
            loop.call_later(RETRY_APPLY, self.submit, peer, TimerExpired())
            # Nothing may be promised to the peer that this host does not do; it will ask again.
            actions = [action for action in actions if not isinstance(action, Send)]
        else:
            if changed:
                actions += peer.feed(StateApplied(), loop.time())
        for action in actions:
            self._carry_out(peer, action)
        if peer.trouble is not None and peer.trouble.fact is Fact.FILTERS_FAILED and _complete(peer.machine):
            peer.reports.trouble = None
        self._set_timer(peer)

    def _stirred(self, peer: Peer, event: Event) -> bool:
        """There may be something to journal or to apply. Most messages, and all of a flood, change nothing: to look
        through all peers for each would let one peer slow down the others."""
        machine = peer.machine
        before, peer.standing = peer.standing, (machine.snapshot(), machine.wanted(), peer.protected)
        pending = self._applied is None or bool(self.not_journalled)
        return pending or not isinstance(event, MessageReceived) or peer.standing != before

    async def _surroundings(self, peer: Peer, asked: Collection[IPAddress]) -> Surroundings:
        """See `surroundings`. Raises HostError."""
        machines = {identity: other.machine for identity, other in self.peers.items()}
        bindings = [machine.own for machine in machines.values() if machine.own is not None]
        own = self.own_addresses.union(*(binding.addresses for binding in bindings))  # some only the carrier device has
        del machines[peer.settings.identity]
        return await surroundings(asked, own, machines.values(), self._host.is_own, self.config.control.prefix)

    async def _apply_all(self) -> bool:
        """Journal first, then the kernel: what a crash leaves behind is known. Raises HostError."""
        self._write_journal()
        states = [(peer.machine.wanted(), peer.protected) for peer in self.peers.values()]
        sealed = self._host.sealed() if any(state.shut for state, _ in states) else frozenset()  # it reads files
        wanted = kernel_state(
            states,
            self.config.control.prefix,
            carrier_settings(self.config).clear_mark,
            HostFacts(sealed, self._uncounted),
        )
        changed = False
        if wanted != self._applied:
            self._applied = None  # should it fail half-way, the next event tries again
            changed = await self._host.apply(wanted)
            self._applied = wanted
        self.not_applied = ""
        return changed

    def _write_journal(self) -> None:
        """What can't be written now is written with the next event, and the work goes on: to leave a new address
        unguarded, or connections where they no longer get through, would be worse than what a crash now costs (the
        next run begins where the journal stands, and the peer's verdict `stale` makes up for its sequences)."""
        try:
            self._journal.store(self._snapshots())
        except JournalError as error:
            if str(error) != self.not_journalled:  # once, not with every event
                log.error("journal_not_written", error=str(error))
            self.not_journalled = str(error)
        else:
            if self.not_journalled:
                log.info("journal_written", detail="it could not be for a while; it is complete again")
            self.not_journalled = ""

    def _snapshots(self) -> dict[str, dict[str, Any]]:
        return self._stored | {identity: peer.machine.snapshot() for identity, peer in self.peers.items()}

    def _carry_out(self, peer: Peer, action: Action) -> None:
        match action:
            case Send(message):
                self.counts.message_sent(action)
                peer.log.debug("message_sent", message=type(message).__name__, sequence=message.sequence)
                self._send(peer.settings.control_address, message)
            case EstablishFilters():
                work = self._host.establish(
                    peer.settings, action, peer.children, lambda: peer.machine.pair == action.pair
                )
                self.start(peer, work)
            case MigrateFilters():
                self.start(peer, self._host.migrate(peer.settings, action, peer.children))
            case ReleaseFilters():
                self.start(peer, self._host.release(peer.settings, action, peer.machine.pair))
            case ResolveFallbacks():
                self.start(peer, self._host.resolve(peer.settings, action))
            case ReadUsage(address):
                machine = peer.machine
                own = machine.own is not None and address in machine.own.addresses
                self.start(peer, self._sockets.usage(action, machine.counterparts(address), own=own))
            case EndSockets(address):
                self.start(peer, self._sockets.end(action, peer.machine.counterparts(address)))
            case Report():
                self.counts.reported(action, peer.machine)
                peer.reports.take(action)
            case _:
                peer.recorder.ordered(action)
                self.start(peer, self._sockets.transfer(peer.settings, action))

    def start(self, peer: Peer, work: Awaitable[Event | None]) -> None:
        """Lets work for a peer go on beside all else, and feeds what comes of it."""

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


def in_use(machine: PeerMachine) -> bool:
    """Something of a handover is left."""
    own, peer = machine.own, machine.correspondent.binding
    return bool((own and own.deprecated) or (peer and peer.deprecated) or machine.mobile.handover)


def _complete(machine: PeerMachine) -> bool:
    """The filters stand for the current addresses."""
    return any(association.complete and association.pair == machine.pair for association in machine.associations)

"""One transfer from the stop of the owners until they run again: what is held, locked and known of it.

Whatever happens between, every way ends in `_end`: each socket complete, its program running, its addresses unlocked or
locked with an expiry.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from swanroam.kernel.sock_diag import SocketProtocol
from swanroam.kernel.xfrm.locks import TcpTuple, add_locks, find_locks, remove_locks
from swanroam.kernel.xfrm.socket import XfrmSocket
from swanroam.transport.crew import Crew
from swanroam.transport.finding import Finder, look_again
from swanroam.transport.jobs import Build, Held, LetGo, Read, Stage
from swanroam.transport.latecomers import Latecomers, udp
from swanroam.transport.orders import Entry, Expired, Go, Gone, Place, Reason, Rebuild, Rebuilt, Refusal, Stop, Stopped
from swanroam.transport.owners import OwnerTable, look_at
from swanroam.transport.stopping import NotStopped, StopFailure
from swanroam.transport.tracer import Tracer

_ROUNDS: Final = 5
"""How often processes that got a socket by fork meanwhile are stopped too."""

_REASONS: Final = {
    StopFailure.TRACED: Reason.TRACED,
    StopFailure.PERMISSION: Reason.PERMISSION,
    StopFailure.TOO_SLOW: Reason.NOT_STOPPED,
    StopFailure.VANISHED: Reason.VANISHED,
}


class Transfer:
    """Its methods are called one after the other, but for `halt`, which may come at any time."""

    def __init__(
        self,
        order: Stop,
        xfrm: XfrmSocket,
        tracer: Tracer,
        owners: OwnerTable,
        finder: Finder,
        latecomers: Latecomers,
        begun: Callable[[], None],
    ) -> None:
        """`begun` is called once, just before the first owner is stopped, also when there is none to stop."""
        self.number: Final = order.transfer
        self._begun = begun
        self._order = order
        self._xfrm = xfrm
        self._tracer = tracer
        self._owners = owners
        self._finder = finder
        self._latecomers = latecomers
        self._held: list[Held] = []
        self._crew = Crew(self._held, owners.ignored, tracer.lifeline.fileno())
        self._stopped: set[int] = set()
        self._ended: set[int] = set()
        self._locked: set[TcpTuple] = set()
        self._before: frozenset[TcpTuple] = frozenset()
        """Those that an earlier transfer has left locked: the peer's socket may be there."""
        self._doubted: set[TcpTuple] = set()
        """As much holds for these, of sockets that are let go already: another transfer may unlock them."""
        self._rebuilt = False

    def halt(self) -> None:
        """Finish the socket in hand and no other: the time is up."""
        self._crew.halt()

    async def stop(self) -> Stopped:
        """Raises SocketDiagError, XfrmError, OSError, with everything let go."""
        candidates = await self._finder.find(self._order.entries, self._order.exclusions)
        refusals = dict(candidates.refusals)
        for index, place in candidates.found.items():
            if place is Place.NEW:
                refusals.setdefault(index, Refusal(Reason.NOT_FOUND, "it is at the new addresses already"))
        self._held += candidates.held
        try:
            await self._seize()
        except BaseException:
            await self._end(unlock=self._locked - self._before)
            raise
        refusals.update({held.index: held.refusal for held in self._held if held.refusal is not None})
        numbers = {held.index: held.number for held in self._held if held.number is not None and not held.refusal}
        await self._dismiss([held for held in self._held if held.refusal is not None])
        return Stopped(self.number, numbers, refusals)

    async def rebuild(self, order: Rebuild) -> Rebuilt:
        """Raises XfrmError."""
        self._rebuilt = True
        refusals = {}
        unwanted = [held for held in self._remaining() if _is_tcp(held) and held.index not in order.numbers]
        for held in unwanted:
            held.refusal = refusals[held.index] = Refusal(Reason.NO_NUMBER)
        await self._dismiss(unwanted, doubtful=True)
        slots = self._slots(self._remaining())
        numbers = tuple(order.numbers.get(self._held[slot].index, 0) for slot in slots)
        await self._build(Build(slots, Place.NEW, numbers))
        for held in self._remaining():
            if held.place is not Place.NEW or held.stage is not Stage.BUILT:
                refusals[held.index] = held.refusal or Refusal(Reason.TIMED_OUT)
        refusals.update({held.index: held.refusal for held in self._held if held.stage is Stage.LOST and held.refusal})
        await self._open([held for held in self._remaining() if held.place is Place.NEW])
        done = {held.index for held in self._remaining()} - refusals.keys()
        return Rebuilt(self.number, tuple(sorted(done)), refusals)

    async def go(self, order: Go) -> Gone:
        """Raises XfrmError, with the owners running all the same."""
        back = {index for index in order.back if 0 <= index < len(self._order.entries)}
        returning = [held for held in self._remaining() if held.index in back and held.place is Place.NEW]
        slots = self._slots(returning)
        await self._build(Build(slots, Place.OLD, tuple(self._held[slot].peer_number for slot in slots)))
        stays = {
            left
            for held in self._held
            if _is_tcp(held)
            for left in [_tuple(held.entry, _left(held))]
            if held.index in order.keep_locks or held.stage is Stage.BUILT or left in self._before
        }
        for held in self._remaining():
            misplaced = held.place is not (Place.NEW if self._rebuilt and held.index not in back else Place.OLD)
            held.refusal = (held.refusal or Refusal(Reason.TIMED_OUT)) if misplaced else None
        try:
            if stays:
                await add_locks(self._xfrm, stays, self._order.doubt_seconds)
        finally:
            wrong = await self._end(unlock=self._locked - stays)
        return Gone(self.number, wrong)

    async def give_up(self) -> Expired:
        """Let everything go where it stands; where it does not, all stays locked. Raises XfrmError, with the owners
        running all the same."""
        moved = tuple(sorted({held.index for held in self._remaining() if held.place is Place.NEW}))
        stays = {_tuple(held.entry, _left(held)) for held in self._remaining() if _is_tcp(held)}
        try:
            if stays:
                await add_locks(self._xfrm, stays, self._order.doubt_seconds)
        finally:
            await self._end(unlock=self._locked - stays - self._doubted)
        return Expired(self.number, moved)

    async def _seize(self) -> None:
        """Lock, stop, read."""
        if not self._held:
            self._begun()  # the daemon counts on hearing of the end of whatever it has begun
            return
        self._crew.start()
        self._locked |= set(_tuples(held.entry for held in self._held))
        if self._locked:
            self._before = await find_locks(self._xfrm)
            await add_locks(self._xfrm, self._locked, self._order.lock_seconds)
        self._begun()
        self._stop_owners({pid for held in self._held for pid in held.pids})
        await self._stop_heirs()
        await look_again([held for held in self._held if held.refusal is None])
        await self._crew.do(Read(self._slots(held for held in self._held if held.refusal is None)))
        for held in self._held:
            if _is_tcp(held) and held.number is None and held.refusal is None:
                held.refusal = Refusal(Reason.TIMED_OUT)

    async def _build(self, job: Build) -> None:
        """What comes for UDP sockets meanwhile, and for a while after, follows them."""
        leaving = udp([self._held[slot] for slot in job.slots])
        self._latecomers.stand_in(leaving)
        try:
            await self._crew.do(job)
        finally:
            await self._latecomers.settle(leaving)

    async def _open(self, moved: Sequence[Held]) -> None:
        """Let in packets for sockets at their new addresses, which are silent themselves.

        The peer sends the first one when it has let go its socket, and that must not be lost, or it would wait for a
        second before it sends it again. It does not before it knows that ours is there.
        """
        opened = {_tuple(held.entry, Place.NEW) for held in moved if _is_tcp(held)}
        await remove_locks(self._xfrm, opened)
        self._locked -= opened

    def _stop_owners(self, pids: Collection[int]) -> None:
        """Sockets of those that cannot be stopped are refused; their other owners run again soon."""
        failures = {failure.pid: failure for failure in self._tracer.stop(pids)}
        self._stopped |= set(pids) - failures.keys()
        self._ended |= {pid for pid, failure in failures.items() if failure.failure is StopFailure.VANISHED}
        for held in self._held:
            held.pids -= self._ended
            for pid in held.pids & failures.keys():
                held.refusal = held.refusal or _refusal(failures[pid])
            if not held.pids:
                held.refusal = held.refusal or Refusal(Reason.VANISHED)

    async def _stop_heirs(self) -> None:
        """Processes that got a socket by fork before all of its owners had stopped."""
        for _ in range(_ROUNDS):
            await self._owners.update()
            heirs: set[int] = set()
            for held in self._held:
                pids = held.pids | {holder.pid for holder in self._owners.known(held.inode)} - self._ended
                for pid in pids - held.pids:
                    held.refusal = held.refusal or self._finder.heir_refusal(pid)
                held.pids = pids
                if held.refusal is None:
                    heirs |= pids - self._stopped
            if not heirs:
                return
            self._stop_owners(heirs)
        for held in self._held:
            if not held.pids <= self._stopped:
                held.refusal = held.refusal or Refusal(Reason.NOT_STOPPED, "it goes on making processes")

    async def _dismiss(self, unwanted: Sequence[Held], *, doubtful: bool = False) -> None:
        """Let go these, which nothing was done to, and those owners that have no other here. Raises XfrmError.

        `doubtful`: the peer's may have moved, so the new addresses stay locked. So they do if they were before.
        """
        if not unwanted:
            return
        for held in unwanted:
            held.stage = Stage.FREE
        there = {_tuple(held.entry, Place.NEW) for held in unwanted if _is_tcp(held)}
        self._doubted |= there if doubtful else there & self._before
        if self._doubted:
            await add_locks(self._xfrm, self._doubted, self._order.doubt_seconds)
        needed = self._doubted.union(_tuples(held.entry for held in self._remaining()))
        await remove_locks(self._xfrm, self._locked - needed)
        self._locked &= needed
        self._let_owners_go(self._stopped - {pid for held in self._remaining() for pid in held.pids})

    async def _end(self, unlock: Iterable[TcpTuple]) -> dict[int, Refusal]:
        """The one way out. Returns what is wrong with the sockets that it let go. Raises XfrmError at its end."""
        try:
            if unlock := set(unlock):
                await remove_locks(self._xfrm, unlock)
        finally:
            remaining = self._remaining()
            await self._crew.do(LetGo(self._slots(remaining)))
            self._let_owners_go(self._stopped)
            self._crew.close()
            for held in self._held:
                held.sock.close()
        lost = [held for held in self._held if held.stage is Stage.LOST]
        return {held.index: held.refusal for held in (*lost, *remaining) if held.refusal is not None}

    def _let_owners_go(self, pids: Iterable[int]) -> None:
        going = set(pids)
        self._stopped -= going
        self._tracer.let_go(going)

    def _remaining(self) -> list[Held]:
        return [held for held in self._held if held.stage not in (Stage.FREE, Stage.LOST)]

    def _slots(self, some: Iterable[Held]) -> tuple[int, ...]:
        wanted = {id(held) for held in some}
        return tuple(slot for slot, held in enumerate(self._held) if id(held) in wanted)


def _is_tcp(held: Held) -> bool:
    return held.entry.protocol is SocketProtocol.TCP


def _left(held: Held) -> Place:
    return Place.OLD if held.place is Place.NEW else Place.NEW


def _tuple(entry: Entry, place: Place) -> TcpTuple:
    return TcpTuple(*entry.ends(place))


def _tuples(entries: Iterable[Entry]) -> Iterable[TcpTuple]:
    """What is locked for these: old addresses and new."""
    for entry in entries:
        if entry.protocol is SocketProtocol.TCP:
            yield _tuple(entry, Place.OLD)
            yield _tuple(entry, Place.NEW)


def locks_of(entries: Iterable[Entry]) -> frozenset[TcpTuple]:
    return frozenset(_tuples(entries))


def _refusal(failure: NotStopped) -> Refusal:
    process = look_at(failure.pid)
    if failure.failure is StopFailure.PERMISSION and process is not None and process.foreign_user_namespace:
        return Refusal(Reason.USER_NAMESPACE, failure.detail)
    return Refusal(_REASONS[failure.failure], failure.detail)

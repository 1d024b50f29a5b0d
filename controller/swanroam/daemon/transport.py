"""The sockets of this host's programs: counted, ended, and moved by means of the mover.

The machines speak of address pairs and keys, and number transfers as the leading host does; the mover has entries, and
numbers of its own. Everything that is translated between the two is translated here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from swanroam.config import PeerSettings, SocketSettings
from swanroam.daemon.mover import Mover, MoverError
from swanroam.daemon.socket_entries import EntryMaker
from swanroam.daemon.socket_names import kept_of, key_of
from swanroam.daemon.socket_places import ahead_of, apart_on, connected, homes_of, sockets_using
from swanroam.kernel.sockets import (
    CannotDestroy,
    SocketDiagError,
    SocketGone,
    SocketInUse,
    SocketProtocol,
    destroy,
)
from swanroam.kernel.xfrm.errors import XfrmError
from swanroam.protocol.events import EndSockets, ReadUsage, UsageRead
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import IPAddress, Transport
from swanroam.protocol.transfer import (
    DatagramSocketsMoved,
    FindSockets,
    InspectSockets,
    Kept,
    Key,
    LetGo,
    MoveDatagramSockets,
    MoveSockets,
    RebuildSockets,
    SocketsFound,
    SocketsInspected,
    SocketsLetGo,
    SocketsMoved,
    SocketsStopped,
    StopSockets,
    TransferEvent,
    TransferExpired,
    TransferFailed,
    TransferOrder,
    UnlockSockets,
)
from swanroam.transport.orders import (
    End,
    Ended,
    Entry,
    Exclusions,
    Go,
    Gone,
    Inspect,
    Inspected,
    Place,
    Rebuild,
    Rebuilt,
    Stop,
    Stopped,
    Unlock,
)

log = structlog.get_logger("swanroam")

LOCK_SECONDS = 60
"""After which the kernel removes the locks of stopped sockets, should everything of ours die meanwhile."""
DOUBT_SECONDS = 960
"""After which it removes the locks of a connection of which one end has moved and the other not. TCP itself gives such
a connection up after 924 s (tcp_retries2, Documentation/networking/ip-sysctl.rst); an earlier end would be a reset."""
AT_ONCE = 256
"""Sockets that the mover is asked about in one order: it has a descriptor of each meanwhile, and 1024 at most as a rule
(RLIMIT_NOFILE)."""


@dataclass(slots=True)
class _Held:
    """A transfer in the mover."""

    number: int
    owner: str
    """The peer's identity."""
    transfer: int
    """As the machines number it."""
    keys: tuple[Key, ...]
    homes: Mapping[Key, Pair]
    """Where each of them stood."""
    new: Pair
    ahead: frozenset[Key] = frozenset()
    """But these stand at the new pair. The mover is told that they go home, which it is never asked to do."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A socket that could be asked to move."""

    socket: SocketInUse
    owners: tuple[str, ...]
    """As name/pid."""
    kept: Kept | None
    """Why it could not; None when nothing is known against it."""

    @property
    def key(self) -> Key:
        return key_of(self.socket)


@dataclass(frozen=True, slots=True)
class _Inspection:
    """What the mover found out about sockets without touching them."""

    places: Mapping[Key, Place]
    owners: Mapping[Key, tuple[str, ...]]
    kept: Mapping[Key, Kept]
    movable: tuple[Key, ...]
    """Nothing is known against these."""


class LocalSockets:
    """`expired` is called with a peer's identity and what the time limit has ended.

    `interface_of` tells the index of the interface that has an address of this host, 0 if none.
    """

    def __init__(
        self,
        settings: SocketSettings,
        interface_of: Callable[[IPAddress], int],
        expired: Callable[[str, TransferExpired], None],
    ) -> None:
        self.reconfigure(settings)
        self._entries = EntryMaker(interface_of)
        self._expired = expired
        self._mover = Mover(self._ended)
        self._held: dict[tuple[str, int], _Held] = {}

    def reconfigure(self, settings: SocketSettings) -> None:
        """Other settings, for what is begun from now on."""
        self._settings = settings
        self._exclusions = Exclusions(settings.exclude_processes, settings.exclude_ports)

    async def open(self) -> None:
        """Gets ready for moving. What goes wrong here is tried again when it is needed."""
        try:
            await self._mover.open()
        except MoverError as error:
            log.warning("mover_not_started", error=str(error))

    async def close(self) -> None:
        """Lets go everything that is held."""
        await self._mover.close()

    async def usage(self, action: ReadUsage, others: Collection[IPAddress], *, own: bool) -> UsageRead:
        """Counts the sockets between an address (ours if `own`, else the peer's) and the others."""
        try:
            return UsageRead(action.address, len(await sockets_using(action.address, others, own=own)))
        except (SocketDiagError, XfrmError) as error:
            log.warning("sockets_not_read", error=str(error))
            return UsageRead(action.address, 1)  # what can't be ruled out is taken for granted

    async def end(self, action: EndSockets, others: Collection[IPAddress]) -> None:
        """Ends the sockets between an address of ours and the others, with a reset, and what else keeps the address."""
        try:
            using = await sockets_using(action.address, others, own=True)
            for entry in using:
                try:
                    await destroy(entry)
                except SocketGone:
                    pass
                except CannotDestroy as error:
                    await self._end_by_hand([entry for entry in using if entry.connected], error)
                    return
        except (MoverError, SocketDiagError, XfrmError) as error:
            log.warning("sockets_not_ended", address=str(action.address), error=str(error))

    async def _end_by_hand(self, sockets: Sequence[SocketInUse], reason: CannotDestroy) -> None:
        """On a kernel that does not do it. Raises MoverError, and the reason if a socket is left."""
        for start in range(0, len(sockets), AT_ONCE):
            entries = [
                entry
                for socket in sockets[start : start + AT_ONCE]
                for pair in [Pair(socket.local, socket.remote)]
                for entry in self._entries.between(pair, pair, [key_of(socket)])
            ]
            answer = await self._mover.ask(End(self._mover.number(), tuple(entries)), Ended)
            for index, refusal in answer.refusals.items():
                raise SocketDiagError(f"{reason}, and the mover does not end {entries[index]}: {refusal}")

    async def transfer(self, peer: PeerSettings, order: TransferOrder) -> TransferEvent | None:
        """Carries out a step of moving sockets; the event tells what came of it."""
        owner = peer.identity
        try:
            match order:
                case FindSockets():
                    return await self._find(order)
                case InspectSockets():
                    return await self._look(order)
                case StopSockets(transfer, old, new, keys, ahead):
                    homes = dict.fromkeys(keys, old)
                    return await self._stop(_Held(self._mover.number(), owner, transfer, keys, homes, new, ahead))
                case RebuildSockets(transfer, numbers):
                    return await self._rebuild(owner, transfer, dict(numbers))
                case MoveSockets():
                    return await self._move(owner, order)
                case LetGo():
                    return await self._let_go(owner, order)
                case UnlockSockets(old, new, keys, elsewhere):
                    await self._unlock((old, *elsewhere), new, keys)
                    return None
                case MoveDatagramSockets(old, new):
                    await self._move_datagrams(owner, old, new)
                    return DatagramSocketsMoved(old, new)
        except (MoverError, SocketDiagError, XfrmError) as error:
            log.warning("transfer_order_failed", order=type(order).__name__, error=str(error))
            if isinstance(order, FindSockets):
                return SocketsFound(order.old, order.new, (), ())
            if isinstance(order, UnlockSockets):
                return None
            if isinstance(order, MoveDatagramSockets):
                return DatagramSocketsMoved(order.old, order.new)
            return TransferFailed(order.transfer, str(error))

    async def candidates(self, old: Pair, new: Pair) -> tuple[Candidate, ...]:
        """Connected sockets of a pair, and what hinders those that could not move to the other.

        Raises MoverError, SocketDiagError.
        """
        sockets = await connected(old)
        looked = await self._inspect({key_of(socket): old for socket in sockets}, new)
        return tuple(
            Candidate(socket, looked.owners.get(key, ()), looked.kept.get(key))
            for socket in sockets
            for key in [key_of(socket)]
        )

    # --- orders -------------------------------------------------------------------------------------------------

    async def _find(self, order: FindSockets) -> SocketsFound:
        old, new = order.old, order.new
        here = await (apart_on(old, order.apart) if order.apart else connected(old))
        sockets = {key_of(entry) for entry in here} - order.settled
        looked = await self._inspect(dict.fromkeys(sorted(sockets), old), new)
        ahead = frozenset() if order.apart else await ahead_of(old, new) - order.settled - sockets
        there = await self._ask_about(tuple(sorted(ahead)), self._entries.homeward(old, new, sorted(ahead)))
        kept = (*looked.kept.values(), *there.kept.values())
        return SocketsFound(old, new, looked.movable + there.movable, kept, ahead)

    async def _inspect(self, homes: Mapping[Key, Pair], new: Pair) -> _Inspection:
        return await self._ask_about(tuple(homes), self._entries.from_homes(homes, new))

    async def _ask_about(self, keys: tuple[Key, ...], entries: tuple[Entry, ...]) -> _Inspection:
        places: dict[Key, Place] = {}
        owners: dict[Key, tuple[str, ...]] = {}
        kept: dict[Key, Kept] = {}
        for start in range(0, len(keys), AT_ONCE):
            part = keys[start : start + AT_ONCE]
            order = Inspect(self._mover.number(), entries[start : start + AT_ONCE], self._exclusions)
            answer = await self._mover.ask(order, Inspected)
            places |= {part[index]: place for index, place in answer.found.items()}
            owners |= {part[index]: names for index, names in answer.owners.items()}
            kept |= {entry.key: entry for entry in kept_of(part, answer.refusals, answer.owners)}
        return _Inspection(places, owners, kept, tuple(key for key in keys if key not in kept))

    async def _stop(self, held: _Held) -> SocketsStopped:
        onward = self._entries.from_homes({key: held.homes[key] for key in held.keys}, held.new)
        entries = tuple(
            entry.reversed if key in held.ahead else entry for key, entry in zip(held.keys, onward, strict=True)
        )
        self._held[held.owner, held.transfer] = held
        try:
            answer = await self._mover.ask(self._stop_order(held.number, entries), Stopped)
        except MoverError:
            self._held.pop((held.owner, held.transfer), None)
            raise
        numbers = tuple((held.keys[index], number) for index, number in sorted(answer.numbers.items()))
        refused = {held.keys[index] for index in answer.refusals}
        datagrams = tuple((key, 0) for key in held.keys if key.transport is Transport.UDP and key not in refused)
        return SocketsStopped(held.transfer, numbers + datagrams, kept_of(held.keys, answer.refusals))

    async def _rebuild(self, owner: str, transfer: int, numbers: Mapping[Key, int]) -> SocketsMoved:
        held = self._held.get((owner, transfer))
        if held is None:
            raise MoverError(f"transfer {transfer} has ended")
        wanted = {index: key for index, key in enumerate(held.keys) if key in numbers}
        onward = {index: numbers[key] for index, key in wanted.items() if key not in held.ahead}
        answer = await self._mover.ask(Rebuild(held.number, onward), Rebuilt)
        # Without a number the mover lets them go where they are: their queues are whole, and TCP itself sends again.
        there = {index for index in answer.refusals.keys() & wanted.keys() if wanted[index] in held.ahead}
        done = tuple((held.keys[index], 0) for index in sorted({*answer.done, *there}))
        refusals = {index: refusal for index, refusal in answer.refusals.items() if index not in there}
        return SocketsMoved(transfer, done, kept_of(held.keys, refusals))

    async def _look(self, order: InspectSockets) -> SocketsInspected:
        transfer, old, new, keys = order.transfer, order.old, order.new, order.keys
        looked = await self._inspect(await homes_of(keys, old, new, order.elsewhere), new)
        there = tuple(key for key in keys if looked.places.get(key) is Place.NEW)
        numbers = await self._numbers_of(there, old, new) if there else {}
        kept = tuple(entry for key, entry in looked.kept.items() if key not in numbers)
        return SocketsInspected(transfer, kept, tuple(sorted(numbers.items())))

    async def _move(self, owner: str, order: MoveSockets) -> SocketsMoved:
        keys = tuple(key for key, _ in order.numbers)
        homes = await homes_of(keys, order.old, order.new, order.elsewhere)
        stopped = await self._stop(_Held(self._mover.number(), owner, order.transfer, keys, homes, order.new))
        own = dict(stopped.numbers)
        theirs = {key: number for key, number in order.numbers if key in own}
        moved = await self._rebuild(owner, order.transfer, theirs)
        numbers = tuple((key, own[key]) for key, _ in moved.numbers)
        return SocketsMoved(order.transfer, numbers, (*stopped.kept, *moved.kept))

    async def _numbers_of(self, keys: tuple[Key, ...], old: Pair, new: Pair) -> dict[Key, int]:
        """Of sockets that stand at the new pair already: an earlier attempt was cut short."""
        entries = self._entries.homeward(old, new, keys)
        number = self._mover.number()
        answer = await self._mover.ask(self._stop_order(number, entries), Stopped)
        every = tuple(range(len(entries)))
        await self._mover.ask(Go(number, keep_locks=every), Gone)  # what comes for the old pair is still not answered
        numbers = {keys[index]: value for index, value in answer.numbers.items()}
        datagrams = {
            key: 0 for index, key in enumerate(keys) if key.transport is Transport.UDP and index not in answer.refusals
        }
        return numbers | datagrams

    async def _let_go(self, owner: str, order: LetGo) -> SocketsLetGo:
        held = self._held.pop((owner, order.transfer), None)
        kept: tuple[Kept, ...] = ()
        back = dict(order.back)
        if held is not None and self._mover.holds(held.number):
            # The mover can take back to where it has found them: not where the peer's are, if that is elsewhere.
            straight = {key for key in back if held.homes.get(key) == order.old}
            returning = tuple(index for index, key in enumerate(held.keys) if key in straight)
            doubtful = tuple(index for index, key in enumerate(held.keys) if key in order.doubtful)
            answer = await self._mover.ask(Go(held.number, returning, doubtful), Gone)
            kept = kept_of(held.keys, answer.refusals)
            back = {key: number for key, number in back.items() if key not in straight}
        if back:
            kept += await self._return(order, back)
        away = {entry.key for entry in kept} & dict(order.back).keys()  # the peer's is at the other pair still
        settled = [key for key in order.keys if key not in order.doubtful and key not in away]
        arrived = [key for key in order.arrived if key in settled]
        await self._unlock([order.old], order.new, settled)
        await self._unlock(order.elsewhere, order.new, arrived)
        return SocketsLetGo(order.transfer, kept)

    async def _unlock(self, pairs: Iterable[Pair], new: Pair, keys: Collection[Key]) -> None:
        """At the new pair, and at these. Raises MoverError."""
        if entries := [entry for pair in pairs for entry in self._entries.between(pair, new, keys)]:
            await self._mover.tell(Unlock(tuple(entries)))

    async def _return(self, order: LetGo, back: Mapping[Key, int]) -> tuple[Kept, ...]:
        """From the new pair, where they run on already, to the old one."""
        keys = tuple(back)
        entries = self._entries.homeward(order.old, order.new, keys)
        number = self._mover.number()
        stopped = await self._mover.ask(self._stop_order(number, entries), Stopped)
        await self._mover.ask(Rebuild(number, {index: back[key] for index, key in enumerate(keys)}), Rebuilt)
        every = tuple(range(len(entries)))  # what could not return must not answer for the pair where the peer's is
        gone = await self._mover.ask(Go(number, keep_locks=every), Gone)
        return kept_of(keys, dict(stopped.refusals) | dict(gone.refusals))

    async def _move_datagrams(self, owner: str, old: Pair, new: Pair) -> None:
        """On this host alone."""
        datagrams = {key_of(entry): old for entry in await connected(old) if entry.protocol is SocketProtocol.UDP}
        if not (keys := (await self._inspect(datagrams, new)).movable):
            return
        number = self._mover.number()
        entries = self._entries.between(old, new, keys)
        stopped = await self._mover.ask(self._stop_order(number, entries), Stopped)
        rebuilt = await self._mover.ask(Rebuild(number, {}), Rebuilt)
        gone = await self._mover.ask(Go(number), Gone)
        kept = kept_of(keys, dict(stopped.refusals) | dict(rebuilt.refusals) | dict(gone.refusals))
        moved = len(keys) - len(kept)
        log.debug("datagram_sockets_moved", peer=owner, old=str(old), new=str(new), sockets=moved)

    # --- inside -------------------------------------------------------------------------------------------------

    def _stop_order(self, number: int, entries: tuple[Entry, ...]) -> Stop:
        return Stop(number, entries, self._settings.hold, LOCK_SECONDS, DOUBT_SECONDS, self._exclusions)

    def _ended(self, number: int) -> None:
        for key, held in list(self._held.items()):
            if held.number == number:
                del self._held[key]
                self._expired(held.owner, TransferExpired(held.transfer))

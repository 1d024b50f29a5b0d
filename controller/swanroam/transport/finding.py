"""From the entries of an order to the sockets that they name, and what stands against moving each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from socket import SO_REUSEADDR, SOL_SOCKET
from typing import Final

from swanroam.kernel.sock_diag import Condition, IPAddress, SocketDiag, SocketInUse, SocketProtocol, SocketState
from swanroam.transport import moving
from swanroam.transport.image import Refused
from swanroam.transport.jobs import Held
from swanroam.transport.orders import Entry, Exclusions, Place, Reason, Refusal
from swanroam.transport.owners import DescriptorError, OwnerTable, Process, look_at
from swanroam.transport.signature import decode_keys

NO_EXCLUSIONS: Final = Exclusions()
_FEW: Final = 16
"""Connections that are looked up one by one; a walk through the kernel's table costs as much as some dozens."""
_NOBODYS: Final = (SocketState.TIME_WAIT, SocketState.NEW_SYN_RECV, SocketState.LISTEN)
_UNSPECIFIED: Final = (IPv4Address(0), IPv6Address(0))

_Key = tuple[SocketProtocol, IPAddress, int, IPAddress, int]


@dataclass(slots=True)
class Candidates:
    """What the entries of an order come to. Sockets that can be moved are `held`: to be closed."""

    held: list[Held] = field(default_factory=list)
    found: dict[int, Place] = field(default_factory=dict)
    refusals: dict[int, Refusal] = field(default_factory=dict)
    owners: dict[int, tuple[Process, ...]] = field(default_factory=dict)

    def close(self) -> None:
        for held in self.held:
            held.sock.close()


class Finder:
    """`forbidden`: processes that are never stopped, beside the mover's own, which `owners` does not even list."""

    def __init__(self, owners: OwnerTable, forbidden: Iterable[int]) -> None:
        self._owners = owners
        self._forbidden = frozenset(forbidden)

    async def find(self, entries: Sequence[Entry], exclusions: Exclusions = NO_EXCLUSIONS) -> Candidates:
        """Raises SocketDiagError. Changes nothing."""
        result = Candidates()
        taken: set[int] = set()
        sockets = await _sockets_of(entries, result.found, taken)
        holders = await self._owners.holders([entry.inode for group in sockets.values() for entry in group])
        with ExitStack() as undo:
            undo.callback(result.close)
            looks = cache(look_at)
            for index, group in sockets.items():
                pids = {holder.pid for socket in group for holder in holders.get(socket.inode, ())}
                owners = tuple(process for pid in sorted(pids) if (process := looks(pid)) is not None)
                result.owners[index] = owners
                refusal = self._refusal(entries[index], group, owners, exclusions)
                if refusal is None and index in taken:
                    refusal = Refusal(Reason.PASSING, "another connection has its ports at the new addresses")
                if refusal is None and result.found[index] is Place.OLD:
                    refusal = self._hold(index, entries[index], group, frozenset(pids), result)
                if refusal is not None:
                    result.refusals[index] = refusal
            undo.pop_all()
        for index, place in result.found.items():
            if place is Place.NONE:
                result.refusals[index] = Refusal(Reason.NOT_FOUND)
            elif place is Place.WILDCARD:
                result.refusals[index] = Refusal(Reason.WILDCARD)
        return result

    def heir_refusal(self, pid: int) -> Refusal | None:
        """What stands against stopping a process that has got a socket meanwhile."""
        process = look_at(pid)
        return None if process is None else self._process_refusal(process)

    def _process_refusal(self, process: Process) -> Refusal | None:
        """As far as can be seen without trying."""
        if process.pid in self._forbidden:
            return Refusal(Reason.OWN, str(process))
        if process.tracer and process.tracer not in self._owners.ignored:
            return Refusal(Reason.TRACED, f"{process} by process {process.tracer}")
        if self._owners.uses_io_uring(process.pid):
            return Refusal(Reason.IO_URING, str(process))
        return None

    def _refusal(
        self, entry: Entry, group: Sequence[SocketInUse], owners: Sequence[Process], exclusions: Exclusions
    ) -> Refusal | None:
        if not owners:
            state = ", ".join(sorted({socket.state.name for socket in group}))
            return Refusal(Reason.NO_OWNER, state)
        if port := {entry.local_port, entry.remote_port} & set(exclusions.ports):
            return Refusal(Reason.EXCLUDED, f"port {min(port)}")
        for process in owners:
            if any(fnmatchcase(process.command, pattern) for pattern in exclusions.processes):
                return Refusal(Reason.EXCLUDED, str(process))
        return _first(map(self._process_refusal, owners))

    def _hold(
        self, index: int, entry: Entry, group: Sequence[SocketInUse], pids: frozenset[int], result: Candidates
    ) -> Refusal | None:
        """Take a descriptor of each socket; none when one of them cannot be moved."""
        held: list[Held] = []
        refusal: Refusal | None = None
        for socket in group:
            try:
                copy = self._owners.duplicate(socket.inode)
            except DescriptorError as error:
                refusal = Refusal(Reason.PERMISSION, str(error))
                break
            if copy is None:
                refusal = Refusal(Reason.VANISHED)
                break
            reuse_address = copy.getsockopt(SOL_SOCKET, SO_REUSEADDR)
            held.append(
                Held(index, entry, socket.inode, copy, pids, reuse_address, keys=decode_keys(socket.signature_keys))
            )
            try:
                moving.inspect(entry, copy)
            except Refused as refused:
                refusal = moving.refusal_for(refused)
                break
            except OSError as error:
                refusal = Refusal(Reason.FAILED, str(error))
                break
        if refusal is None:
            result.held += held
        else:
            for one in held:
                one.sock.close()
        return refusal


async def look_again(sockets: Sequence[Held]) -> None:
    """Note what is in the receive queues, now that the owners are stopped. Raises SocketDiagError."""
    entries = {held.index: held.entry for held in sockets if held.entry.protocol is SocketProtocol.TCP}
    with SocketDiag() as diag:
        found = await _connected(diag, entries, Place.OLD)
    queues = {socket.inode: socket.receive_queue for group in found.values() for socket in group}
    for held in sockets:
        held.receive_queue = queues.get(held.inode)


async def at_old_addresses(entries: Sequence[Entry]) -> dict[int, list[SocketInUse]]:
    """The connected sockets of each entry that are where it says they are. Raises SocketDiagError."""
    with SocketDiag() as diag:
        return await _connected(diag, dict(enumerate(entries)), Place.OLD)


async def _sockets_of(
    entries: Sequence[Entry], found: dict[int, Place], taken: set[int]
) -> dict[int, list[SocketInUse]]:
    """The sockets of each entry that has some, at its old addresses or else at its new ones; `found` gets where.

    `taken` gets those at the old addresses of which another TCP connection is in the way at the new ones: to lock these
    for the one would silence the other.
    """
    with SocketDiag() as diag:
        result = await _connected(diag, dict(enumerate(entries)), Place.OLD)
        found.update(dict.fromkeys(result, Place.OLD))
        streams = {
            index: entry
            for index, entry in enumerate(entries)
            if index in result and entry.protocol is SocketProtocol.TCP and entry.leads_elsewhere
        }
        taken.update(await _connected(diag, streams, Place.NEW))
        missing = {index: entry for index, entry in enumerate(entries) if index not in result}
        moved = await _connected(diag, missing, Place.NEW)
        result.update(moved)
        found.update(dict.fromkeys(moved, Place.NEW))
        missing = {index: entry for index, entry in missing.items() if index not in moved}
        ports: set[int] = set()
        if any(entry.protocol is SocketProtocol.UDP for entry in missing.values()):
            ports = await _wildcard_ports(diag)
    for index, entry in missing.items():
        wildcard = entry.protocol is SocketProtocol.UDP and entry.local_port in ports
        found[index] = Place.WILDCARD if wildcard else Place.NONE
    return result


async def _wildcard_ports(diag: SocketDiag) -> set[int]:
    """Ports of UDP sockets that are not connected and take packets to any address."""
    return {
        socket.local_port
        for address in _UNSPECIFIED
        for family in Condition(address).families
        for socket in await diag.list(family, SocketProtocol.UDP, Condition(address))
        if not socket.connected
    }


async def _connected(diag: SocketDiag, entries: Mapping[int, Entry], place: Place) -> dict[int, list[SocketInUse]]:
    """For each entry the connected sockets with its addresses and ports at that place."""
    names: dict[int, _Key] = {index: (entry.protocol, *entry.ends(place)) for index, entry in entries.items()}
    tcp = {name for name in names.values() if name[0] is SocketProtocol.TCP}
    sockets: dict[_Key, list[SocketInUse]] = defaultdict(list)
    if len(tcp) <= _FEW:
        for name in tcp:
            if (one := await diag.get_tcp(*name[1:])) is not None:
                sockets[name].append(one)
        listed = {name for name in names.values() if name not in tcp}
    else:
        listed = set(names.values())
    for protocol, local, remote in {(name[0], name[1], name[3]) for name in listed}:
        condition = Condition(local, remote)
        for family in condition.families:
            for one in await diag.list(family, protocol, condition):
                sockets[one.protocol, one.local, one.local_port, one.remote, one.remote_port].append(one)
    return {
        index: group
        for index, name in names.items()
        if (group := [one for one in sockets.get(name, ()) if one.state not in _NOBODYS])
    }


def _first(refusals: Iterable[Refusal | None]) -> Refusal | None:
    return next((refusal for refusal in refusals if refusal is not None), None)

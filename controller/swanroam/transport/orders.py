"""What the daemon and the mover say to each other: one JSON object a line, each way.

A *transfer* is a number that the daemon chooses; it stands for the sockets that are stopped together. An *entry* is one
connection of it and is named by its index in the list that the transfer began with. The course of a transfer:

    daemon                                mover
    Inspect(entries, exclusions)  ------>                               changes nothing, can come at any time
                                  <------ Inspected(refusals, owners, found)
    Stop(entries, ...)            ------> locks the old and the new addresses, stops the owners
                                  <------ Stopped(numbers, refusals)
    Rebuild(peer's numbers)       ------> re-addresses, and unlocks the new addresses: nothing is sent from there yet;
                                          those without a number are let go, with the new addresses locked
                                  <------ Rebuilt(done, refusals)
    Go(back, keep_locks)          ------> takes `back` to the old addresses, lets everything go
                                  <------ Gone(refusals)

A socket that has been rebuilt receives, but sends nothing before it is let go: of what the peer sends, when that is let
go first, nothing is lost. No host lets go its sockets before it knows that the peer has rebuilt its own.

Number and return: `Stop` with `Entry.reversed` tells the number of a socket that stands at the new addresses, and
`Rebuild` and `Go` after it take it back. A transfer that is held for longer than its limit ends by itself: `Expired`.
A transfer that ended is not known any more; an order for it, or one that cannot be carried out at all, is answered by
`Failed`. Nothing here does anything: the daemon may import this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import MappingProxyType, UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from swanroam.kernel.sock_diag import IPAddress, SocketProtocol

LONGEST_LINE: Final = 64 * 1024 * 1024
"""Octets. An entry takes about 250; what is read with a lower limit may fail for many sockets."""


class OrderError(Exception):
    """A line that is no order: not JSON, an unknown name, a field that is missing or of another kind."""


class Reason(Enum):
    """Why a socket is left as it is."""

    NOT_FOUND = "there is no such socket"
    WILDCARD = "it is not connected, and needs nothing"
    EXCLUDED = "configured to stay"
    NO_OWNER = "no process has it, or none that may be looked at"
    OWN = "it is swanroam's own"
    TRACED = "its owner is being traced"
    PERMISSION = "its owner may not be stopped"
    USER_NAMESPACE = "its owner is in another user namespace"
    IO_URING = "its owner uses io_uring"
    NOT_STOPPED = "its owner did not stop in time"
    VANISHED = "its owner has ended"
    UNMOVABLE = "a socket of this kind cannot be moved"
    BOUND = "it is bound to where it is"
    ROUTE = "the routing does not let it use the new address"
    PASSING = "it cannot be moved as it is now"
    NO_NUMBER = "the peer has not named its number"
    CHANGED = "it has received something since its number was told"
    TIMED_OUT = "it would have been held too long"
    FAILED = "the kernel refused"
    LOST = "it could not be put together again"
    """The connection is over: the only reason that means harm."""


class Place(Enum):
    """Where a connection was found."""

    OLD = "old"
    NEW = "new"
    NONE = "none"
    WILDCARD = "wildcard"
    """No connected UDP socket, but one on all addresses has the port: nothing has to be moved."""


@dataclass(frozen=True, slots=True)
class Refusal:
    reason: Reason
    detail: str = ""
    """What happened, for a person; may be empty when the reason says it."""

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}" if self.detail else self.reason.value


@dataclass(frozen=True, slots=True)
class Entry:
    """A connection, and where it is to go. Ports stay."""

    protocol: SocketProtocol
    local: IPAddress
    local_port: int
    remote: IPAddress
    remote_port: int
    new_local: IPAddress
    new_remote: IPAddress
    interface: int = 0
    """Index of the interface that has the new local address; 0 leaves a binding to a device as it is."""

    @property
    def reversed(self) -> Entry:
        """The way back. The interface must be told anew: see `interface`."""
        return replace(
            self,
            local=self.new_local,
            remote=self.new_remote,
            new_local=self.local,
            new_remote=self.remote,
            interface=0,
        )

    @property
    def leads_elsewhere(self) -> bool:
        """Old and new addresses differ; who only asks what could move may not know where to yet."""
        return self.ends(Place.OLD) != self.ends(Place.NEW)

    def ends(self, place: Place) -> tuple[IPAddress, int, IPAddress, int]:
        """Own address and port, the peer's address and port: where it is to go (Place.NEW), or where it is."""
        if place is Place.NEW:
            return self.new_local, self.local_port, self.new_remote, self.remote_port
        return self.local, self.local_port, self.remote, self.remote_port

    def __str__(self) -> str:
        return f"{self.protocol.name} {self.local}:{self.local_port} - {self.remote}:{self.remote_port}"


@dataclass(frozen=True, slots=True)
class Exclusions:
    """What stays where it is."""

    processes: tuple[str, ...] = ()
    """Patterns of names (comm), as in a shell: `ssh*`. A socket that one such process has is left alone."""
    ports: tuple[int, ...] = ()
    """Of either end."""


@dataclass(frozen=True, slots=True)
class Inspect:
    """What would happen with these?"""

    transfer: int
    entries: tuple[Entry, ...]
    exclusions: Exclusions = Exclusions()


@dataclass(frozen=True, slots=True)
class Stop:
    """Lock the addresses, stop the owners, tell the receive sequence numbers. Begins the transfer."""

    transfer: int
    entries: tuple[Entry, ...]
    hold_seconds: float = 1.0
    """From the moment before the first owner is stopped. Then everything is let go where it is."""
    lock_seconds: int = 30
    """After which the kernel removes the locks, whatever has become of the mover."""
    doubt_seconds: int = 30
    """The same for what stays locked at the end of the transfer, because the peer's socket may be elsewhere."""
    exclusions: Exclusions = Exclusions()
    """They hold here as well: the entries may be what a peer asks for, whatever it was told before."""


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Take the sockets to the new addresses, and unlock these; let go those that have no number. UDP needs none."""

    transfer: int
    numbers: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    """For each entry the receive sequence number of the peer's socket."""


@dataclass(frozen=True, slots=True)
class Go:
    """Let everything go: after `Stop` alone, unchanged. Ends the transfer.

    The addresses where a socket stands now are unlocked. Those that it has left stay locked until the lock expires,
    `doubt_seconds` from now, for what is still under way must not be answered by a reset. So do those where it does
    not stand that were locked before `Stop`: by a transfer that was cut short, and the peer's socket may be there.
    """

    transfer: int
    back: tuple[int, ...] = ()
    """These return to the old addresses first."""
    keep_locks: tuple[int, ...] = ()
    """Of these the addresses where they do not stand stay locked as well, though nothing was rebuilt: it is not known
    where the peer's socket is."""


@dataclass(frozen=True, slots=True)
class Unlock:
    """Remove what is left of the locks of these, old addresses and new. Answered by nothing."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class End:
    """End these connections, where they are at their old addresses: with a reset."""

    transfer: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Quit:
    """End. What is held is let go where it is, with its locks left to expire."""


@dataclass(frozen=True, slots=True)
class Inspected:
    transfer: int
    refusals: Mapping[int, Refusal]
    owners: Mapping[int, tuple[str, ...]]
    """As name/pid."""
    found: Mapping[int, Place]


@dataclass(frozen=True, slots=True)
class Stopped:
    transfer: int
    numbers: Mapping[int, int]
    """For each TCP socket that is held the sequence number that it expects next."""
    refusals: Mapping[int, Refusal]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    transfer: int
    done: tuple[int, ...]
    refusals: Mapping[int, Refusal]


@dataclass(frozen=True, slots=True)
class Gone:
    transfer: int
    refusals: Mapping[int, Refusal]
    """Those that are not where they were to be, and those that are LOST."""


@dataclass(frozen=True, slots=True)
class Ended:
    transfer: int
    refusals: Mapping[int, Refusal]


@dataclass(frozen=True, slots=True)
class Expired:
    """The limit has passed: everything was let go where it stood. Where it did not stand all stays locked, for
    `doubt_seconds` more: it is not known where the peer's sockets are."""

    transfer: int
    moved: tuple[int, ...]
    """Those that stand at the new addresses; the others are at the old ones."""


@dataclass(frozen=True, slots=True)
class Failed:
    """An order could not be carried out. What it had stopped was let go."""

    transfer: int
    text: str


Order = Inspect | Stop | Rebuild | Go | Unlock | End | Quit
Answer = Inspected | Stopped | Rebuilt | Gone | Ended | Expired | Failed

_KINDS: Final[dict[str, type]] = {kind.__name__: kind for kind in (*get_args(Order), *get_args(Answer))}


def encode(message: Order | Answer) -> bytes:
    """The line, its end included."""
    return json.dumps({"is": type(message).__name__, **_packed_fields(message)}, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Order | Answer:
    """Raises OrderError."""
    try:
        document = json.loads(line)
        kind = _KINDS[document.pop("is")]
        message: Order | Answer = _unpacked(document, kind)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OrderError(f"not an order or an answer of the mover: {error!r} in {line[:200]!r}") from error
    return message


def _packed_fields(value: object) -> dict[str, object]:
    return {item.name: _packed(getattr(value, item.name)) for item in fields(value)}  # type: ignore[arg-type]


def _packed(value: object) -> object:
    match value:
        case int() | float() | str():
            return value
        case Enum():
            return value.name
        case IPv4Address() | IPv6Address():
            return str(value)
        case tuple():
            return [_packed(item) for item in value]
        case Mapping():
            return {str(key): _packed(item) for key, item in value.items()}
        case _:
            return _packed_fields(value)


@cache
def _hints(kind: type) -> dict[str, object]:
    return get_type_hints(kind)


def _unpacked(value: object, kind: object) -> Any:  # Any: whatever `kind` says; each caller knows
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):  # of addresses only
        return ip_address(_expect(value, str))
    if origin is tuple:
        return tuple(_unpacked(item, arguments[0]) for item in _expect(value, list))
    if origin is Mapping:
        return {int(key): _unpacked(item, arguments[1]) for key, item in _expect(value, dict).items()}
    if kind is float:
        return float(_expect(value, (int, float)))
    if kind in (int, str):
        return _expect(value, kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind[_expect(value, str)]
    assert isinstance(kind, type)
    hints = _hints(kind)
    document = _expect(value, dict)
    if unknown := document.keys() - hints.keys():
        raise TypeError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    return kind(**{name: _unpacked(item, hints[name]) for name, item in document.items()})


def _expect(value: object, kind: Any) -> Any:  # Any: a type, or several as for isinstance()
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r} instead of {kind}")
    return value

"""What keeper and worker know of a socket, and what they say to each other about it.

Jobs go to the worker, reports come back; `apply` makes of each report what it means for the socket, on both sides. They
are pickled, which is for the mover's own two processes only.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from swanroam.transport.image import SignatureKey
from swanroam.transport.moving import Picture
from swanroam.transport.orders import Entry, Place, Refusal


class Stage(Enum):
    """How far a socket is."""

    UNTOUCHED = auto()
    """As its program left it, but for an attempt to read its number, which can leave it in repair mode."""
    IN_PIECES = auto()
    """May be taken apart. `Held.picture` is what it was."""
    BUILT = auto()
    """Complete, at `Held.place`, with nothing sent or received yet."""
    FREE = auto()
    """Let go: as its program may use it."""
    LOST = auto()
    """Could not be built again anywhere."""


@dataclass(slots=True)
class Held:
    """A socket that is being moved, as keeper and worker each know it."""

    index: int
    """Of its entry. Several UDP sockets can have the same addresses."""
    entry: Entry
    inode: int
    sock: socket.socket = field(repr=False)
    pids: frozenset[int]
    reuse_address: int
    """SO_REUSEADDR as the program has it, which reading the number would lose if it were interrupted."""
    receive_queue: int | None = None
    """As inet_diag tells it, once the owner is stopped."""
    keys: tuple[SignatureKey, ...] = ()
    stage: Stage = Stage.UNTOUCHED
    place: Place = Place.OLD
    """Where it stands, or where it is to stand once it is built."""
    number: int | None = None
    picture: Picture | None = None
    peer_number: int = 0
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """Tell the numbers of these sockets, which are named by their place in the list that both sides have."""

    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Build:
    """Build these sockets at a place. `peer_numbers`: for those that are taken apart for the first time."""

    slots: tuple[int, ...]
    place: Place
    peer_numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LetGo:
    """Let go these sockets where they stand."""

    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Halt:
    """Stop after the socket in hand. Not answered itself, but the job under way ends."""


Job = Read | Build | LetGo


@dataclass(frozen=True, slots=True)
class Number:
    slot: int
    number: int | None


@dataclass(frozen=True, slots=True)
class Taken:
    """It will be in pieces in a moment."""

    slot: int
    picture: Picture = field(repr=False)
    peer_number: int
    place: Place


@dataclass(frozen=True, slots=True)
class Moving:
    """A socket whose picture is known already is going to another place."""

    slot: int
    place: Place


@dataclass(frozen=True, slots=True)
class Built:
    slot: int
    place: Place
    refusal: Refusal | None = None
    """Why it is not where it was to be."""


@dataclass(frozen=True, slots=True)
class Freed:
    slot: int
    refusal: Refusal | None = None
    """What was not as it should be, although the program has the socket back."""


@dataclass(frozen=True, slots=True)
class Kept:
    """It is left as it was."""

    slot: int
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Broken:
    """It could be built nowhere."""

    slot: int
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Ended:
    """The job is over, or was halted: what has no report was not begun."""


Report = Number | Taken | Moving | Built | Freed | Kept | Broken
Reporter = Callable[[Report], None]


def apply(held: Held, report: Report) -> None:
    """Note what a report says of the socket that it is about."""
    match report:
        case Number(number=number):
            held.number = number
        case Taken(picture=picture, peer_number=peer_number, place=place):
            held.stage, held.picture, held.peer_number, held.place = Stage.IN_PIECES, picture, peer_number, place
        case Moving(place=place):
            held.stage, held.place = Stage.IN_PIECES, place
        case Built(place=place, refusal=refusal):
            held.stage, held.place, held.refusal = Stage.BUILT, place, refusal
        case Freed(refusal=refusal):
            held.stage, held.refusal = Stage.FREE, held.refusal or refusal
        case Kept(refusal=refusal):
            held.refusal = refusal
        case Broken(refusal=refusal):
            held.stage, held.refusal = Stage.LOST, refusal


_LENGTH: Final = struct.Struct("=Q")


def pack(message: object) -> bytes:
    """As it goes through the channel, which is between the mover's own two processes only."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def unpack_from(buffer: bytearray) -> object | None:
    """Take the first whole message off the buffer; None when there is none."""
    if len(buffer) < _LENGTH.size:
        return None
    end = _LENGTH.size + _LENGTH.unpack_from(buffer)[0]
    if len(buffer) < end:
        return None
    message: object = pickle.loads(memoryview(buffer)[_LENGTH.size : end])  # noqa: S301 - from our own fork
    del buffer[:end]
    return message

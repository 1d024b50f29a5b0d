"""Asyncio client of VICI, the control protocol of strongSwan's charon.

VICI has no sequence numbers and allows one command at a time on a connection, and events may arrive at any moment, so

- commands have a connection of their own, behind a lock, and a command that does not run to its end (time limit,
  cancellation, broken packet) closes it: the next command can never be given the late answer of another;
- events have another connection, made anew for as long as the consumer listens.

Source: strongSwan src/libcharon/plugins/vici/README.md, *Commands* and *Events*.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vici.protocol import Packet

from swanroam.ike.messages import (
    MAX_PACKET,
    ViciCommandFailedError,
    ViciError,
    ViciInput,
    ViciMessage,
    ViciProtocolError,
    ViciTimeoutError,
    ViciUnavailableError,
    ViciUnsupportedError,
    decode,
    encode,
)
from swanroam.kernel.descriptors import MORE_FILES, lacks_descriptors

DEFAULT_SOCKET = Path("/run/charon.vici")
FIRST_PAUSE = 0.2
LAST_PAUSE = 5.0
"""First and longest pause in seconds between attempts to connect for events; each doubles the one before."""

_HEADER = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class ViciConnected:
    """Events are registered from here on; what changed before must be read with `list-sas`.

    `unknown` are the events that this charon is too old for; they will never come.
    """

    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ViciDisconnected:
    """No events until the next `ViciConnected`."""

    reason: str


@dataclass(frozen=True, slots=True)
class ViciEvent:
    name: str
    message: ViciMessage


class _Connection:
    """One connected socket: whole packets in and out."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Connect. Raises ViciUnavailableError with the remedy."""
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            raise ViciUnavailableError(_explain(path, error)) from error
        try:
            await asyncio.get_running_loop().sock_connect(sock, str(path))
            sock.getpeername()  # a full accept queue leaves a local socket unconnected without an error
        except OSError as error:
            sock.close()
            raise ViciUnavailableError(_explain(path, error)) from error
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    async def send(self, packet: bytes) -> None:
        """Raises OSError when charon has closed the connection; the packet was not read then."""
        await asyncio.get_running_loop().sock_sendall(self._socket, _HEADER.pack(len(packet)) + packet)

    async def receive(self) -> tuple[int, str, bytes]:
        """Next packet: its type, the event's name ('' for other types) and the message's bytes.

        Raises ViciUnavailableError at the end of the connection, ViciProtocolError for what is no packet.
        """
        (length,) = _HEADER.unpack(await self._exactly(_HEADER.size))
        if not 0 < length <= MAX_PACKET:
            raise ViciProtocolError(
                f"a packet of {length} bytes was announced, the limit is {MAX_PACKET}: is this charon's VICI socket?"
            )
        data = await self._exactly(length)
        try:
            parsed = Packet.parse(data)
            name = parsed.event_type.decode() if parsed.response_type == Packet.EVENT else ""
        except (UnicodeDecodeError, struct.error) as error:
            raise ViciProtocolError(f"malformed VICI packet: {error}") from error
        return parsed.response_type, name, parsed.payload.read()

    def close(self) -> None:
        self._socket.close()

    async def _exactly(self, count: int) -> bytes:
        loop = asyncio.get_running_loop()
        data = bytearray()
        while len(data) < count:
            try:
                chunk = await loop.sock_recv(self._socket, count - len(data))
            except OSError as error:
                raise _broken(error) from error
            if not chunk:
                raise ViciUnavailableError("charon closed the VICI connection; it was stopped or restarted")
            data += chunk
        return bytes(data)


class ViciClient:
    """Commands to and events from the charon behind one socket. Belongs to one event loop.

    Connects when first used. A command waits for the one before it; give those that block for long (`initiate`,
    `terminate`) a client of their own: `async with client.sibling(timeout=30) as own: ...`.
    """

    def __init__(self, socket_path: Path = DEFAULT_SOCKET, *, timeout: float = 10.0) -> None:
        """`timeout`: seconds that one command may take from its turn to its last answer."""
        self.socket_path = socket_path
        self.timeout = timeout
        self._turn = asyncio.Lock()
        self._connection: _Connection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def sibling(self, *, timeout: float | None = None) -> "ViciClient":
        """Another client of the same charon, with connections of its own."""
        return ViciClient(self.socket_path, timeout=self.timeout if timeout is None else timeout)

    async def aclose(self) -> None:
        """Close the command connection after the command that uses it; a later command opens it again."""
        async with self._turn:
            self._drop()

    async def request(self, command: str, message: Mapping[str, ViciInput] | None = None) -> ViciMessage:
        """Send a command and return its answer.

        Raises ViciCommandFailedError, ViciUnsupportedError, ViciUnavailableError, ViciTimeoutError,
        ViciProtocolError.
        """
        packet = _bounded(Packet.request(command, encode(message or {})))
        async with self._exchange(command, packet) as connection:
            kind, _, payload = await connection.receive()
            return _answer(command, kind, payload)

    async def stream(
        self, command: str, event: str, message: Mapping[str, ViciInput] | None = None
    ) -> list[ViciMessage]:
        """Send a command that reports its results as events, and return these. Raises as `request`."""
        packet = _bounded(Packet.request(command, encode(message or {})))
        collected: list[ViciMessage] = []
        async with self._exchange(command, Packet.register_event(event)) as connection:
            kind, _, _ = await connection.receive()
            if kind == Packet.EVENT_UNKNOWN:
                raise ViciUnsupportedError(f"this charon does not know the VICI event {event!r}")
            _expect(kind, Packet.EVENT_CONFIRM, f"registration for {event}")
            await _send(connection, packet)
            kind, name, payload = await connection.receive()
            while kind == Packet.EVENT:
                if name == event:
                    collected.append(decode(payload))
                kind, name, payload = await connection.receive()
            await _send(connection, Packet.unregister_event(event))
            end, _, _ = await connection.receive()
            while end == Packet.EVENT:  # was on its way when the command ended
                end, _, _ = await connection.receive()
            _expect(end, Packet.EVENT_CONFIRM, f"end of registration for {event}")
            _answer(command, kind, payload, tuple(collected))
        return collected

    async def events(
        self, names: Collection[str]
    ) -> AsyncGenerator[ViciConnected | ViciDisconnected | ViciEvent, None]:
        """Events of these names for ever, on a connection of its own that is made anew whenever it ends.

        After every `ViciConnected` the consumer reads the present state with `list-sas`: events are hints, and those
        sent while there was no connection are gone. charon queues without limit for a consumer that does not read: do
        not stop for long between two items. Close with `contextlib.aclosing`.
        """
        pause = FIRST_PAUSE
        told: str | None = None
        while True:
            try:
                async with aclosing(self._events_of_one_connection(names)) as items:
                    async for item in items:
                        told, pause = None, FIRST_PAUSE
                        yield item
            except ViciError as error:
                if str(error) != told:  # once per reason, not once per attempt
                    told = str(error)
                    yield ViciDisconnected(told)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)

    async def _events_of_one_connection(
        self, names: Collection[str]
    ) -> AsyncGenerator[ViciConnected | ViciEvent, None]:
        """Connect, register, then yield until the connection breaks, which raises."""
        async with _time_limit(self.timeout, "connecting for events"):
            connection = await _Connection.open(self.socket_path)
        try:
            early: deque[ViciEvent] = deque()
            unknown: list[str] = []
            async with _time_limit(self.timeout, "registration for events"):
                for name in dict.fromkeys(names):
                    await _send(connection, Packet.register_event(name))
                    kind, event, payload = await connection.receive()
                    while kind == Packet.EVENT:  # of a name registered before
                        early.append(ViciEvent(event, decode(payload)))
                        kind, event, payload = await connection.receive()
                    if kind == Packet.EVENT_UNKNOWN:
                        unknown.append(name)
                    else:
                        _expect(kind, Packet.EVENT_CONFIRM, f"registration for {name}")
            yield ViciConnected(tuple(unknown))
            while early:
                yield early.popleft()
            while True:
                kind, event, payload = await connection.receive()
                _expect(kind, Packet.EVENT, "connection for events")
                yield ViciEvent(event, decode(payload))
        finally:
            connection.close()

    @asynccontextmanager
    async def _exchange(self, command: str, packet: bytes) -> AsyncIterator[_Connection]:
        """One command's turn on the connection, its first packet sent; only a complete exchange leaves it open."""
        async with self._turn, _time_limit(self.timeout, command):
            try:
                yield await self._begin(packet)
            except (ViciCommandFailedError, ViciUnsupportedError):
                raise  # said at the end of a complete exchange
            except BaseException:
                self._drop()
                raise

    async def _begin(self, packet: bytes) -> _Connection:
        """Send an exchange's first packet, on a new connection when the present one turns out to be closed.

        A local stream socket whose other end is closed refuses to send: what could not be sent was never read. Only
        then is a packet sent again; once sent, a command may have been carried out.
        """
        if self._connection is not None:
            try:
                await self._connection.send(packet)
            except OSError:
                self._drop()
            else:
                return self._connection
        self._connection = await _Connection.open(self.socket_path)
        await _send(self._connection, packet)
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@asynccontextmanager
async def _time_limit(seconds: float, what: str) -> AsyncIterator[None]:
    """`asyncio.timeout` that raises ViciTimeoutError."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise ViciTimeoutError(
            f"charon did not finish within {seconds:g} s: {what}. It is overloaded or hangs; "
            "`swanctl --stats` shows its workers and queues"
        ) from None


async def _send(connection: _Connection, packet: bytes) -> None:
    try:
        await connection.send(packet)
    except OSError as error:
        raise _broken(error) from error


def _bounded(packet: bytes) -> bytes:
    if len(packet) > MAX_PACKET:
        raise ViciProtocolError(f"VICI packet of {len(packet)} bytes is over charon's limit of {MAX_PACKET}")
    return packet


def _broken(error: OSError) -> ViciUnavailableError:
    return ViciUnavailableError(f"the VICI connection to charon broke: {error.strerror}; it was stopped or restarted")


def _explain(path: Path, error: OSError) -> str:
    """What is wrong with charon's socket and what to do about it."""
    start = "start strongSwan (systemctl start strongswan)"
    match error:
        case FileNotFoundError():
            return f"charon's VICI socket {path} does not exist: {start} or set vici_socket"
        case PermissionError():
            return (
                f"no permission for charon's VICI socket {path}: run as root, or let charon give it to the group that "
                "swanroam runs as (charon.group in strongswan.conf)"
            )
        case ConnectionRefusedError():
            return f"nobody listens on charon's VICI socket {path}: {start}"
    said = f"cannot connect to charon's VICI socket {path}: {error.strerror}"
    return f"{said}: {MORE_FILES}" if lacks_descriptors(error) else said


def _expect(kind: int, wanted: int, where: str) -> None:
    if kind != wanted:
        raise ViciProtocolError(f"{where}: charon sent a packet of type {kind}, expected type {wanted}")


def _answer(command: str, kind: int, payload: bytes, events: tuple[ViciMessage, ...] = ()) -> ViciMessage:
    """The command's answer, once its packet is read."""
    if kind == Packet.CMD_UNKNOWN:
        raise ViciUnsupportedError(f"this charon does not know the VICI command {command!r}")
    _expect(kind, Packet.CMD_RESPONSE, command)
    message = decode(payload)
    if message.get("success", "yes") != "yes":
        raise ViciCommandFailedError(command, str(message.get("errmsg", "no reason given")), events)
    return message

"""A scripted stand-in for charon's end of a VICI socket."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from swanroam.ike.messages import ViciInput, encode

CMD_REQUEST, CMD_RESPONSE, CMD_UNKNOWN, EVENT_REGISTER, EVENT_UNREGISTER, EVENT_CONFIRM, EVENT_UNKNOWN, EVENT = range(8)


def framed(packet: bytes) -> bytes:
    return struct.pack("!I", len(packet)) + packet


def response(**values: ViciInput) -> bytes:
    return framed(bytes([CMD_RESPONSE]) + encode(values))


def event(name: str, **values: ViciInput) -> bytes:
    return framed(bytes([EVENT, len(name)]) + name.encode() + encode(values))


CONFIRM = framed(bytes([EVENT_CONFIRM]))
UNKNOWN_EVENT = framed(bytes([EVENT_UNKNOWN]))
UNKNOWN_COMMAND = framed(bytes([CMD_UNKNOWN]))


class Peer:
    """One accepted connection, from the server's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def expect(self, kind: int, name: str) -> bytes:
        """Read the next packet, which must be this one; its message's bytes."""
        length = struct.unpack("!I", await self._reader.readexactly(4))[0]
        packet = await self._reader.readexactly(length)
        received = packet[0], packet[2 : 2 + packet[1]].decode()
        assert received == (kind, name), received
        return packet[2 + packet[1] :]

    async def send(self, *data: bytes) -> None:
        self._writer.write(b"".join(data))
        await self._writer.drain()

    async def serve(self, command: str, *answer: bytes) -> None:
        await self.expect(CMD_REQUEST, command)
        await self.send(*answer)

    async def until_closed(self) -> None:
        """Wait until the client has closed its end, whether or not it had read all that was sent."""
        with suppress(ConnectionResetError):
            assert await self._reader.read() == b""


Script = Callable[[Peer], Awaitable[None]]


class Server:
    """Plays one script per accepted connection, in order; closes a connection when its script ends."""

    def __init__(self, path: Path, *scripts: Script) -> None:
        self.path = path
        self.accepted = 0
        self._scripts = list(scripts)
        self._failures: list[BaseException] = []
        self._running: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._accept, self.path)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
        self.path.unlink(missing_ok=True)

    async def finished(self) -> None:
        """Wait for the scripts that are running; raises what one of them raised."""
        await asyncio.gather(*self._running)
        if self._failures:
            raise self._failures[0]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            self.accepted += 1
            await self._scripts.pop(0)(Peer(reader, writer))
        except (AssertionError, IndexError, asyncio.IncompleteReadError, OSError) as error:
            self._failures.append(error)
        finally:
            writer.close()
            self._running.discard(task)


@asynccontextmanager
async def serving(path: Path, *scripts: Script) -> AsyncIterator[Server]:
    """A server that must have played its scripts without a mistake at the end."""
    server = Server(path, *scripts)
    await server.start()
    try:
        yield server
        await server.finished()
    finally:
        await server.stop()

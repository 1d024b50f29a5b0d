"""The mover as the daemon sees it: a process that is there when it is needed, and orders that have answers.

A nursery is started with the daemon and forks movers. A mover ends by itself when it has nothing to do for a while, or
when the daemon is gone; see `swanroam.transport`. One serves all peers.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TypeVar

import structlog

from swanroam.kernel.descriptors import MORE_FILES, lacks_descriptors
from swanroam.kernel.privileges import handed_on
from swanroam.transport import nursery
from swanroam.transport.orders import (
    LONGEST_LINE,
    Answer,
    End,
    Ended,
    Expired,
    Failed,
    Go,
    Gone,
    Inspect,
    Inspected,
    Order,
    OrderError,
    Quit,
    Rebuild,
    Rebuilt,
    Stop,
    Stopped,
    Unlock,
    decode,
    encode,
)

log = structlog.get_logger("swanroam")

ANSWER_TIMEOUT = 20.0
"""Seconds in which an order is answered; what is held is let go long before, by the mover itself."""

_ANSWERS: dict[type[Order], type[Answer]] = {
    Inspect: Inspected,
    Stop: Stopped,
    Rebuild: Rebuilt,
    Go: Gone,
    End: Ended,
}
_A = TypeVar("_A", Inspected, Stopped, Rebuilt, Gone, Ended)


class MoverError(Exception):
    """The mover could not be started, has died, or could not carry out an order; the message says which."""


class Mover:
    """Orders for the mover. `expired` is called with a transfer that ended by its limit, or with the mover's life."""

    def __init__(self, expired: Callable[[int], None]) -> None:
        self._expired = expired
        self._numbers = itertools.count(1)
        self._nursery: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._waiting: dict[tuple[int, type[Answer]], asyncio.Future[Answer]] = {}
        self._held: set[int] = set()

    def number(self) -> int:
        """A new transfer's."""
        return next(self._numbers)

    def holds(self, transfer: int) -> bool:
        """Whether it was stopped and is not at its end yet."""
        return transfer in self._held

    async def open(self) -> None:
        """Starts the nursery. Raises MoverError.

        Nothing else is started while the capabilities are handed on: there is no await in between.
        """
        with ExitStack() as undo:
            try:
                ours, theirs = socket.socketpair()
                undo.callback(ours.close)
                argv = [sys.executable, "-P", "-m", "swanroam.transport", "--fd", str(theirs.fileno())]
                with theirs, handed_on():
                    self._process = subprocess.Popen(  # noqa: ASYNC220 - see above; it takes milliseconds
                        argv, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
                    )
            except OSError as error:
                remedy = f"; {MORE_FILES}" if lacks_descriptors(error) else ""
                raise MoverError(f"the process that moves sockets could not be started: {error}{remedy}") from error
            undo.pop_all()
        self._nursery = ours

    async def ask(self, order: Inspect | Stop | Rebuild | Go | End, kind: type[_A]) -> _A:
        """Gives an order and waits for its answer. Raises MoverError."""
        assert _ANSWERS[type(order)] is kind
        key = (order.transfer, kind)
        if key in self._waiting:
            raise MoverError(f"transfer {order.transfer} waits for an answer already")
        await self._give(order)  # before it counts as waiting: a mover that ends meanwhile never had it
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        if isinstance(order, Stop):
            self._held.add(order.transfer)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                answer = await future
        except TimeoutError as error:
            raise MoverError(f"the mover has not answered within {ANSWER_TIMEOUT:g} s") from error
        finally:
            self._waiting.pop(key, None)
        if isinstance(order, Go):
            self._held.discard(order.transfer)
        if isinstance(answer, kind):
            return answer
        assert isinstance(answer, Failed)
        self._held.discard(order.transfer)
        raise MoverError(answer.text)

    async def tell(self, order: Unlock) -> None:
        """Gives an order that has no answer. Raises MoverError."""
        await self._give(order)

    async def close(self) -> None:
        """Ends mover and nursery, with everything let go."""
        if self._writer is not None and self._reading is not None:
            with suppress(MoverError):
                self._send(Quit())
            with suppress(TimeoutError):
                async with asyncio.timeout(5.0):
                    await asyncio.shield(self._reading)
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._nursery is not None:
            self._nursery.close()
        await self._nursery_ended()

    async def _nursery_ended(self) -> None:
        """It ends when its socket is closed."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, 5.0)

    async def _give(self, order: Order) -> None:
        """To a new mover when the last is just ending: nobody is told of an order without answer. Raises MoverError."""
        await self._connect()
        try:
            self._send(order)
        except MoverError:
            await self._connect()
            self._send(order)

    async def _connect(self) -> None:
        """A mover, if there is none. Raises MoverError."""
        async with self._starting:
            if self._writer is not None and self._writer.is_closing() and self._reading is not None:
                await asyncio.wait([self._reading])  # it tells everybody who waits for that mover
            if self._writer is not None:
                return
            if self._nursery is None:
                await self.open()
            assert self._nursery is not None
            try:
                channel = nursery.ask(self._nursery)
            except OSError as error:
                self._nursery.close()
                self._nursery = None  # the next order starts another
                await self._nursery_ended()
                raise MoverError(f"the process that moves sockets has ended: {error}") from error
            try:
                reader, self._writer = await asyncio.open_unix_connection(sock=channel, limit=LONGEST_LINE)
            except OSError as error:
                channel.close()
                raise MoverError(f"the process that moves sockets cannot be reached: {error}") from error
            self._reading = asyncio.get_running_loop().create_task(self._read(reader, self._writer))

    def _send(self, order: Order) -> None:
        """Raises MoverError when it is known at once that nobody will read it."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode(order))
        if self._writer is None or self._writer.is_closing():
            raise MoverError("the mover has ended")

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self._received(decode(line))
        except ConnectionError:
            pass  # it has ended, and that matters only to those who wait
        except (ValueError, OrderError) as error:
            log.warning("mover_not_understood", error=str(error))
        finally:
            writer.close()
            self._writer = None
            if self._held or self._waiting:
                log.warning("mover_ended", transfers=len(self._held))
            for future in self._waiting.values():
                if not future.done():
                    future.set_result(Failed(0, "the process that moves sockets has ended in the middle of it"))
            held, self._held = self._held, set()
            for transfer in sorted(held):
                self._expired(transfer)

    def _received(self, message: Order | Answer) -> None:
        match message:
            case Expired(transfer=transfer):
                if transfer in self._held:
                    self._held.discard(transfer)
                    self._expired(transfer)
            case Failed(transfer=transfer):
                for (number, _), future in self._waiting.items():
                    if number == transfer and not future.done():
                        future.set_result(message)
            case Inspected() | Stopped() | Rebuilt() | Gone() | Ended():
                future_ = self._waiting.get((message.transfer, type(message)))
                if future_ is not None and not future_.done():
                    future_.set_result(message)
            case _:
                log.warning("mover_not_understood", error=f"{type(message).__name__} is no answer")

"""The mover's own process: takes orders, holds the owners, descriptors and locks, and watches the time.

It touches no socket but to finish what a worker that died had in hand; see `worker` and `crew`. The owners are held by
the `tracer`. When the keeper dies, the worker ends after the socket that it has in hand, then the tracer lets the
owners run, and later the kernel removes the locks. When the daemon or the tracer dies, or the limit of a transfer
passes, the keeper lets go everything where it stands.
"""

from __future__ import annotations

import asyncio
import socket
import traceback
from collections import defaultdict
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from typing import Final

from swanroam.kernel.sock_diag import SocketDiagError
from swanroam.kernel.xfrm.errors import XfrmError
from swanroam.kernel.xfrm.locks import remove_locks
from swanroam.kernel.xfrm.socket import XfrmSocket
from swanroam.transport.ending import end
from swanroam.transport.finding import Finder
from swanroam.transport.latecomers import Latecomers
from swanroam.transport.orders import (
    LONGEST_LINE,
    Answer,
    End,
    Ended,
    Failed,
    Go,
    Inspect,
    Inspected,
    Order,
    OrderError,
    Quit,
    Rebuild,
    Stop,
    Unlock,
    decode,
    encode,
)
from swanroam.transport.owners import OwnerTable
from swanroam.transport.tracer import Tracer, TracerGone
from swanroam.transport.transfer import Transfer, locks_of

IDLE_LIMIT: Final = 5.0
"""Seconds without an order, a transfer and datagrams to be handed on after which the mover ends."""


class Keeper:
    """Use by `serve`."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        xfrm: XfrmSocket,
        tracer: Tracer,
        forbidden: Collection[int],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._xfrm = xfrm
        self._tracer = tracer
        self._owners = OwnerTable({tracer.pid})
        self._finder = Finder(self._owners, forbidden)
        self._transfers: dict[int, Transfer] = {}
        self._limits: dict[int, asyncio.TimerHandle] = {}
        self._tasks = asyncio.TaskGroup()
        self._latecomers = Latecomers(xfrm, self._tasks.create_task)
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Orders for one transfer are carried out one after the other, in the order in which they came."""
        self._under_way = 0
        """Orders that are being carried out."""

    async def run(self) -> None:
        """Until the daemon says so or is gone, or there has been nothing to do for a while."""
        tracing = asyncio.create_task(self._watch_the_tracer())
        try:
            async with self._tasks:
                while (order := await self._next_order()) is not None:
                    if isinstance(order, Quit):
                        break
                    self._tasks.create_task(self._carry_out(order))
                for transfer in list(self._transfers.values()):
                    self._end(transfer)
                await self._latecomers.close()
        finally:
            await self._latecomers.close()  # what was under way may have begun more
            tracing.cancel()

    async def _next_order(self) -> Order | None:
        """None when there will be none."""
        limit: float | None = IDLE_LIMIT
        while True:
            try:
                async with asyncio.timeout(limit):
                    line = await self._reader.readline()
            except TimeoutError:
                if not self._transfers and not self._under_way and not self._latecomers.expected:
                    # What was sent before this is still read; what comes later fails where it is sent (af_unix.c).
                    self._writer.get_extra_info("socket").shutdown(socket.SHUT_RD)
                    limit = None
                continue
            except (ConnectionError, ValueError):  # daemon or tracer are gone; a line without end
                return None
            if not line.endswith(b"\n"):
                return None
            try:
                message = decode(line)
            except OrderError as error:
                self._answer(Failed(0, str(error)))
                continue
            if isinstance(message, Order):
                return message
            self._answer(Failed(0, f"{type(message).__name__} is not an order"))

    async def _carry_out(self, order: Order) -> None:
        number = 0 if isinstance(order, Unlock | Quit) else order.transfer
        async with self._answering(number), self._counted():
            match order:
                case Inspect():
                    self._answer(await self._inspect(order))
                case End(entries=entries):
                    self._answer(Ended(number, await end(entries, self._owners)))
                case Unlock(entries=entries):
                    await remove_locks(self._xfrm, locks_of(entries))
                case Stop() | Rebuild() | Go():
                    async with self._turns[number]:
                        self._answer(await self._transfer(order))

    @asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    @asynccontextmanager
    async def _answering(self, number: int) -> AsyncIterator[None]:
        """What goes wrong with one transfer is told to the daemon, and leaves the others alone."""
        try:
            yield
        except (SocketDiagError, XfrmError, OSError) as error:
            self._answer(Failed(number, str(error)))
        except Exception as error:  # noqa: BLE001 - the border of a task; what is held ends by its limit
            traceback.print_exc()
            self._answer(Failed(number, f"a fault in the mover, please report it: {error!r}"))

    async def _inspect(self, order: Inspect) -> Inspected:
        found = await self._finder.find(order.entries, order.exclusions)
        found.close()
        owners = {index: tuple(map(str, processes)) for index, processes in found.owners.items()}
        return Inspected(order.transfer, found.refusals, owners, found.found)

    async def _transfer(self, order: Stop | Rebuild | Go) -> Answer:
        number = order.transfer
        if isinstance(order, Stop):
            if number in self._transfers:
                return Failed(number, f"transfer {number} is under way already")
            loop = asyncio.get_running_loop()

            def begun() -> None:
                self._limits[number] = loop.call_later(order.hold_seconds, self._end, transfer)

            transfer = Transfer(order, self._xfrm, self._tracer, self._owners, self._finder, self._latecomers, begun)
            self._transfers[number] = transfer
            try:
                return await transfer.stop()
            except BaseException:
                self._forget(number)
                raise
        known = self._transfers.get(number)
        if known is None:
            return Failed(number, f"there is no transfer {number}: it has ended, or was never begun")
        if isinstance(order, Rebuild):
            return await known.rebuild(order)
        self._forget(number)
        return await known.go(order)

    def _end(self, transfer: Transfer) -> None:
        """Its time is up, or nobody is there any more to say how it goes on."""
        transfer.halt()
        self._tasks.create_task(self._expire(transfer))

    async def _expire(self, transfer: Transfer) -> None:
        async with self._answering(transfer.number), self._turns[transfer.number]:
            if self._transfers.get(transfer.number) is transfer:
                self._forget(transfer.number)
                self._answer(await transfer.give_up())

    def _forget(self, number: int) -> None:
        self._transfers.pop(number, None)
        if limit := self._limits.pop(number, None):
            limit.cancel()

    def _answer(self, answer: Answer) -> None:
        if not self._writer.is_closing():
            self._writer.write(encode(answer))

    async def _watch_the_tracer(self) -> None:
        """Without it nobody is held any more: the last order has been read."""
        await self._tracer.ended()
        self._reader.set_exception(TracerGone())


async def serve(channel: socket.socket, tracer: Tracer, forbidden: Collection[int] = ()) -> None:
    """Take orders from the daemon at the other end until there are no more. Raises XfrmError, OSError.

    `forbidden`: processes that are never stopped, the daemon's among them.
    """
    reader, writer = await asyncio.open_unix_connection(sock=channel, limit=LONGEST_LINE)
    try:
        async with XfrmSocket() as xfrm:
            await Keeper(reader, writer, xfrm, tracer, forbidden).run()
        with suppress(ConnectionError):
            await writer.drain()
    finally:
        tracer.close()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

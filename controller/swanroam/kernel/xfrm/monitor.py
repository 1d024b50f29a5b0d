"""Asynchronous iterator of the kernel's XFRM events.

Events wait in the socket's receive buffer until the consumer asks for the next one; there is no second queue. When that
buffer is full the kernel drops events and says so once: the iterator drops what is left in the buffer, yields `Overrun`
and goes on, and the consumer reads the tables again.
Source: netlink(7), "ENOBUFS"; enum xfrm_nlgroups in include/uapi/linux/xfrm.h.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from swanroam.kernel.xfrm.codec import decode_messages
from swanroam.kernel.xfrm.constants import NETLINK_ADD_MEMBERSHIP, SOL_NETLINK, Group, MessageType
from swanroam.kernel.xfrm.errors import XfrmDecodeError, error_for
from swanroam.kernel.xfrm.events import Event, Overrun, Unrecognised, decode_event
from swanroam.kernel.xfrm.socket import Receiver, open_netlink_socket

_RECEIVE_BUFFER = 4 * 1024 * 1024


class XfrmMonitor:
    """`async with XfrmMonitor({Group.POLICY}) as monitor: async for event in monitor: ...`

    Subscribed as soon as it is constructed: what happens between that and the first iteration is not missed. One
    consumer at a time. The iteration ends when the monitor is closed. Group SA delivers keys with every SA.
    Raises XfrmPermission without CAP_NET_ADMIN, XfrmUnsupported without XFRM.
    """

    def __init__(self, groups: Iterable[Group], *, receive_buffer: int = _RECEIVE_BUFFER) -> None:
        self._socket = open_netlink_socket(receive_buffer)
        self._receiver = Receiver(self._socket)
        self._ready: deque[Event] = deque()
        try:
            for group in groups:
                self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        except OSError as error:
            self._socket.close()
            raise error_for(error.errno or errno.EIO, "open XFRM event groups") from error
        self._waiter: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close; ends the iteration. May be called again."""
        if self._waiter is not None:
            self._stop_waiting()
        self._socket.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._ready:
            if self._socket.fileno() < 0:
                raise StopAsyncIteration
            if not self._fill():
                await self._readable()
        return self._ready.popleft()

    def _fill(self) -> bool:
        """Take one datagram, if there is one, apart into events."""
        try:
            datagram = self._receiver.receive()
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise error_for(error.errno or errno.EIO, "read XFRM events") from error
            self._receiver.drain()
            self._ready.append(Overrun())
            return True
        if datagram is None:
            return False
        try:
            self._ready.extend(decode_event(message) for message in decode_messages(datagram))
        except XfrmDecodeError as error:
            self._ready.append(Unrecognised(MessageType(0), str(error)))
        return True

    async def _readable(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("XfrmMonitor has two consumers")
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        loop.add_reader(self._socket, self._stop_waiting)
        try:
            await waiter
        finally:
            if self._waiter is waiter:
                self._stop_waiting()

    def _stop_waiting(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.get_loop().remove_reader(self._socket)
            if not waiter.done():
                waiter.set_result(None)

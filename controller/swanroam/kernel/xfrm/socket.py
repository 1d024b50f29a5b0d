"""Requests to the kernel's XFRM family and their answers, over asyncio.

One socket serves any number of concurrent callers: every request has a sequence number, every answer finds its waiter
by it. The kernel works on a request inside sendmsg and its answer is there when that returns, so it is read at once and
no other task runs in between; only dumps come in pieces through the event loop. Requests of one batch are handled in
order; one that fails does not stop the others.
Source: netlink(7); net/netlink/af_netlink.c (netlink_rcv_skb, netlink_ack, netlink_dump); net/xfrm/xfrm_user.c.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Final, Self

from swanroam.kernel.receive_buffer import enlarge
from swanroam.kernel.xfrm import constants as c
from swanroam.kernel.xfrm.codec import Message, decode_attributes, decode_messages
from swanroam.kernel.xfrm.errors import XfrmDecodeError, XfrmError, error_for

_RECEIVE_BUFFER: Final = 8 * 1024 * 1024
"""Octets. Every acknowledgment costs about 1 kB of it until it is read."""
_LARGEST_DATAGRAM: Final = 256 * 1024
"""The kernel answers a dump in pieces of at most 32 kB, and never sends more than it was asked to take."""
_BATCH_OCTETS: Final = 96 * 1024
"""Below half of the default net.core.wmem_max, which limits one sendmsg."""
_BATCH_REQUESTS: Final = 512
_DATAGRAMS_PER_WAKEUP: Final = 64
_DUMP_ATTEMPTS: Final = 5
_NLMSGHDR_SIZE: Final = 16


@dataclass(frozen=True, slots=True)
class Request:
    """One message to send; `operation` and `subject` are for the error that it may cause."""

    type: c.MessageType
    body: bytes = field(repr=False)
    operation: str
    subject: object = ""

    def error(self, outcome: Outcome) -> XfrmError | None:
        if not outcome.errno:
            return None
        return error_for(outcome.errno, self.operation, str(self.subject), outcome.text)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended: a positive errno or 0, the kernel's explanation, the messages it answered with."""

    errno: int
    text: str = ""
    replies: tuple[Message, ...] = ()
    interrupted: bool = False
    """The kernel's tables changed during the dump (NLM_F_DUMP_INTR)."""


@dataclass(slots=True)
class _Exchange:
    """A request under way. Its future gets a value, never an exception, so an abandoned one is silent."""

    future: asyncio.Future[Outcome]
    replies: list[Message] = field(default_factory=list)
    interrupted: bool = False

    def finish(self, number: int, text: str = "") -> None:
        if not self.future.done():
            self.future.set_result(Outcome(number, text, tuple(self.replies), self.interrupted))


def open_netlink_socket(receive_buffer: int = _RECEIVE_BUFFER) -> socket.socket:
    """A non-blocking NETLINK_XFRM socket in the calling thread's network namespace. Raises XfrmError."""
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, c.NETLINK_XFRM)
    except OSError as error:
        raise error_for(error.errno or errno.EIO, "open NETLINK_XFRM") from error
    try:
        sock.setblocking(False)
        sock.setsockopt(c.SOL_NETLINK, c.NETLINK_EXT_ACK, 1)
        sock.setsockopt(c.SOL_NETLINK, c.NETLINK_CAP_ACK, 1)
        enlarge(sock, receive_buffer)
        sock.bind((0, 0))
    except OSError as error:
        sock.close()
        raise error_for(error.errno or errno.EIO, "open NETLINK_XFRM") from error
    return sock


class Receiver:
    """Takes datagrams off a netlink socket, through one buffer that is used again and again."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray(_LARGEST_DATAGRAM)
        self._view = memoryview(self._buffer)

    def receive(self) -> bytes | None:
        """One datagram from the kernel, None when none is waiting. Raises OSError (ENOBUFS: some were lost)."""
        while True:
            try:
                size, _, flags, sender = self._socket.recvmsg_into([self._buffer])
            except BlockingIOError:
                return None
            if flags & socket.MSG_TRUNC:
                raise OSError(errno.ENOBUFS, "a netlink datagram was cut off")
            if sender[0] == 0:  # other processes have no say here
                return bytes(self._view[:size])

    def drain(self) -> None:
        """Throw away what is waiting. Needed after ENOBUFS: the kernel reports an overrun once, and then drops in
        silence until the buffer has been empty (netlink_overrun, netlink_rcv_wake)."""
        while True:
            try:
                if self.receive() is None:
                    return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise


class XfrmSocket:
    """Asynchronous client of NETLINK_XFRM. Use as `async with XfrmSocket() as xfrm:`; needs CAP_NET_ADMIN.

    Belongs to the event loop in which it was opened and to the network namespace of the thread that opened it.
    """

    def __init__(self, *, receive_buffer: int = _RECEIVE_BUFFER) -> None:
        self._socket = open_netlink_socket(receive_buffer)
        self._receiver: Final = Receiver(self._socket)
        self._portid: Final[int] = self._socket.getsockname()[0]
        self._sequence: Final = itertools.count(1)
        self._exchanges: dict[int, _Exchange] = {}
        self._dump: asyncio.Future[Outcome] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._read, _DATAGRAMS_PER_WAKEUP)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close; requests under way fail with ESHUTDOWN. May be called again."""
        if self._socket.fileno() < 0:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
        self._socket.close()
        self._fail_all(errno.ESHUTDOWN, "the socket was closed")

    async def execute(self, request: Request) -> None:
        """Send a request that is answered by an acknowledgment only. Raises XfrmError."""
        await self.ask(request)

    async def ask(self, request: Request, *, notices: c.Group | None = None) -> tuple[Message, ...]:
        """Send a request and return the messages that came before its acknowledgment.

        With `notices`, also those that the kernel sends to this group because of the request: they bear the request's
        port and sequence number (struct km_event). Raises XfrmError.
        """
        if notices is not None:
            try:
                self._socket.setsockopt(c.SOL_NETLINK, c.NETLINK_ADD_MEMBERSHIP, notices)
            except OSError as refusal:
                raise error_for(refusal.errno or errno.EIO, request.operation, str(request.subject)) from refusal
        try:
            (outcome,) = await self._exchange([request])
        finally:
            if notices is not None and self._socket.fileno() >= 0:
                with suppress(OSError):  # notices of others' requests find no waiter
                    self._socket.setsockopt(c.SOL_NETLINK, c.NETLINK_DROP_MEMBERSHIP, notices)
        if error := request.error(outcome):
            raise error
        return outcome.replies

    async def batch(self, requests: Sequence[Request]) -> list[XfrmError | None]:
        """Send many requests in as few system calls as possible; one result each, None for success."""
        results: list[XfrmError | None] = []
        for part in _parts(requests):
            outcomes = await self._exchange(part)
            results += [request.error(outcome) for request, outcome in zip(part, outcomes, strict=True)]
        return results

    async def dump(self, request: Request) -> tuple[Message, ...]:
        """All objects of a table. Repeated when the table changed meanwhile. Raises XfrmError.

        The kernel runs one dump per socket at a time, so dumps of this socket wait for each other.
        """
        for _ in range(_DUMP_ATTEMPTS):
            while self._dump is not None and not self._dump.done():
                await asyncio.wait([self._dump])
            self._dump = self._send([request], c.NLM_F_REQUEST | c.NLM_F_DUMP)[0]
            outcome = await asyncio.shield(self._dump)
            if error := request.error(outcome):
                raise error
            if not outcome.interrupted:
                return outcome.replies
        raise error_for(
            errno.EINTR, request.operation, str(request.subject), "the table changes faster than it can be read"
        )

    async def _exchange(self, requests: Sequence[Request]) -> list[Outcome]:
        futures = self._send(requests, c.NLM_F_REQUEST | c.NLM_F_ACK)
        return [await asyncio.shield(future) for future in futures]

    def _send(self, requests: Sequence[Request], flags: int) -> list[asyncio.Future[Outcome]]:
        if self._loop is None:
            raise RuntimeError("XfrmSocket is used outside `async with`")
        futures, octets = [], []
        for request in requests:
            sequence = next(self._sequence) & 0xFFFFFFFF
            future: asyncio.Future[Outcome] = self._loop.create_future()
            self._exchanges[sequence] = _Exchange(future)
            futures.append(future)
            octets.append(Message(request.type, flags, sequence, request.body, self._portid).encode())
            future.add_done_callback(partial(self._forget, sequence))
        try:
            self._socket.send(b"".join(octets))
        except OSError as error:
            for future in futures:
                future.set_result(Outcome(error.errno or errno.EIO))
        self._read(_DATAGRAMS_PER_WAKEUP + len(futures))
        return futures

    def _forget(self, sequence: int, _: asyncio.Future[Outcome]) -> None:
        self._exchanges.pop(sequence, None)

    def _read(self, at_most: int) -> None:
        """Take so many datagrams off the socket, fewer when there are no more, and finish what they answer."""
        try:
            for _ in range(at_most):
                datagram = self._receiver.receive()
                if datagram is None:
                    return
                for message in decode_messages(datagram):
                    self._dispatch(message)
        except XfrmDecodeError as error:
            self._fail_all(error.errno, str(error))
        except OSError as error:
            self._fail_all(error.errno or errno.EIO, "answers of the kernel were lost")
            if error.errno == errno.ENOBUFS:
                self._receiver.drain()

    def _dispatch(self, message: Message) -> None:
        exchange = self._exchanges.get(message.sequence)
        if exchange is None or message.portid != self._portid:  # abandoned, or a notice of somebody else's request
            return
        exchange.interrupted |= bool(message.flags & c.NLM_F_DUMP_INTR)
        match message.type:
            case c.NLMSG_ERROR:
                exchange.finish(*_decode_acknowledgment(message))
            case c.NLMSG_DONE:
                exchange.finish(_decode_status(message))
            case c.NLMSG_NOOP:
                pass
            case c.NLMSG_OVERRUN:
                exchange.finish(errno.ENOBUFS, "answers of the kernel were lost")
            case _:
                exchange.replies.append(message)

    def _fail_all(self, number: int, text: str) -> None:
        for exchange in list(self._exchanges.values()):
            exchange.finish(number, text)


def _decode_status(message: Message) -> int:
    """The positive errno at the start of NLMSG_ERROR and, for a dump that failed underway, of NLMSG_DONE."""
    if len(message.payload) < 4:
        if message.type == c.NLMSG_DONE:
            return 0
        raise XfrmDecodeError("nlmsgerr", f"{len(message.payload)} octets")
    number: int = struct.unpack_from("=i", message.payload)[0]
    return -number if number < 0 else 0


def _decode_acknowledgment(message: Message) -> tuple[int, str]:
    """errno and extended acknowledgment text of NLMSG_ERROR (struct nlmsgerr, then attributes)."""
    number, text = _decode_status(message), ""
    if message.flags & c.NLM_F_ACK_TLVS:
        payload, offset = message.payload, 4 + _NLMSGHDR_SIZE
        if len(payload) < offset:
            raise XfrmDecodeError("nlmsgerr", f"{len(payload)} octets")
        if not message.flags & c.NLM_F_CAPPED:
            offset = 4 + struct.unpack_from("=I", payload, 4)[0]
        for attribute in decode_attributes(payload, offset):
            if attribute.kind == c.NLMSGERR_ATTR_MSG:
                text = attribute.payload.rstrip(b"\0").decode("utf-8", "replace")
    return number, text


def _parts(requests: Sequence[Request]) -> Iterator[list[Request]]:
    """Runs of requests that fit one sendmsg."""
    part: list[Request] = []
    octets = 0
    for request in requests:
        size = len(request.body) + _NLMSGHDR_SIZE + 3
        if part and (len(part) == _BATCH_REQUESTS or octets + size > _BATCH_OCTETS):
            yield part
            part, octets = [], 0
        part.append(request)
        octets += size
    if part:
        yield part

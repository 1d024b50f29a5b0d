"""The control channel's socket: UDP between inner addresses, which only the control CHILD_SAs reach.

The socket is bound to our inner address, so nothing sent to an outer address gets in; XFRM policies drop what comes
to the inner prefix unprotected. Datagrams are marked (SO_MARK), so that they can be routed apart from data while a
new address of the peer is not proven.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Final

import structlog

from swanroam.kernel.receive_buffer import enlarge
from swanroam.protocol.codec import MAX_DATAGRAM, MessageError, decode, encode
from swanroam.protocol.messages import Message

log = structlog.get_logger("swanroam")

RECEIVE_BUFFER: Final = 1024 * 1024
"""Bytes: what one peer sends in a moment must leave room for the others."""
TELL_FIRST: Final = 1.0
"""Seconds after which the first dropped datagram is told of, with those that have followed."""
TELL_AGAIN: Final = 60.0
"""Seconds between two lines about dropped datagrams."""


class ControlChannelError(Exception):
    """The socket can't be had; the message says why and what to do."""


class ControlChannel:
    """Sends messages to inner addresses and hands on what comes from them.

    `admit` is asked with the sender's inner address before a datagram is looked at; `deliver` gets the message. Both
    say why the datagram is dropped, or nothing.
    """

    def __init__(
        self,
        address: IPv6Address,
        port: int,
        mark: int,
        admit: Callable[[IPv6Address], str],
        deliver: Callable[[IPv6Address, Message], str],
    ) -> None:
        self.dropped: Counter[str] = Counter()
        """Datagrams that were not taken, by reason."""
        self.unsent: Counter[str] = Counter()
        """Datagrams that the kernel did not take, by error name."""
        self._address = address
        self._port = port
        self._mark = mark
        self._admit = admit
        self._deliver = deliver
        self._socket: socket.socket | None = None
        self._told: Counter[str] = Counter()
        self._telling: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Binds the socket. Raises ControlChannelError. The inner address must be on the host already."""
        channel = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
            enlarge(channel, RECEIVE_BUFFER)
            channel.bind((str(self._address), self._port))
        except OSError as error:
            channel.close()
            raise ControlChannelError(
                f"cannot bind the control channel to [{self._address}]:{self._port}: {error.strerror}: "
                "is another controller running, or control.port taken?"
            ) from error
        self._socket = channel
        asyncio.get_running_loop().add_reader(channel, self._readable)

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        if self._telling is not None:
            self._telling.cancel()
            self._tell()

    def send(self, to: IPv6Address, message: Message) -> None:
        """Sends once. What does not get out (no SA, no route, full queue) is counted, and repeated by the protocol."""
        if self._socket is None:
            raise RuntimeError("the control channel is not open")
        try:
            self._socket.sendto(encode(message), (str(to), self._port))
        except OSError as error:
            self.unsent[errno.errorcode.get(error.errno or 0, "?")] += 1

    def _readable(self) -> None:
        assert self._socket is not None
        for _ in range(64):  # a flood must not keep the loop from everything else
            try:
                datagram, sender = self._socket.recvfrom(MAX_DATAGRAM + 1)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error to something sent earlier
                self.unsent[errno.errorcode.get(error.errno or 0, "?")] += 1
                continue
            reason = self._take(datagram, sender[0], sender[1])
            if reason:
                self._drop(reason)

    def _take(self, datagram: bytes, sender: str, port: int) -> str:
        """Why the datagram is dropped; empty when it is handed on."""
        if port != self._port:
            return "wrong_port"
        address = IPv6Address(sender.partition("%")[0])
        if reason := self._admit(address):
            return reason
        try:
            message = decode(datagram)
        except MessageError as error:
            return error.problem.value
        return self._deliver(address, message)

    def _drop(self, reason: str) -> None:
        self.dropped[reason] += 1
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(TELL_FIRST, self._tell)

    def _tell(self) -> None:
        """One line for all that was dropped since the last, however much that is."""
        news = self.dropped - self._told
        self._telling = None
        if news:
            log.info("datagrams_dropped", **news)
            self._told = Counter(self.dropped)
            if self._socket is not None:
                self._telling = asyncio.get_running_loop().call_later(TELL_AGAIN, self._tell)

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

from swanroam.protocol.codec import MAX_DATAGRAM, MessageError, decode, encode
from swanroam.protocol.messages import Message


class ControlChannelError(Exception):
    """The socket can't be had; the message says why and what to do."""


class ControlChannel:
    """Sends messages to inner addresses and hands on what comes from them.

    `received` is called with the sender's inner address and the message; who owns the address is its business.
    """

    def __init__(
        self, address: IPv6Address, port: int, mark: int, received: Callable[[IPv6Address, Message], None]
    ) -> None:
        self.dropped: Counter[str] = Counter()
        """Datagrams that were no messages, by reason."""
        self.unsent: Counter[str] = Counter()
        """Datagrams that the kernel did not take, by error name."""
        self._address = address
        self._port = port
        self._mark = mark
        self._received = received
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Binds the socket. Raises ControlChannelError. The inner address must be on the host already."""
        channel = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
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
            if sender[1] != self._port:
                self.dropped["wrong_port"] += 1
                continue
            try:
                message = decode(datagram)
            except MessageError as error:
                self.dropped[error.problem.value] += 1
                continue
            self._received(IPv6Address(sender[0].partition("%")[0]), message)

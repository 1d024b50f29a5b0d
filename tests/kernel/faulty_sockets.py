"""Netlink sockets that let one request fail, and a look at the kernel's policies after every request.

A request that fails is not sent: the kernel is as it would be had it refused. Only a deletion that is answered by
ENOENT is carried out, as if somebody else had been a moment faster. The requests of a batch go one by one, each
answered as the kernel does it, so that those after a failed one are carried out.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_DELTFILTER,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWQDISC,
    RTM_NEWROUTE,
    RTM_NEWRULE,
    RTM_NEWTFILTER,
)

from swanroam.kernel.rtnetlink import RouteSocket
from swanroam.kernel.xfrm import constants as c
from swanroam.kernel.xfrm.codec import Message, decode_messages
from swanroam.kernel.xfrm.policies import OWNER
from swanroam.kernel.xfrm.policy import Policy
from swanroam.kernel.xfrm.socket import Outcome, Receiver, Request, XfrmSocket, open_netlink_socket

ERRORS = (errno.EEXIST, errno.ENOENT, errno.ENOMEM, errno.EPERM, errno.EBUSY, errno.ENOBUFS)


class Faults:
    """Which request fails, and how; and who looks on meanwhile."""

    def __init__(self) -> None:
        self.errno = 0
        self.hit = False
        """Whether in the last block of `at` there was a request that failed."""
        self.look: Callable[[str], None] = lambda request: None
        self._left: int | None = None

    @contextmanager
    def at(self, failing: int, number: int, look: Callable[[str], None]) -> Iterator[None]:
        """In this block the request with the number `failing`, from 1, fails with an errno. `look` is called before
        each request with its description, so that it sees what the one before has done."""
        self._left, self.errno, self.look, self.hit = failing, number, look, False
        try:
            yield
        finally:
            self._left, self.look = None, lambda request: None

    def refuses(self, request: str) -> bool:
        self.look(request)
        if self._left is None:
            return False
        self._left -= 1
        self.hit |= self._left == 0
        return self._left == 0


class FaultyXfrmSocket(XfrmSocket):
    """Give it its `faults`."""

    faults: Faults

    def _send(self, requests: Sequence[Request], flags: int) -> list[asyncio.Future[Outcome]]:
        futures: list[asyncio.Future[Outcome]] = []
        for request in requests:
            if self.faults.refuses(f"{request.operation} {request.subject}"):
                if request.type is c.MessageType.DELPOLICY and self.faults.errno == errno.ENOENT:
                    super()._send([request], flags)
                refused: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
                refused.set_result(Outcome(self.faults.errno))
                futures.append(refused)
            else:
                futures += super()._send([request], flags)
        return futures


_DELETIONS = {RTM_DELADDR, RTM_DELLINK, RTM_DELROUTE, RTM_DELRULE, RTM_DELTFILTER}
_CHANGES = {RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, RTM_NEWRULE, RTM_NEWQDISC, RTM_NEWTFILTER, *_DELETIONS}


class FaultyRouteSocket(RouteSocket):
    """Give it its `faults`."""

    faults: Faults

    async def nlm_request(self, message: Any, kind: int, *arguments: Any, **options: Any) -> Any:
        what = "change" if kind in _CHANGES else "question"
        if self.faults.refuses(f"rtnetlink {what} {kind}"):
            if kind in _DELETIONS and self.faults.errno == errno.ENOENT:
                async for _ in await super().nlm_request(message, kind, *arguments, **options):
                    pass
            raise NetlinkError(self.faults.errno)
        return await super().nlm_request(message, kind, *arguments, **options)


class PolicyReader:
    """Reads all policies without an event loop, between two requests of others. Close it after use."""

    def __init__(self) -> None:
        self._socket = open_netlink_socket()
        self._receiver = Receiver(self._socket)

    def close(self) -> None:
        self._socket.close()

    def all(self) -> list[Policy]:
        """Without those of sockets."""
        self._socket.send(Message(c.MessageType.GETPOLICY, c.NLM_F_REQUEST | c.NLM_F_DUMP, 1, b"", 0).encode())
        found: list[Policy] = []
        self._socket.setblocking(True)
        while True:
            datagram = self._receiver.receive()
            assert datagram is not None
            for message in decode_messages(datagram):
                if message.type == c.NLMSG_DONE:
                    return [policy for policy in found if policy.direction <= c.Direction.FWD]
                found.append(Policy.decode(message.payload))

    def owned(self) -> frozenset[Policy]:
        return frozenset(policy for policy in self.all() if policy.selector.user == OWNER)

    def others(self) -> list[Policy]:
        """Those that are not ours, in an order."""
        return sorted((policy for policy in self.all() if policy.selector.user != OWNER), key=str)

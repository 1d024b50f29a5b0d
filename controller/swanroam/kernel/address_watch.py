"""Watches this host's addresses, links and routing over rtnetlink, and asks the routing for source addresses.

Notifications say only that something has changed; what there is now is read from the kernel. So a lost notification
costs a reading, never a wrong picture. Two sockets: one that is only listened to, one for requests. When the first
overruns (ENOBUFS, netlink(7)), pyroute2's object for it cannot be used again: it is replaced, and everything read.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self, TypeVar

from pyroute2 import AsyncIPRoute, AsyncIPRSocket
from pyroute2.netlink.exceptions import NetlinkError

from swanroam.kernel.address_notices import GROUPS, Change, HeaderMarshal
from swanroam.kernel.addresses import (
    AddressSelection,
    HostAddresses,
    IPAddress,
    LinkState,
    LocalAddress,
    RouteChoice,
)
from swanroam.kernel.receive_buffer import enlarge

T = TypeVar("T")

RECEIVE_BUFFER = 4 * 1024 * 1024
"""Bytes; some 5000 notifications."""

REQUEST_TIMEOUT = 10.0
"""Seconds for an answer of the kernel. A dump takes milliseconds; a missing answer would otherwise stop the watch."""

SETTLE = 0.002
"""Seconds that a burst of notifications is given to come to its end before the kernel is read."""

ROUTING_INTERVAL = 0.01
"""Shortest time between two snapshots that differ only in the routing (seconds). Routers change routes all the time."""

REOPEN = 1.0
"""Seconds between attempts to listen again where the kernel has no socket for it, and between readings meanwhile."""

# include/uapi/linux/if_addr.h
_IFA_F_TEMPORARY = 0x01
_IFA_F_OPTIMISTIC = 0x04
_IFA_F_DADFAILED = 0x08
_IFA_F_DEPRECATED = 0x20
_IFA_F_TENTATIVE = 0x40
_IFA_F_PERMANENT = 0x80
# include/uapi/linux/if.h
_IFF_UP = 0x1
_IFF_RUNNING = 0x40
# include/uapi/linux/netlink.h, rtnetlink.h
_NLM_F_DUMP_INTR = 0x10
_RTN_UNICAST = 1
_RTN_LOCAL = 2

_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ENETDOWN}
"""Answers of RTM_GETROUTE: no route or `unreachable`, `prohibit` (EACCES), `blackhole` (EINVAL); fib_props[] in
net/ipv4/fib_semantics.c."""


class AddressWatchError(Exception):
    """The kernel could not be asked or listened to."""


class AddressesNotRead(AddressWatchError):  # noqa: N818 - a state that passes
    """The kernel could not be asked this time; the same question may be asked again."""


class AddressWatch:
    """The host's addresses, now and whenever they change.

        async with AddressWatch(selection) as watch:
            async for host in watch:
                choice = await watch.source_for(destination)

    The first snapshot comes at once. A consumer that is slow misses states in between, never the last one.
    Works in the network namespace of the thread that enters it.
    """

    def __init__(self, selection: AddressSelection | None = None, *, receive_buffer: int = RECEIVE_BUFFER) -> None:
        self.selection = selection or AddressSelection()
        self.overruns = 0
        """How often notifications were lost because they came faster than they were read."""
        self._receive_buffer = receive_buffer
        self._requests: Any = None  # AsyncIPRoute; pyroute2 has no types
        self._request_lock = asyncio.Lock()
        self._monitor: Any = None  # AsyncIPRSocket
        self._listener: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._urgent = asyncio.Event()
        """Set while more than the routing has changed."""
        self._pending = Change.NOTHING
        self._last: HostAddresses | None = None
        self._links: dict[int, LinkState] = {}
        self._routing = 0
        self._last_emitted = float("-inf")

    def select(self, selection: AddressSelection) -> None:
        """Other addresses count from now on; the next snapshot comes at once."""
        self.selection = selection
        self._note(Change.ALL)

    async def __aenter__(self) -> Self:
        """Begin to listen. Raises AddressWatchError."""
        try:
            self._monitor = await self._open_monitor()
        except OSError as error:
            raise AddressWatchError(f"cannot listen to address changes: {error}; is NETLINK_ROUTE allowed?") from error
        self._note(Change.ALL)
        self._listener = asyncio.create_task(self._listen(), name="address-watch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])
            self._listener = None
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        self._drop_requests()
        # Transports report their end to the object in the next round of the loop.
        await asyncio.sleep(0)

    def __aiter__(self) -> AsyncIterator[HostAddresses]:
        return self

    async def __anext__(self) -> HostAddresses:
        """The next snapshot that differs from the last. Raises AddressWatchError."""
        while True:
            await self._woken.wait()
            await self._settle()
            self._woken.clear()
            self._urgent.clear()
            self._check_listener()
            pending, self._pending = self._pending, Change.NOTHING
            try:
                host = await self._snapshot(pending)
            except BaseException:
                self._note(pending)
                raise
            if host != self._last:
                self._last = host
                self._last_emitted = asyncio.get_running_loop().time()
                return host

    async def read(self) -> HostAddresses:
        """The addresses as the kernel has them now, whether or not anything has changed. Raises AddressWatchError."""
        return await self._snapshot(Change.ADDRESSES | Change.LINKS)

    async def source_for(self, destination: IPAddress) -> RouteChoice | None:
        """The source address and interface that the routing picks towards a destination; None where it has no way.

        Asked without a source, so rules that apply to one (`from OLD`) play no part. Raises AddressWatchError.
        """

        async def ask(ipr: Any) -> list[Any]:
            return [message async for message in _each(await ipr.route("get", dst=str(destination)))]

        try:
            answer = await self._request(ask)
        except NetlinkError as error:
            if error.code in _NO_ROUTE:
                return None
            raise AddressesNotRead(f"the route to {destination} could not be looked up: {error}") from error
        if not answer or answer[0]["type"] not in (_RTN_UNICAST, _RTN_LOCAL):
            # IPv6 answers with the route even where it is a reject route
            return None
        source, index = answer[0].get("RTA_PREFSRC"), answer[0].get("RTA_OIF")
        if source is None or index is None:
            return None
        if index not in self._links:
            await self._read_links()
        link = self._links.get(index)
        return RouteChoice(ip_address(source), link.name) if link else None

    # Listening

    async def _open_monitor(self) -> Any:
        monitor = AsyncIPRSocket(rcvbuf=self._receive_buffer)
        monitor.set_marshal(HeaderMarshal())
        try:
            await monitor.bind(GROUPS)
            enlarge(monitor, self._receive_buffer)
        except BaseException:
            monitor.close()
            raise
        return monitor

    async def _listen(self) -> None:
        """Note every notification; open anew after an overrun. Ends only with an error, or when cancelled."""
        try:
            while True:
                try:
                    while True:
                        async for message in self._monitor.get():
                            self._note(message["change"])
                except OSError:
                    self.overruns += 1
                    self._monitor.close()
                    self._monitor = await self._open_again()
                    self._note(Change.ALL)
        finally:
            self._woken.set()

    async def _open_again(self) -> Any:
        """As soon as it can be had: descriptors and memory come back."""
        while True:
            try:
                return await self._open_monitor()
            except OSError:
                await asyncio.sleep(REOPEN)
                self._note(Change.ALL)  # what can't be heard is looked for

    def _note(self, change: Change) -> None:
        if change & Change.ROUTING:
            self._routing += 1
        self._pending |= change
        if change & (Change.ADDRESSES | Change.LINKS):
            self._urgent.set()
        self._woken.set()

    def _check_listener(self) -> None:
        if self._listener is None:
            raise AddressWatchError("the address watch is not open; use it with 'async with'")
        if self._listener.done():
            cause = None if self._listener.cancelled() else self._listener.exception()
            raise AddressWatchError(f"address changes are no longer heard: {cause or 'stopped'}") from cause

    async def _settle(self) -> None:
        """Let a burst come to its end. Only changes of the routing alone are held back longer than that."""
        if self._last is None:
            return
        if not self._urgent.is_set():
            since = asyncio.get_running_loop().time() - self._last_emitted
            with suppress(TimeoutError):
                async with asyncio.timeout(ROUTING_INTERVAL - since):
                    await self._urgent.wait()
        await asyncio.sleep(SETTLE)

    # Reading

    async def _snapshot(self, pending: Change) -> HostAddresses:
        # Before reading: a change while reading is counted, and noted, for the next snapshot.
        routing = self._routing
        if not pending & (Change.ADDRESSES | Change.LINKS) and self._last is not None:
            return replace(self._last, routing=routing)
        try:
            messages = await self._request(lambda ipr: _dump(ipr.addr))
            indexes = {message["index"] for message in messages}
            if pending & Change.LINKS or not indexes <= self._links.keys():
                await self._read_links()
        except NetlinkError as error:
            raise AddressesNotRead(f"the host's addresses could not be read: {error}") from error
        # An address without a link: its link has gone since; a notification about that is on its way.
        found = [local for message in messages if (local := _local_address(message, self._links)) is not None]
        return HostAddresses(
            frozenset(local for local in found if self.selection.counts(local)),
            frozenset(link for link in self._links.values() if self.selection.counts_interface(link.name)),
            routing,
            frozenset(local.address for local in found if self.selection.passes_over(local)),
        )

    async def _read_links(self) -> None:
        try:
            messages = await self._request(lambda ipr: _dump(ipr.link))
        except NetlinkError as error:
            raise AddressesNotRead(f"the host's links could not be read: {error}") from error
        links = (_link_state(message) for message in messages)
        self._links = {link.index: link for link in links}

    async def _request(self, operation: Callable[[Any], Awaitable[T]]) -> T:
        """Run one request. NetlinkError is the kernel's answer; anything else costs the socket, and is tried twice."""
        async with self._request_lock:
            for attempt in (1, 2):
                if self._requests is None:
                    self._requests = AsyncIPRoute()
                try:
                    async with asyncio.timeout(REQUEST_TIMEOUT):
                        return await operation(self._requests)
                except NetlinkError:
                    raise
                except (OSError, TimeoutError) as error:
                    self._drop_requests()
                    if attempt == 2:
                        raise AddressesNotRead(f"the kernel does not answer on rtnetlink: {error!r}") from error
                except BaseException:
                    # Cancelled in the middle: what is still to come would be taken for the next answer.
                    self._drop_requests()
                    raise
        raise AssertionError("unreachable")

    def _drop_requests(self) -> None:
        if self._requests is not None:
            self._requests.close()
            self._requests = None


async def _each(answer: Any) -> AsyncIterator[Any]:
    """pyroute2 answers with a list or with an asynchronous generator, depending on the request."""
    if isinstance(answer, list | tuple):
        for message in answer:
            yield message
    else:
        async for message in answer:
            yield message


async def _dump(method: Any) -> list[Any]:
    """All objects of a kind. Reads again when they changed meanwhile (NLM_F_DUMP_INTR); after three times takes what
    there is, because the change has been notified too."""
    messages: list[Any] = []
    for _ in range(3):
        messages = [message async for message in _each(await method("dump"))]
        if not any(message["header"]["flags"] & _NLM_F_DUMP_INTR for message in messages):
            break
    return messages


def _local_address(message: Any, links: dict[int, LinkState]) -> LocalAddress | None:
    link = links.get(message["index"])
    # On point-to-point links IFA_ADDRESS is the other end.
    text = message.get("IFA_LOCAL") or message.get("IFA_ADDRESS")
    if link is None or text is None:
        return None
    address = ip_address(text)
    flags = message.get("IFA_FLAGS") or message["flags"]
    return LocalAddress(
        address=address,
        prefixlen=message["prefixlen"],
        interface=link.name,
        index=link.index,
        scope=message["scope"],
        tentative=bool(flags & _IFA_F_TENTATIVE) and not flags & _IFA_F_OPTIMISTIC,
        dadfailed=bool(flags & _IFA_F_DADFAILED),
        deprecated=bool(flags & _IFA_F_DEPRECATED),
        temporary=address.version == 6 and bool(flags & _IFA_F_TEMPORARY),
        permanent=bool(flags & _IFA_F_PERMANENT),
    )


def _link_state(message: Any) -> LinkState:
    flags = message["flags"]
    return LinkState(
        index=message["index"],
        name=message.get("IFLA_IFNAME") or f"if{message['index']}",
        up=bool(flags & _IFF_UP),
        running=bool(flags & _IFF_UP) and bool(flags & _IFF_RUNNING),
    )

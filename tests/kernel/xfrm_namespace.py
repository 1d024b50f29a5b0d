"""Runs the body of a test in a fresh network namespace, in a thread of its own.

`unshare` moves only the calling thread, so the rest of the test process stays where it is, and the namespace is gone
when the thread and the sockets that it opened are.
"""

import asyncio
import ctypes
import functools
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from typing import Any, Self, TypeVar

from kernel.own_thread import NEW_NETWORK, in_own_thread

T = TypeVar("T")

ENDS = {
    4: (ip_address("10.0.0.1"), ip_address("10.0.0.2")),
    6: (ip_address("2001:db8::1"), ip_address("2001:db8::2")),
}
"""Per IP version: this side's and the neighbor's address."""

_LIBC = ctypes.CDLL(None, use_errno=True)


def ip(line: str, *, check: bool = True) -> str:
    """`ip` with these arguments in the calling thread's namespace; what it prints."""
    done = subprocess.run(["ip", *line.split()], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"ip {line}: {done.stderr.strip()}")
    return done.stdout


def run_in_namespace(body: Callable[[], None]) -> None:
    """Call `body` in a new thread with a new network namespace; what it raises is raised here."""

    def run() -> None:
        ip("link set lo up")
        body()

    in_own_thread(NEW_NETWORK, run)


def in_namespace(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """An asynchronous test that runs in a fresh network namespace with `lo` up."""

    @functools.wraps(test)
    def wrapped(**arguments: Any) -> None:
        run_in_namespace(lambda: asyncio.run(test(**arguments)))

    return wrapped


def drop_capabilities() -> None:
    """Take every effective capability from the calling thread (capset of version 3), for good."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    if _LIBC.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def words(text: str) -> str:
    """Printed output with its layout taken out, for comparing."""
    return " ".join(text.split())


class Neighbor:
    """A second network namespace, joined to the calling thread's by a veth pair called `wire` on both sides.

    This side has 10.0.0.1 and 2001:db8::1, the neighbor 10.0.0.2 and 2001:db8::2. Use as a context manager.
    """

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()
        ip(f"link add wire type veth peer name wire netns {self._process.pid}")
        for host, run in ((1, ip), (2, self.ip)):
            for line in (
                f"addr add 10.0.0.{host}/24 dev wire",
                f"addr add 2001:db8::{host}/64 dev wire nodad",
                "link set wire up",
                "link set lo up",
            ):
                run(line)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ip(self, line: str) -> str:
        return self.call(lambda: ip(line))

    def call(self, function: Callable[[], T]) -> T:
        """The result of `function`, called in the neighbor's namespace; sockets that it opens stay there."""
        results: list[T] = []

        def run() -> None:
            with open(f"/proc/{self._process.pid}/ns/net") as namespace:  # noqa: PTH123 - a descriptor is wanted
                if _LIBC.setns(namespace.fileno(), NEW_NETWORK) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            results.append(function())

        thread = threading.Thread(target=run, name="neighbor")
        thread.start()
        thread.join()
        return results[0]


def datagrams(address: str) -> socket.socket:
    """A UDP socket bound to a free port of an address; waits five seconds at most."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.bind((address, 0))
    except OSError:
        sock.close()
        raise
    sock.settimeout(5)
    return sock


@contextmanager
def two_hosts(version: int) -> Iterator[tuple[Neighbor, socket.socket, socket.socket]]:
    """A neighbor, a UDP socket here and one there."""
    me, peer = ENDS[version]
    with ExitStack() as stack:
        neighbor = stack.enter_context(Neighbor())
        here = stack.enter_context(datagrams(str(me)))
        there = stack.enter_context(neighbor.call(lambda: datagrams(str(peer))))
        exchange(here, there)  # resolves the neighbor while nothing is guarded
        yield neighbor, here, there


def exchange(one: socket.socket, other: socket.socket) -> None:
    """A datagram to the other and one back arrive."""
    for sender, receiver in ((one, other), (other, one)):
        sender.sendto(b"in clear", receiver.getsockname())
        assert receiver.recv(100) == b"in clear"


def assert_not_sent(sender: socket.socket, receiver: socket.socket) -> None:
    """The kernel refuses to send (EPERM): a policy blocks it."""
    try:
        sender.sendto(b"leak", receiver.getsockname())
    except PermissionError:
        return
    raise AssertionError("a guarded packet was sent")

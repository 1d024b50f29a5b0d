"""Locks of TCP connections: nothing that arrives for their addresses and ports reaches a socket, or is answered.

While a socket is taken from one pair of addresses to another there are moments at which nobody has the pair, and the
kernel would answer the peer's packets with a reset. A lock is a `block` policy for incoming packets of exactly one
connection. The kernel asks the policies before it answers, with or without a socket (`no_tcp_socket` in tcp_v4_rcv and
tcp_v6_rcv), and before a socket gets anything. UDP needs no lock.

Locks outlive nobody for long: each has a hard expiry at which the kernel deletes it. The kernel looks at the wall clock
for that, one second after a lock was set and when its time should be over (`xfrm_policy_timer` compares
ktime_get_real_seconds() with the time of adding). So a clock that is set forward ends only locks of that very second,
and one that is set back lets locks live that much longer: until they are removed, as they are by whoever set them.
They are labelled with LOCK, which is not `policies.OWNER`: what reconciles the other policies does not see them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from swanroam.kernel.xfrm.codec import IPAddress
from swanroam.kernel.xfrm.constants import IPPROTO_TCP, Action, Direction
from swanroam.kernel.xfrm.errors import XfrmNotFound
from swanroam.kernel.xfrm.lifetimes import LifetimeLimits
from swanroam.kernel.xfrm.policies import delete_request, dump_policies, update_request
from swanroam.kernel.xfrm.policy import Policy
from swanroam.kernel.xfrm.selectors import Selector
from swanroam.kernel.xfrm.socket import XfrmSocket

LOCK: Final = 0x73776C6B
"""selector.user of every lock: the letters "swlk"."""

LOCK_PRIORITY: Final = 10
"""Before every other policy: the bypasses of `guards` have 50, charon's more than 100 000."""


class TcpTuple(NamedTuple):
    """The ends of a TCP connection, as this host sees them."""

    local: IPAddress
    local_port: int
    remote: IPAddress
    remote_port: int

    def __str__(self) -> str:
        return f"{self.local} port {self.local_port} - {self.remote} port {self.remote_port}"


def lock(connection: TcpTuple, seconds: int) -> Policy:
    """The policy that locks a connection for so long."""
    selector = Selector.between(
        connection.remote,
        connection.local,
        protocol=IPPROTO_TCP,
        source_port=connection.remote_port,
        destination_port=connection.local_port,
        user=LOCK,
    )
    limits = LifetimeLimits(hard_add_expires_seconds=seconds)
    return Policy(selector, Direction.IN, Action.BLOCK, LOCK_PRIORITY, limits=limits)


async def add_locks(xfrm: XfrmSocket, connections: Iterable[TcpTuple], seconds: int) -> None:
    """Lock these connections; those that are locked already are so for `seconds` from now on.

    `seconds`: at least 1. Raises ValueError, XfrmError: then some may be locked, and will expire.
    """
    if seconds < 1:
        raise ValueError(f"a lock of {seconds} s would never expire")
    for error in await xfrm.batch([update_request(lock(connection, seconds)) for connection in connections]):
        if error is not None:
            raise error


async def remove_locks(xfrm: XfrmSocket, connections: Iterable[TcpTuple]) -> None:
    """Let packets of these connections in again; it is no error when they are not locked. Raises XfrmError."""
    await _delete(xfrm, [lock(connection, 1) for connection in connections])


async def find_locks(xfrm: XfrmSocket) -> frozenset[TcpTuple]:
    """Which connections are locked, by whichever run of ours. Raises XfrmError."""
    return frozenset(_connection(policy) for policy in await _locks(xfrm))


async def clear_locks(xfrm: XfrmSocket) -> frozenset[TcpTuple]:
    """Remove all locks and return which there were. Raises XfrmError."""
    found = await _locks(xfrm)
    await _delete(xfrm, found)
    return frozenset(_connection(policy) for policy in found)


async def _locks(xfrm: XfrmSocket) -> list[Policy]:
    return [
        policy
        for policy in await dump_policies(xfrm)
        if policy.selector.user == LOCK and policy.direction is Direction.IN
    ]


async def _delete(xfrm: XfrmSocket, policies: Collection[Policy]) -> None:
    for error in await xfrm.batch([delete_request(policy) for policy in policies]):
        if error is not None and not isinstance(error, XfrmNotFound):
            raise error


def _connection(policy: Policy) -> TcpTuple:
    selector = policy.selector
    return TcpTuple(selector.daddr, selector.dport, selector.saddr, selector.sport)

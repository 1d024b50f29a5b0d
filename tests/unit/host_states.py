"""What the kernel is to be like in the course of a handover, and what must be true of its policies at every step."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv6Network, ip_address

from swanroam.daemon.translation import ANY_TRAFFIC, KernelState, ProtectedTraffic, kernel_state
from swanroam.kernel.xfrm.constants import IPPROTO_IPIP, IPPROTO_IPV6, Action, Direction
from swanroam.kernel.xfrm.guards import BYPASS_PRIORITY, CARRIED_PRIORITY, ELSEWHERE_PRIORITY
from swanroam.kernel.xfrm.policy import Policy
from swanroam.protocol.binding import Binding
from swanroam.protocol.host_state import Crossing, HostState, host_state
from swanroam.protocol.messages import IPAddress

PREFIX = IPv6Network("fd53:7761:6e72::/48")
CLEAR_MARK = 0x5355
DATABASE = frozenset({ProtectedTraffic(6, remote_port=5432)})


def is_bypass(policy: Policy) -> bool:
    return policy.priority == BYPASS_PRIORITY and policy.selector.proto in (IPPROTO_IPIP, IPPROTO_IPV6)


def is_clear(policy: Policy) -> bool:
    return policy.priority == CARRIED_PRIORITY


def judge(policies: Collection[Policy], others: Collection[int]) -> None:
    """What must be true at every step, on a host whose devices beside the carrier's have these indexes."""
    clear = [policy for policy in policies if is_clear(policy)]
    bypasses = [policy.direction for policy in policies if is_bypass(policy)]
    assert not clear or Direction.OUT not in bypasses, "clear packets in a carrier that need not be ESP"
    blocks = [policy for policy in policies if policy.action is Action.BLOCK]
    elsewhere = {
        (policy.selector.saddr, policy.selector.daddr, policy.selector.ifindex)
        for policy in blocks
        if policy.priority == ELSEWHERE_PRIORITY
    }
    for policy in clear:
        selector = policy.selector
        # It has the key that a bypass for the same carrier would have: there can't be both.
        assert any(
            block.direction is policy.direction and block.selector.proto in (IPPROTO_IPIP, IPPROTO_IPV6)
            for block in blocks
        ), "the carrier is not guarded"
        if policy.direction is Direction.OUT and selector.saddr.version == 6:
            assert {(selector.saddr, selector.daddr, index) for index in others} <= elsewhere, "leaves by other devices"


def addresses(version: int) -> tuple[IPAddress, ...]:
    """Three of this host and one of the peer."""
    prefix = "192.0.2." if version == 4 else "2001:db8::"
    return tuple(ip_address(f"{prefix}{number}") for number in (1, 2, 3, 9))


def translated(state: HostState, traffic: frozenset[ProtectedTraffic] = ANY_TRAFFIC) -> KernelState:
    return kernel_state([(state, traffic)], PREFIX, CLEAR_MARK)


def handover(version: int, traffic: frozenset[ProtectedTraffic]) -> list[KernelState]:
    """The states of a host that moves, from the first to the last."""
    a, b, _, peer = addresses(version)
    there = Binding(b, (a,))
    states = [host_state(Binding(a), Binding(peer), peer_proven=peer, holds=True)]
    states += [host_state(there, Binding(peer), peer_proven=peer, holds=True, crossing=step) for step in Crossing]
    states.append(host_state(Binding(b), Binding(peer), peer_proven=peer, holds=True, crossing=Crossing.DONE))
    return [translated(state, traffic) for state in states]

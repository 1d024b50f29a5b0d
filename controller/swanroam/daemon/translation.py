"""From what the machines want to what the kernel modules are told. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv6Network

from swanroam.config import Config
from swanroam.kernel.carrier import Admitted, Carrier, CarrierSettings
from swanroam.kernel.ingress import Clear
from swanroam.kernel.xfrm.constants import IPPROTO_IPIP, IPPROTO_IPV6, Direction
from swanroam.kernel.xfrm.guards import (
    bypass,
    carried_inner_in,
    everywhere,
    guard,
    kept_inbound,
    neighbor_discovery,
    prefix_guard,
    uncounted,
    withheld,
)
from swanroam.kernel.xfrm.lifetimes import Mark
from swanroam.kernel.xfrm.policy import Policy
from swanroam.protocol.host_state import HostState, Pair
from swanroam.protocol.messages import IPAddress


@dataclass(frozen=True, slots=True, order=True)
class ProtectedTraffic:
    """What the CHILD_SAs of a peer protect between its addresses and ours: the narrowest that guards must cover."""

    protocol: int = 0
    """IP protocol number; 0 is any."""
    local_port: int | None = None
    remote_port: int | None = None


ANY_TRAFFIC = frozenset({ProtectedTraffic()})


@dataclass(frozen=True, slots=True)
class KernelState:
    """The union over all peers, in the kernel modules' own words."""

    held: frozenset[IPAddress]
    narrowed: frozenset[IPAddress]
    """Held addresses that are local for what comes out of the carrier alone."""
    carriers: frozenset[Carrier]
    admitted: frozenset[Admitted]
    policies: frozenset[Policy]
    cleared: frozenset[Pair]
    """Pairs whose packets may enter the carrier in clear. The policies for it need the device's index."""
    pairs: frozenset[Pair]
    """All that any peer has: what is locked between others is of no use any more."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What there is on this host besides the peers' business."""

    sealed: frozenset[int] = frozenset()
    """IP versions in which nothing unprotected may leave to a peer from an address that is not known yet."""
    uncounted: frozenset[IPAddress] = frozenset()
    """This host's addresses that the configuration passes over: what they send is none of ours."""


def carrier_settings(config: Config) -> CarrierSettings:
    """The carrier's numbers, as configured."""
    return CarrierSettings(config.carrier.table, config.carrier.rule_priority, config.control.mark)


def kernel_state(
    peers: Collection[tuple[HostState, frozenset[ProtectedTraffic]]],
    control_prefix: IPv6Network,
    clear_mark: int,
    facts: HostFacts = HostFacts(),
) -> KernelState:
    """What the kernel should have, given each peer's wanted state and the traffic that its CHILD_SAs protect.

    `clear_mark`: skb mark of what may come out of the carrier in clear.
    """
    union = HostState()
    # What one peer has proven is not withheld for another's claim to it.
    freed = frozenset[Pair]().union(*(state.guarded - state.withheld for state, _ in peers))
    policies: set[Policy] = set(prefix_guard(control_prefix))
    for state, protected in peers:
        union |= state
        for pair in state.guarded:
            for traffic in protected:
                policies |= _guards(pair, traffic)
            if pair.local.version == 6:
                # Two hosts on one link must find each other's link address before any IPsec (RFC 4861 §7.2).
                policies |= neighbor_discovery(pair.local, pair.remote, Direction.OUT)
                policies |= neighbor_discovery(pair.remote, pair.local, Direction.IN)
        for remote in state.shut:
            if remote.version in facts.sealed:
                policies |= _seal(remote, protected, facts.uncounted)
        for pair in state.withheld - freed:
            policies |= {
                withheld(policy)
                for traffic in protected
                for policy in _guards(pair, traffic)
                if policy.direction is Direction.OUT
            }
    for pair in union.bypassed:
        policies |= _bypasses(pair, Direction.IN, Direction.OUT)
    for pair in union.bypassed_in:
        policies |= _bypasses(pair, Direction.IN)
    # Whatever its CHILD_SAs protect: a carrier whose content is clear is inside ESP, or does not leave.
    for outer in {entry.outer for entry in union.carried if entry.inner in union.cleared}:
        policies |= _guards(outer, ProtectedTraffic(_carrier_protocol(outer)))
    policies |= {kept_inbound(pair.remote, pair.local) for pair in union.accepted}
    policies |= {carried_inner_in(pair.remote, pair.local, Mark(clear_mark, 0xFFFFFFFF)) for pair in union.cleared}
    clear = {
        entry.inner: Clear(clear_mark, entry.outer.remote, entry.outer.local)
        for entry in union.carried
        if entry.inner in union.cleared and not entry.control_only
    }
    return KernelState(
        held=union.held,
        narrowed=union.held - union.reachable,
        carriers=carriers(union),
        admitted=frozenset(
            Admitted(pair.remote, pair.local, clear.get(pair)) for pair in union.admitted | union.cleared
        ),
        policies=frozenset(policies),
        cleared=union.cleared,
        pairs=union.guarded,
    )


def carriers(state: HostState) -> frozenset[Carrier]:
    """What is carried, and between which outer addresses."""
    return frozenset(
        Carrier(
            local=entry.inner.local,
            remote=entry.inner.remote,
            outer_local=entry.outer.local,
            outer_remote=entry.outer.remote,
            control_only=entry.control_only,
        )
        for entry in state.carried
    )


def _guards(pair: Pair, traffic: ProtectedTraffic) -> set[Policy]:
    return {
        guard(
            pair.local,
            pair.remote,
            Direction.OUT,
            protocol=traffic.protocol,
            source_port=traffic.local_port,
            destination_port=traffic.remote_port,
        ),
        guard(
            pair.remote,
            pair.local,
            Direction.IN,
            protocol=traffic.protocol,
            source_port=traffic.remote_port,
            destination_port=traffic.local_port,
        ),
    }


def _seal(remote: IPAddress, protected: frozenset[ProtectedTraffic], passed_over: frozenset[IPAddress]) -> set[Policy]:
    """What keeps unprotected packets to a peer from leaving by any address of this host that counts, now or later."""
    anywhere = everywhere(remote.version)
    policies = {
        guard(
            anywhere,
            remote,
            Direction.OUT,
            protocol=traffic.protocol,
            source_port=traffic.local_port,
            destination_port=traffic.remote_port,
        )
        for traffic in protected
    }
    policies |= {uncounted(address, remote) for address in passed_over if address.version == remote.version}
    if remote.version == 6:
        policies |= neighbor_discovery(anywhere, remote, Direction.OUT)
    return policies


def _carrier_protocol(pair: Pair) -> int:
    return IPPROTO_IPIP if pair.local.version == 4 else IPPROTO_IPV6


def _bypasses(pair: Pair, *directions: Direction) -> set[Policy]:
    protocol = _carrier_protocol(pair)
    ends = {Direction.OUT: (pair.local, pair.remote), Direction.IN: (pair.remote, pair.local)}
    return {bypass(*ends[direction], protocol, direction) for direction in directions}

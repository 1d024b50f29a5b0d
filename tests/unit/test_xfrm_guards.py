"""The policies that swanroam makes: what they select and in which order the kernel asks them."""

from ipaddress import IPv4Network, ip_address, ip_network

import pytest

from swanroam.kernel.xfrm import guards
from swanroam.kernel.xfrm.codec import IPAddress
from swanroam.kernel.xfrm.constants import Action, Direction
from swanroam.kernel.xfrm.lifetimes import Mark
from swanroam.kernel.xfrm.policies import OWNER
from swanroam.kernel.xfrm.policy import Policy

ME, PEER = ip_address("10.0.0.1"), ip_address("10.0.0.2")
ME6, PEER6 = ip_address("2001:db8::1"), ip_address("2001:db8::2")
CHARON_HOST_TO_HOST, CHARON_LOWEST = 367_231, 400_000


def test_guards_come_after_charon_and_bypasses_before() -> None:
    guard = guards.guard(ME, PEER, Direction.OUT)
    carried = guards.carried_inner_out(ME, PEER, 7)
    bypass = guards.bypass(ME, PEER, 4, Direction.OUT)
    assert bypass.priority < CHARON_HOST_TO_HOST < CHARON_LOWEST < carried.priority < guard.priority


def test_every_policy_bears_the_owners_mark() -> None:
    policies = {
        guards.guard(ME, PEER, Direction.FWD),
        guards.bypass(ME, PEER, 4, Direction.IN),
        guards.carried_inner_out(ME, PEER, 7),
        guards.carried_inner_in(PEER, ME, Mark(1, 1)),
        *guards.neighbor_discovery(ME6, PEER6, Direction.OUT),
        *guards.prefix_guard(ip_network("fd53::/48")),
    }
    assert {policy.selector.user for policy in policies} == {OWNER}
    assert OWNER.to_bytes(4, "big") == b"swnr"


@pytest.mark.parametrize(("me", "peer"), [(ME, PEER), (ME6, PEER6)])
def test_every_policy_is_the_same_when_it_is_read_back(me: IPAddress, peer: IPAddress) -> None:
    """Or it would be set again whenever the kernel is compared with what should be."""
    policies = {
        guards.guard(me, peer, Direction.OUT, protocol=6, destination_port=80),
        guards.bypass(me, peer, 4, Direction.IN),
        guards.carried_inner_out(me, peer, 7),
        guards.carried_inner_in(peer, me, Mark(1, 1)),
        guards.kept_inbound(peer, me),
    }
    assert {Policy.decode(policy.encode()) for policy in policies} == policies


def test_guard_of_one_connection() -> None:
    guard = guards.guard(ME, PEER, Direction.IN, protocol=6, source_port=80, destination_port=1024)
    assert guard.action is Action.BLOCK
    assert str(guard) == "in block 10.0.0.1/32 -> 10.0.0.2/32 tcp sport 80 dport 1024 priority 900000"


@pytest.mark.parametrize("protocol", [0, 6, 50, 256])
def test_only_ip_in_ip_is_bypassed(protocol: int) -> None:
    with pytest.raises(ValueError, match="not an IP-in-IP carrier"):
        guards.bypass(ME, PEER, protocol, Direction.OUT)


def test_carried_inner_packets_are_told_by_device_or_mark() -> None:
    assert guards.carried_inner_out(ME, PEER, 7).selector.ifindex == 7
    assert guards.carried_inner_out(ME6, PEER6, 7).selector.ifindex == 0
    incoming = guards.carried_inner_in(PEER, ME, Mark(0x53, 0xFF))
    assert (incoming.mark, incoming.selector.ifindex) == (Mark(0x53, 0xFF), 0)
    with pytest.raises(ValueError, match="index of a device"):
        guards.carried_inner_out(ME, PEER, 0)
    with pytest.raises(ValueError, match="in clear"):
        guards.carried_inner_in(PEER, ME, Mark(0x53, 0))


def test_neighbor_discovery_passes_solicitation_and_advertisement_only() -> None:
    policies = guards.neighbor_discovery(PEER6, ME6, Direction.IN)
    assert {(p.action, p.selector.proto, p.selector.sport, p.selector.sport_mask) for p in policies} == {
        (Action.ALLOW, 58, 135, 0xFFFF),
        (Action.ALLOW, 58, 136, 0xFFFF),
    }
    with pytest.raises(ValueError, match="IPv6 neighbor discovery"):
        guards.neighbor_discovery(ME, PEER, Direction.OUT)


@pytest.mark.parametrize("prefix", ["fd53:1:2::/48", "192.0.2.0/24"])
def test_prefix_guard_blocks_both_ways_in_all_directions(prefix: str) -> None:
    network = ip_network(prefix)
    everything = ip_network("::/0") if network.version == 6 else IPv4Network("0.0.0.0/0")
    policies = guards.prefix_guard(network)
    assert {p.action for p in policies} == {Action.BLOCK}
    assert {(p.direction, p.selector.source, p.selector.destination) for p in policies} == {
        (direction, *ends)
        for direction in (Direction.IN, Direction.OUT, Direction.FWD)
        for ends in ((network, everything), (everything, network))
    }

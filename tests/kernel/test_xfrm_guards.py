"""What the policies of `guards` do to packets: which of them are asked first, what passes, what is dropped.

Clear packets are sent to a neighbor and back; one that shall be dropped is followed by one that shall arrive, on the
same path, so that the second's arrival shows the first one's loss.
"""

import asyncio
import errno
import socket
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from kernel.xfrm_namespace import ENDS, Neighbor, assert_not_sent, datagrams, exchange, in_namespace, ip, two_hosts
from swanroam.kernel.xfrm import guards
from swanroam.kernel.xfrm.constants import Direction
from swanroam.kernel.xfrm.policies import OWNER, add_policy, apply_owned, clear_owned, delete_policy
from swanroam.kernel.xfrm.policy import Policy
from swanroam.kernel.xfrm.selectors import Selector
from swanroam.kernel.xfrm.socket import XfrmSocket
from swanroam.kernel.xfrm.stats import difference, read_statistics

pytestmark = pytest.mark.kernel

ME, PEER = ip_address("10.0.0.1"), ip_address("10.0.0.2")
ME6, PEER6 = ip_address("2001:db8::1"), ip_address("2001:db8::2")
versions = pytest.mark.parametrize("version", [4, 6])


@versions
@in_namespace
async def test_guard_stops_clear_packets_as_soon_as_no_policy_before_it_selects_them(version: int) -> None:
    me, peer = ENDS[version]
    guard = guards.guard(me, peer, Direction.OUT)
    allow = Policy(Selector.between(me, peer), Direction.OUT, priority=367_231)
    with two_hosts(version) as (_, here, there):
        async with XfrmSocket() as xfrm:
            await add_policy(xfrm, allow)
            await apply_owned(xfrm, {guard})
            exchange(here, there)
            await delete_policy(xfrm, allow)
            assert_not_sent(here, there)
            await add_policy(xfrm, allow)
            exchange(here, there)
            await delete_policy(xfrm, allow)
            await clear_owned(xfrm)
            exchange(here, there)


@versions
@in_namespace
async def test_a_new_address_sends_nothing_in_clear_to_a_peer_that_is_guarded_from_everywhere(version: int) -> None:
    """A socket without an address of its own takes the new one as soon as the routing prefers it."""
    new, bits = {4: ("10.0.0.77", "32"), 6: ("2001:db8::77", "128 nodad")}[version]
    _, peer = ENDS[version]
    everywhere = guards.guard(guards.everywhere(version), peer, Direction.OUT)
    with two_hosts(version) as (_, here, there), socket.socket(here.family, socket.SOCK_DGRAM) as unbound:
        unbound.settimeout(5)
        async with XfrmSocket() as xfrm:
            await apply_owned(xfrm, {everywhere})
            ip(f"address add {new}/{bits} dev wire")
            ip(f"route add {peer} dev wire src {new}")
            assert_not_sent(unbound, there)
            await apply_owned(xfrm, {everywhere, guards.uncounted(ip_address(new), peer)})
            unbound.sendto(b"none of our business", there.getsockname())
            assert there.recvfrom(100)[1][0] == new
            assert_not_sent(here, there)


@versions
@in_namespace
async def test_what_is_withheld_is_stopped_although_a_policy_lets_it_pass(version: int) -> None:
    """And the change from guard to withheld and back is one of a policy in its place: there is never none."""
    me, peer = ENDS[version]
    guard = guards.guard(me, peer, Direction.OUT)
    charons = Policy(Selector.between(me, peer), Direction.OUT, priority=100_000)
    with two_hosts(version) as (_, here, there):
        async with XfrmSocket() as xfrm:
            await add_policy(xfrm, charons)
            await apply_owned(xfrm, {guard})
            exchange(here, there)
            changes = await apply_owned(xfrm, {guards.withheld(guard)})
            assert (len(changes.updated), len(changes.added | changes.deleted)) == (1, 0)
            assert_not_sent(here, there)
            there.sendto(b"in", here.getsockname())
            assert here.recv(100) == b"in", "what comes is not withheld"
            await apply_owned(xfrm, {guard})
            exchange(here, there)
            await delete_policy(xfrm, charons)
            await clear_owned(xfrm)


@versions
@in_namespace
async def test_guard_drops_clear_packets_that_come_in(version: int) -> None:
    me, peer = ENDS[version]
    with two_hosts(version) as (_, here, there):
        async with XfrmSocket() as xfrm:
            port = here.getsockname()[1]
            before = read_statistics()
            await apply_owned(xfrm, {guards.guard(peer, me, Direction.IN, protocol=17, destination_port=port)})
            there.sendto(b"leak", here.getsockname())
            with datagrams(str(me)) as unguarded:
                there.sendto(b"not guarded", unguarded.getsockname())
                assert unguarded.recv(100) == b"not guarded"
            assert difference(before, read_statistics()) == {"XfrmInPolBlock": 1}
            await clear_owned(xfrm)
            exchange(there, here)


@in_namespace
async def test_bypass_lets_ip_in_ip_pass_and_nothing_else() -> None:
    with two_hosts(4) as (neighbor, here, there), ExitStack() as stack:
        tunnel = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IPIP))
        far_end = stack.enter_context(
            neighbor.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IPIP))
        )
        far_end.settimeout(5)
        async with XfrmSocket() as xfrm:
            await apply_owned(xfrm, {guards.guard(ME, PEER, Direction.OUT)})
            with pytest.raises(PermissionError):
                tunnel.sendto(bytes(20), (str(PEER), 0))
            await apply_owned(xfrm, {guards.guard(ME, PEER, Direction.OUT), guards.bypass(ME, PEER, 4, Direction.OUT)})
            tunnel.sendto(b"inner packet", (str(PEER), 0))
            assert far_end.recv(100).endswith(b"inner packet")
            assert_not_sent(here, there)


@in_namespace
async def test_carried_packets_may_leave_by_the_carriers_device_only() -> None:
    with two_hosts(4) as (_, here, there):
        async with XfrmSocket() as xfrm:
            guard = guards.guard(ME, PEER, Direction.OUT)
            await apply_owned(xfrm, {guard, guards.carried_inner_out(ME, PEER, socket.if_nametoindex("wire"))})
            exchange(here, there)
            await apply_owned(xfrm, {guard, guards.carried_inner_out(ME, PEER, socket.if_nametoindex("lo"))})
            assert_not_sent(here, there)


@in_namespace
async def test_device_in_an_ipv6_selector_is_not_the_routes() -> None:
    """Why `carried_inner_out` cannot name the carrier's device for IPv6."""
    with two_hosts(6) as (_, here, there):
        wire = socket.if_nametoindex("wire")
        guard = guards.guard(ME6, PEER6, Direction.OUT)
        by_device = Policy(Selector.between(ME6, PEER6, ifindex=wire, user=OWNER), Direction.OUT)
        async with XfrmSocket() as xfrm:
            await apply_owned(xfrm, {guard, by_device})
            assert_not_sent(here, there)
            here.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wire")
            exchange(here, there)


@in_namespace
async def test_carried_ipv6_packets_may_leave() -> None:
    with two_hosts(6) as (_, here, there):
        async with XfrmSocket() as xfrm:
            guard = guards.guard(ME6, PEER6, Direction.OUT)
            await apply_owned(xfrm, {guard, guards.carried_inner_out(ME6, PEER6, socket.if_nametoindex("wire"))})
            exchange(here, there)


@in_namespace
async def test_guarded_neighbors_still_find_each_other_on_the_link() -> None:
    """On one link not even IKE can begin before the peer's neighbor advertisement was accepted."""
    guarded = {guards.guard(ME6, PEER6, Direction.OUT), guards.guard(PEER6, ME6, Direction.IN)}
    discovery = guards.neighbor_discovery(ME6, PEER6, Direction.OUT) | guards.neighbor_discovery(
        PEER6, ME6, Direction.IN
    )
    ike = [
        Policy(Selector.between(ME6, PEER6, protocol=17), Direction.OUT, priority=1),
        Policy(Selector.between(PEER6, ME6, protocol=17), Direction.IN, priority=1),
    ]
    with Neighbor() as neighbor, datagrams(str(ME6)) as here:
        ip("neigh flush dev wire")
        with neighbor.call(lambda: datagrams(str(PEER6))) as there:
            async with XfrmSocket() as xfrm:
                for policy in ike:
                    await add_policy(xfrm, policy)
                before = read_statistics()
                await apply_owned(xfrm, guarded)
                here.sendto(b"waits for the advertisement", there.getsockname())
                while "XfrmInPolBlock" not in difference(before, read_statistics()):
                    await asyncio.sleep(0.01)  # the answering advertisement arrives and is dropped
                await apply_owned(xfrm, guarded | discovery)
                assert there.recv(100) == b"waits for the advertisement"
                exchange(there, here)


@pytest.mark.parametrize("prefix", ["fd53:1::/48", "198.51.100.0/24"])
@in_namespace
async def test_prefix_is_neither_reached_nor_believed_in_clear(prefix: str) -> None:
    network = ip_network(prefix)
    inner_here, inner_there = network[1], network[2]
    me, peer = ENDS[network.version]
    length = network.max_prefixlen
    with Neighbor() as neighbor:
        nodad = "nodad" if network.version == 6 else ""  # without it an address is tentative for a moment
        ip(f"addr add {inner_here}/{length} dev lo {nodad}")
        ip(f"route add {network} via {peer}")
        neighbor.ip(f"addr add {inner_there}/{length} dev lo {nodad}")
        neighbor.ip(f"route add {network} via {me}")
        with datagrams(str(inner_here)) as here, neighbor.call(lambda: datagrams(str(inner_there))) as there:
            exchange(here, there)
            async with XfrmSocket() as xfrm:
                await apply_owned(xfrm, guards.prefix_guard(network))
                assert_not_sent(here, there)
                before = read_statistics()
                there.sendto(b"leak", here.getsockname())
                with datagrams(str(me)) as outer, neighbor.call(lambda: datagrams(str(peer))) as peer_outer:
                    peer_outer.sendto(b"into the prefix", here.getsockname())
                    exchange(outer, peer_outer)
                assert difference(before, read_statistics())["XfrmInPolBlock"] == 2
                await clear_owned(xfrm)
                exchange(here, there)


@in_namespace
async def test_error_of_a_guarded_send_is_eperm() -> None:
    """What an application sees when its packet would have left in clear."""
    with two_hosts(4) as (_, here, there):
        async with XfrmSocket() as xfrm:
            await apply_owned(xfrm, {replace(guards.guard(ME, PEER, Direction.OUT), priority=0)})
            with pytest.raises(OSError) as caught:
                here.sendto(b"leak", there.getsockname())
            assert caught.value.errno == errno.EPERM

"""Policies on the real kernel: the same to `ip xfrm` and to us, ours beside charon's, diffed and cleared."""

import socket
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from kernel.xfrm_namespace import drop_capabilities, in_namespace, ip, words
from swanroam.kernel.xfrm import guards
from swanroam.kernel.xfrm.constants import (
    Action,
    Direction,
    Family,
    Group,
    Mode,
    PolicyFlags,
)
from swanroam.kernel.xfrm.errors import XfrmError, XfrmExists, XfrmNotFound, XfrmOverrun, XfrmPermission
from swanroam.kernel.xfrm.events import Change, Overrun, PoliciesFlushed, PolicyChanged
from swanroam.kernel.xfrm.lifetimes import LifetimeLimits, Mark
from swanroam.kernel.xfrm.monitor import XfrmMonitor
from swanroam.kernel.xfrm.policies import (
    OWNER,
    PolicyChanges,
    add_policy,
    apply_owned,
    clear_owned,
    delete_policy,
    dump_policies,
    find_owned,
    get_policy,
    update_policy,
)
from swanroam.kernel.xfrm.policy import Policy, Template
from swanroam.kernel.xfrm.selectors import Selector
from swanroam.kernel.xfrm.socket import XfrmSocket

pytestmark = pytest.mark.kernel

ME, PEER, OTHER = ip_address("10.0.0.1"), ip_address("10.0.0.2"), ip_address("10.0.0.3")
ME6, PEER6 = ip_address("2001:db8::1"), ip_address("2001:db8::2")
ANY6 = ip_address("::")

CHARON = Policy(Selector.between(ME, PEER), Direction.OUT, priority=367_231, templates=(Template(reqid=1),))

# What `ip` is told, and the same as a value.
SAME_POLICIES = {
    "transport": (
        "src 10.0.0.1 dst 10.0.0.2 dir out priority 367231 tmpl proto esp reqid 1 mode transport",
        CHARON,
    ),
    "tunnel6": (
        "src fd53::1/128 dst fd53::2/128 dir in priority 5 tmpl src 10.0.0.2 dst 10.0.0.1 proto esp spi 0xc0de "
        "reqid 7 mode tunnel",
        Policy(
            Selector.between(ip_address("fd53::1"), ip_address("fd53::2")),
            Direction.IN,
            priority=5,
            templates=(Template(7, Mode.TUNNEL, 50, PEER, ME, Family.INET, 0xC0DE),),
        ),
    ),
    "optional": (
        "src 2001:db8::1 dst 2001:db8::2 dir in tmpl proto comp reqid 3 mode transport level use "
        "tmpl proto ah reqid 4 mode transport",
        Policy(
            Selector.between(ME6, PEER6),
            Direction.IN,
            templates=(
                Template(3, Mode.TRANSPORT, 108, ANY6, ANY6, Family.INET6, optional=1),
                Template(4, Mode.TRANSPORT, 51, ANY6, ANY6, Family.INET6),
            ),
        ),
    ),
    "block": (
        "src 10.0.0.0/24 dst 0.0.0.0/0 proto tcp sport 80 dport 1024 dir fwd action block priority 9 flag localok",
        Policy(
            Selector.between(
                ip_network("10.0.0.0/24"),
                ip_network("0.0.0.0/0"),
                protocol=6,
                source_port=80,
                destination_port=1024,
            ),
            Direction.FWD,
            Action.BLOCK,
            9,
            flags=PolicyFlags.LOCALOK,
        ),
    ),
    "device": (
        "src 10.0.0.1 dst 10.0.0.2 dev lo dir out priority 800000",
        Policy(Selector.between(ME, PEER, ifindex=1), Direction.OUT, priority=800_000),
    ),
    "icmp": (
        "src 2001:db8::1 dst 2001:db8::2 proto ipv6-icmp type 135 code 0 dir out flag icmp",
        Policy(
            Selector.between(ME6, PEER6, protocol=58, source_port=135, destination_port=0),
            Direction.OUT,
            flags=PolicyFlags.ICMP,
        ),
    ),
    "mark": (
        "src 10.0.0.1 dst 10.0.0.2 dir in mark 0x53 mask 0xff priority 3",
        Policy(Selector.between(ME, PEER), Direction.IN, priority=3, mark=Mark(0x53, 0xFF)),
    ),
    "if_id": (
        "src 10.0.0.1 dst 10.0.0.2 dir in if_id 0x2a",
        Policy(Selector.between(ME, PEER), Direction.IN, if_id=42),
    ),
    "limits": (
        "src 10.0.0.1 dst 10.0.0.2 dir out ptype main limit time-soft 1000 limit time-hard 2000 "
        "limit time-use-soft 10 limit time-use-hard 20 limit byte-soft 30 limit byte-hard 40 "
        "limit packet-soft 50 limit packet-hard 60",
        Policy(
            Selector.between(ME, PEER),
            Direction.OUT,
            limits=LifetimeLimits(30, 40, 50, 60, 1000, 2000, 10, 20),
        ),
    ),
}


def printed() -> str:
    """What ip prints of every policy, with limits; without the index and the times, which are the kernel's."""
    text = words(ip("-d -s xfrm policy"))
    kept = [word for word in text.split() if not word[:4].isdigit() or "-" not in word]
    return " ".join(kept).split("lifetime current")[0]


@pytest.mark.parametrize("name", SAME_POLICIES)
@in_namespace
async def test_policy_made_by_ip_is_read_by_us(name: str) -> None:
    line, value = SAME_POLICIES[name]
    ip(f"xfrm policy add {line}")
    async with XfrmSocket() as xfrm:
        assert await dump_policies(xfrm) == [value]
        assert await get_policy(xfrm, value.key) == value


@pytest.mark.parametrize("name", SAME_POLICIES)
@in_namespace
async def test_policy_made_by_us_is_printed_by_ip_as_its_own(name: str) -> None:
    line, value = SAME_POLICIES[name]
    ip(f"xfrm policy add {line} index {8 + value.direction}")
    by_ip = printed()
    async with XfrmSocket() as xfrm:
        await delete_policy(xfrm, value)
        assert ip("xfrm policy") == ""
        await add_policy(xfrm, replace(value, index=8 + value.direction))
    assert printed() == by_ip
    assert by_ip


@in_namespace
async def test_owners_mark_is_printed_by_ip() -> None:
    async with XfrmSocket() as xfrm:
        await add_policy(xfrm, guards.guard(ME, PEER, Direction.OUT))
    assert f"uid {OWNER}" in ip("-s xfrm policy")


@in_namespace
async def test_guard_stands_beside_charons_policy_for_the_same_packets() -> None:
    guard = guards.guard(ME, PEER, Direction.OUT)
    async with XfrmSocket() as xfrm:
        await add_policy(xfrm, CHARON)
        await add_policy(xfrm, guard)
        assert set(await dump_policies(xfrm)) == {CHARON, guard}
        assert await find_owned(xfrm) == {guard}
        with pytest.raises(XfrmExists, match=r"out block 10\.0\.0\.1/32 -> 10\.0\.0\.2/32"):
            await add_policy(xfrm, replace(guard, priority=1))
        await delete_policy(xfrm, guard)
        assert await dump_policies(xfrm) == [CHARON]
        with pytest.raises(XfrmNotFound):
            await delete_policy(xfrm, guard)
        await add_policy(xfrm, guard)
        await delete_policy(xfrm, CHARON)
        assert await dump_policies(xfrm) == [guard]


@in_namespace
async def test_wanted_policies_are_reached_from_any_state_and_kept() -> None:
    guard, bypass = guards.guard(ME, PEER, Direction.OUT), guards.bypass(ME, PEER, 4, Direction.OUT)
    carried = guards.carried_inner_in(PEER, ME, Mark(0x53, 0xFF))
    async with XfrmSocket() as xfrm:
        await add_policy(xfrm, CHARON)
        first = await apply_owned(xfrm, {guard, bypass})
        assert first == PolicyChanges(added=frozenset({guard, bypass}))
        assert not await apply_owned(xfrm, [bypass, guard, guard])

        loud = replace(guard, action=Action.ALLOW, priority=4, templates=(Template(reqid=9),))
        second = await apply_owned(xfrm, {loud, carried})
        assert second == PolicyChanges(frozenset({carried}), frozenset({loud}), frozenset({bypass}))
        assert await find_owned(xfrm) == {loud, carried}
        assert set(await dump_policies(xfrm)) == {CHARON, loud, carried}

        assert await clear_owned(xfrm) == {loud, carried}
        assert await clear_owned(xfrm) == frozenset()
        assert await dump_policies(xfrm) == [CHARON]


@in_namespace
async def test_changes_are_made_blocks_first_and_removed_blocks_last() -> None:
    guard, bypass = guards.guard(ME, PEER, Direction.OUT), guards.bypass(ME, PEER, 4, Direction.OUT)
    incoming, underway = guards.guard(PEER, ME, Direction.IN), guards.bypass(PEER, ME, 4, Direction.IN)
    other = guards.guard(ME, OTHER, Direction.OUT)
    async with XfrmMonitor({Group.POLICY}) as monitor, XfrmSocket() as xfrm:
        await apply_owned(xfrm, {bypass, guard})
        await apply_owned(xfrm, {bypass, guard, incoming, underway})
        await apply_owned(xfrm, {bypass, guard})
        await apply_owned(xfrm, {other})
        ip("xfrm policy flush")
        seen = []
        async for event in monitor:
            if isinstance(event, PoliciesFlushed):
                break
            assert isinstance(event, PolicyChanged)
            seen.append((event.change, event.policy))
    assert seen == [
        (Change.UPDATED, guard),
        (Change.UPDATED, bypass),
        (Change.UPDATED, underway),
        (Change.UPDATED, incoming),
        (Change.DELETED, underway),
        (Change.DELETED, incoming),
        (Change.UPDATED, other),
        (Change.DELETED, bypass),
        (Change.DELETED, guard),
    ]


@in_namespace
async def test_nothing_is_deleted_when_something_cannot_be_added() -> None:
    guard = guards.guard(ME, PEER, Direction.OUT)
    impossible = replace(guards.guard(ME, OTHER, Direction.OUT), templates=(Template(mode=Mode(77)),))
    async with XfrmSocket() as xfrm:
        await apply_owned(xfrm, {guard})
        with pytest.raises(XfrmError, match="set policy"):
            await apply_owned(xfrm, {impossible})
        assert await find_owned(xfrm) == {guard}


@in_namespace
async def test_foreign_or_contradictory_wishes_are_refused_before_anything_is_done() -> None:
    guard = guards.guard(ME, PEER, Direction.OUT)
    async with XfrmSocket() as xfrm:
        with pytest.raises(ValueError, match="not a policy of ours"):
            await apply_owned(xfrm, {guard, CHARON})
        with pytest.raises(ValueError, match="two wanted policies"):
            await apply_owned(xfrm, {guard, replace(guard, action=Action.ALLOW)})
        assert await dump_policies(xfrm) == []


@in_namespace
async def test_of_two_wanted_for_the_same_packets_the_first_asked_is_installed() -> None:
    guard, carried = guards.guard(ME6, PEER6, Direction.OUT), guards.carried_inner_out(ME6, PEER6, 1)
    async with XfrmSocket() as xfrm:
        await apply_owned(xfrm, {guard})
        assert (await apply_owned(xfrm, {guard, carried})).updated == {carried}
        assert not await apply_owned(xfrm, [carried, guard])
        assert await find_owned(xfrm) == {carried}
        assert (await apply_owned(xfrm, {guard})).updated == {guard}


@in_namespace
async def test_policies_that_differ_in_mark_or_interface_only_are_told_apart() -> None:
    plain = guards.guard(ME, PEER, Direction.IN)
    marked = [replace(plain, mark=Mark(value, 0xFF)) for value in (1, 2)]
    by_interface = replace(plain, if_id=42)
    async with XfrmSocket() as xfrm:
        await apply_owned(xfrm, {plain, *marked, by_interface})
        changes = await apply_owned(xfrm, {plain, marked[1]})
        assert changes.deleted == {marked[0], by_interface}
        assert await find_owned(xfrm) == {plain, marked[1]}


@in_namespace
async def test_policies_of_sockets_are_listed_and_left_alone() -> None:
    """An IKE daemon lets its own packets pass by a policy on its socket (IP_XFRM_POLICY)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ike:
        info = Policy(Selector(ip_address(0), ip_address(0), 0, 0, Family.INET), Direction.OUT).encode()
        ike.setsockopt(socket.IPPROTO_IP, 17, info)
        async with XfrmSocket() as xfrm:
            guard = guards.guard(ME, PEER, Direction.OUT)
            await apply_owned(xfrm, {guard})
            listed = await dump_policies(xfrm)
            assert {policy.direction for policy in listed} == {Direction.OUT, Direction.SOCKET_OUT}
            await clear_owned(xfrm)
            assert [policy.direction for policy in await dump_policies(xfrm)] == [Direction.SOCKET_OUT]


@in_namespace
async def test_thousands_of_policies_are_kept_as_wanted() -> None:
    wanted = {
        guards.guard(ip_address(0x0A000000 + number), PEER, direction)
        for number in range(1500)
        for direction in (Direction.IN, Direction.OUT)
    }
    async with XfrmSocket() as xfrm:
        assert (await apply_owned(xfrm, wanted)).added == wanted
        assert not await apply_owned(xfrm, wanted)
        assert await clear_owned(xfrm) == wanted


@in_namespace
async def test_update_replaces_and_adds() -> None:
    guard = guards.guard(ME, PEER, Direction.OUT)
    async with XfrmSocket() as xfrm:
        await update_policy(xfrm, guard)
        await update_policy(xfrm, replace(guard, action=Action.ALLOW))
        assert await dump_policies(xfrm) == [replace(guard, action=Action.ALLOW)]


@in_namespace
async def test_unread_events_end_in_an_overrun_and_later_ones_arrive() -> None:
    guard = guards.guard(ME, PEER, Direction.OUT)
    async with XfrmMonitor({Group.POLICY}, receive_buffer=4096) as monitor, XfrmSocket() as xfrm:
        for number in range(100):
            await update_policy(xfrm, replace(guard, priority=number))
        while not isinstance(await anext(monitor), Overrun):
            pass
        await delete_policy(xfrm, guard)
        assert await anext(monitor) == PolicyChanged(Change.DELETED, replace(guard, priority=99))


@in_namespace
async def test_lost_acknowledgments_are_an_error_and_the_socket_works_on() -> None:
    policies = [guards.guard(ip_address(0x0A000000 + number), PEER, Direction.OUT) for number in range(400)]
    async with XfrmSocket(receive_buffer=4096) as xfrm:
        with pytest.raises(XfrmOverrun, match="read back and repeat"):
            await apply_owned(xfrm, policies)
        assert await find_owned(xfrm) == set(policies)
        await add_policy(xfrm, CHARON)


@in_namespace
async def test_without_capability_the_error_says_which_one_is_missing() -> None:
    drop_capabilities()
    async with XfrmSocket() as xfrm:
        with pytest.raises(XfrmPermission, match="CAP_NET_ADMIN"):
            await find_owned(xfrm)
    with pytest.raises(XfrmPermission, match="CAP_NET_ADMIN"):
        XfrmMonitor({Group.POLICY})

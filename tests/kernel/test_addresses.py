"""The address watch against the running kernel: what it reports is what `ip` says, whatever happens."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import pytest

from kernel.fresh_namespace import in_fresh_namespace, ip, until_local
from swanroam.kernel import address_watch
from swanroam.kernel.address_watch import AddressesNotRead, AddressWatch, AddressWatchError
from swanroam.kernel.addresses import AddressSelection, HostAddresses, LinkState, LocalAddress, RouteChoice
from swanroam.kernel.rtnetlink import RouteSocket
from unit.descriptors import no_descriptors

pytestmark = pytest.mark.kernel

OLD = ip_address("192.0.2.1")
NEW = ip_address("198.51.100.1")
PEER = ip_address("203.0.113.9")
OLD6 = ip_address("2001:db8:1::1")
NEW6 = ip_address("2001:db8:2::1")
PEER6 = ip_address("2001:db8:9::9")

TWO_NETWORKS = (
    "link add name net-a type veth peer name net-a-far",
    "link add name net-b type veth peer name net-b-far",
    # Link-local addresses would come a second later and change routes while a test runs
    *(f"link set {name} addrgenmode none up" for name in ("net-a", "net-a-far", "net-b", "net-b-far")),
    "address add 192.0.2.1/24 dev net-a",
    "address add 2001:db8:1::1/64 dev net-a nodad",
    "route add default dev net-a",
    "route add ::/0 dev net-a metric 100",
)


def scenario(steps: Callable[[AddressWatch], Awaitable[None]], **options: int) -> None:
    """Run steps with a watch in a namespace that has two networks."""

    async def run() -> None:
        ip(*TWO_NETWORKS)
        # Its local route comes from a work queue, and would be a change of the routing while a test runs
        await until_local(OLD6)
        async with AddressWatch(**options) as watch:
            await steps(watch)

    in_fresh_namespace(run)


async def until(watch: AddressWatch, condition: Callable[[HostAddresses], bool]) -> HostAddresses:
    """The first snapshot of which the condition is true."""
    async for host in watch:
        if condition(host):
            return host
    raise AssertionError("the watch ended")


def addresses(host: HostAddresses) -> set[IPv4Address | IPv6Address]:
    return {local.address for local in host.addresses}


def kernels_addresses() -> set[tuple[str, str, int]]:
    """Interface, address and prefix length as `ip` prints them, without loopback and link-local."""
    return {
        (link["ifname"], entry["local"], entry["prefixlen"])
        for link in json.loads(ip("-j address show"))
        for entry in link["addr_info"]
        if link["ifname"] != "lo" and entry["scope"] == "global"
    }


def reported(host: HostAddresses) -> set[tuple[str, str, int]]:
    return {(local.interface, str(local.address), local.prefixlen) for local in host.addresses}


def test_first_snapshot_has_what_is_there() -> None:
    async def steps(watch: AddressWatch) -> None:
        host = await anext(watch)

        index = host.find(OLD).index  # type: ignore[union-attr]
        assert host.find(OLD) == LocalAddress(OLD, 24, "net-a", index, scope=0, permanent=True)
        assert host.find(OLD6) == LocalAddress(OLD6, 64, "net-a", index, scope=0, permanent=True)
        assert addresses(host) == {OLD, OLD6}
        assert host.link(index) == LinkState(index, "net-a", up=True, running=True)
        assert {link.name for link in host.links} >= {"net-a", "net-b"}
        assert "lo" not in {link.name for link in host.links}

    scenario(steps)


@pytest.mark.parametrize(("address", "prefix"), [(NEW, "198.51.100.1/24"), (NEW6, "2001:db8:2::1/64")])
def test_added_and_removed_address_is_reported(address: IPv4Address | IPv6Address, prefix: str) -> None:
    async def steps(watch: AddressWatch) -> None:
        await anext(watch)

        ip(f"address add {prefix} dev net-b" + (" nodad" if address.version == 6 else ""))
        host = await until(watch, lambda host: address in addresses(host))
        assert host.find(address).interface == "net-b"  # type: ignore[union-attr]

        ip(f"address del {prefix} dev net-b")
        host = await until(watch, lambda host: address not in addresses(host))
        assert addresses(host) == {OLD, OLD6}

    scenario(steps)


@pytest.mark.parametrize(("address", "prefix"), [(OLD, "192.0.2.1/24"), (OLD6, "2001:db8:1::1/64")])
def test_deprecated_address_is_reported_as_such(address: IPv4Address | IPv6Address, prefix: str) -> None:
    async def steps(watch: AddressWatch) -> None:
        host = await anext(watch)
        assert not host.find(address).deprecated  # type: ignore[union-attr]

        ip(f"address change {prefix} dev net-a valid_lft 1000 preferred_lft 0")
        host = await until(watch, lambda host: host.find(address).deprecated)  # type: ignore[union-attr]
        assert host.find(address).usable  # type: ignore[union-attr]
        assert not host.find(address).permanent  # type: ignore[union-attr]

    scenario(steps)


def test_new_ipv6_address_is_usable_when_duplicate_detection_is_over() -> None:
    async def run() -> None:
        ip("link add name net-a type veth peer name net-z", "link set net-a up", "link set net-z up")
        async with AddressWatch() as watch:
            await anext(watch)
            ip("address add 2001:db8:2::1/64 dev net-a")
            host = await until(watch, lambda host: NEW6 in addresses(host))
            assert host.find(NEW6).tentative  # type: ignore[union-attr]
            assert not host.find(NEW6).usable  # type: ignore[union-attr]
            await until(watch, lambda host: host.find(NEW6).usable)  # type: ignore[union-attr]

    in_fresh_namespace(run)


def test_address_that_another_host_has_is_reported_as_failed() -> None:
    async def run() -> None:
        ip(
            "link add name net-a type veth peer name net-z",
            "link set net-a up",
            "link set net-z up",
            "address add 2001:db8:2::1/64 dev net-z nodad",
        )
        async with AddressWatch(AddressSelection(interfaces=("net-a",))) as watch:
            await anext(watch)
            ip("address add 2001:db8:2::1/64 dev net-a")
            host = await until(watch, lambda host: NEW6 in addresses(host) and host.find(NEW6).dadfailed)  # type: ignore[union-attr]
            assert not host.find(NEW6).usable  # type: ignore[union-attr]

    in_fresh_namespace(run)


def test_link_down_and_up_is_reported() -> None:
    async def steps(watch: AddressWatch) -> None:
        host = await anext(watch)
        index = host.find(OLD).index  # type: ignore[union-attr]

        ip("link set net-a down")
        host = await until(watch, lambda host: not host.is_running(index))
        assert OLD in addresses(host)
        assert host.link(index) == LinkState(index, "net-a", up=False, running=False)

        ip("link set net-a up")
        await until(watch, lambda host: host.is_running(index))

    scenario(steps)


def test_lost_carrier_is_reported_though_the_interface_is_still_up() -> None:
    async def run() -> None:
        ip(
            "link add name net-a type veth peer name net-z",
            "link set net-a up",
            "link set net-z up",
            "address add 192.0.2.1/24 dev net-a",
        )
        async with AddressWatch() as watch:
            host = await until(watch, lambda host: any(link.name == "net-a" and link.running for link in host.links))
            index = host.find(OLD).index  # type: ignore[union-attr]
            ip("link set net-z down")
            host = await until(watch, lambda host: not host.is_running(index))
            assert host.link(index) == LinkState(index, "net-a", up=True, running=False)
            assert OLD in addresses(host)

    in_fresh_namespace(run)


def test_renamed_interface_keeps_its_addresses_under_the_new_name() -> None:
    async def steps(watch: AddressWatch) -> None:
        await anext(watch)
        ip(
            "link set net-b down",
            "link set net-b name net-c",
            "link set net-c up",
            "address add 198.51.100.1/24 dev net-c",
        )
        host = await until(watch, lambda host: NEW in addresses(host))
        assert host.find(NEW).interface == "net-c"  # type: ignore[union-attr]

    scenario(steps)


def test_removed_interface_takes_its_addresses_along() -> None:
    async def steps(watch: AddressWatch) -> None:
        await anext(watch)
        ip("link del net-a")
        host = await until(watch, lambda host: not host.addresses)
        assert not {link.name for link in host.links} & {"net-a", "net-a-far"}

    scenario(steps)


def test_remove_and_readd_ends_with_the_same_addresses() -> None:
    async def steps(watch: AddressWatch) -> None:
        before = await anext(watch)
        ip("address del 192.0.2.1/24 dev net-a", "address add 192.0.2.1/24 dev net-a", "route add default dev net-a")
        after = await until(watch, lambda host: host.routing > before.routing)
        assert after.addresses == before.addresses

    scenario(steps)


def test_route_change_alone_gives_a_snapshot_and_another_source() -> None:
    async def steps(watch: AddressWatch) -> None:
        ip("address add 198.51.100.1/24 dev net-b", "address add 2001:db8:2::1/64 dev net-b nodad")
        before = await until(watch, lambda host: {NEW, NEW6} <= addresses(host))
        assert await watch.source_for(PEER) == RouteChoice(OLD, "net-a")
        assert await watch.source_for(PEER6) == RouteChoice(OLD6, "net-a")

        ip("route replace default dev net-b", "route add ::/0 dev net-b metric 1")
        after = await until(watch, lambda host: host.routing > before.routing)
        assert after.addresses == before.addresses
        assert await watch.source_for(PEER) == RouteChoice(NEW, "net-b")
        assert await watch.source_for(PEER6) == RouteChoice(NEW6, "net-b")

    scenario(steps)


def test_addresses_that_are_passed_over_are_told_apart() -> None:
    async def run() -> None:
        ip(*TWO_NETWORKS, "address add 198.51.100.1/24 dev net-b", "address add 203.0.113.1/32 dev lo")
        async with AddressWatch(AddressSelection(ignore_interfaces=("net-b",))) as watch:
            host = await anext(watch)
            assert addresses(host) == {OLD, OLD6}
            assert host.uncounted == {NEW, ip_address("203.0.113.1")}
            ip("address del 198.51.100.1/24 dev net-b")
            await until(watch, lambda host: NEW not in host.uncounted)

    in_fresh_namespace(run)


def test_rule_change_alone_gives_a_snapshot() -> None:
    async def steps(watch: AddressWatch) -> None:
        before = await anext(watch)
        ip("rule add to 203.0.113.0/24 table 7 priority 9")
        await until(watch, lambda host: host.routing > before.routing)

    scenario(steps)


def test_own_routes_are_no_news() -> None:
    async def steps(watch: AddressWatch) -> None:
        before = await anext(watch)
        ip(
            "route add 203.0.113.9/32 dev net-b table 5353 proto 83",
            "route add 2001:db8:9::9/128 dev net-b table 5353 proto 83",
            "route del 203.0.113.9/32 dev net-b table 5353 proto 83",
            # A change of another kind, to have a snapshot after them
            "address change 192.0.2.1/24 dev net-a valid_lft 1000 preferred_lft 0",
        )
        after = await until(watch, lambda host: host.find(OLD).deprecated)  # type: ignore[union-attr]
        assert after.routing == before.routing

    scenario(steps)


@pytest.mark.parametrize("kind", ["unreachable", "prohibit", "blackhole"])
@pytest.mark.parametrize("destination", [PEER, PEER6])
def test_destination_without_a_way_has_no_source(kind: str, destination: IPv4Address | IPv6Address) -> None:
    async def steps(watch: AddressWatch) -> None:
        ip(f"route add {kind} {destination}")
        assert await watch.source_for(destination) is None

    scenario(steps)


@pytest.mark.parametrize("destination", [PEER, PEER6])
def test_destination_without_a_route_has_no_source(destination: IPv4Address | IPv6Address) -> None:
    async def steps(watch: AddressWatch) -> None:
        ip("route del default", "route del ::/0")
        assert await watch.source_for(destination) is None

    scenario(steps)


def test_destination_behind_an_interface_without_addresses_has_no_source() -> None:
    async def steps(watch: AddressWatch) -> None:
        ip("address flush dev net-a", "route add 203.0.113.0/24 dev net-b")
        assert await watch.source_for(PEER) is None

    scenario(steps)


@pytest.mark.parametrize(
    ("old", "new", "peer"), [("192.0.2.1", "198.51.100.1/24", PEER), ("2001:db8:1::1", "2001:db8:2::1/64", PEER6)]
)
def test_rules_from_the_old_address_do_not_change_what_the_routing_picks(
    old: str, new: str, peer: IPv4Address | IPv6Address
) -> None:
    """While a carrier runs, `from OLD to PEER` leads into a table of its own, and OLD stands on another device."""

    async def steps(watch: AddressWatch) -> None:
        everywhere = "0.0.0.0/0" if peer.version == 4 else "::/0"
        nodad = " nodad" if peer.version == 6 else ""
        ip(
            "link add name swanroam4 type veth peer name net-z",
            "link set swanroam4 up",
            f"address add {old} dev swanroam4{nodad}",
            f"address add {new} dev net-b{nodad}",
            f"route del {everywhere} dev net-a",
            f"route add {everywhere} dev net-b",
            f"route add {peer} dev swanroam4 table 5353",
        )
        ip(f"-{peer.version} rule add from {old} to {peer} table 5353 priority 150")
        assert await watch.source_for(peer) == RouteChoice(ip_address(new.split("/")[0]), "net-b")
        assert all(local.interface != "swanroam4" for local in (await watch.read()).addresses)

    scenario(steps)


def test_only_selected_interfaces_and_addresses_are_reported() -> None:
    async def run() -> None:
        ip(*TWO_NETWORKS, "address add 198.51.100.1/24 dev net-b", "address add 192.0.2.77/24 dev net-a")
        selection = AddressSelection(
            ("net-a", "net-b"), ("net-b",), (ip_network("192.0.2.77/32"), ip_network("2001:db8:1::/48"))
        )
        async with AddressWatch(selection) as watch:
            host = await anext(watch)
            assert addresses(host) == {OLD}
            assert {link.name for link in host.links} == {"net-a"}

    in_fresh_namespace(run)


def test_point_to_point_address_is_the_own_end() -> None:
    async def steps(watch: AddressWatch) -> None:
        ip("address add 198.51.100.1 peer 198.51.100.2 dev net-b")
        host = await until(watch, lambda host: NEW in addresses(host))
        assert ip_address("198.51.100.2") not in addresses(host)

    scenario(steps)


def test_burst_of_changes_ends_in_few_snapshots() -> None:
    async def steps(watch: AddressWatch) -> None:
        await anext(watch)
        ip(*(f"address add 198.51.100.{number}/24 dev net-b" for number in range(1, 201)))
        seen = 0
        async for host in watch:
            seen += 1
            if len(host.addresses) == 202:
                break
        assert reported(host) == kernels_addresses()
        assert seen < 20
        assert watch.overruns == 0

    scenario(steps)


def test_after_an_overrun_the_snapshot_equals_the_kernels_state() -> None:
    async def steps(watch: AddressWatch) -> None:
        await anext(watch)
        # The loop stands still meanwhile, so nothing is read from the socket.
        ip(
            *(f"address add 10.0.{number // 250}.{number % 250 + 1}/32 dev net-b" for number in range(500)),
            *(f"address del 10.0.{number // 250}.{number % 250 + 1}/32 dev net-b" for number in range(0, 500, 2)),
            "address del 192.0.2.1/24 dev net-a",
        )
        expected = kernels_addresses()
        assert len(expected) == 251
        host = await until(watch, lambda host: reported(host) == expected)
        assert watch.overruns > 0

        # Watching goes on, on a new socket
        ip("address add 198.51.100.1/24 dev net-b")
        await until(watch, lambda host: NEW in addresses(host))
        assert await watch.source_for(NEW) is not None
        assert host.links

    scenario(steps, receive_buffer=4096)


def test_several_overruns_in_a_row_do_no_harm() -> None:
    async def steps(watch: AddressWatch) -> None:
        await anext(watch)
        for round_ in range(3):
            overruns = watch.overruns
            ip(*(f"address add 10.{round_}.{number // 250}.{number % 250 + 1}/32 dev net-b" for number in range(300)))
            expected = kernels_addresses()
            await until(watch, lambda host, expected=expected: reported(host) == expected)  # type: ignore[misc]
            assert watch.overruns > overruns

    scenario(steps, receive_buffer=4096)


def test_without_descriptors_for_a_new_socket_the_kernel_is_read_until_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(address_watch, "REOPEN", 0.01)

    async def steps(watch: AddressWatch) -> None:
        await anext(watch)
        ip(*(f"address add 10.0.{number // 250}.{number % 250 + 1}/32 dev net-b" for number in range(500)))
        expected = kernels_addresses()
        with no_descriptors():
            await until(watch, lambda host: reported(host) == expected)
            assert watch.overruns == 1

        ip("address add 198.51.100.1/24 dev net-b")
        await until(watch, lambda host: NEW in addresses(host))
        assert watch.overruns == 1

    scenario(steps, receive_buffer=4096)


def test_a_question_that_the_kernel_could_not_be_asked_can_be_asked_again() -> None:
    async def steps(watch: AddressWatch) -> None:
        await anext(watch)
        watch._drop_requests()
        with no_descriptors(), pytest.raises(AddressesNotRead, match="Too many open files"):
            await watch.source_for(PEER)
        assert await watch.source_for(PEER) == RouteChoice(OLD, "net-a")

    scenario(steps)


def test_cancelled_wait_loses_no_change() -> None:
    async def steps(watch: AddressWatch) -> None:
        await anext(watch)
        ip("address add 198.51.100.1/24 dev net-b")
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await until(watch, lambda host: NEW in addresses(host))

    scenario(steps)


def test_cancelled_question_does_not_spoil_the_next() -> None:
    async def steps(watch: AddressWatch) -> None:
        await anext(watch)
        for _ in range(3):
            asking = asyncio.ensure_future(watch.source_for(OLD6))
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
            assert await watch.source_for(PEER) == RouteChoice(OLD, "net-a")

    scenario(steps)


def test_questions_at_the_same_time_get_their_own_answers() -> None:
    async def steps(watch: AddressWatch) -> None:
        destinations = [ip_address(f"192.0.2.{number}") for number in range(2, 30)] + [PEER6]
        choices = await asyncio.gather(*(watch.source_for(destination) for destination in destinations))
        assert choices == [RouteChoice(OLD, "net-a")] * 28 + [RouteChoice(OLD6, "net-a")]

    scenario(steps)


def test_watch_leaves_no_descriptor_behind() -> None:
    async def run() -> None:
        ip(*TWO_NETWORKS)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(3):
            async with AddressWatch() as watch:
                await anext(watch)
                await watch.source_for(PEER)
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    in_fresh_namespace(run)


def test_watch_that_is_not_open_says_so() -> None:
    async def run() -> None:
        ip(*TWO_NETWORKS)
        watch = AddressWatch()
        async with watch:
            await anext(watch)
        watch._woken.set()
        with pytest.raises(AddressWatchError, match="not open"):
            await anext(watch)

    in_fresh_namespace(run)


# --- whose an address is ----------------------------------------------------------------------------------------------


def test_what_is_this_hosts_own_on_any_interface_is_told_from_other_hosts() -> None:
    async def run() -> None:
        ip(*TWO_NETWORKS, "link add name docker0 type veth peer name docker0-far")
        ip("link set docker0 up", "address add 172.17.0.1/16 dev docker0", "address add 172.18.0.1/16 dev net-b")
        ip("link set lo up", "address add 192.0.2.200/32 dev lo", "address add 2001:db8:3::1/128 dev lo nodad")
        own6 = ip_address("2001:db8:3::1")
        await until_local(OLD6, own6)
        async with RouteSocket() as netlink:
            own = ("192.0.2.1", "172.17.0.1", "192.0.2.200", "127.0.0.1", "192.0.2.255", "172.18.255.255", "224.0.0.1")
            assert [text for text in own if not await netlink.is_own(ip_address(text))] == []
            assert await netlink.is_own(OLD6)
            assert await netlink.is_own(own6)
            others = (NEW, PEER, NEW6, PEER6, ip_address("192.0.2.2"), ip_address("172.17.0.2"))
            assert [address for address in others if await netlink.is_own(address)] == []
            ip("route delete default", "route add unreachable 203.0.113.0/24")
            assert [address for address in (NEW, PEER) if await netlink.is_own(address)] == []

    in_fresh_namespace(run)

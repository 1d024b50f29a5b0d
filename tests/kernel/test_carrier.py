"""Connections between old addresses live on in the carrier, and nothing of it stays when it is cleared."""

import errno
import socket
import subprocess
from collections.abc import Iterator

import pytest

from kernel.carrier_hosts import Hosts, address, carry, exchange, family, on
from lab import snapshot
from swanroam.kernel.carrier import Admitted, Carrier, CarrierPlane, CarrierSettings
from swanroam.kernel.ingress import Clear
from swanroam.kernel.rtnetlink import RouteSocket

pytestmark = pytest.mark.lab

VERSIONS = (4, 6)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    try:
        yield made
    finally:
        made.delete()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_connection_survives_the_loss_of_its_address(hosts: Hosts, version: int) -> None:
    old, new, peer = address(version, "a"), address(version, "b"), address(version, "d")
    hosts.protect(old, peer)
    carry(hosts.mobile, [], (new, peer), held=(old,))
    client, server = hosts.connect(old, peer)
    with client, server, hosts.witness() as witness:
        exchange(client, server)
        assert witness.between(old, peer) == {"esp"}

        hosts.arrive(hosts.mobile, "b")
        hosts.leave(hosts.mobile, "a")
        carry(hosts.mobile, [(old, peer)], (new, peer), held=(old,))
        carry(hosts.correspondent, [(peer, old)], (peer, new))
        witness.forget()
        exchange(client, server, 300_000)

        assert not witness.between(old, peer)
        assert witness.between(new, peer) == {f"ipip {old}>{peer} esp", f"ipip {peer}>{old} esp"}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_connection_survives_that_both_hosts_move(hosts: Hosts, version: int) -> None:
    old, new = address(version, "a"), address(version, "b")
    old_peer, new_peer = address(version, "d"), address(version, "e")
    hosts.protect(old, old_peer)
    client, server = hosts.connect(old, old_peer)
    with client, server, hosts.witness() as witness:
        exchange(client, server)
        hosts.arrive(hosts.mobile, "b")
        hosts.arrive(hosts.correspondent, "e")
        carry(hosts.mobile, [(old, old_peer), (new, old_peer), (old, new_peer)], (new, new_peer), held=(old, new))
        carry(
            hosts.correspondent,
            [(old_peer, old), (old_peer, new), (new_peer, old)],
            (new_peer, new),
            held=(old_peer, new_peer),
        )
        hosts.leave(hosts.mobile, "a")
        hosts.leave(hosts.correspondent, "d")
        witness.forget()
        exchange(client, server, 300_000)
        assert set(witness.lines()) == {
            f"{new}>{new_peer} ipip {old}>{old_peer} esp",
            f"{new_peer}>{new} ipip {old_peer}>{old} esp",
        }


@pytest.mark.parametrize("version", VERSIONS)
def test_connections_of_two_old_addresses_share_the_carrier(hosts: Hosts, version: int) -> None:
    first, second, new, peer = (address(version, network) for network in "abcd")
    for old in (first, second):
        hosts.protect(old, peer)
    earlier = hosts.connect(first, peer, 7)
    hosts.arrive(hosts.mobile, "b")
    carry(hosts.mobile, [(first, peer)], (second, peer), held=(first, second))
    carry(hosts.correspondent, [(peer, first)], (peer, second))
    hosts.leave(hosts.mobile, "a")
    exchange(*earlier)
    later = hosts.connect(second, peer, 8)
    with hosts.witness() as witness:
        hosts.arrive(hosts.mobile, "c")
        carry(hosts.mobile, [(first, peer), (second, peer)], (new, peer), held=(first, second, new))
        carry(hosts.correspondent, [(peer, first), (peer, second)], (peer, new))
        hosts.leave(hosts.mobile, "b")
        witness.forget()
        exchange(*earlier, 10_000)
        exchange(*later, 10_000)
        assert {line.split()[0] for line in witness.lines()} == {f"{new}>{peer}", f"{peer}>{new}"}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_narrow_path_is_no_black_hole(hosts: Hosts, version: int) -> None:
    old, new, peer = address(version, "a"), address(version, "b"), address(version, "d")
    hosts.protect(old, peer)
    client, server = hosts.connect(old, peer)
    datagrams = hosts.open_socket(hosts.mobile, family(version), socket.SOCK_DGRAM)
    receiver = hosts.open_socket(hosts.correspondent, family(version), socket.SOCK_DGRAM)
    with client, server, datagrams, receiver:
        exchange(client, server, 100_000)
        hosts.arrive(hosts.mobile, "b")
        hosts.router.ip("link set net-d mtu 1400")
        hosts.correspondent.ip("link set net-d mtu 1400")
        carry(hosts.mobile, [(old, peer)], (new, peer), held=(old,))
        carry(hosts.correspondent, [(peer, old)], (peer, new))
        hosts.leave(hosts.mobile, "a")
        exchange(client, server, 500_000)

        receiver.bind((str(peer), 9))
        datagrams.bind((str(old), 0))
        for size in (100, 1300, 1380, 1420, 1460, 4000, 20_000):
            received = _send_until_received(datagrams, receiver, b"x" * size, (str(peer), 9))
            assert received == size


def _send_until_received(sender: socket.socket, receiver: socket.socket, data: bytes, where: tuple[str, int]) -> int:
    """Size of what arrives. The first datagrams may be lost: that is how a sender learns of a narrower path."""
    receiver.settimeout(1)
    for _ in range(5):
        try:
            sender.sendto(data, where)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            continue
        try:
            return len(receiver.recv(65535))
        except TimeoutError:
            continue
    raise AssertionError(f"a datagram of {len(data)} octets does not arrive")


@pytest.mark.parametrize("version", VERSIONS)
def test_only_marked_esp_takes_a_control_carrier(hosts: Hosts, version: int) -> None:
    old, new, peer = address(version, "a"), address(version, "b"), address(version, "d")
    hosts.arrive(hosts.mobile, "b")
    mark = CarrierSettings().control_mark
    inner = {"data": ("fd53::1", "fd53::2"), "control": ("fd53::3", "fd53::4")}
    for number, (name, (source, destination)) in enumerate(inner.items(), 1):
        output_mark = f"output-mark {mark:#x} " if name == "control" else ""
        hosts.mobile.ip(
            f"addr add {source}/128 dev lo nodad",
            f"route add {destination}/128 dev net-b src {source}",
            f"xfrm policy add src {source} dst {destination} dir out "
            f"tmpl src {old} dst {peer} proto esp mode tunnel reqid {number}",
            f"xfrm state add src {old} dst {peer} proto esp spi {number:#x} mode tunnel reqid {number} aead "
            f"rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128 {output_mark}sel src ::/0 dst ::/0",
        )
    carrier = Carrier(local=old, remote=peer, outer_local=new, outer_remote=peer, control_only=True)
    on(hosts.mobile, lambda netlink: CarrierPlane(netlink).apply([old], [carrier], []))
    with hosts.witness() as witness, hosts.open_socket(hosts.mobile, socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        sender.bind(("fd53::1", 0))
        sender.sendto(b"data", ("fd53::2", 9))
        with hosts.open_socket(hosts.mobile, socket.AF_INET6, socket.SOCK_DGRAM) as controller:
            controller.bind(("fd53::3", 0))
            controller.sendto(b"control", ("fd53::4", 9))
        assert set(witness.settle(hosts.mobile, address(10 - version, "d"))) == {
            f"{old}>{peer} esp",
            f"{new}>{peer} ipip {old}>{peer} esp",
        }


@pytest.mark.parametrize("version", VERSIONS)
def test_a_held_address_is_not_chosen_as_source(hosts: Hosts, version: int) -> None:
    held, peer = address(version, "c"), address(version, "d")
    carry(hosts.mobile, [], (held, peer), held=(held,))
    assert f"src {address(version, 'a')} " in hosts.mobile.ip(f"route get {peer}")
    if version == 4:  # also where the outgoing interface has no address of its own
        hosts.mobile.ip("addr flush dev net-a")
        hosts.mobile.ip("route add default dev net-a")
        assert str(held) not in hosts.mobile.ip(f"route get {peer}")


@pytest.mark.parametrize("version", VERSIONS)
def test_carried_packets_go_nowhere_else_when_the_device_is_gone(hosts: Hosts, version: int) -> None:
    old, new, peer = address(version, "a"), address(version, "b"), address(version, "d")
    hosts.arrive(hosts.mobile, "b")
    carry(hosts.mobile, [(old, peer)], (new, peer), held=(old,))
    with hosts.open_socket(hosts.mobile, family(version), socket.SOCK_DGRAM) as sender, hosts.witness() as witness:
        sender.bind((str(old), 0))
        hosts.mobile.ip(f"link delete swanroam{version}")
        with pytest.raises(OSError, match="No route to host"):
            sender.sendto(b"x", (str(peer), 9))
        assert not witness.settle(hosts.mobile, address(10 - version, "d"))


def _state() -> tuple[list[object], list[Carrier], list[Admitted]]:
    old, older, new, peer = (address(4, network) for network in "abcd")
    old6, new6, peer6 = (address(6, network) for network in "abd")
    carriers = [
        Carrier(local=old, remote=peer, outer_local=new, outer_remote=peer),
        Carrier(local=older, remote=peer, outer_local=new, outer_remote=peer),
        Carrier(local=old, remote=peer, outer_local=new, outer_remote=address(4, "e"), control_only=True),
        Carrier(local=old6, remote=peer6, outer_local=new6, outer_remote=peer6),
    ]
    admitted = [Admitted(peer, old), Admitted(peer, older, Clear(7, peer, new)), Admitted(peer6, old6)]
    return [old, older, old6], carriers, admitted


def test_what_was_applied_is_found_by_another_process(hosts: Hosts) -> None:
    held, carriers, admitted = _state()
    on(hosts.mobile, lambda netlink: CarrierPlane(netlink).apply(held, carriers, admitted))
    found = on(hosts.mobile, lambda netlink: CarrierPlane(netlink).find())
    assert found.held == set(held)
    assert found.carriers == set(carriers)
    assert found.admitted == set(admitted)
    assert found.devices == {"swanroam4", "swanroam6"}


def test_applying_the_same_again_changes_nothing(hosts: Hosts) -> None:
    state = _state()

    async def twice(netlink: RouteSocket) -> None:
        plane = CarrierPlane(netlink)
        assert await plane.apply(*state)
        assert not await plane.apply(*state)

    on(hosts.mobile, twice)


def test_another_outer_address_replaces_the_route_in_one_step(hosts: Hosts) -> None:
    old, new, newer, peer = (address(4, network) for network in "abcd")
    carry(hosts.mobile, [(old, peer)], (new, peer), held=(old,))
    carrier = Carrier(local=old, remote=peer, outer_local=newer, outer_remote=peer)
    changes = on(hosts.mobile, lambda netlink: CarrierPlane(netlink).apply([old], [carrier], [Admitted(peer, old)]))
    assert changes.added == (f"route {peer} in {newer} -> {peer} (table 5353)",)
    assert not changes.removed


def test_other_settings_replace_what_the_earlier_ones_made(hosts: Hosts) -> None:
    state = _state()
    on(hosts.mobile, lambda netlink: CarrierPlane(netlink).apply(*state))
    other = CarrierSettings(table=6000, rule_priority=50)

    async def change(netlink: RouteSocket) -> None:
        plane = CarrierPlane(netlink, other)
        await plane.apply(*state)
        assert not await plane.apply(*state)

    on(hosts.mobile, change)
    assert "lookup 5353" not in hosts.mobile.ip("rule")
    assert "table 5353" not in hosts.mobile.ip("route show table all")


def test_half_of_a_state_is_completed_and_the_rest_removed(hosts: Hosts) -> None:
    held, carriers, admitted = _state()
    on(hosts.mobile, lambda netlink: CarrierPlane(netlink).apply(held, carriers, admitted))
    hosts.mobile.ip("rule del priority 151", "rule del priority 151", "addr del 10.1.1.2/32 dev swanroam4")
    hosts.mobile.tc("filter del dev swanroam4 ingress pref 2")
    on(hosts.mobile, lambda netlink: CarrierPlane(netlink).apply(held[:2], carriers[:2], admitted[:1]))
    found = on(hosts.mobile, lambda netlink: CarrierPlane(netlink).find())
    assert (found.held, found.carriers) == (set(held[:2]), set(carriers[:2]))
    assert found.admitted == set(admitted[:1])


def test_the_placeholder_gives_way_to_any_other_address(hosts: Hosts) -> None:
    """charon would begin IKE_SAs from the first address of the device."""
    old, new, peer = (address(4, network) for network in "abd")
    carrier = Carrier(local=old, remote=peer, outer_local=new, outer_remote=peer)

    async def scenario(netlink: RouteSocket) -> None:
        plane = CarrierPlane(netlink)
        for held, carriers, expected in (
            ([], [], {"192.0.0.8"}),
            ([old], [], {str(old)}),
            ([old], [carrier], {str(old)}),
            ([], [carrier], {str(new)}),
            ([], [], {"192.0.0.8"}),
        ):
            await plane.apply(held, carriers, [Admitted(peer, old)])
            shown = subprocess.run(
                ["ip", "-4", "-o", "addr", "show", "dev", "swanroam4"], capture_output=True, text=True
            )
            assert {line.split()[3].removesuffix("/32") for line in shown.stdout.splitlines()} == expected

    on(hosts.mobile, scenario)


def test_clear_leaves_nothing(hosts: Hosts) -> None:
    before = snapshot.raw(hosts.mobile)
    on(hosts.mobile, lambda netlink: CarrierPlane(netlink).apply(*_state()))
    assert snapshot.raw(hosts.mobile) != before
    on(hosts.mobile, lambda netlink: CarrierPlane(netlink).clear())
    assert snapshot.normalise(snapshot.raw(hosts.mobile)) == snapshot.normalise(before)
    assert not on(hosts.mobile, lambda netlink: CarrierPlane(netlink).clear())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_without_an_address_of_its_own_answers_through_the_carrier(hosts: Hosts, version: int) -> None:
    """A UDP server bound to no address: its route is chosen before its source address is."""
    old, new, peer = address(version, "a"), address(version, "b"), address(version, "d")
    hosts.protect(old, peer)
    hosts.arrive(hosts.mobile, "b")
    kind = family(version), socket.SOCK_DGRAM
    with hosts.open_socket(hosts.mobile, *kind) as client, hosts.open_socket(hosts.correspondent, *kind) as server:
        client.bind((str(old), 0))
        server.bind(("", 7))
        carry(hosts.mobile, [(old, peer)], (new, peer), held=(old,))
        carry(hosts.correspondent, [(peer, old)], (peer, new), held=(peer,))
        hosts.leave(hosts.mobile, "a")
        with hosts.witness() as witness:
            client.sendto(b"question", (str(peer), 7))
            server.sendto(b"answer", server.recvfrom(100)[1])
            assert client.recv(100) == b"answer"
            assert set(witness.settle(hosts.mobile, address(10 - version, "d"))) == {
                f"{new}>{peer} ipip {old}>{peer} esp",
                f"{peer}>{new} ipip {peer}>{old} esp",
            }
        own = hosts.mobile.ip(f"route get {peer}")
        assert f"src {new} " in own
        assert f"dev swanroam{version}" not in own

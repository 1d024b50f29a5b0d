"""An old address that sockets still use belongs to them alone: for everything else it is some other host's."""

import socket
import struct
from collections.abc import Iterator

import pytest

from kernel.carrier_hosts import Hosts, address, carry, exchange, family, inside, on
from lab import snapshot
from lab.namespace import Namespace
from lab.waiting import wait_for
from swanroam.kernel.carrier import Admitted, Carrier, CarrierPlane
from swanroam.kernel.rtnetlink import IPAddress, RouteSocket

pytestmark = pytest.mark.lab

VERSIONS = (4, 6)
_ETH_P_ARP = 0x0806
_REQUEST, _REPLY = 1, 2


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    try:
        yield made
    finally:
        made.delete()


def _move(hosts: Hosts, version: int, *, narrowed: bool) -> None:
    """From network a to b, with what is between the old addresses in the carrier."""
    hosts.arrive(hosts.mobile, "b")
    hosts.leave(hosts.mobile, "a")
    _carry_old(hosts, version, narrowed=narrowed)
    old, new, peer = address(version, "a"), address(version, "b"), address(version, "d")
    carry(hosts.correspondent, [(peer, old)], (peer, new))


def _carry_old(hosts: Hosts, version: int, *, narrowed: bool) -> None:
    old, new, peer = address(version, "a"), address(version, "b"), address(version, "d")
    carry(hosts.mobile, [(old, peer)], (new, peer), held=(old, new), narrowed=(old,) if narrowed else ())


def _connect(hosts: Hosts, client: Namespace, own: IPAddress, server: Namespace, remote: IPAddress) -> None:
    """A TCP connection that carries data both ways, and is closed."""
    kind = family(own.version), socket.SOCK_STREAM
    with hosts.open_socket(server, *kind) as listener, hosts.open_socket(client, *kind) as one:
        listener.bind((str(remote), 80))
        listener.listen()
        one.bind((str(own), 0))
        one.connect((str(remote), 80))
        other, _ = listener.accept()
        with other:
            other.settimeout(20)
            exchange(one, other, 10_000)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_next_owner_of_an_address_and_its_former_one_reach_each_other(hosts: Hosts, version: int) -> None:
    old, new, peer = address(version, "a"), address(version, "b"), address(version, "d")
    hosts.protect(old, peer)
    client, server = hosts.connect(old, peer)
    carry(hosts.mobile, [], (old, peer), held=(old,))
    _move(hosts, version, narrowed=True)
    other = hosts.give_away("a")
    with client, server, hosts.witness() as witness:
        exchange(client, server, 50_000)
        assert witness.between(new, peer) == {f"ipip {old}>{peer} esp", f"ipip {peer}>{old} esp"}
        witness.forget()

        _connect(hosts, hosts.mobile, new, other, old)
        _connect(hosts, other, old, hosts.mobile, new)
        assert witness.between(new, old) == {"tcp"}

        exchange(client, server, 50_000)
        assert witness.between(new, peer) == {f"ipip {old}>{peer} esp", f"ipip {peer}>{old} esp"}


def test_a_program_reaches_the_next_owner_without_choosing_a_source_address(hosts: Hosts) -> None:
    old, new = address(4, "a"), address(4, "b")
    _move(hosts, 4, narrowed=True)
    assert f"src {new} " in hosts.mobile.ip(f"route get {old}")
    assert "dev net-b" in hosts.mobile.ip(f"route get {old}")


@pytest.mark.parametrize("sender", ["10.2.2.1", "0.0.0.0", "10.1.1.2"], ids=["neighbor", "probe", "announcement"])
def test_arp_is_not_answered_for_a_narrowed_address(hosts: Hosts, sender: str) -> None:
    """Neither for who looks for the next owner, nor for the next owner that makes sure of its address (RFC 5227)."""
    old, new = address(4, "a"), address(4, "b")
    _move(hosts, 4, narrowed=False)
    if sender != str(old):  # the kernel never answers that
        assert _answered(hosts, sender, [old, new]) == [str(old), str(new)], "not narrowed, and arp_ignore is 0"
    _carry_old(hosts, 4, narrowed=True)
    assert _answered(hosts, sender, [old, new]) == [str(new)]


def _answered(hosts: Hosts, sender: str, targets: list[IPAddress]) -> list[str]:
    """For which of these addresses ARP is answered in network b. The last one must be answered: it ends the wait."""
    raw = inside(hosts.router, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP)))
    answers: list[str] = []
    with raw:
        raw.bind(("net-b", _ETH_P_ARP))
        raw.settimeout(20)
        own = raw.getsockname()[4]
        for target in targets:
            source = sender if target != targets[-1] else "10.2.2.1"
            ends = own + socket.inet_aton(source) + bytes(6) + target.packed
            raw.send(b"\xff" * 6 + own + struct.pack(">HHHBBH", _ETH_P_ARP, 1, 0x0800, 6, 4, _REQUEST) + ends)
        while str(targets[-1]) not in answers:
            frame = raw.recv(1500)
            operation, said = struct.unpack(">H", frame[20:22])[0], socket.inet_ntoa(frame[28:32])
            if operation == _REPLY and frame[:6] == own:
                answers.append(said)
    return answers


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_host_sends_to_itself_does_not_leave_it(hosts: Hosts, version: int) -> None:
    old = address(version, "a")
    kind = family(version), socket.SOCK_STREAM
    with hosts.open_socket(hosts.mobile, *kind) as listener, hosts.open_socket(hosts.mobile, *kind) as client:
        listener.bind((str(old), 80))
        listener.listen()
        client.connect((str(old), 80))
        server, _ = listener.accept()
        with server, hosts.witness() as witness:
            server.settimeout(20)
            _move(hosts, version, narrowed=True)
            exchange(client, server, 10_000)
            assert not witness.settle(hosts.mobile, address(10 - version, "d"))


@pytest.mark.parametrize("version", VERSIONS)
def test_nobody_begins_anything_on_a_narrowed_address(hosts: Hosts, version: int) -> None:
    old = address(version, "a")
    _move(hosts, version, narrowed=True)
    if version == 4:  # IPv6 asks for the device's address, not for the route
        with (
            hosts.open_socket(hosts.mobile, socket.AF_INET, socket.SOCK_DGRAM) as late,
            pytest.raises(OSError, match="Cannot assign"),
        ):
            late.bind((str(old), 0))
    _carry_old(hosts, version, narrowed=False)
    with hosts.open_socket(hosts.mobile, family(version), socket.SOCK_DGRAM) as sender:
        sender.bind((str(old), 0))
        sender.sendto(b"x", (str(old), 9))


def test_the_interface_that_has_the_address_still_speaks_for_it(hosts: Hosts) -> None:
    """Soft moves: as long as it is there, everything comes to it."""
    old, new, peer = address(4, "a"), address(4, "b"), address(4, "d")
    hosts.arrive(hosts.mobile, "b")
    carry(hosts.mobile, [(old, peer)], (new, peer), held=(old, new), narrowed=(old,))
    assert "local" in hosts.mobile.ip(f"route get {old}")
    hosts.leave(hosts.mobile, "a")
    assert "dev net-b" in hosts.mobile.ip(f"route get {old}")


def _state() -> tuple[list[IPAddress], list[Carrier], list[Admitted], list[IPAddress]]:
    held, carriers, admitted = [], [], []
    for version in VERSIONS:
        old, new, peer = (address(version, network) for network in "abd")
        held += [old, new]
        carriers.append(Carrier(local=old, remote=peer, outer_local=new, outer_remote=peer))
        admitted += [Admitted(peer, old), Admitted(peer, new)]
    return held, carriers, admitted, [address(version, "a") for version in VERSIONS]


def test_a_narrowed_state_is_recognised_by_the_next_process_and_leaves_nothing(hosts: Hosts) -> None:
    before = snapshot.raw(hosts.mobile)
    on(hosts.mobile, lambda netlink: CarrierPlane(netlink).apply(*_state()))
    assert not on(hosts.mobile, lambda netlink: CarrierPlane(netlink).apply(*_state()))
    assert not on(hosts.mobile, lambda netlink: CarrierPlane(netlink).apply([], [], [])).added[1:]
    on(hosts.mobile, lambda netlink: CarrierPlane(netlink).apply(*_state()))
    on(hosts.mobile, lambda netlink: CarrierPlane(netlink).clear())
    assert snapshot.normalise(snapshot.raw(hosts.mobile)) == snapshot.normalise(before)


def test_routes_that_the_kernel_makes_again_are_removed_again(hosts: Hosts) -> None:
    """It does when the device is set down and up."""
    old = address(4, "a")
    _move(hosts, 4, narrowed=True)
    hosts.mobile.ip("link set swanroam4 down", "link set swanroam4 up")
    wait_for(lambda: "local" in hosts.mobile.ip(f"route get {old}"), 20, "the kernel has made its route")
    carriers = [Carrier(local=old, remote=address(4, "d"), outer_local=address(4, "b"), outer_remote=address(4, "d"))]
    held, admitted = [old, address(4, "b")], [Admitted(address(4, "d"), old)]

    async def mend(netlink: RouteSocket) -> None:
        assert (await CarrierPlane(netlink).apply(held, carriers, admitted, [old])).removed

    on(hosts.mobile, mend)
    assert "dev net-b" in hosts.mobile.ip(f"route get {old}")

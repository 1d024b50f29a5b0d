"""Control datagrams reach the peer through their SA, natively and in the carrier, and otherwise do not leave at all."""

import socket
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network

import pytest

from kernel.carrier_hosts import Hosts, address, inside, on, witness
from lab import charon, snapshot
from lab.host import Host
from lab.namespace import Namespace
from lab.topology import Lab
from swanroam.kernel.carrier import Admitted, Carrier, CarrierPlane, CarrierSettings
from swanroam.kernel.inner import InnerPlane
from swanroam.kernel.rtnetlink import RouteSocket, RouteSocketError

pytestmark = pytest.mark.lab

PREFIX = IPv6Network("fd53:7761:6e72::/48")
OWN, PEER, OTHER = PREFIX[1], PREFIX[2], PREFIX[3]
PORT = 5353
KEY = "0x000102030405060708090a0b0c0d0e0f10111213"
VERSIONS = (4, 6)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    try:
        yield made
    finally:
        made.delete()


def _inner(host: Namespace, own: IPv6Address, peers: list[IPv6Address], version: int) -> None:
    """Inner addresses where only one family has a carrier device."""

    async def apply(netlink: RouteSocket) -> None:
        await CarrierPlane(netlink).arm([socket.AF_INET if version == 4 else socket.AF_INET6])
        await InnerPlane(netlink).apply(PREFIX, own, peers)

    on(host, apply)


def _control_channel(hosts: Hosts, version: int) -> None:
    """The control CHILD_SA between the hosts' first addresses, as charon would install it."""
    mark = CarrierSettings().control_mark
    ends = {OWN: address(version, "a"), PEER: address(version, "d")}
    for host, own, peer in ((hosts.mobile, OWN, PEER), (hosts.correspondent, PEER, OWN)):
        for direction, source, destination, spi in (("out", own, peer, own), ("in", peer, own, peer)):
            outer = f"src {ends[source]} dst {ends[destination]}"
            output_mark = f"output-mark {mark:#x} " if direction == "out" else ""
            host.ip(
                f"xfrm policy add src {source}/128 dst {destination}/128 dir {direction} "
                f"tmpl {outer} proto esp mode tunnel reqid 1",
                f"xfrm state add {outer} proto esp spi {0x100 + int(spi) % 16:#x} mode tunnel reqid 1 "
                f"aead rfc4106(gcm(aes)) {KEY} 128 {output_mark}sel src ::/0 dst ::/0",
            )


def _answered(hosts: Hosts) -> bool:
    """Whether a datagram gets to the peer and an answer back."""
    with (
        hosts.open_socket(hosts.mobile, socket.AF_INET6, socket.SOCK_DGRAM) as here,
        hosts.open_socket(hosts.correspondent, socket.AF_INET6, socket.SOCK_DGRAM) as there,
    ):
        here.bind((str(OWN), PORT))
        there.bind((str(PEER), PORT))
        here.sendto(b"question", (str(PEER), PORT))
        question, _ = there.recvfrom(100)
        there.sendto(b"answer", (str(OWN), PORT))
        return (question, here.recv(100)) == (b"question", b"answer")


@pytest.mark.parametrize("version", VERSIONS)
def test_control_datagrams_travel_natively_and_then_in_the_carrier(hosts: Hosts, version: int) -> None:
    old, new, peer = address(version, "a"), address(version, "b"), address(version, "d")
    _inner(hosts.mobile, OWN, [PEER], version)
    _inner(hosts.correspondent, PEER, [OWN], version)
    _control_channel(hosts, version)
    with hosts.witness() as seen:
        assert _answered(hosts)
        assert seen.between(old, peer) == {"esp"}

        hosts.arrive(hosts.mobile, "b")
        hosts.leave(hosts.mobile, "a")
        there = Carrier(local=old, remote=peer, outer_local=new, outer_remote=peer)
        back = Carrier(local=peer, remote=old, outer_local=peer, outer_remote=new, control_only=True)
        on(hosts.mobile, lambda netlink: CarrierPlane(netlink).apply([old], [there], [Admitted(peer, old)]))
        on(hosts.correspondent, lambda netlink: CarrierPlane(netlink).apply([], [back], [Admitted(old, peer)]))
        seen.forget()
        assert _answered(hosts)
        assert seen.between(new, peer) == {f"ipip {old}>{peer} esp", f"ipip {peer}>{old} esp"}


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_policy_nothing_leaves(hosts: Hosts, version: int) -> None:
    _inner(hosts.mobile, OWN, [PEER], version)
    # What charon with install_routes = yes leaves behind.
    hosts.mobile.ip(f"route add {PEER}/128 via {address(6, 'a', 1)} dev net-a src {OWN} table 220")
    hosts.mobile.ip("-6 rule add priority 220 lookup 220")
    with hosts.witness() as seen, hosts.open_socket(hosts.mobile, socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"secret", (str(PEER), PORT))
        with pytest.raises(OSError, match="No route to host"):
            sender.sendto(b"secret", (str(OTHER), PORT))
        assert not seen.settle(hosts.mobile, address(4, "d"))


def test_without_an_sa_nothing_leaves(hosts: Hosts) -> None:
    _inner(hosts.mobile, OWN, [PEER], 4)
    _control_channel(hosts, 4)
    hosts.mobile.ip("xfrm state flush")
    with hosts.witness() as seen, hosts.open_socket(hosts.mobile, socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"secret", (str(PEER), PORT))
        assert not seen.settle(hosts.mobile, address(4, "d"))


def test_an_inner_address_is_no_source_where_there_is_another(hosts: Hosts) -> None:
    _inner(hosts.mobile, OWN, [PEER], 4)
    hosts.arrive(hosts.mobile, "b")
    hosts.mobile.ip("addr flush dev net-a scope global")
    alike = IPv6Network("fd53:7761:6e73::/48")  # so that the longest common prefix would speak for the inner address
    hosts.mobile.ip(f"route add {alike} dev net-a")
    assert f"src {address(6, 'b')} " in hosts.mobile.ip(f"route get {alike[1]}")


def test_what_was_applied_is_found_and_applying_it_again_changes_nothing(hosts: Hosts) -> None:
    async def scenario(netlink: RouteSocket) -> None:
        plane = InnerPlane(netlink)
        with pytest.raises(RouteSocketError, match="arm the carrier first"):
            await plane.apply(PREFIX, OWN, [PEER])
        await CarrierPlane(netlink).arm([socket.AF_INET])
        assert await plane.apply(PREFIX, OWN, [PEER, OTHER])
        assert not await plane.apply(PREFIX, OWN, [PEER, OTHER])
        found = await InnerPlane(netlink).find()
        assert (found.own, found.peers, found.prefixes) == ({OWN}, {PEER, OTHER}, {PREFIX})

        assert await plane.apply(PREFIX, PREFIX[9], [PEER])
        found = await plane.find()
        assert (found.own, found.peers) == ({PREFIX[9]}, {PEER})

    on(hosts.mobile, scenario)


def test_carrier_and_inner_addresses_leave_each_other_alone(hosts: Hosts) -> None:
    old, new, peer = (address(6, network) for network in "abd")
    carrier = Carrier(local=old, remote=peer, outer_local=new, outer_remote=peer)

    async def scenario(netlink: RouteSocket) -> None:
        carriers, inner = CarrierPlane(netlink), InnerPlane(netlink)
        await carriers.apply([old], [carrier], [])
        await inner.apply(PREFIX, OWN, [PEER])
        carriers.forget()
        assert not await carriers.apply([old], [carrier], [])
        await inner.clear()
        assert (await carriers.find()).carriers == {carrier}
        await inner.apply(PREFIX, OWN, [PEER])
        await carriers.apply([], [], [])
        assert (await inner.find()).peers == {PEER}

    on(hosts.mobile, scenario)


def test_clear_leaves_nothing(hosts: Hosts) -> None:
    before = snapshot.raw(hosts.mobile)
    _inner(hosts.mobile, OWN, [PEER, OTHER], 6)

    async def clear(netlink: RouteSocket) -> None:
        assert await InnerPlane(netlink).clear()
        assert not await InnerPlane(netlink).clear()
        await CarrierPlane(netlink).clear()

    on(hosts.mobile, clear)
    assert snapshot.normalise(snapshot.raw(hosts.mobile)) == snapshot.normalise(before)


@pytest.mark.parametrize("install_routes", ["no", "yes"])
def test_the_channel_works_with_charon_whether_it_installs_routes(
    monkeypatch: pytest.MonkeyPatch, install_routes: str
) -> None:
    text = charon._STRONGSWAN_CONF
    assert "install_routes = no" in text
    monkeypatch.setattr(charon, "_STRONGSWAN_CONF", text.replace("_routes = no", f"_routes = {install_routes}"))
    with Lab() as lab:
        for host, peer in ((lab.mobile, lab.correspondent), (lab.correspondent, lab.mobile)):
            _inner(host, host.inner_address, [peer.inner_address], 4)
        lab.start()
        with witness(lab.router.namespace) as seen:
            _datagram(lab.mobile, lab.correspondent)
            _datagram(lab.correspondent, lab.mobile)
            assert {line.split()[1] for line in seen.lines()} == {"esp"}
            seen.forget()
            # Whatever has removed policies and SAs behind charon's back:
            lab.mobile.ip("xfrm policy flush", "xfrm state flush")
            with _sender(lab.mobile) as sender:
                sender.sendto(b"secret", (str(lab.correspondent.inner_address), PORT))
            assert not seen.settle(lab.mobile, lab.correspondent.address)


def _sender(host: Host) -> socket.socket:
    made = inside(host, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    made.bind((str(host.inner_address), 0))
    return made


def _datagram(source: Host, destination: Host) -> None:
    """One datagram between inner addresses; fails when it does not arrive."""
    receiver = inside(destination, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    with receiver, _sender(source) as sender:
        receiver.settimeout(20)
        receiver.bind((str(destination.inner_address), PORT))
        sender.sendto(b"hello", (str(destination.inner_address), PORT))
        assert receiver.recv(100) == b"hello"

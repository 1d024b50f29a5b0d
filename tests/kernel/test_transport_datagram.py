"""UDP sockets move in their programs: connected ones again and again, with what they have received."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from kernel.transport_hosts import Hosts, IPAddress, another_descriptor, correspondent, mobile
from swanroam.transport import bypass, datagram
from swanroam.transport.binding import Steering, four_tuple
from swanroam.transport.image import FourTuple, Reason, Refused

pytestmark = pytest.mark.kernel

PORT = 6500
KINDS = {"ipv4": (4, False), "ipv6": (6, False), "dual-stack": (4, True)}


@pytest.fixture(scope="module")
def both() -> Iterator[Hosts]:
    made = Hosts()
    yield made
    made.delete()


@pytest.fixture
def hosts(both: Hosts) -> Iterator[Hosts]:
    yield both
    both.forget()


def pair(
    hosts: Hosts, version: int = 4, *, dual_stack: bool = False, bind: tuple[str, int] | None = None
) -> tuple[socket.socket, socket.socket]:
    """The mobile host's connected socket, and the correspondent's, which is connected to it as well."""
    family = socket.AF_INET6 if version == 6 or dual_stack else socket.AF_INET
    mapped = "::ffff:" if dual_stack and version == 4 else ""
    client = hosts.open_socket(hosts.mobile, family, socket.SOCK_DGRAM)
    server = hosts.open_socket(hosts.correspondent, family, socket.SOCK_DGRAM)
    server.bind((f"{mapped}{correspondent(1, version)}", PORT))
    if bind:
        client.bind((bind[0] if ":" in bind[0] else f"{mapped}{bind[0]}", bind[1]))
    client.connect((f"{mapped}{correspondent(1, version)}", PORT))
    server.connect(client.getsockname())
    return client, server


def rebuild(sock: socket.socket, steering: Steering | None = None, **changed: IPAddress) -> None:
    with another_descriptor(sock) as held:
        image = datagram.take(held)
        target = replace(image.addresses, **changed)
        datagram.rebuild(held, image, target, steering)
        assert four_tuple(held) == target
        assert datagram.take(held).settings == image.settings


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bound", ["not", "port", "address"])
def test_connected_sockets_move_again_and_again_with_their_queues(hosts: Hosts, kind: str, bound: str) -> None:
    version, dual_stack = KINDS[kind]
    bind = {
        "not": None,
        "port": ("0.0.0.0" if kind == "ipv4" else "::", 6501),
        "address": (str(mobile("a", version)), 0),
    }[bound]
    client, server = pair(hosts, version, dual_stack=dual_stack, bind=bind)
    port = client.getsockname()[1]
    for network in "bcab":
        for text in (b"one", b"two"):
            server.send(text)
        with hosts.locked():
            rebuild(client, Steering(interface=hosts.interface(network)), local=mobile(network, version))
            rebuild(server, remote=mobile(network, version))
        assert client.getsockname()[1] == port
        assert [client.recv(10), client.recv(10)] == [b"one", b"two"]
        client.send(b"there")
        assert server.recv(10) == b"there"
        server.send(b"and back")
        assert client.recv(10) == b"and back"


@pytest.mark.both
@pytest.mark.parametrize("kind", KINDS)
def test_a_socket_that_moved_before_is_put_back_against_all_routes(hosts: Hosts, kind: str) -> None:
    version, dual_stack = KINDS[kind]
    client, server = pair(hosts, version, dual_stack=dual_stack)
    rebuild(client, Steering(interface=hosts.interface("b")), local=mobile("b", version))
    rebuild(server, remote=mobile("b", version))
    hosts.prefer("c")
    with another_descriptor(client) as held:
        image = datagram.take(held)
        target = replace(image.addresses, local=mobile("a", version))
        with pytest.raises(Refused, match="another source address"):
            datagram.rebuild(held, image, target)
        datagram.rebuild(held, image, image.addresses)
        assert datagram.take(held) == image
    client.send(b"still here")
    assert server.recv(20) == b"still here"


@pytest.mark.both
@pytest.mark.parametrize("by", ["route", "policy"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bound", ["not", "port", "address"])
def test_a_socket_is_put_back_though_nothing_can_be_sent_from_there(
    hosts: Hosts, kind: str, bound: str, by: str
) -> None:
    version, dual_stack = KINDS[kind]
    bind = {"not": None, "port": ("::", 6503), "address": (str(mobile("a", version)), 0)}[bound]
    if bound == "port" and kind == "ipv4":
        bind = ("0.0.0.0", 6503)
    client, server = pair(hosts, version, dual_stack=dual_stack, bind=bind)
    with another_descriptor(client) as held:
        image = datagram.take(held)
        with hosts.cut_off(by):
            target = replace(image.addresses, local=mobile("b", version))
            with pytest.raises(Refused):
                datagram.rebuild(held, image, target)
            datagram.rebuild(held, image, image.addresses)
            with pytest.raises(OSError):
                client.send(b"nowhere")
        hosts.prefer("a")
        assert datagram.take(held) == image
    client.send(b"still here")
    assert server.recv(20) == b"still here"


@pytest.mark.both
def test_what_lets_a_socket_off_the_policies_does_not_outlive_the_process_that_dies(hosts: Hosts) -> None:
    """It dies in the middle of putting a socket back; another goes on."""
    client, _server = pair(hosts, 6)
    with another_descriptor(client) as held:
        image = datagram.take(held)
        with hosts.cut_off("policy"):
            bypass.put_on(held, image.addresses, image.settings.mark)
            client.send(b"in clear")
            datagram.rebuild(held, image, image.addresses)
            with pytest.raises(PermissionError):
                client.send(b"in clear")
        assert datagram.take(held) == image


@pytest.mark.both
def test_a_socket_bound_to_the_old_address_and_a_port_is_refused_and_put_back(hosts: Hosts) -> None:
    client, server = pair(hosts, bind=(str(mobile("a")), 6502))
    with another_descriptor(client) as held:
        image = datagram.take(held)
        target = FourTuple(mobile("b"), 6502, correspondent(), PORT)
        with pytest.raises(Refused) as refused:
            datagram.rebuild(held, image, target, Steering(interface=hosts.interface("b")))
        datagram.rebuild(held, image, image.addresses)
        assert datagram.take(held) == image
    assert refused.value.reason is Reason.BOUND_TO_ADDRESS
    client.send(b"still here")
    assert server.recv(20) == b"still here"


def test_only_the_peer_changes_without_a_moment_in_which_the_port_is_free(hosts: Hosts) -> None:
    client, server = pair(hosts)
    rebuild(client, Steering(interface=hosts.interface("b")), local=mobile("b"))
    # The server is bound to its address and port, which is no hindrance when these stay.
    rebuild(server, remote=mobile("b"))
    server.send(b"found")
    assert client.recv(10) == b"found"


def test_a_binding_to_a_device_stays(hosts: Hosts) -> None:
    client = hosts.open_socket(hosts.mobile, socket.AF_INET, socket.SOCK_DGRAM)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"net-a")
    client.connect((str(correspondent()), PORT))
    with pytest.raises(Refused, match="bound to another network device"):
        datagram.inspect(client, interface=hosts.interface("b"))
    datagram.inspect(client, interface=hosts.interface("a"))
    hosts.mobile.ip("addr add 10.1.0.7/32 dev net-a")
    try:
        rebuild(client, Steering(interface=hosts.interface("a")), local=ip_address("10.1.0.7"))
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"net-a"
    finally:
        hosts.mobile.ip("addr del 10.1.0.7/32 dev net-a")


@pytest.mark.parametrize("kind", KINDS)
def test_sockets_that_are_not_connected_are_told_apart(hosts: Hosts, kind: str) -> None:
    version, dual_stack = KINDS[kind]
    family = socket.AF_INET if kind == "ipv4" else socket.AF_INET6
    mapped = "::ffff:" if dual_stack else ""
    wildcard, bound = (hosts.open_socket(hosts.mobile, family, socket.SOCK_DGRAM) for _ in range(2))
    wildcard.bind(("0.0.0.0" if family == socket.AF_INET else "::", 6503))
    bound.bind((f"{mapped}{mobile('a', version)}", 6504))
    reasons = []
    for sock in (wildcard, bound):
        with pytest.raises(Refused) as refused:
            datagram.inspect(sock)
        reasons.append(refused.value.reason)
    assert reasons == [Reason.NOT_CONNECTED, Reason.NOT_CONNECTED_BOUND]
    assert [reason.needs_nothing for reason in reasons] == [True, False]


@pytest.mark.both
def test_a_tunnel_of_the_kernel_is_refused(hosts: Hosts) -> None:
    client, _server = pair(hosts)
    client.setsockopt(socket.IPPROTO_UDP, 100, 2)  # UDP_ENCAP, UDP_ENCAP_ESPINUDP
    with pytest.raises(Refused) as refused:
        datagram.inspect(client)
    assert refused.value.reason is Reason.ENCAPSULATION

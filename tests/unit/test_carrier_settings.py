"""Carriers that contradict each other are refused before the kernel hears of them; messages are as ip(8) makes them."""

from ipaddress import ip_address as ip

import pytest

from swanroam.kernel.carrier import Carrier, CarrierSettings, check
from swanroam.kernel.carrier_routes import HeldAddress, Rule, TunnelRoute
from swanroam.kernel.ingress import Admitted, Clear
from swanroam.kernel.rtnetlink import IPAddress, RouteSocketError, TunnelRouteMessage

OLD, OLDER, NEW, PEER, PEER_NEW = (ip(f"192.0.2.{number}") for number in range(1, 6))


def _carrier(
    local: IPAddress, remote: IPAddress, outer_local: IPAddress, outer_remote: IPAddress, **more: bool
) -> Carrier:
    return Carrier(local=local, remote=remote, outer_local=outer_local, outer_remote=outer_remote, **more)


def test_addresses_of_two_families_are_refused() -> None:
    with pytest.raises(ValueError, match="one family"):
        _carrier(OLD, PEER, ip("2001:db8::1"), ip("2001:db8::2"))
    with pytest.raises(ValueError, match="one family"):
        Admitted(OLD, ip("2001:db8::1"))


def test_several_local_addresses_share_a_remote_one() -> None:
    check([_carrier(OLD, PEER, NEW, PEER), _carrier(OLDER, PEER, NEW, PEER)])


def test_one_remote_address_with_two_outer_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="contradicts"):
        check([_carrier(OLD, PEER, NEW, PEER), _carrier(OLDER, PEER, NEW, PEER_NEW)])


def test_control_datagrams_may_have_another_outer_pair_than_data() -> None:
    """Both hosts moved, and the peer's new address is not proven yet."""
    check(
        [
            _carrier(OLD, PEER, NEW, PEER),
            _carrier(OLD, PEER_NEW, NEW, PEER),
            _carrier(OLD, PEER, NEW, PEER_NEW, control_only=True),
            _carrier(OLD, PEER_NEW, NEW, PEER_NEW, control_only=True),
            _carrier(NEW, PEER, NEW, PEER_NEW, control_only=True),
        ]
    )


@pytest.mark.parametrize("control_only", [False, True])
def test_a_carrier_inside_a_carrier_is_refused(control_only: bool) -> None:
    with pytest.raises(ValueError, match="carried themselves"):
        check(
            [
                _carrier(OLD, PEER, NEW, PEER, control_only=control_only),
                _carrier(NEW, PEER, NEW, PEER, control_only=control_only),
            ]
        )
    with pytest.raises(ValueError, match="carried themselves"):
        check([_carrier(OLD, PEER, OLD, PEER, control_only=control_only)])


@pytest.mark.parametrize("mark", [0, -1, 1 << 32])
def test_clear_inner_packets_need_a_mark(mark: int) -> None:
    with pytest.raises(ValueError, match="mark"):
        Clear(mark, PEER, NEW)


def test_control_datagrams_are_asked_about_before_data() -> None:
    settings = CarrierSettings(table=6000, rule_priority=100)
    assert settings.control_priority < settings.data_priority
    assert settings.control_table != settings.table


@pytest.mark.parametrize(
    ("source", "destination"),
    [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")],
)
def test_an_encapsulating_route_is_read_back_as_it_was_written(source: str, destination: str) -> None:
    route = TunnelRoute(5353, ip(destination), ip(source), ip(destination), 7)
    message = route._message()
    message.encode()
    read = TunnelRouteMessage(message.data)
    read.decode()
    name = "LWTUNNEL_IP" if ip(source).version == 4 else "LWTUNNEL_IP6"
    assert read.get_attr("RTA_TABLE") == 5353
    assert read.get_nested("RTA_ENCAP", f"{name}_SRC") == source
    assert read.get_nested("RTA_ENCAP", f"{name}_DST") == destination


def test_the_encapsulation_is_what_ip_route_sends() -> None:
    """Nested attribute of `ip route … encap ip src 192.0.2.1 dst 192.0.2.2`, without the optional id."""
    message = TunnelRoute(5353, ip("192.0.2.2"), ip("192.0.2.1"), ip("192.0.2.2"), 7)._message()
    message.encode()
    encapsulation = bytes.fromhex("1400 1600 0800 0200 c0000202 0800 0300 c0000201")
    assert encapsulation in bytes(message.data)
    assert bytes.fromhex("0600 1500 0200") in bytes(message.data)  # RTA_ENCAP_TYPE: LWTUNNEL_ENCAP_IP


def test_objects_say_what_they_are() -> None:
    assert str(Rule(OLD, PEER, 5353, 151)) == "rule 151: from 192.0.2.1 to 192.0.2.4 lookup 5353"
    assert str(Rule(OLD, PEER, 5354, 150, 0x5353)).endswith("mark 0x5353 lookup 5354")
    assert str(HeldAddress(OLD, 3)).startswith("address 192.0.2.1")
    assert "192.0.2.3 -> 192.0.2.4" in str(_carrier(OLD, PEER, NEW, PEER))


def test_an_error_says_what_was_tried_and_what_to_do() -> None:
    error = RouteSocketError(95, "add device swanroam4", "Unknown device type", "modprobe ipip")
    assert str(error).startswith("cannot add device swanroam4: Operation not supported: Unknown device type [")
    assert str(error).endswith("; modprobe ipip")

"""Which interfaces and addresses count."""

from ipaddress import ip_address, ip_network

import pytest

from swanroam.kernel.addresses import AddressSelection, HostAddresses, LinkState, LocalAddress


@pytest.mark.parametrize("name", ["lo", "swanroam4", "swanroam6"])
def test_loopback_and_carrier_never_count_even_when_named(name: str) -> None:
    assert not AddressSelection(interfaces=("*", name)).counts_interface(name)


def test_interfaces_must_match_a_glob_and_none_to_ignore() -> None:
    selection = AddressSelection(("eth*", "wlan0"), ("eth1", "eth9*"))

    assert [name for name in ("eth0", "eth1", "eth99", "wlan0", "wlan1") if selection.counts_interface(name)] == [
        "eth0",
        "wlan0",
    ]


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.1.1", "224.0.0.5", "0.0.0.0", "::1", "fe80::1", "ff02::1"])
def test_addresses_that_other_networks_cannot_reach_never_count(address: str) -> None:
    assert not AddressSelection().counts_address(ip_address(address))


@pytest.mark.parametrize(
    ("address", "counts"), [("10.1.0.1", False), ("10.2.0.1", True), ("2001:db8::5", False), ("2001:db8:1::5", True)]
)
def test_addresses_in_ignored_prefixes_do_not_count(address: str, counts: bool) -> None:
    selection = AddressSelection(ignore=(ip_network("10.1.0.0/16"), ip_network("2001:db8::/64")))

    assert selection.counts_address(ip_address(address)) is counts


def test_best_instance_of_an_address_is_one_that_can_be_used() -> None:
    address = ip_address("192.0.2.1")
    down = LocalAddress(address, 24, "eth0", 1, 0)
    deprecated = LocalAddress(address, 24, "eth1", 2, 0, deprecated=True)
    failed = LocalAddress(address, 24, "eth2", 3, 0, dadfailed=True)
    links = frozenset({LinkState(1, "eth0", True, False), LinkState(2, "eth1", True, True)})

    assert HostAddresses(frozenset({down, deprecated, failed}), links).find(address) == deprecated
    assert HostAddresses(frozenset({down, failed}), links).find(address) == down
    assert HostAddresses().find(address) is None


@pytest.mark.parametrize(
    ("interface", "address", "passed_over"),
    [
        ("eth0", "192.0.2.1", False),
        ("eth0", "10.1.0.1", True),
        ("docker0", "172.17.0.1", True),
        ("lo", "203.0.113.1", True),
        ("lo", "127.0.0.1", False),
        ("docker0", "fe80::1", False),
        ("swanroam4", "192.0.2.1", False),
    ],
)
def test_addresses_that_do_not_count_and_can_be_a_source_are_passed_over(
    interface: str, address: str, passed_over: bool
) -> None:
    selection = AddressSelection(ignore_interfaces=("docker*",), ignore=(ip_network("10.1.0.0/16"),))

    assert selection.passes_over(LocalAddress(ip_address(address), 24, interface, 1, 0)) is passed_over

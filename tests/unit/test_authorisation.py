"""Who may move what, to where (RFC 4555 §5.1-5.2, RFC 4225 §3.1)."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from swanroam.protocol.authorisation import Policy, Surroundings, authorise, unusable
from swanroam.protocol.messages import Verdict
from unit.driver import A, B, C, P, Q, change

ANYWHERE = Policy(may_move=True, allowed=())
V6 = ip_address("2001:db8::1")


def test_an_identity_moves_from_its_own_address_to_a_free_one():
    assert authorise(change(1, B, A), ANYWHERE, Surroundings(), {A}) is None


def test_a_first_registration_names_the_address_that_ike_has_seen():
    assert authorise(change(1, A), ANYWHERE, Surroundings(), {A}) is None


def test_nobody_takes_the_connections_of_an_address_that_is_not_his():
    refusal = authorise(change(1, B, C), ANYWHERE, Surroundings(), {A})
    assert refusal is not None
    assert refusal.verdict is Verdict.NOT_OWNED
    assert str(C) in refusal.reason


@pytest.mark.parametrize(
    ("surroundings", "reason"),
    [
        (Surroundings(own=frozenset({B})), "192.0.2.2 is an address of this host"),
        (Surroundings(others=frozenset({B})), "192.0.2.2 belongs to another peer"),
    ],
)
def test_nobody_moves_to_an_address_that_is_taken(surroundings, reason):
    refusal = authorise(change(1, B, A), ANYWHERE, surroundings, {A})
    assert refusal is not None
    assert refusal.verdict is Verdict.IN_USE
    assert refusal.reason == reason


def test_an_identity_that_may_not_move_may_still_say_where_it_is():
    policy = Policy(may_move=False, allowed=())
    assert authorise(change(1, A), policy, Surroundings(), {A}) is None
    refusal = authorise(change(1, B, A), policy, Surroundings(), {A})
    assert refusal is not None
    assert refusal.verdict is Verdict.NOT_ALLOWED


def test_moves_stay_in_the_allowed_prefixes():
    policy = Policy(may_move=True, allowed=(ip_network("192.0.2.0/31"), ip_network("198.51.100.0/24")))
    assert authorise(change(1, Q, A), policy, Surroundings(), {A}) is None
    refusal = authorise(change(1, B, A), policy, Surroundings(), {A})
    assert refusal is not None
    assert refusal.verdict is Verdict.NOT_ALLOWED
    assert "outside the prefixes" in refusal.reason


def test_the_way_back_to_an_own_address_needs_no_permission():
    policy = Policy(may_move=True, allowed=(ip_network("198.51.100.0/24"),))
    assert authorise(change(2, A, P), policy, Surroundings(), {A, P}) is None


@pytest.mark.parametrize("message", [change(1, V6, A), change(1, V6), change(1, A, V6)])
def test_a_move_keeps_its_address_family(message):
    refusal = authorise(message, ANYWHERE, Surroundings(), {A} | set(message.deprecated))
    assert refusal is not None
    assert refusal.verdict is Verdict.NOT_ALLOWED


def test_a_peer_with_ike_sas_of_both_families_moves_in_either():
    assert authorise(change(1, B, A), ANYWHERE, Surroundings(), {A, V6}) is None
    assert authorise(change(1, ip_address("2001:db8::2"), V6), ANYWHERE, Surroundings(), {A, V6}) is None


def test_an_address_is_current_or_deprecated_but_not_both():
    refusal = authorise(change(1, A, A), ANYWHERE, Surroundings(), {A})
    assert refusal is not None
    assert refusal.verdict is Verdict.NOT_ALLOWED


@pytest.mark.parametrize(
    "text",
    [
        *("0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.1.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "ff02::1", "::ffff:192.0.2.2"),
    ],
)
def test_addresses_that_reach_nobody_are_refused(text):
    address = ip_address(text)
    assert unusable(address)
    owned = {A if address.version == 4 else V6}
    refusal = authorise(change(1, address), ANYWHERE, Surroundings(), owned)
    assert refusal is not None
    assert refusal.verdict is Verdict.NOT_ALLOWED


@pytest.mark.parametrize("text", ["10.0.0.1", "192.168.1.1", "100.64.0.1", "8.8.8.8", "2001:db8::1", "fd00::1"])
def test_ordinary_and_private_addresses_are_usable(text):
    assert unusable(ip_address(text)) is None

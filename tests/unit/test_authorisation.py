"""Who may move what, to where (RFC 4555 §5.1-5.2, RFC 4225 §3.1)."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address, ip_network

import pytest

from swanroam.protocol.authorisation import Ground, Policy, Refusal, Surroundings, authorise, unusable
from swanroam.protocol.binding import Binding
from swanroam.protocol.messages import AddressChange, IPAddress, Verdict
from unit.driver import A, B, C, Q, change

ANYWHERE = Policy(may_move=True, allowed=())
V6 = ip_address("2001:db8::1")
AT_A = Binding(A)
NOBODY_ELSE = Surroundings()


def refused(
    message: AddressChange,
    policy: Policy = ANYWHERE,
    surroundings: Surroundings = NOBODY_ELSE,
    binding: Binding | None = AT_A,
    associated: Collection[IPAddress] = (A,),
) -> Refusal:
    refusal = authorise(message, policy, surroundings, binding, associated)
    assert refusal is not None
    return refusal


def granted(
    message: AddressChange,
    policy: Policy = ANYWHERE,
    surroundings: Surroundings = NOBODY_ELSE,
    binding: Binding | None = AT_A,
    associated: Collection[IPAddress] = (A,),
) -> bool:
    return authorise(message, policy, surroundings, binding, associated) is None


# --- from where -------------------------------------------------------------------------------------------------------


def test_an_identity_moves_from_its_own_address_to_a_free_one():
    assert granted(change(1, B, A))
    assert granted(change(1, B, A), binding=None), "by its IKE_SA"
    assert granted(change(1, B, A), associated=()), "by its binding"


def test_nobody_takes_the_connections_of_an_address_that_is_not_his():
    refusal = refused(change(1, B, C))
    assert (refusal.verdict, refusal.ground) == (Verdict.NOT_OWNED, Ground.NOT_OWNED)
    assert str(C) in refusal.reason


@pytest.mark.parametrize("message", [change(1, V6, A), change(1, V6), change(1, A, V6)])
def test_a_move_keeps_its_address_family(message):
    refusal = refused(message, associated={A} | set(message.deprecated))
    assert (refusal.verdict, refusal.ground) == (Verdict.NOT_ALLOWED, Ground.FAMILY)


def test_a_peer_with_ike_sas_of_both_families_moves_in_either():
    assert granted(change(1, B, A), associated={A, V6})
    assert granted(change(1, ip_address("2001:db8::2"), V6), associated={A, V6})


def test_an_address_is_current_or_deprecated_but_not_both():
    refusal = refused(change(1, A, A))
    assert (refusal.verdict, refusal.ground) == (Verdict.NOT_ALLOWED, Ground.CONTRADICTION)


# --- to where ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("surroundings", "ground", "reason"),
    [
        (Surroundings(own=frozenset({B})), Ground.OURS, "192.0.2.2 is an address of this host"),
        (Surroundings(others=frozenset({B})), Ground.ANOTHER_PEERS, "192.0.2.2 belongs to another peer"),
    ],
)
def test_nobody_moves_to_an_address_that_is_taken(surroundings, ground, reason):
    refusal = refused(change(1, B, A), surroundings=surroundings)
    assert refusal == Refusal(Verdict.IN_USE, ground, reason)


def test_an_identity_that_may_not_move_may_still_say_where_it_is():
    policy = Policy(may_move=False, allowed=())
    assert granted(change(1, A), policy, binding=None)
    assert granted(change(2, A), policy)
    refusal = refused(change(1, B, A), policy)
    assert (refusal.verdict, refusal.ground) == (Verdict.NOT_ALLOWED, Ground.MAY_NOT_MOVE)


def test_moves_stay_in_the_allowed_prefixes():
    policy = Policy(may_move=True, allowed=(ip_network("192.0.2.0/31"), ip_network("198.51.100.0/24")))
    assert granted(change(1, Q, A), policy)
    refusal = refused(change(1, B, A), policy)
    assert (refusal.verdict, refusal.ground) == (Verdict.NOT_ALLOWED, Ground.OUTSIDE)
    assert "outside the prefixes" in refusal.reason


@pytest.mark.parametrize(
    ("message", "binding"),
    [(change(2, B, A), AT_A), (change(2, B), AT_A), (change(2, B, A), Binding(A, (B,))), (change(2, B, A), None)],
    ids=["announced after IKE", "connections left behind", "named as deprecated before", "as registration"],
)
def test_an_ike_sa_is_no_permission_to_move_where_policy_does_not_allow(message, binding):
    policy = Policy(may_move=True, allowed=(ip_network("198.51.100.0/24"),))
    assert refused(message, policy, binding=binding, associated={A, B}).ground is Ground.OUTSIDE
    assert refused(message, Policy(False, ()), binding=binding, associated={A, B}).ground is Ground.MAY_NOT_MOVE


def test_a_first_registration_needs_no_permission_for_where_its_ike_sa_is():
    policy = Policy(may_move=True, allowed=(ip_network("198.51.100.0/24"),))
    assert granted(change(1, A), policy, binding=None)
    assert refused(change(1, B), policy, binding=None).ground is Ground.OUTSIDE


def test_a_registration_takes_no_address_of_a_registered_peer_not_even_with_an_ike_sa_there():
    taken = Surroundings(others=frozenset({A}), registered=frozenset({A}))
    assert refused(change(1, A), surroundings=taken, binding=None).ground is Ground.ANOTHER_PEERS


def test_of_two_identities_with_ike_sas_at_one_address_the_first_to_register_has_it():
    assert granted(change(1, A), surroundings=Surroundings(others=frozenset({A})), binding=None)


def test_where_an_identity_is_already_it_may_stay():
    everything = Surroundings(own=frozenset({A}), others=frozenset({A}), registered=frozenset({A}))
    assert granted(change(2, A, B), Policy(False, (ip_network("10.0.0.0/8"),)), everything, Binding(A, (B,)))


@pytest.mark.parametrize(
    "text",
    [
        *("0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "ff02::1", "::ffff:192.0.2.2"),
    ],
)
def test_addresses_that_reach_nobody_are_refused(text):
    address = ip_address(text)
    assert unusable(address)
    own = A if address.version == 4 else V6
    for binding, associated in ((Binding(own), (own, address)), (None, (own, address)), (None, (own,))):
        refusal = refused(change(1, address), binding=binding, associated=associated)
        assert (refusal.verdict, refusal.ground) == (Verdict.NOT_ALLOWED, Ground.NO_HOST)


@pytest.mark.parametrize("text", ["10.0.0.1", "192.168.1.1", "100.64.0.1", "8.8.8.8", "2001:db8::1", "fd00::1"])
def test_ordinary_and_private_addresses_are_usable(text):
    assert unusable(ip_address(text)) is None


@pytest.mark.parametrize(("own", "text"), [(A, "169.254.1.1"), (V6, "fe80::1")])
@pytest.mark.parametrize("registers", [False, True])
def test_a_link_local_address_is_allowed_only_where_it_is_configured(own, text, registers):
    address = ip_address(text)
    binding, associated = (None, (address,)) if registers else (Binding(own), (own,))

    def ground(*allowed: str) -> Ground | None:
        policy = Policy(True, tuple(map(ip_network, allowed)))
        refusal = authorise(change(1, address), policy, Surroundings(), binding, associated)
        return refusal.ground if refusal else None

    assert ground() is Ground.LINK_LOCAL
    assert ground("0.0.0.0/0", "::/0") is Ground.LINK_LOCAL, "everything is the default, and names nothing"
    assert ground("169.254.1.0/24", "fe80::/10") is None
    assert ground("169.254.2.0/24", "fe80:1::/64") is Ground.LINK_LOCAL


def test_nobody_moves_into_the_prefix_of_inner_addresses():
    surroundings = Surroundings(control=ip_network("fd53:7761:6e72::/48"))
    message = change(1, ip_address("fd53:7761:6e72::1"), V6)
    assert refused(message, ANYWHERE, surroundings, Binding(V6)).ground is Ground.CONTROL_PREFIX

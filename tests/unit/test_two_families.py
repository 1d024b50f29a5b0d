"""charon may have IKE_SAs of both address families with a peer, and lose either: a name of the peer's has both.

swanroam moves within one family. Whatever charon has, no pair ever joins two.
"""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from swanroam.daemon.translation import ANY_TRAFFIC, kernel_state
from swanroam.protocol.host_state import Carried, HostState, Pair
from swanroam.protocol.messages import AddressChange
from unit.driver import SETTINGS, STATIONARY, A, B, Driver, P, Q, answer, change, sent

A6, B6, P6, Q6 = (ip_address(f"2001:db8::{number}") for number in range(1, 5))
PAIRS = [Pair(A, P), Pair(B, P), Pair(A, Q), Pair(A6, P6), Pair(B6, P6), Pair(A6, Q6)]
PREFIX = ip_network("fd53:7761:6e72::/48")


def assert_kept_apart(state: HostState) -> None:
    for field in dataclasses.fields(state):
        for entry in getattr(state, field.name):
            pairs = [entry.inner, entry.outer] if isinstance(entry, Carried) else [entry]
            assert all(pair.local.version == pair.remote.version for pair in pairs if isinstance(pair, Pair)), (
                field.name
            )
    kernel_state([(state, ANY_TRAFFIC)], PREFIX, 0x5353)


def test_an_ike_sa_of_the_other_family_that_goes_again_joins_nothing() -> None:
    host = Driver()
    host.addresses(A)
    host.receive(answer(only_change(host.associate(Pair(A, P)))))
    host.receive(change(1, P))
    host.associate(Pair(A, P), Pair(A6, P6))
    assert_kept_apart(host.machine.wanted())
    host.associate(Pair(A, P))
    assert P6 in host.machine.correspondent.lingering
    assert_kept_apart(host.machine.wanted())
    host.addresses(B)
    assert_kept_apart(host.machine.wanted())


def only_change(actions: list[object]) -> AddressChange:
    (announced,) = sent(actions, AddressChange)  # type: ignore[arg-type]
    return announced


_associations = st.lists(st.sampled_from(PAIRS), unique=True, max_size=4)
_addresses = st.lists(st.sampled_from([A, B, A6, B6]), unique=True, max_size=3)
_changes = st.tuples(st.integers(1, 9), st.sampled_from([P, Q, P6, Q6]), st.sets(st.sampled_from([P, Q, P6, Q6])))
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("associate"), _associations),
        st.tuples(st.just("addresses"), _addresses),
        st.tuples(st.just("change"), _changes),
        st.tuples(st.just("wait"), st.floats(0.1, 60)),
    ),
    max_size=12,
)


@given(st.sampled_from([SETTINGS, STATIONARY]), _steps)
def test_whatever_charon_has_no_pair_joins_two_families(settings: object, steps: list[tuple[str, object]]) -> None:
    host = Driver(settings)  # type: ignore[arg-type]
    for kind, value in steps:
        if kind == "associate":
            actions = host.associate(*value)  # type: ignore[misc]
        elif kind == "addresses":
            actions = host.addresses(*value)  # type: ignore[misc]
        elif kind == "change":
            sequence, current, deprecated = value  # type: ignore[misc]
            actions = host.receive(change(sequence, current, *sorted(deprecated - {current}, key=str)))
        else:
            actions = host.wait(value)  # type: ignore[arg-type]
        for announced in sent(actions, AddressChange):
            host.receive(answer(announced))
        assert_kept_apart(host.machine.wanted())

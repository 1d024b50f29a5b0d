"""What the kernel should look like, for every constellation of two bindings."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from swanroam.protocol.binding import Binding
from swanroam.protocol.host_state import Carried, Crossing, HostState, Pair, host_state
from swanroam.protocol.messages import IPAddress
from unit.driver import A, B, C, D, P, Q


def test_hosts_that_never_moved_need_guards_and_nothing_else():
    pair = Pair(A, P)
    assert host_state(Binding(A), Binding(P), peer_proven=P, holds=True) == HostState(
        held=frozenset({A}),
        reachable=frozenset({A}),
        admitted=frozenset({pair}),
        guarded=frozenset({pair}),
        shut=frozenset({P}),
    )


def test_only_a_host_that_may_move_guards_what_it_does_not_have_yet():
    assert host_state(Binding(A), Binding(Q, (P,)), peer_proven=Q, holds=True).shut == {P, Q}
    assert not host_state(Binding(A), Binding(Q, (P,)), peer_proven=Q, holds=False).shut


def test_mobile_host_carries_the_old_pair_from_the_new_address():
    state = host_state(Binding(B, (A,)), Binding(P), peer_proven=P, holds=True)
    assert state.held == {A, B}
    assert state.carried == {Carried(Pair(A, P), Pair(B, P), control_only=False)}
    assert state.admitted == state.guarded == state.bypassed == {Pair(A, P), Pair(B, P)}


def test_an_address_that_another_host_may_have_is_held_and_carried_but_not_reachable():
    before = host_state(Binding(B, (A,)), Binding(P), peer_proven=P, holds=True)
    state = host_state(Binding(B, (A,)), Binding(P), peer_proven=P, holds=True, vacated=[A])
    assert before.reachable == {A, B}
    assert state == replace(before, reachable=frozenset({B}))


def test_an_address_is_reachable_as_long_as_one_peer_needs_it_so():
    vacated = host_state(Binding(B, (A,)), Binding(P), peer_proven=P, holds=True, vacated=[A])
    needed = host_state(Binding(A), Binding(Q), peer_proven=Q, holds=True)
    assert (vacated | needed).reachable == {A, B}


def test_correspondent_host_carries_the_old_pair_to_the_new_address():
    state = host_state(Binding(P), Binding(B, (A,)), peer_proven=B, holds=False)
    assert state.held == frozenset()
    assert state.carried == {Carried(Pair(P, A), Pair(P, B), control_only=False)}
    assert state.admitted == state.guarded == state.bypassed == {Pair(P, A), Pair(P, B)}


def test_data_stays_on_the_proven_address_and_control_goes_to_the_announced_one():
    state = host_state(Binding(P), Binding(B, (A,)), peer_proven=A, holds=False)
    assert state.carried == {Carried(Pair(P, A), Pair(P, B), control_only=True)}


def test_older_pairs_go_through_the_proven_address_until_the_announced_one_is_proven():
    state = host_state(Binding(P), Binding(C, (A, B)), peer_proven=B, holds=False)
    assert state.carried == {
        Carried(Pair(P, A), Pair(P, B), control_only=False),
        Carried(Pair(P, A), Pair(P, C), control_only=True),
        Carried(Pair(P, B), Pair(P, C), control_only=True),
    }


def test_no_data_goes_anywhere_when_no_address_is_proven():
    state = host_state(Binding(P), Binding(B, (A,)), peer_proven=None, holds=False)
    assert all(entry.control_only for entry in state.carried)
    assert state.withheld == {Pair(P, A), Pair(P, B)}


def test_nothing_is_clear_inside_a_carrier_to_an_address_that_is_not_proven():
    for crossing in Crossing:
        state = host_state(Binding(A), Binding(Q, (P,)), peer_proven=P, holds=True, crossing=crossing)
        assert state.cleared == state.accepted == frozenset()
        assert state.bypassed == {Pair(A, P), Pair(A, Q)}


def test_both_hosts_moved():
    state = host_state(Binding(B, (A,)), Binding(Q, (P,)), peer_proven=Q, holds=True)
    native = Pair(B, Q)
    assert state.carried == {Carried(pair, native, control_only=False) for pair in (Pair(A, P), Pair(A, Q), Pair(B, P))}


def test_released_addresses_with_sockets_stay_guarded():
    state = host_state(Binding(A), Binding(P), peer_proven=P, holds=True, lingering=[Pair(A, Q)])
    assert state.guarded == {Pair(A, P), Pair(A, Q)}
    assert state.admitted == {Pair(A, P)}
    assert state.bypassed_in == {Pair(A, Q)}, "the peer may come back there, and say so through its carrier"


def test_pairs_that_have_an_ike_sa_are_admitted_and_guarded_before_they_are_announced():
    state = host_state(Binding(A), Binding(P), peer_proven=P, holds=True, associated=[Pair(A, Q)])
    assert state.admitted == state.guarded == {Pair(A, P), Pair(A, Q)}
    assert state.bypassed == {Pair(A, P)}, "that may be where the carrier comes from"


def test_states_of_several_peers_unite():
    one = host_state(Binding(B, (A,)), Binding(P), peer_proven=P, holds=True)
    other = host_state(Binding(B), Binding(Q), peer_proven=Q, holds=True)
    union = one | other
    assert union.carried == one.carried
    assert union.guarded == {Pair(A, P), Pair(B, P), Pair(B, Q)}
    assert union | HostState() == union


def _bindings(*addresses: IPAddress) -> st.SearchStrategy[Binding]:
    orders = st.permutations(addresses).flatmap(
        lambda order: st.integers(1, len(order)).map(lambda length: order[:length])
    )
    return orders.map(lambda order: Binding(order[0], tuple(order[1:])))


@given(_bindings(A, B, C), _bindings(P, Q, D), st.data())
def test_no_constellation_loops_or_leaves_a_pair_unguarded(own: Binding, peer: Binding, data: st.DataObject):
    proven = data.draw(st.sampled_from((*peer.addresses, None)))
    state = host_state(own, peer, peer_proven=proven, holds=True)
    pairs = {Pair(local, remote) for local in own.addresses for remote in peer.addresses}
    full = {entry.inner: entry.outer for entry in state.carried if not entry.control_only}
    control = {entry.inner: entry.outer for entry in state.carried if entry.control_only}
    assert state.guarded == state.admitted == pairs
    assert len(full) + len(control) == len(state.carried), "one carrier a pair and kind"
    for outer in (*full.values(), *control.values()):
        assert outer.local == own.current
        assert outer not in full
        assert outer in state.bypassed
    assert set(full.values()) <= {Pair(own.current, proven)}, "data goes to the proven address only"
    assert set(control.values()) <= {Pair(own.current, peer.current)}
    arrives = {pair: full.get(pair, pair).remote for pair in pairs - state.withheld}
    assert set(arrives.values()) <= {proven}, "whatever the pair"
    if proven is not None:
        native = pairs - set(full)
        assert native == {Pair(own.current, peer.current), Pair(own.current, proven)}
        assert state.withheld == {pair for pair in native if pair.remote != proven}

"""From what the machines want to what the kernel modules are told."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Network, ip_address

from swanroam.daemon.translation import ANY_TRAFFIC, HostFacts, ProtectedTraffic, kernel_state
from swanroam.kernel.carrier import Admitted, Carrier
from swanroam.kernel.ingress import Clear
from swanroam.kernel.xfrm.constants import IPPROTO_IPIP, Direction
from swanroam.kernel.xfrm.guards import (
    BYPASS_PRIORITY,
    WITHHELD_PRIORITY,
    bypass,
    carried_inner_in,
    everywhere,
    guard,
    neighbor_discovery,
    prefix_guard,
    uncounted,
    withheld,
)
from swanroam.kernel.xfrm.lifetimes import Mark
from swanroam.protocol.host_state import Carried, HostState, Pair

PREFIX = IPv6Network("fd53:7761:6e72::/48")
CLEAR_MARK = 0x5355
OLD, NEW, PEER, OTHER = (ip_address(text) for text in ("192.0.2.1", "192.0.2.2", "198.51.100.1", "198.51.100.2"))


def moving(peer: object = PEER) -> HostState:
    """NEW is current, OLD deprecated."""
    old, new = Pair(OLD, peer), Pair(NEW, peer)  # type: ignore[arg-type]  # an address
    both = frozenset({old, new})
    return HostState(
        held=frozenset({OLD, NEW}),
        reachable=frozenset({OLD, NEW}),
        carried=frozenset({Carried(old, new, control_only=False)}),
        admitted=both,
        guarded=both,
        bypassed=both,
    )


def test_without_peers_only_the_inner_prefix_is_guarded() -> None:
    state = kernel_state([], PREFIX, CLEAR_MARK)

    assert state.policies == set(prefix_guard(PREFIX))
    assert not state.held | state.carriers | state.admitted


def test_what_is_held_and_not_reachable_is_narrowed() -> None:
    assert not kernel_state([(moving(), ANY_TRAFFIC)], PREFIX, CLEAR_MARK).narrowed

    state = kernel_state([(replace(moving(), reachable=frozenset({NEW})), ANY_TRAFFIC)], PREFIX, CLEAR_MARK)

    assert state.narrowed == {OLD}
    assert state.held == {OLD, NEW}


def test_a_carried_pair_is_a_carrier_and_an_admitted_pair_is_seen_from_outside() -> None:
    state = kernel_state([(moving(), ANY_TRAFFIC)], PREFIX, CLEAR_MARK)

    assert state.held == {OLD, NEW}
    assert state.carriers == {Carrier(local=OLD, remote=PEER, outer_local=NEW, outer_remote=PEER, control_only=False)}
    assert state.admitted == {Admitted(PEER, OLD), Admitted(PEER, NEW)}


def test_every_guarded_pair_is_blocked_both_ways_for_the_traffic_that_is_protected() -> None:
    state = kernel_state([(moving(), frozenset({ProtectedTraffic(6, None, 80)}))], PREFIX, CLEAR_MARK)

    for local in (OLD, NEW):
        assert guard(local, PEER, Direction.OUT, protocol=6, source_port=None, destination_port=80) in state.policies
        assert guard(PEER, local, Direction.IN, protocol=6, source_port=80, destination_port=None) in state.policies


def test_what_is_withheld_is_stopped_before_charons_policies_and_only_on_its_way_out() -> None:
    pair, tcp = Pair(NEW, PEER), frozenset({ProtectedTraffic(6, None, 80)})
    state = kernel_state([(replace(moving(), withheld=frozenset({pair})), tcp)], PREFIX, CLEAR_MARK)

    stopped = [policy for policy in state.policies if policy.priority == WITHHELD_PRIORITY]

    assert stopped == [withheld(guard(NEW, PEER, Direction.OUT, protocol=6, destination_port=80))]
    assert BYPASS_PRIORITY < WITHHELD_PRIORITY < 100_000


def test_what_one_peer_has_proven_is_not_withheld_because_another_claims_it() -> None:
    pair = frozenset({Pair(NEW, PEER)})
    claimant = HostState(guarded=pair, withheld=pair)
    state = kernel_state([(claimant, ANY_TRAFFIC), (HostState(guarded=pair), ANY_TRAFFIC)], PREFIX, CLEAR_MARK)
    alone = kernel_state([(claimant, ANY_TRAFFIC)], PREFIX, CLEAR_MARK)

    assert not [policy for policy in state.policies if policy.priority == WITHHELD_PRIORITY]
    assert [policy for policy in alone.policies if policy.priority == WITHHELD_PRIORITY]


def test_the_states_of_two_peers_add_up() -> None:
    one, two = moving(PEER), moving(OTHER)

    together = kernel_state([(one, ANY_TRAFFIC), (two, ANY_TRAFFIC)], PREFIX, CLEAR_MARK)
    alone = [kernel_state([(state, ANY_TRAFFIC)], PREFIX, CLEAR_MARK) for state in (one, two)]

    assert together.carriers == alone[0].carriers | alone[1].carriers
    assert together.policies == alone[0].policies | alone[1].policies
    assert together.held == {OLD, NEW}


def test_two_hosts_on_one_link_find_each_other_in_ipv6_in_spite_of_the_guards() -> None:
    ours, its = ip_address("2001:db8::1"), ip_address("2001:db8::2")
    state = kernel_state([(HostState(guarded=frozenset({Pair(ours, its)})), ANY_TRAFFIC)], PREFIX, CLEAR_MARK)

    assert neighbor_discovery(ours, its, Direction.OUT) <= state.policies
    assert neighbor_discovery(its, ours, Direction.IN) <= state.policies


def test_only_incoming_ip_in_ip_is_let_through_where_the_carrier_itself_is_protected() -> None:
    pair = Pair(OLD, PEER)
    state = kernel_state([(HostState(bypassed_in=frozenset({pair})), ANY_TRAFFIC)], PREFIX, CLEAR_MARK)

    assert state.policies - set(prefix_guard(PREFIX)) == {bypass(PEER, OLD, IPPROTO_IPIP, Direction.IN)}


def test_a_pair_that_is_clear_inside_the_carrier_is_known_by_the_mark_of_what_came_out_of_it() -> None:
    pair = Pair(OLD, PEER)
    carried = Carried(pair, Pair(NEW, PEER), control_only=False)
    wanted = HostState(carried=frozenset({carried}), cleared=frozenset({pair}))
    state = kernel_state([(wanted, ANY_TRAFFIC)], PREFIX, CLEAR_MARK)

    assert state.admitted == {Admitted(PEER, OLD, Clear(CLEAR_MARK, PEER, NEW))}
    outer = {
        guard(NEW, PEER, Direction.OUT, protocol=IPPROTO_IPIP),
        guard(PEER, NEW, Direction.IN, protocol=IPPROTO_IPIP),
    }
    inner = carried_inner_in(PEER, OLD, Mark(CLEAR_MARK, 0xFFFFFFFF))
    assert state.policies - set(prefix_guard(PREFIX)) == {*outer, inner}
    assert state.cleared == {pair}


def test_nothing_unprotected_leaves_to_a_peer_from_an_address_that_is_not_known_yet() -> None:
    wanted = HostState(shut=frozenset({PEER}))
    traffic = frozenset({ProtectedTraffic(17, None, 53), ProtectedTraffic(6, 22, None)})

    sealed = kernel_state([(wanted, traffic)], PREFIX, CLEAR_MARK, HostFacts(frozenset({4}), frozenset({OTHER})))

    assert sealed.policies - prefix_guard(PREFIX) == {
        guard(everywhere(4), PEER, Direction.OUT, protocol=17, destination_port=53),
        guard(everywhere(4), PEER, Direction.OUT, protocol=6, source_port=22),
        uncounted(OTHER, PEER),
    }
    for facts in (HostFacts(), HostFacts(frozenset({6}), frozenset({OTHER}))):
        assert kernel_state([(wanted, traffic)], PREFIX, CLEAR_MARK, facts).policies == prefix_guard(PREFIX)


def test_neighbors_are_found_from_an_address_that_is_not_known_yet() -> None:
    peer, ours = (ip_address(text) for text in ("2001:db8::2", "2001:db8::1"))

    state = kernel_state(
        [(HostState(shut=frozenset({peer})), ANY_TRAFFIC)], PREFIX, CLEAR_MARK, HostFacts(frozenset({6}))
    )

    assert neighbor_discovery(everywhere(6), peer, Direction.OUT) <= state.policies
    assert uncounted(ours, peer) not in state.policies

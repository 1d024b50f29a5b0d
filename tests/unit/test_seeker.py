"""A peer that has moved when we did: when and where it is looked for, and that a name proves nothing."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from swanroam.protocol.authorisation import Surroundings
from swanroam.protocol.correspondent import LINGER_LEAST, PROOF_TIME
from swanroam.protocol.events import (
    Action,
    EstablishFilters,
    Fact,
    FallbacksResolved,
    FiltersEstablished,
    FiltersFailed,
    MigrateFilters,
    ReleaseFilters,
    ResolveFallbacks,
)
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import (
    HANDOVER_SIZE,
    Acknowledgment,
    AddressChange,
    FiltersRequest,
    IPAddress,
    Method,
    Stage,
    Verdict,
)
from swanroam.protocol.seeker import MAX_CANDIDATES, SEEK_AFTER, SEEK_PAUSE
from unit.driver import (
    SETTINGS,
    STATIONARY,
    A,
    B,
    C,
    Driver,
    P,
    Q,
    answer,
    change,
    facts,
    found,
    only,
    path_response,
    sent,
)

R, S = ip_address("203.0.113.1"), ip_address("203.0.113.2")
"""Where the peer may be, or somebody else."""


def registered(driver: Driver | None = None, *, peers: IPAddress = P) -> Driver:
    """Both hosts know each other, at A and P."""
    driver = driver or Driver()
    driver.associate(Pair(A, P))
    mine = only(sent(driver.addresses(A), AddressChange))
    driver.receive(answer(mine))
    driver.receive(change(1, peers))
    return driver


def lost(driver: Driver | None = None) -> Driver:
    """We have moved to B, and nobody answers for SEEK_AFTER."""
    driver = driver or registered()
    driver.addresses(B)
    driver.wait(SEEK_AFTER - 0.1)
    assert only(found(driver.wait(0.2), ResolveFallbacks)).version == 4
    return driver


def tried(actions: list[Action]) -> list[IPAddress]:
    """Where IKE is tried, besides the peer's last address."""
    return [action.pair.remote for action in found(actions, EstablishFilters) if action.pair.remote != P]


def resolve(driver: Driver, *addresses: IPAddress) -> list[IPAddress]:
    return tried(driver.feed(FallbacksResolved(addresses)))


def fail(driver: Driver, address: IPAddress) -> list[Action]:
    return driver.feed(FiltersFailed(Pair(B, address), "AUTHENTICATION_FAILED"))


def find(driver: Driver, address: IPAddress = Q) -> list[Action]:
    """IKE finds the peer there; charon is read a moment later."""
    actions = driver.feed(FiltersEstablished(Pair(B, address)))
    return actions + driver.associate(Pair(A, P), Pair(B, address))


# --- when it is looked for --------------------------------------------------------------------------------------------


def test_a_peer_that_answers_the_change_is_not_looked_for():
    driver = registered()
    mine = only(sent(driver.addresses(B), AddressChange))
    driver.receive(answer(mine))
    assert not found(driver.wait(200), ResolveFallbacks)


def test_a_peer_that_refuses_the_change_is_not_looked_for():
    driver = registered()
    mine = sent(driver.addresses(B), AddressChange)
    for _ in range(20):
        for message in mine:
            driver.receive(answer(message, Verdict.FAILED))
        actions = driver.wait(10)
        assert not found(actions, ResolveFallbacks)
        mine = sent(actions, AddressChange)[-1:]


def test_a_silent_peer_is_not_looked_for_while_it_knows_where_we_are():
    driver = registered()
    actions = driver.wait(300)
    assert Fact.PEER_SILENT in facts(actions)
    assert not found(actions, ResolveFallbacks)


def test_a_peer_that_may_have_accepted_an_overtaken_change_is_looked_for():
    driver = registered()
    driver.addresses(B)
    driver.wait(0.05)
    driver.addresses(A)
    assert found(driver.wait(SEEK_AFTER + 0.1), ResolveFallbacks), "it can be waiting for us at B"


def test_a_peer_that_has_not_acknowledged_us_once_is_not_looked_for():
    driver = Driver()
    driver.associate(Pair(A, P))
    driver.addresses(A)
    driver.receive(change(1, P))
    assert not found(driver.wait(300), ResolveFallbacks)


def test_a_new_way_to_the_peer_gives_it_time_to_answer():
    driver = registered()
    driver.addresses(B)
    driver.wait(SEEK_AFTER - 0.1)
    driver.associate(Pair(A, P), Pair(B, Q))
    assert not found(driver.wait(SEEK_AFTER - 0.1), ResolveFallbacks)
    assert found(driver.wait(0.2), ResolveFallbacks)


def test_a_peer_that_does_not_tell_its_addresses_is_not_looked_for():
    driver = Driver()
    driver.associate(Pair(A, P))
    driver.receive(answer(only(sent(driver.addresses(A), AddressChange))))
    driver.addresses(B)
    assert not found(driver.wait(300), ResolveFallbacks)


def test_a_host_that_does_not_move_looks_for_nobody():
    driver = Driver(STATIONARY)
    driver.associate(Pair(A, P))
    driver.receive(change(1, P))
    driver.addresses(B)
    assert not found(driver.wait(300), ResolveFallbacks)


def test_a_host_without_any_address_waits_until_it_has_one():
    driver = registered()
    driver.addresses(B)
    driver.addresses()
    assert not found(driver.wait(60), ResolveFallbacks)
    driver.addresses(B)
    assert not found(driver.wait(SEEK_AFTER - 0.1), ResolveFallbacks)
    assert found(driver.wait(0.2), ResolveFallbacks)


def test_it_is_looked_for_in_rounds_with_pauses_that_grow_while_it_is_lost():
    driver = lost()
    times = []
    for _ in range(8):
        began = driver.now
        resolve(driver)
        assert not found(driver.wait(SEEK_PAUSE[0] - 0.01), ResolveFallbacks)
        while not found(driver.wait(0.1), ResolveFallbacks):
            pass
        times.append(driver.now - began)
    assert times == pytest.approx([2, 4, 8, 16, 30, 30, 30, 30], abs=0.2)


def test_a_move_in_the_middle_begins_anew_from_there():
    driver = lost()
    assert resolve(driver, Q) == [Q]
    driver.addresses(C)
    assert not found(driver.wait(SEEK_AFTER - 0.1), ResolveFallbacks)
    assert found(driver.wait(0.2), ResolveFallbacks)
    assert only(found(driver.feed(FallbacksResolved((Q,))), EstablishFilters)).pair == Pair(C, Q)
    assert not facts(driver.feed(FiltersEstablished(Pair(B, Q)))), "that was for where we are no more"


def test_an_answer_ends_the_search_and_a_resolver_that_is_late_is_not_heard():
    driver = registered()
    mine = only(sent(driver.addresses(B), AddressChange))
    driver.wait(SEEK_AFTER + 0.1)
    driver.receive(answer(mine))
    assert driver.feed(FallbacksResolved((Q,))) == []
    assert driver.machine.mobile.seeker.sought_at is None


def test_an_attempt_that_ends_after_the_peer_has_answered_begins_no_other_round():
    driver = registered()
    mine = only(sent(driver.addresses(B), AddressChange))
    driver.wait(SEEK_AFTER + 0.1)
    assert resolve(driver, Q, R) == [Q]
    assert driver.machine.mobile.seeker.sought_at == (Q, R)
    driver.receive(answer(mine))
    assert driver.machine.mobile.seeker.sought_at is None
    assert not tried(fail(driver, Q))
    assert not found(driver.wait(300), ResolveFallbacks)


def test_a_restart_in_the_middle_seeks_again():
    driver = lost()
    assert resolve(driver, Q) == [Q]
    again = driver.restart()
    again.associate(Pair(A, P))
    again.addresses(B)
    again.receive(change(2, P))
    assert found(again.wait(SEEK_AFTER + 0.1), ResolveFallbacks)
    assert resolve(again, Q) == [Q]


# --- where ------------------------------------------------------------------------------------------------------------


def test_candidates_are_tried_one_after_the_other_in_their_order_each_once():
    driver = lost()
    assert resolve(driver, R, S, R, Q) == [R]
    assert driver.machine.mobile.seeker.sought_at == (R, S, Q)
    assert not tried(driver.wait(8))
    assert tried(fail(driver, R)) == [S]
    assert tried(fail(driver, S)) == [Q]
    assert not tried(fail(driver, Q))
    assert found(driver.wait(SEEK_PAUSE[0] + 0.1), ResolveFallbacks), "the next round asks the names again"


def test_addresses_at_which_no_peer_can_be_are_passed_over():
    driver = lost()
    driver.machine.surroundings = Surroundings(own=frozenset({B, C}), others=frozenset({R}))
    impossible = (A, B, C, R, P, ip_address("127.0.0.1"), ip_address("224.0.0.1"), ip_address("0.0.0.0"))
    assert resolve(driver, *impossible) == []
    assert driver.machine.wanted() == driver.applied
    assert not tried(driver.wait(60)), "nor later"


def test_a_name_with_very_many_addresses_costs_only_some_attempts():
    driver = lost()
    many = [ip_address(f"203.0.113.{number}") for number in range(1, 100)]
    actions: list[Action] = driver.feed(FallbacksResolved(tuple(many)))
    attempts = 0
    while place := tried(actions):
        attempts += 1
        actions = fail(driver, only(place))
    assert attempts == MAX_CANDIDATES


def test_a_deprecated_address_of_the_peer_is_tried_outside_the_carrier():
    driver = registered(peers=Q)
    driver.receive(change(2, Q, P))
    mine = only(sent(driver.addresses(B), AddressChange))
    driver.wait(SEEK_AFTER + 0.1)
    carried = {entry.inner for entry in driver.applied.carried}
    assert Pair(B, P) in carried
    actions = driver.feed(FallbacksResolved((P, Q)))
    assert only(found(actions, EstablishFilters)).pair == Pair(B, P)
    assert {entry.inner for entry in driver.applied.carried} == carried - {Pair(B, P)}
    driver.feed(FiltersFailed(Pair(B, P), "no answer"))
    assert {entry.inner for entry in driver.applied.carried} == carried - {Pair(B, P)}, "it may try to reach us as well"
    driver.receive(answer(mine))
    assert {entry.inner for entry in driver.applied.carried} == carried


# --- what it proves, and what not -------------------------------------------------------------------------------------


def test_a_wrong_host_at_the_fallback_address_gets_nothing_and_changes_nothing():
    driver = lost()
    before, known = driver.applied, (driver.machine.peer, driver.machine.correspondent.proven)
    assert resolve(driver, R) == [R]
    stopped = {Pair(A, R), Pair(B, R)}
    assert driver.applied.guarded - before.guarded == driver.applied.withheld == stopped, "nothing leaves for it"
    others = replace(driver.applied, guarded=before.guarded, withheld=before.withheld)
    assert others == before, "and nothing else is for it"
    assert Fact.PEER_NOT_FOUND in facts(fail(driver, R))
    assert driver.applied == before
    assert (driver.machine.peer, driver.machine.correspondent.proven) == known


def test_no_message_follows_from_a_name_before_ike_has_found_the_peer():
    driver = lost()
    actions = driver.feed(FallbacksResolved((R, S)))
    assert not sent(actions, AddressChange)
    assert all(message.current == B for message in sent(driver.wait(9), AddressChange))
    assert driver.machine.peer is not None
    assert driver.machine.peer.addresses == (P,)


def test_the_peer_that_ike_has_found_is_told_at_once_and_stays_guarded():
    driver = lost()
    resolve(driver, Q)
    guarded = driver.applied.guarded
    actions = find(driver)
    assert Fact.PEER_FOUND in facts(actions)
    told = only(sent(actions, AddressChange))
    assert (told.current, told.deprecated) == (B, (A,))
    assert driver.applied.guarded == guarded
    assert {entry.outer.remote for entry in driver.applied.carried} == {P}, "data does not go there yet"


def test_data_goes_there_when_the_peer_has_said_so_and_proven_it():
    driver = lost()
    resolve(driver, Q)
    driver.receive(answer(only(sent(find(driver), AddressChange))))
    driver.receive(change(2, Q, P))
    assert {entry.outer.remote for entry in driver.applied.carried if not entry.control_only} == {P}
    challenge = driver.machine.correspondent._challenge
    assert challenge is not None, "the proof that every new address needs"


def test_once_both_know_what_the_new_filters_supersede_is_ended_once():
    driver = lost()
    resolve(driver, Q)
    driver.receive(answer(only(sent(find(driver), AddressChange))))
    actions = driver.receive(change(2, Q, P))
    assert not found(actions, EstablishFilters), "it may not be there"
    actions = driver.receive(path_response(only(sent(actions, Acknowledgment))))
    assert only(found(actions, EstablishFilters)).pair == Pair(B, Q)
    assert not found(driver.feed(FiltersEstablished(Pair(B, Q))), EstablishFilters)
    assert driver.machine.mobile.seeker.found is None


def test_what_was_found_stays_when_the_peer_has_not_proven_in_time_that_it_is_there():
    driver = lost(registered())
    resolve(driver, Q)
    actions = driver.feed(FiltersEstablished(Pair(B, Q)))
    actions += driver.associate(Pair(A, P), Pair(B, P), Pair(B, Q))
    driver.receive(change(2, Q, P))
    driver.receive(answer(only(sent(actions, AddressChange))))
    actions = driver.wait(PROOF_TIME + 0.1)
    assert driver.machine.mobile.ready
    assert driver.machine.correspondent.fallen_back
    assert driver.machine.mobile.seeker.found == Pair(B, Q)
    assert Q not in [action.address for action in found(actions, ReleaseFilters)], "it has said that it is there"
    acknowledgment = only(sent(driver.receive(change(2, Q, P)), Acknowledgment))
    actions = driver.receive(path_response(acknowledgment))
    assert only(found(actions, EstablishFilters)).pair == Pair(B, Q)


def test_a_peer_is_not_looked_for_at_inner_addresses_nor_on_a_link():
    driver = lost()
    inner, link = ip_address("fd53:7761:6e72::1"), ip_address("169.254.0.1")
    driver.machine.surroundings = Surroundings(control=ip_network("fd53:7761:6e72::/64"))
    assert resolve(driver, inner, link, Q) == [Q]
    assert driver.machine.mobile.seeker.sought_at == (Q,)


def test_at_an_old_address_that_was_never_proven_nothing_but_ike_is_sent():
    driver = registered()
    driver.receive(change(2, Q, P))
    driver.receive(change(3, R, P, Q))
    driver.wait(PROOF_TIME + 0.1)
    driver.addresses(B)
    driver.wait(SEEK_AFTER + 0.1)
    assert resolve(driver, Q) == [Q]
    assert Pair(B, Q) in driver.applied.withheld
    assert driver.machine.correspondent.proven == P
    find(driver)
    assert Pair(B, Q) in driver.applied.withheld, "IKE is there, and it has not said so"


def test_filters_where_it_was_found_are_released_when_the_peer_says_that_it_is_elsewhere():
    driver = lost()
    resolve(driver, Q)
    driver.receive(answer(only(sent(find(driver), AddressChange))))
    actions = driver.associate(Pair(A, P), Pair(B, Q), Pair(B, P))
    assert only(found(actions, ReleaseFilters)).address == Q
    assert Pair(B, Q) in driver.applied.guarded, "as long as there is an IKE_SA"
    driver.associate(Pair(A, P), Pair(B, P))
    assert Pair(B, Q) in driver.applied.guarded, "as long as there may be sockets"
    driver.count({}, LINGER_LEAST)
    assert Pair(B, Q) not in driver.applied.guarded


def test_another_search_takes_the_guard_from_where_the_peer_was_found_and_lost_again():
    driver = lost()
    resolve(driver, Q)
    find(driver)
    driver.associate(Pair(A, P))
    driver.count({}, LINGER_LEAST)
    assert Pair(B, Q) in driver.applied.guarded
    assert found(driver.wait(SEEK_AFTER + SEEK_PAUSE[0]), ResolveFallbacks)
    assert resolve(driver, R) == [R]
    assert Pair(B, Q) not in driver.applied.guarded


# --- method migrate ---------------------------------------------------------------------------------------------------


def migrating() -> Driver:
    return Driver(replace(SETTINGS, mobile=replace(SETTINGS.mobile, method=Method.MIGRATE)))


def test_with_method_migrate_it_is_found_by_a_new_ike_sa_which_is_not_migrated():
    driver = lost(registered(migrating()))
    assert resolve(driver, Q) == [Q]
    driver.receive(answer(only(sent(find(driver), AddressChange))))
    assert not driver.machine.filter_moves.leader.busy, "the peer is not where it has said, and will say so"
    acknowledgment = only(sent(driver.receive(change(2, Q, P)), Acknowledgment))
    actions = driver.receive(path_response(acknowledgment))
    assert driver.machine.mobile.ready
    assert only(found(actions, EstablishFilters)).pair == Pair(B, Q)
    assert not driver.machine.filter_moves.leader.busy


def test_with_method_migrate_an_ike_sa_that_the_peer_has_made_anew_is_not_migrated():
    driver = lost(registered(migrating()))
    actions = driver.associate(Pair(A, P), Pair(B, Q))
    driver.receive(answer(only(sent(actions, AddressChange))))
    driver.receive(change(2, Q, P))
    assert driver.machine.mobile.ready
    assert not driver.machine.filter_moves.leader.busy


def test_with_method_migrate_the_peers_new_ike_sa_may_be_seen_after_its_messages():
    driver = registered(migrating())
    mine = only(sent(driver.addresses(B), AddressChange))
    acknowledgment = only(sent(driver.receive(change(2, Q, P)), Acknowledgment))
    driver.receive(path_response(acknowledgment))
    driver.receive(answer(mine))
    assert driver.machine.filter_moves.leader.busy
    actions = driver.associate(Pair(A, P), Pair(B, Q))
    assert driver.machine.mobile.ready
    assert not driver.machine.filter_moves.leader.busy
    assert not sent([*actions, *driver.wait(20)], FiltersRequest)


def test_with_method_migrate_nothing_is_migrated_to_where_a_new_ike_sa_stands():
    driver = lost(registered(migrating()))
    resolve(driver, Q)
    driver.receive(answer(only(sent(find(driver), AddressChange))))
    acknowledgment = only(sent(driver.receive(change(2, Q, P)), Acknowledgment))
    driver.receive(path_response(acknowledgment))
    actions = driver.receive(FiltersRequest(2, bytes(HANDOVER_SIZE), Stage.MOVE))
    assert facts(actions) == [Fact.UNEXPECTED_MESSAGE]
    assert not found(actions, MigrateFilters)

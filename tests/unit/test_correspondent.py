"""The correspondent host's half, message by message. `host` is the machine under test, at P; the mobile host is played.

Arrows to the right are what the machine is told, arrows to the left what it answers.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from swanroam.protocol.authorisation import Policy, Surroundings
from swanroam.protocol.binding import Binding
from swanroam.protocol.correspondent import BURST, LINGER_INTERVAL, PROOF_TIME, STRAY_PATIENCE
from swanroam.protocol.events import Action, Fact, ReadUsage, ReleaseFilters, UsageRead
from swanroam.protocol.handover import Result
from swanroam.protocol.host_state import Carried, HostState, Pair
from swanroam.protocol.messages import NONCE_SIZE, Acknowledgment, Message, PathResponse, Verdict
from unit.driver import (
    STATIONARY,
    A,
    B,
    C,
    D,
    Driver,
    P,
    change,
    facts,
    found,
    only,
    path_response,
    reports,
    sent,
)


def managing(settings=STATIONARY) -> Driver:
    """The mobile host has registered, at A."""
    host = Driver(settings)
    host.associate(Pair(P, A))
    host.receive(change(1, A))
    assert host.machine.managed
    return host


def acknowledgment(actions: list[Action]) -> Acknowledgment:
    return only(sent(actions, Acknowledgment))


def proving() -> tuple[Driver, Acknowledgment]:
    """The mobile host has announced B; its proof is outstanding."""
    host = managing()
    return host, acknowledgment(host.receive(change(2, B, A)))


def proven() -> Driver:
    host, challenged = proving()
    host.receive(path_response(challenged))
    assert host.machine.correspondent.proven == B
    return host


# --- registration -----------------------------------------------------------------------------------------------------


def test_registration_at_the_address_of_the_ike_sa_needs_no_proof():
    # mobile  ADDRESS CHANGE 1 {A}  -->  host
    # mobile  <--  ACKNOWLEDGMENT accepted  host
    host = Driver(STATIONARY)
    host.associate(Pair(P, A))
    assert host.applied == HostState()
    message = change(1, A)
    answered = acknowledgment(host.receive(message))
    assert answered == Acknowledgment(
        sequence=1,
        handover=message.handover,
        nonce=message.nonce,
        verdict=Verdict.ACCEPTED,
        challenge=None,
        grace_ms=10000,
        last_sequence=1,
        reason="",
        instance=STATIONARY.mobile.instance,
    )
    assert host.applied == HostState(admitted=frozenset({Pair(P, A)}), guarded=frozenset({Pair(P, A)}))


def test_registration_elsewhere_must_be_proven():
    # mobile  ADDRESS CHANGE 1 {B, deprecated A}  -->  host     (its controller came after a move)
    host = Driver(STATIONARY)
    host.associate(Pair(P, A))
    challenged = acknowledgment(host.receive(change(1, B, A)))
    assert challenged.challenge is not None
    assert all(entry.control_only for entry in host.applied.carried)
    host.receive(path_response(challenged))
    assert host.applied.carried == {Carried(Pair(P, A), Pair(P, B), control_only=False)}


def test_message_before_charon_was_read_is_answered():
    host = Driver(STATIONARY)
    assert acknowledgment(host.receive(change(1, A))).verdict is Verdict.ACCEPTED
    host.associate(Pair(P, A))
    assert host.applied.guarded == {Pair(P, A)}


# --- a move -----------------------------------------------------------------------------------------------------------


def test_whole_move():
    host = managing()
    # mobile  ADDRESS CHANGE 2 {B, deprecated A}  -->  host
    # mobile  <--  ACKNOWLEDGMENT accepted, challenge  host
    actions = host.receive(change(2, B, A))
    challenged = acknowledgment(actions)
    assert challenged.verdict is Verdict.ACCEPTED
    assert challenged.challenge is not None
    assert only(reports(actions, Fact.CHANGE_ACCEPTED)).detail == f"at {B}, carrying {A}"
    assert host.applied.carried == {Carried(Pair(P, A), Pair(P, B), control_only=True)}
    assert host.applied.held == frozenset(), "a host that does not move keeps its own addresses anyhow"
    # mobile  PATH RESPONSE  -->  host
    # mobile  <--  ACKNOWLEDGMENT accepted  host
    actions = host.receive(path_response(challenged))
    answered = acknowledgment(actions)
    assert answered.challenge is None
    assert (answered.nonce, answered.sequence) == (challenged.nonce, 2)
    assert only(reports(actions, Fact.PATH_PROVEN)).detail == str(B)
    assert host.applied.carried == {Carried(Pair(P, A), Pair(P, B), control_only=False)}
    # the mobile host makes filters, later releases A
    # mobile  ADDRESS CHANGE 3 {B}  -->  host
    host.associate(Pair(P, A), Pair(P, B))
    host.associate(Pair(P, B))
    actions = host.receive(change(3, B))
    assert acknowledgment(actions).challenge is None
    finished = only(reports(actions, Fact.HANDOVER_FINISHED)).handover
    assert finished is not None
    assert finished.result is Result.DONE
    assert list(finished.step_seconds) == ["acknowledged", "proven", "filters", "released"]
    assert not host.applied.carried
    assert not host.applied.bypassed
    # no socket of this host uses A any more
    assert only(found(actions, ReadUsage)) == ReadUsage(A)
    assert facts(host.feed(UsageRead(A, 0))) == [Fact.ADDRESS_RELEASED]
    assert host.applied.guarded == {Pair(P, B)}
    assert host.machine.deadline() is None


def test_return_before_the_proof_needs_none():
    # mobile  ADDRESS CHANGE 2 {B, deprecated A}  -->
    # mobile  ADDRESS CHANGE 3 {A, deprecated B}  -->
    host, _ = proving()
    assert acknowledgment(host.receive(change(3, A, B))).challenge is None
    assert host.machine.correspondent.proven == A


def test_return_after_the_proof_must_be_proven_again():
    # mobile  ADDRESS CHANGE 3 {A, deprecated B}  -->    (B is proven by now)
    host = proven()
    challenged = acknowledgment(host.receive(change(3, A, B)))
    assert challenged.challenge is not None
    assert host.applied.carried == {Carried(Pair(P, B), Pair(P, A), control_only=True)}
    host.receive(path_response(challenged))
    assert host.applied.carried == {Carried(Pair(P, B), Pair(P, A), control_only=False)}


def test_second_move_before_the_proof_leaves_data_where_it_is():
    # mobile  ADDRESS CHANGE 2 {B, deprecated A}  -->
    # mobile  ADDRESS CHANGE 3 {C, deprecated A}  -->
    host, first = proving()
    actions = host.receive(change(3, C, A))
    second = acknowledgment(actions)
    assert second.challenge not in (None, first.challenge)
    overtaken = only(reports(actions, Fact.HANDOVER_FINISHED)).handover
    assert overtaken is not None
    assert overtaken.result is Result.OVERTAKEN
    assert host.applied.carried == {Carried(Pair(P, A), Pair(P, C), control_only=True)}
    assert Pair(P, B) in host.applied.guarded, "a socket may have been connected to it"
    assert facts(host.receive(path_response(first))) == [Fact.UNEXPECTED_MESSAGE]
    assert host.machine.correspondent.proven == A


def test_address_that_was_proven_and_released_gets_nothing_more():
    # mobile  ADDRESS CHANGE 2 {B}  -->     A, the proven one, is gone before B is proven
    host = managing()
    host.receive(change(2, B))
    assert host.machine.correspondent.proven is None
    assert not [entry for entry in host.applied.carried if not entry.control_only]
    assert host.applied.guarded == {Pair(P, A), Pair(P, B)}


# --- proof ------------------------------------------------------------------------------------------------------------


def test_nothing_but_the_challenge_proves():
    host, challenged = proving()
    forged = PathResponse(2, challenged.handover, bytes(NONCE_SIZE))
    actions = host.receive(forged)
    assert facts(actions) == [Fact.PATH_NOT_PROVEN]
    assert not sent(actions, Message)
    assert host.machine.correspondent.proven == A


def test_path_response_to_nothing_is_reported():
    assert facts(Driver(STATIONARY).receive(PathResponse(1, bytes(8), bytes(16)))) == [Fact.UNEXPECTED_MESSAGE]
    assert facts(managing().receive(PathResponse(9, bytes(8), bytes(16)))) == [Fact.UNEXPECTED_MESSAGE]


def test_repeated_path_response_is_acknowledged_again():
    # mobile  PATH RESPONSE  -->  host
    #              X--  ACKNOWLEDGMENT accepted  host
    # mobile  PATH RESPONSE  -->  host
    # mobile  <--  ACKNOWLEDGMENT accepted  host
    host, challenged = proving()
    first = host.receive(path_response(challenged))
    second = host.receive(path_response(challenged))
    assert acknowledgment(first) == acknowledgment(second)
    assert facts(second) == []


def test_challenge_is_good_for_a_limited_time():
    host, challenged = proving()
    actions = host.wait(PROOF_TIME)
    assert facts(actions) == [Fact.PATH_NOT_PROVEN]
    assert facts(host.receive(path_response(challenged))) == [Fact.PATH_NOT_PROVEN]
    assert host.applied.carried == {Carried(Pair(P, A), Pair(P, B), control_only=True)}
    # mobile  ADDRESS CHANGE 2  -->  host     (its retransmission)
    renewed = acknowledgment(host.receive(change(2, B, A)))
    assert renewed.challenge not in (None, challenged.challenge)
    assert Fact.PATH_PROVEN in facts(host.receive(path_response(renewed)))


def test_unproven_address_gets_at_most_an_answer_for_each_message():
    host, challenged = proving()
    for _ in range(20):
        assert sent(host.receive(change(2, B, A)), Message) == [challenged]
    assert not sent(host.wait(600), Message)


# --- old, doubled and surplus messages --------------------------------------------------------------------------------


def test_repeated_change_is_answered_the_same_and_does_nothing():
    host, challenged = proving()
    state = host.machine.snapshot()
    actions = host.receive(change(2, B, A))
    assert sent(actions, Message) == [challenged]
    assert facts(actions) == []
    assert host.machine.snapshot() == state


def test_answers_carry_the_nonce_of_the_run_that_asks():
    # mobile  ADDRESS CHANGE 2  -->            nonce 2
    # mobile  ADDRESS CHANGE 2  -->            nonce 7: the controller has restarted
    # mobile  PATH RESPONSE  -->
    # mobile  <--  ACKNOWLEDGMENT              nonce 7
    host, _ = proving()
    challenged = acknowledgment(host.receive(change(2, B, A, nonce=7)))
    assert challenged.nonce == change(2, B, A, nonce=7).nonce
    assert acknowledgment(host.receive(path_response(challenged))).nonce == challenged.nonce


@pytest.mark.parametrize("message", [change(1, A), change(2, C, A), change(0, A)])
def test_older_or_contradicting_change_is_stale(message):
    host = proven()
    state, answered = host.machine.snapshot(), host.receive(message)
    assert acknowledgment(answered).verdict is Verdict.STALE
    assert acknowledgment(answered).last_sequence == 2
    assert acknowledgment(answered).challenge is None
    assert facts(answered) == [Fact.CHANGE_STALE]
    assert host.machine.snapshot() == state


def test_flood_of_changes_is_limited_without_touching_the_binding():
    host = managing()
    verdicts = [
        acknowledgment(host.receive(change(number, (A, B)[number % 2], (B, A)[number % 2]))).verdict
        for number in range(3, 33)
    ]
    assert verdicts.count(Verdict.ACCEPTED) == BURST - 1, "one went to the registration"
    assert verdicts[-1] is Verdict.RATE_LIMITED
    state = host.machine.snapshot()
    host.receive(change(40, A, B))
    assert host.machine.snapshot() == state
    host.wait(1.0)
    assert acknowledgment(host.receive(change(41, A, B))).verdict is Verdict.ACCEPTED


def test_refused_changes_are_limited_too():
    host = managing()
    verdicts = [acknowledgment(host.receive(change(number, B, D))).verdict for number in range(2, 32)]
    assert verdicts.count(Verdict.NOT_OWNED) == BURST - 1
    assert host.machine.correspondent.refused == BURST - 1
    assert verdicts[-1] is Verdict.RATE_LIMITED


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "policy", "surroundings", "verdict"),
    [
        (change(2, B, D), Policy(True, ()), Surroundings(), Verdict.NOT_OWNED),
        (change(2, B, A), Policy(False, ()), Surroundings(), Verdict.NOT_ALLOWED),
        (change(2, B, A), Policy(True, (ip_network("10.0.0.0/8"),)), Surroundings(), Verdict.NOT_ALLOWED),
        (change(2, B, A), Policy(True, ()), Surroundings(own=frozenset({P, B})), Verdict.IN_USE),
        (change(2, B, A), Policy(True, ()), Surroundings(others=frozenset({B})), Verdict.IN_USE),
    ],
)
def test_refusal_changes_nothing_but_tells_why(message, policy, surroundings, verdict):
    host = managing(replace(STATIONARY, policy=policy))
    host.machine.surroundings = surroundings
    before, state = host.applied, host.machine.snapshot()
    actions = host.receive(message)
    answered = acknowledgment(actions)
    assert answered.verdict is verdict
    assert answered.reason
    assert answered.challenge is None
    assert answered.last_sequence == 1
    assert facts(actions) == [Fact.CHANGE_REFUSED]
    assert (host.applied, host.machine.snapshot()) == (before, state)


def test_refused_sequence_may_be_used_again():
    host = managing()
    host.machine.surroundings = Surroundings(others=frozenset({B}))
    assert acknowledgment(host.receive(change(2, B, A))).verdict is Verdict.IN_USE
    host.machine.surroundings = Surroundings()
    assert acknowledgment(host.receive(change(2, B, A))).verdict is Verdict.ACCEPTED


def test_released_address_is_nobodys_to_claim():
    # mobile  ADDRESS CHANGE 3 {B}  -->                 A is released
    # mobile  ADDRESS CHANGE 4 {C, deprecated A, B}  -->
    host = proven()
    host.associate(Pair(P, B))
    host.receive(change(3, B))
    refused = acknowledgment(host.receive(change(4, C, A, B)))
    assert refused.verdict is Verdict.NOT_OWNED
    assert str(A) in refused.reason


def test_address_with_an_ike_sa_is_owned_without_a_binding():
    host = managing()
    host.associate(Pair(P, A), Pair(P, D))
    assert acknowledgment(host.receive(change(2, B, A, D))).verdict is Verdict.ACCEPTED


# --- release ----------------------------------------------------------------------------------------------------------


def test_released_address_stays_guarded_while_sockets_use_it():
    host = proven()
    host.associate(Pair(P, B))
    assert only(found(host.receive(change(3, B)), ReadUsage)) == ReadUsage(A)
    assert not host.feed(UsageRead(A, 1))
    assert len(found(host.count({A: 1}, 60), ReadUsage)) == 60 / LINGER_INTERVAL
    assert host.applied.guarded == {Pair(P, A), Pair(P, B)}
    assert host.applied.admitted == {Pair(P, B)}
    assert not host.applied.carried
    assert facts(host.count({}, LINGER_INTERVAL)) == [Fact.ADDRESS_RELEASED]
    assert host.applied.guarded == {Pair(P, B)}


def test_where_only_charon_has_the_peer_is_guarded_until_no_socket_is_left_there_also_by_the_next_run():
    host = proven()
    host.associate(Pair(P, B), Pair(P, C))
    assert Pair(P, C) in host.applied.guarded
    again = host.restart()
    assert again.machine.wanted().guarded == host.applied.guarded, "before charon is read"
    again.associate(Pair(P, B), Pair(P, C))
    assert not found(again.wait(2 * STRAY_PATIENCE), ReleaseFilters), "it has never been released"
    again.associate(Pair(P, B))
    again.feed(UsageRead(C, 1))
    assert Pair(P, C) in again.applied.guarded
    again.count({}, 2 * LINGER_INTERVAL)
    assert Pair(P, C) not in again.applied.guarded


def test_lingering_guard_waits_for_the_end_of_the_ike_sa():
    host = proven()
    host.associate(Pair(P, A), Pair(P, B))
    host.receive(change(3, B))
    host.feed(UsageRead(A, 0))
    assert not found(host.count({}, STRAY_PATIENCE - 0.1), ReleaseFilters)
    # the peer's DELETE is lost: end the IKE_SA from here, and again
    assert only(found(host.count({}, 0.1), ReleaseFilters)) == ReleaseFilters(A)
    assert only(found(host.count({}, STRAY_PATIENCE), ReleaseFilters)) == ReleaseFilters(A)
    assert Pair(P, A) in host.applied.guarded
    host.associate(Pair(P, B))
    host.count({}, LINGER_INTERVAL)
    assert host.applied.guarded == {Pair(P, B)}
    assert not found(host.count({}, 60), ReleaseFilters)


def test_released_address_that_comes_back_lingers_no_more():
    host = proven()
    host.associate(Pair(P, B))
    host.receive(change(3, B))
    host.receive(change(4, A, B))
    assert host.machine.correspondent.lingering == ()
    assert not host.feed(UsageRead(A, 0))
    assert not found(host.count({}, 60), ReadUsage)
    assert host.machine.peer == Binding(A, (B,))


def test_count_that_nobody_asked_for_removes_no_guard():
    host = proven()
    host.associate(Pair(P, B))
    host.receive(change(3, B))
    host.feed(UsageRead(A, 1))
    assert not host.feed(UsageRead(A, 0))
    assert Pair(P, A) in host.applied.guarded


# --- restart ----------------------------------------------------------------------------------------------------------


def test_restart_keeps_state_before_anything_is_read():
    host = proven()
    host.associate(Pair(P, A), Pair(P, B))
    wanted = host.machine.wanted()
    host = host.restart()
    assert host.machine.wanted() == wanted
    assert host.machine.managed


def test_restart_during_the_proof():
    # mobile  PATH RESPONSE  -->                 to the new run, which knows no challenge
    # mobile  ADDRESS CHANGE 2  -->
    # mobile  <--  ACKNOWLEDGMENT stale, last sequence 2
    # mobile  ADDRESS CHANGE 3  -->
    # mobile  <--  ACKNOWLEDGMENT challenge
    host, challenged = proving()
    host = host.restart()
    host.associate(Pair(P, A))
    assert facts(host.receive(path_response(challenged))) == [Fact.UNEXPECTED_MESSAGE]
    stale = acknowledgment(host.receive(change(2, B, A)))
    assert (stale.verdict, stale.last_sequence) == (Verdict.STALE, 2)
    assert host.applied.carried == {Carried(Pair(P, A), Pair(P, B), control_only=True)}
    renewed = acknowledgment(host.receive(change(3, B, A)))
    assert Fact.PATH_PROVEN in facts(host.receive(path_response(renewed)))


def test_restart_does_not_open_the_door_to_old_messages():
    host = proven().restart()
    host.associate(Pair(P, A), Pair(P, B))
    assert acknowledgment(host.receive(change(1, A))).verdict is Verdict.STALE
    assert host.machine.peer == Binding(B, (A,))


def test_restart_keeps_lingering_guards():
    host = proven()
    host.associate(Pair(P, B))
    host.receive(change(3, B))
    host.feed(UsageRead(A, 1))
    host = host.restart()
    assert host.machine.wanted().guarded == {Pair(P, A), Pair(P, B)}
    host.associate(Pair(P, B))
    assert facts(host.feed(UsageRead(A, 0))) == [Fact.ADDRESS_RELEASED]


def test_restart_without_journal_learns_the_binding_from_the_next_change():
    # mobile  ADDRESS CHANGE 2 {B, deprecated A}  -->     (its refresh)
    host = proven().restart(journal=False)
    host.associate(Pair(P, A), Pair(P, B))
    assert not host.machine.managed
    assert acknowledgment(host.receive(change(2, B, A))).verdict is Verdict.ACCEPTED
    assert host.applied.carried == {Carried(Pair(P, A), Pair(P, B), control_only=False)}


# --- the peer goes ----------------------------------------------------------------------------------------------------


def test_guards_and_carriers_outlive_every_ike_sa():
    host = proven()
    before = host.applied
    host.associate()
    assert host.applied == before


def test_peer_that_is_gone_is_forgotten_but_for_guards_of_live_sockets():
    host = proven()
    host.associate()
    assert not facts(host.count({A: 1}, 599))
    assert facts(host.count({A: 1}, 20)) == [Fact.PEER_FORGOTTEN, Fact.ADDRESS_RELEASED]
    assert host.applied == HostState(guarded=frozenset({Pair(P, A)}))
    host.count({}, LINGER_INTERVAL)
    assert host.applied == HostState()
    assert host.machine.deadline() is None
    # its sequence is remembered
    assert acknowledgment(host.receive(change(2, B, A))).verdict is Verdict.STALE


def test_peer_that_sends_is_not_forgotten():
    host = managing()
    host.associate()
    for _ in range(10):
        assert not facts(host.wait(500))
        host.receive(change(1, A))
    assert host.machine.managed

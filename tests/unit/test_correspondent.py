"""The correspondent host's half, message by message. `host` is the machine under test, at P; the mobile host is played.

Arrows to the right are what the machine is told, arrows to the left what it answers.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swanroam.protocol.authorisation import Ground, Policy, Surroundings
from swanroam.protocol.binding import Binding
from swanroam.protocol.codec import encode
from swanroam.protocol.correspondent import (
    BURST,
    LINGER_INTERVAL,
    LINGER_LEAST,
    MAX_CHANGES,
    MAX_LINGERING,
    PROOF_TIME,
    STRAY_PATIENCE,
)
from swanroam.protocol.credit import FACTOR, LEAST_AROUND, MOST_AROUND
from swanroam.protocol.events import Action, EstablishFilters, Fact, ReadUsage, ReleaseFilters, UsageRead
from swanroam.protocol.filters import FILTERS_PATIENCE
from swanroam.protocol.handover import Result
from swanroam.protocol.host_state import Carried, HostState, Pair
from swanroam.protocol.messages import (
    HANDOVER_SIZE,
    NONCE_SIZE,
    Acknowledgment,
    AddressChange,
    Connection,
    FiltersRequest,
    IPAddress,
    Message,
    PathResponse,
    Stage,
    TransferRequest,
    TransferStage,
    Transport,
    Verdict,
)
from unit.driver import (
    STATIONARY,
    A,
    B,
    C,
    D,
    Driver,
    P,
    Q,
    answer,
    change,
    facts,
    found,
    only,
    path_response,
    reports,
    sent,
)

TEN = ip_network("10.0.0.0/8")


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


def register(host: Driver, pair: Pair) -> None:
    """The host under test has an IKE_SA for the pair, and registers with its peer, if it may move itself."""
    for message in sent(host.associate(pair), AddressChange):
        host.receive(answer(message))


def filters_request(sequence: int) -> FiltersRequest:
    return FiltersRequest(sequence, bytes(HANDOVER_SIZE), Stage.MOVE)


def transfer_request(
    sequence: int, new: tuple[IPAddress, IPAddress], old: tuple[IPAddress, IPAddress]
) -> TransferRequest:
    connection = Connection(Transport.TCP, 80, 50000)
    return TransferRequest(sequence, bytes(HANDOVER_SIZE), 1, TransferStage.PREPARE, old, new, (connection,))


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
    # no socket of this host uses A any more; one that is not connected may, and gets a moment to hear from B
    assert host.applied.guarded == {Pair(P, A), Pair(P, B)}
    assert not found(host.wait(LINGER_LEAST - 0.1), ReadUsage)
    assert only(found(host.wait(0.1), ReadUsage)) == ReadUsage(A)
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


def test_without_proof_in_time_the_last_proven_address_is_current_again():
    host, challenged = proving()
    actions = host.wait(PROOF_TIME)
    assert facts(actions) == [Fact.HANDOVER_FINISHED, Fact.PATH_NOT_PROVEN]
    (finished,) = reports(actions, Fact.HANDOVER_FINISHED)
    assert finished.handover is not None
    assert (finished.handover.result, finished.handover.old, finished.handover.new) == (Result.UNPROVEN, A, B)
    (failed,) = reports(actions, Fact.PATH_NOT_PROVEN)
    assert failed.detail == f"no path response from {B}; back at {A}"
    assert host.machine.peer == Binding(A)
    assert not host.applied.carried, "control datagrams go to the proven address as well"
    assert Pair(P, B) in host.applied.guarded, "a socket may have been connected to it"
    assert host.machine.correspondent.last_sequence == 2, "it goes forwards all the same"
    # too late
    assert facts(host.receive(path_response(challenged))) == [Fact.UNEXPECTED_MESSAGE]
    assert host.machine.peer == Binding(A)


def test_a_peer_that_asks_again_after_a_failed_proof_gets_another_chance():
    # mobile  ADDRESS CHANGE 2  -->  host     (its retransmission, or after its restart)
    host, challenged = proving()
    host.wait(PROOF_TIME)
    renewed = acknowledgment(host.receive(change(2, B, A, nonce=7)))
    assert renewed.challenge not in (None, challenged.challenge)
    assert host.machine.peer == Binding(B, (A,))
    assert host.applied.carried == {Carried(Pair(P, A), Pair(P, B), control_only=True)}
    assert Fact.PATH_PROVEN in facts(host.receive(path_response(renewed)))


def test_what_may_be_refused_now_is_not_announced_again():
    host, _ = proving()
    host.wait(PROOF_TIME)
    host.machine.surroundings = Surroundings(others=frozenset({B}), registered=frozenset({B}))
    state = host.machine.snapshot()
    assert acknowledgment(host.receive(change(2, B, A))).verdict is Verdict.IN_USE
    assert host.machine.snapshot() == state


def test_an_old_address_that_fails_to_prove_itself_anew_is_an_old_address_again():
    # mobile  ADDRESS CHANGE 3 {A, deprecated B}  -->    (B is proven by now, and A is old)
    host = proven()
    host.receive(change(3, A, B))
    host.wait(PROOF_TIME)
    assert host.machine.peer == Binding(B, (A,))
    assert host.applied.carried == {Carried(Pair(P, A), Pair(P, B), control_only=False)}
    assert not host.applied.withheld


def test_without_any_proven_address_there_is_nothing_to_go_back_to_and_data_goes_nowhere():
    host = managing()
    host.receive(change(2, B))
    actions = host.wait(PROOF_TIME)
    assert facts(actions).count(Fact.PATH_NOT_PROVEN) == 1
    assert host.machine.peer == Binding(B)
    assert host.applied.withheld == {Pair(P, B)}
    renewed = acknowledgment(host.receive(change(2, B)))
    host.receive(path_response(renewed))
    assert not host.applied.withheld


def test_a_restart_does_not_prolong_the_time_for_the_proof_without_end():
    host, _ = proving()
    successor = host.restart()
    successor.associate(Pair(P, A))
    assert successor.applied.carried == {Carried(Pair(P, A), Pair(P, B), control_only=True)}
    assert Fact.PATH_NOT_PROVEN in facts(successor.wait(PROOF_TIME))
    assert successor.machine.peer == Binding(A)


@pytest.mark.parametrize("request_", [filters_request(2), transfer_request(2, (B, P), (A, P))])
def test_what_the_peer_asks_about_an_announcement_that_failed_is_not_done(request_):
    host, _ = proving()
    host.wait(PROOF_TIME)
    actions = host.receive(request_)
    assert facts(actions) == [Fact.UNEXPECTED_MESSAGE]
    assert len(actions) == 1


def test_unproven_address_gets_at_most_an_answer_for_each_message():
    host, challenged = proving()
    for _ in range(20):
        assert sent(host.receive(change(2, B, A)), Message) == [challenged]
    assert not sent(host.wait(600), Message)


def test_no_data_goes_to_an_address_that_was_proven_once_before_it_is_proven_again():
    # mobile  ADDRESS CHANGE 3 {A, deprecated B}  -->    (sockets are still connected to A)
    host = proven()
    challenged = acknowledgment(host.receive(change(3, A, B)))
    assert host.applied.withheld == {Pair(P, A)}
    host.receive(path_response(challenged))
    assert not host.applied.withheld


def test_an_unproven_address_keeps_nobody_else_away():
    host, challenged = proving()
    assert host.machine.correspondent.claimed == {A}
    host.receive(path_response(challenged))
    assert host.machine.correspondent.claimed == {A, B}


def test_of_two_peers_that_claim_one_address_the_first_to_prove_it_has_it():
    host, challenged = proving()
    host.machine.surroundings = Surroundings(registered=frozenset({B}))
    actions = host.receive(path_response(challenged))
    assert acknowledgment(actions).verdict is Verdict.IN_USE
    assert host.machine.correspondent.refusals == {Ground.ANOTHER_PEERS: 1}
    assert host.machine.peer == Binding(A)
    assert host.machine.correspondent.proven == A


def test_ike_begins_nothing_at_an_unproven_address():
    # Both hosts have moved, so filters for the new pair are this host's to make as well.
    host = Driver()
    host.addresses(P)
    register(host, Pair(P, A))
    host.receive(change(1, A))
    announcement = only(sent(host.addresses(Q), AddressChange))
    challenged = acknowledgment(host.receive(change(2, B, A)))
    actions = host.receive(answer(announcement)) + host.wait(PROOF_TIME - 1)
    assert not found(actions, EstablishFilters)
    actions = host.receive(path_response(challenged)) + host.wait(FILTERS_PATIENCE)
    assert only(found(actions, EstablishFilters)).pair == Pair(Q, B)


# --- credit -----------------------------------------------------------------------------------------------------------

_SOME_MESSAGES = st.lists(
    st.one_of(
        st.sampled_from([change(2, B, A), change(2, B), change(1, A), change(3, D, C), filters_request(2)]),
        st.sampled_from([PathResponse(2, bytes(8), bytes(NONCE_SIZE)), transfer_request(2, (B, P), (A, P))]),
        st.floats(0.01, 3.0),
    ),
    max_size=60,
)


@given(_SOME_MESSAGES, st.booleans())
def test_an_unproven_address_gets_at_most_three_times_what_came_from_its_claimant(steps, both_move: bool):
    """Whatever comes, and whatever this host has to say itself, being on the move as well."""
    host = Driver() if both_move else Driver(STATIONARY)
    host.addresses(P)
    register(host, Pair(P, A))
    host.receive(change(1, A))
    if both_move:
        host.addresses(Q)
    received = sent_there = 0
    for step in [change(2, B, A), *steps]:
        actions = host.wait(step) if isinstance(step, float) else host.receive(step)
        if host.machine.correspondent.unproven is None:
            return
        if not isinstance(step, float):
            received += len(encode(step)) + LEAST_AROUND[4]
        sent_there += sum(len(encode(message)) + MOST_AROUND[4] for message in sent(actions, Message))
        assert sent_there <= FACTOR * received


def test_credit_for_one_address_is_none_for_the_next():
    # mobile  ADDRESS CHANGE 2 {B, deprecated A}  -->    (twenty times; what was earned is not all spent)
    # mobile  ADDRESS CHANGE 3 {C, deprecated A}  -->
    host = Driver()
    host.addresses(P)
    register(host, Pair(P, A))
    host.receive(change(1, A))
    for _ in range(20):
        host.receive(change(2, B, A))
    message = change(3, C, A)
    actions = host.receive(message) + host.addresses(Q) + host.wait(PROOF_TIME - 1)
    there = sum(len(encode(entry)) + MOST_AROUND[4] for entry in sent(actions, Message))
    assert 0 < there <= FACTOR * (len(encode(message)) + LEAST_AROUND[4])


def test_what_is_held_back_is_counted_and_comes_when_there_is_credit():
    host = Driver()
    host.addresses(P)
    register(host, Pair(P, A))
    host.receive(change(1, A))
    host.receive(change(2, B, A))
    host.addresses(Q)  # there is a lot to say about that, and nobody listens
    assert not sent(host.wait(PROOF_TIME / 2), AddressChange)[2:]
    assert host.machine.correspondent.credit.held_back > 0
    heard = host.receive(change(2, B, A))
    host.receive(path_response(acknowledgment(heard)))
    assert sent(host.wait(6.0), AddressChange), "proven: as often as it likes"


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
    assert host.machine.correspondent.refusals == {Ground.STALE: 1}
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
    limited = host.receive(change(40, A, B))
    assert [report.reason for report in reports(limited, Fact.CHANGE_REFUSED)] == ["rate_limited"]
    assert host.machine.snapshot() == state
    host.wait(1.0)
    assert acknowledgment(host.receive(change(41, A, B))).verdict is Verdict.ACCEPTED


def test_refused_changes_are_limited_too():
    host = managing()
    verdicts = [acknowledgment(host.receive(change(number, B, D))).verdict for number in range(2, 32)]
    assert verdicts.count(Verdict.NOT_OWNED) == BURST - 1
    assert verdicts[-1] is Verdict.RATE_LIMITED
    assert host.machine.correspondent.refusals == {
        Ground.NOT_OWNED: BURST - 1,
        Ground.RATE_LIMITED: len(verdicts) - BURST + 1,
    }


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "policy", "surroundings", "verdict", "ground"),
    [
        (change(2, B, D), Policy(True, ()), Surroundings(), Verdict.NOT_OWNED, Ground.NOT_OWNED),
        (change(2, B, A), Policy(False, ()), Surroundings(), Verdict.NOT_ALLOWED, Ground.MAY_NOT_MOVE),
        (change(2, B, A), Policy(True, (TEN,)), Surroundings(), Verdict.NOT_ALLOWED, Ground.OUTSIDE),
        (change(2, B, A), Policy(True, ()), Surroundings(own=frozenset({P, B})), Verdict.IN_USE, Ground.OURS),
        (change(2, B, A), Policy(True, ()), Surroundings(others=frozenset({B})), Verdict.IN_USE, Ground.ANOTHER_PEERS),
    ],
)
def test_refusal_changes_nothing_but_tells_why_and_is_counted(message, policy, surroundings, verdict, ground):
    host = managing(replace(STATIONARY, policy=policy))
    host.machine.surroundings = surroundings
    before, state = host.applied, host.machine.snapshot()
    actions = host.receive(message)
    answered = acknowledgment(actions)
    assert answered.verdict is verdict
    assert answered.reason
    assert answered.challenge is None
    assert answered.last_sequence == 1
    (report,) = reports(actions, Fact.CHANGE_REFUSED)
    assert (report.reason, report.detail) == (ground.value, answered.reason)
    assert facts(actions) == [Fact.CHANGE_REFUSED]
    assert host.machine.correspondent.refusals == {ground: 1}
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
    host.receive(change(3, B))
    assert only(found(host.wait(LINGER_LEAST), ReadUsage)) == ReadUsage(A)
    assert not host.feed(UsageRead(A, 1))
    assert len(found(host.count({A: 1}, 60), ReadUsage)) == 60 / LINGER_INTERVAL
    assert host.applied.guarded == {Pair(P, A), Pair(P, B)}
    assert host.applied.admitted == {Pair(P, B)}
    assert not host.applied.carried
    assert facts(host.count({}, LINGER_INTERVAL)) == [Fact.ADDRESS_RELEASED]
    assert host.applied.guarded == {Pair(P, B)}


def test_an_identity_whose_old_addresses_are_all_in_use_here_moves_no_further():
    host = managing()
    sequence, current = 1, A
    for address in map(ip_address, range(int(D) + 1, int(D) + 1 + MAX_LINGERING)):
        sequence, current = sequence + 1, address
        actions = host.receive(change(sequence, address))
        assert acknowledgment(actions).verdict is Verdict.ACCEPTED
        for question in found(actions, ReadUsage):
            host.feed(UsageRead(question.address, 1))
        host.wait(1 / MAX_CHANGES)
    state = host.machine.snapshot()
    refused = host.receive(change(sequence + 1, B))
    assert acknowledgment(refused).verdict is Verdict.RATE_LIMITED
    assert host.machine.correspondent.refusals == {Ground.TOO_MANY: 1}
    assert host.machine.snapshot() == state
    assert acknowledgment(host.receive(change(sequence + 1, current))).verdict is Verdict.ACCEPTED, "it may stay"
    for address in host.machine.correspondent.lingering:
        host.feed(UsageRead(address, 0))
    assert acknowledgment(host.receive(change(sequence + 2, B))).verdict is Verdict.ACCEPTED


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
    host.receive(path_response(acknowledgment(host.receive(change(4, A, B)))))
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
    host.wait(LINGER_LEAST)
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

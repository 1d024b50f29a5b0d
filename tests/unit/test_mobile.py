"""The mobile host's half, message by message. `mobile` is the machine under test; the correspondent is played.

Arrows to the right are what the machine sends, arrows to the left what it is told.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from swanroam.protocol.binding import Binding
from swanroam.protocol.correspondent import LINGER_LEAST
from swanroam.protocol.events import (
    Action,
    EstablishFilters,
    Fact,
    FiltersEstablished,
    FiltersFailed,
    FiltersReleased,
    ReadUsage,
    ReleaseFilters,
    TimerExpired,
    UsageRead,
)
from swanroam.protocol.filters import FILTERS_PATIENCE
from swanroam.protocol.handover import Result, Step
from swanroam.protocol.host_state import Carried, HostState, Pair
from swanroam.protocol.messages import (
    MAX_DEPRECATED,
    MAX_SEQUENCE,
    NONCE_SIZE,
    Acknowledgment,
    AddressChange,
    FiltersReply,
    FiltersRequest,
    Message,
    PathResponse,
    Stage,
    TransferReply,
    TransferRequest,
    TransferStage,
    Transport,
    Verdict,
)
from swanroam.protocol.release import READ_LATE, RELEASE_RETRY
from swanroam.protocol.transfer import FindSockets, Key, SocketsFound, StopSockets, TransferExpired
from swanroam.protocol.transfers import SETTLING
from unit.driver import (
    SETTINGS,
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

CHALLENGE = b"c" * NONCE_SIZE


def registered(settings=SETTINGS) -> Driver:
    """At A, registered with a correspondent at P."""
    mobile = Driver(settings)
    mobile.addresses(A)
    mobile.receive(answer(only(sent(mobile.associate(Pair(A, P)), AddressChange))))
    assert mobile.machine.mobile.settled
    return mobile


def moved() -> Driver:
    """Went from A to B; all is done but the release of A."""
    mobile = registered()
    announcement = only(sent(mobile.addresses(B), AddressChange))
    mobile.receive(answer(announcement, challenge=CHALLENGE))
    mobile.receive(answer(announcement))
    mobile.feed(FiltersEstablished(Pair(B, P)))
    mobile.associate(Pair(A, P), Pair(B, P))
    assert mobile.machine.mobile.handover is not None
    assert mobile.machine.mobile.handover.reached(Step.FILTERS)
    return mobile


def accepted(mobile: Driver, actions: list[Action]) -> list[Action]:
    """The correspondent accepts what was announced, and asks for no proof."""
    return mobile.receive(answer(only(sent(actions, AddressChange))))


# --- registration -----------------------------------------------------------------------------------------------------


def test_registers_as_soon_as_there_is_a_control_channel():
    # mobile  ADDRESS CHANGE 1 {A}  -->
    # mobile  <--  ACKNOWLEDGMENT accepted
    mobile = Driver()
    assert not sent(mobile.associate(Pair(A, P), control=False), AddressChange)
    announcement = only(sent(mobile.associate(Pair(A, P)), AddressChange))
    assert (announcement.sequence, announcement.current, announcement.deprecated) == (1, A, ())
    assert mobile.applied == HostState()
    actions = mobile.receive(answer(announcement))
    assert Fact.PEER_REGISTERED in facts(actions)
    assert mobile.machine.managed
    assert mobile.applied.held == {A}
    assert mobile.applied.guarded == {Pair(A, P)}
    assert not mobile.applied.carried


def test_peer_without_a_controller_stays_unmanaged():
    # mobile  ADDRESS CHANGE 1 {A}  -->  nobody, for ever
    mobile = Driver()
    mobile.addresses(A)
    actions = mobile.associate(Pair(A, P)) + mobile.wait(40)
    assert facts(actions) == [Fact.PEER_SILENT]
    actions = (
        mobile.addresses(B) + mobile.associate(Pair(B, P)) + mobile.addresses() + mobile.associate() + mobile.wait(900)
    )
    assert not facts(actions)
    assert {type(action).__name__ for action in actions} == {"Send"}
    assert not mobile.machine.managed
    assert mobile.applied == HostState()


def test_unmanaged_binding_follows_charon():
    mobile = Driver()
    mobile.associate(Pair(A, P))
    announcement = only(sent(mobile.associate(Pair(B, P)), AddressChange))
    assert (announcement.sequence, announcement.current, announcement.deprecated) == (2, B, ())


def test_host_that_is_not_to_move_registers_with_nobody():
    mobile = Driver(replace(SETTINGS, mobile=replace(SETTINGS.mobile, active=False)))
    actions = mobile.addresses(A) + mobile.associate(Pair(A, P)) + mobile.addresses(B) + mobile.wait(200)
    assert actions == []
    assert mobile.machine.deadline() is None


def test_idle_binding_is_confirmed_at_the_refresh_interval():
    mobile = registered()
    assert not mobile.wait(59)
    refresh = only(sent(mobile.wait(1.0), AddressChange))
    assert refresh.sequence == 1
    mobile.receive(answer(refresh))
    assert mobile.machine.mobile.settled
    assert not mobile.wait(59)


# --- a move -----------------------------------------------------------------------------------------------------------


def test_whole_move():
    mobile = registered()
    # mobile  ADDRESS CHANGE 2 {B, deprecated A}  -->
    actions = mobile.addresses(B)
    announcement = only(sent(actions, AddressChange))
    assert (announcement.sequence, announcement.current, announcement.deprecated) == (2, B, (A,))
    assert facts(actions) == [Fact.HANDOVER_STARTED, Fact.HANDOVER_STEP]
    assert mobile.applied.held == {A, B}
    assert mobile.applied.carried == {Carried(Pair(A, P), Pair(B, P), control_only=False)}
    # mobile  <--  ACKNOWLEDGMENT accepted, challenge
    # mobile  PATH RESPONSE  -->
    challenged = answer(announcement, challenge=CHALLENGE)
    actions = mobile.receive(challenged)
    assert only(sent(actions, PathResponse)) == path_response(challenged)
    assert not found(actions, EstablishFilters)
    # mobile  <--  ACKNOWLEDGMENT accepted
    actions = mobile.receive(answer(announcement))
    assert only(found(actions, EstablishFilters)) == EstablishFilters(Pair(B, P), Pair(A, P))
    assert not mobile.feed(FiltersEstablished(Pair(B, P)))
    mobile.associate(Pair(A, P), Pair(B, P))
    # the grace period passes, nobody uses A
    assert not found(mobile.wait(9.9), ReadUsage)
    assert only(found(mobile.wait(0.1), ReadUsage)) == ReadUsage(A)
    assert only(found(mobile.feed(UsageRead(A, 0)), ReleaseFilters)) == ReleaseFilters(A)
    mobile.associate(Pair(B, P))
    assert mobile.applied.guarded == {Pair(A, P), Pair(B, P)}
    assert only(found(mobile.feed(FiltersReleased(A)), ReadUsage)) == ReadUsage(A)
    # mobile  ADDRESS CHANGE 3 {B}  -->
    actions = mobile.feed(UsageRead(A, 0))
    announcement = only(sent(actions, AddressChange))
    assert (announcement.sequence, announcement.current, announcement.deprecated) == (3, B, ())
    assert mobile.applied == HostState(
        held=frozenset({B}),
        reachable=frozenset({B}),
        guarded=frozenset({Pair(B, P)}),
        shut=frozenset({P}),
        admitted=frozenset({Pair(B, P)}),
    )
    # mobile  <--  ACKNOWLEDGMENT accepted
    finished = only(reports(mobile.receive(answer(announcement)), Fact.HANDOVER_FINISHED)).handover
    assert finished is not None
    assert finished.result is Result.DONE
    assert list(finished.step_seconds) == [step.value for step in Step]


def test_ten_moves_leave_nothing_behind():
    mobile = registered()
    for _ in range(5):
        for old, new in ((A, B), (B, A)):
            accepted(mobile, mobile.addresses(new))
            mobile.feed(FiltersEstablished(Pair(new, P)))
            mobile.associate(Pair(old, P), Pair(new, P))
            mobile.count({}, 12)
            mobile.associate(Pair(new, P))
            actions = mobile.feed(FiltersReleased(old))
            assert only(found(actions, ReadUsage)) == ReadUsage(old)
            assert Fact.HANDOVER_FINISHED in facts(accepted(mobile, mobile.feed(UsageRead(old, 0))))
    assert mobile.machine.mobile.sequence == 21
    assert mobile.machine.own == Binding(A)
    assert mobile.applied.guarded == {Pair(A, P)}
    assert not mobile.applied.carried


def test_address_of_another_family_is_not_moved_to():
    mobile = registered()
    assert not mobile.addresses(ip_address("2001:db8::1"))
    assert mobile.machine.own == Binding(A)


def test_losing_every_address_is_not_a_move():
    mobile = registered()
    assert not sent(mobile.addresses(), Message)
    assert mobile.machine.own == Binding(A)
    assert mobile.applied.guarded == {Pair(A, P)}


def test_address_that_comes_back_hastens_what_is_outstanding():
    mobile = registered()
    mobile.addresses(B)
    mobile.wait(20)
    mobile.addresses()
    assert sent(mobile.addresses(B), AddressChange)


# --- lost and late messages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [1, 3])
def test_lost_change_is_repeated_with_growing_pauses(lost: int):
    # mobile  ADDRESS CHANGE 2  --X        (lost times)
    # mobile  ADDRESS CHANGE 2  -->
    mobile = registered()
    first = only(sent(mobile.addresses(B), AddressChange))
    last = first
    for attempt in range(lost):
        pause = 0.1 * 2**attempt
        assert not sent(mobile.wait(pause * 0.9), AddressChange)
        last = only(sent(mobile.wait(pause * 0.1001), AddressChange))
    assert last == first
    mobile.receive(answer(last))
    assert mobile.machine.mobile.settled
    assert not sent(mobile.wait(9), AddressChange)


def test_lost_path_response_is_repeated_then_the_challenge_asked_for_anew():
    # mobile  <--  ACKNOWLEDGMENT challenge
    # mobile  PATH RESPONSE  --X   (four times)
    # mobile  ADDRESS CHANGE  -->
    # mobile  <--  ACKNOWLEDGMENT another challenge
    # mobile  PATH RESPONSE  -->
    mobile = registered()
    announcement = only(sent(mobile.addresses(B), AddressChange))
    actions = mobile.receive(answer(announcement, challenge=CHALLENGE)) + mobile.wait(2)
    assert sent(actions, Message)[:4] == [path_response(answer(announcement, challenge=CHALLENGE))] * 4
    assert sent(actions, Message)[4:] == [announcement]
    renewed = answer(announcement, challenge=b"n" * NONCE_SIZE)
    assert sent(mobile.receive(renewed), Message) == [path_response(renewed)]


def test_lost_final_acknowledgment_is_asked_for_by_another_path_response():
    # mobile  PATH RESPONSE  -->
    #         X--  ACKNOWLEDGMENT accepted
    # mobile  PATH RESPONSE  -->
    # mobile  <--  ACKNOWLEDGMENT accepted
    mobile = registered()
    announcement = only(sent(mobile.addresses(B), AddressChange))
    mobile.receive(answer(announcement, challenge=CHALLENGE))
    assert sent(mobile.wait(0.1), PathResponse)
    assert found(mobile.receive(answer(announcement)), EstablishFilters)
    assert not sent(mobile.wait(9), Message)


def test_doubled_acknowledgments_change_nothing():
    mobile = registered()
    announcement = only(sent(mobile.addresses(B), AddressChange))
    assert mobile.receive(answer(announcement, challenge=CHALLENGE))
    assert mobile.receive(answer(announcement, challenge=CHALLENGE)) == []
    assert mobile.receive(answer(announcement))
    assert mobile.receive(answer(announcement)) == []


def test_challenge_that_comes_after_the_proof_is_answered_and_does_no_harm():
    # mobile  <--  ACKNOWLEDGMENT accepted
    # mobile  <--  ACKNOWLEDGMENT challenge      (overtaken on the way)
    # mobile  PATH RESPONSE  -->
    # mobile  <--  ACKNOWLEDGMENT accepted
    mobile = registered()
    announcement = only(sent(mobile.addresses(B), AddressChange))
    assert found(mobile.receive(answer(announcement)), EstablishFilters)
    assert sent(mobile.receive(answer(announcement, challenge=CHALLENGE)), PathResponse)
    assert not found(mobile.receive(answer(announcement)), EstablishFilters)
    assert mobile.machine.mobile.settled


def test_acknowledgment_of_an_overtaken_move_is_ignored():
    mobile = registered()
    overtaken = only(sent(mobile.addresses(B), AddressChange))
    mobile.addresses(C)
    assert mobile.receive(answer(overtaken)) == []
    assert not mobile.machine.mobile.settled


def test_acknowledgment_by_somebody_who_never_saw_the_change_is_ignored():
    mobile = registered()
    announcement = only(sent(mobile.addresses(B), AddressChange))
    assert mobile.receive(replace(answer(announcement), nonce=bytes(NONCE_SIZE))) == []
    assert mobile.receive(replace(answer(announcement), sequence=99)) == []
    assert not mobile.machine.mobile.settled


@pytest.mark.parametrize(
    "message", [FiltersRequest(1, bytes(8), Stage.MOVE), FiltersReply(1, bytes(8), Stage.MOVE, "done")]
)
def test_messages_about_filters_that_nobody_asked_for_do_nothing(message):
    mobile = registered()
    state, snapshot = mobile.applied, mobile.machine.snapshot()
    assert not sent(mobile.receive(message), Message)
    assert (mobile.applied, mobile.machine.snapshot()) == (state, snapshot)


# --- several moves ----------------------------------------------------------------------------------------------------


def test_return_within_the_grace_period_makes_the_old_address_current():
    # mobile  ADDRESS CHANGE 3 {A, deprecated B}  -->
    mobile = moved()
    actions = mobile.addresses(A)
    announcement = only(sent(actions, AddressChange))
    assert (announcement.sequence, announcement.current, announcement.deprecated) == (3, A, (B,))
    overtaken = only(reports(actions, Fact.HANDOVER_FINISHED)).handover
    assert overtaken is not None
    assert overtaken.result is Result.OVERTAKEN
    assert mobile.applied.carried == {Carried(Pair(B, P), Pair(A, P), control_only=False)}
    actions = mobile.receive(answer(announcement))
    assert not found(actions, EstablishFilters), "those of A still stand"
    assert only(found(mobile.wait(10), ReadUsage)) == ReadUsage(B)


def test_second_move_before_the_acknowledgment_names_only_what_the_peer_knows():
    # mobile  ADDRESS CHANGE 2 {B, deprecated A}  --X
    # mobile  ADDRESS CHANGE 3 {C, deprecated A}  -->
    mobile = registered()
    mobile.addresses(B)
    announcement = only(sent(mobile.addresses(C), AddressChange))
    assert (announcement.sequence, announcement.current, announcement.deprecated) == (3, C, (A,))
    assert mobile.machine.own == Binding(C, (A, B))
    assert mobile.applied.guarded == {Pair(A, P), Pair(B, P), Pair(C, P)}


def test_address_that_the_peer_may_have_dropped_is_not_told_again():
    # mobile  ADDRESS CHANGE 3 {B}  -->                     A is released; no answer
    # mobile  ADDRESS CHANGE 4 {A, deprecated B}  -->       no answer
    # mobile  ADDRESS CHANGE 5 {C, deprecated B}  -->
    mobile = moved()
    mobile.count({}, 10)
    mobile.associate(Pair(B, P))
    mobile.feed(FiltersReleased(A))
    announcement = only(sent(mobile.feed(UsageRead(A, 0)), AddressChange))
    assert (announcement.sequence, announcement.current, announcement.deprecated) == (3, B, ())
    assert only(sent(mobile.addresses(A), AddressChange)).deprecated == (B,)
    assert only(sent(mobile.addresses(C), AddressChange)).deprecated == (B,)
    assert mobile.machine.own == Binding(C, (B, A))


def test_address_of_a_short_stay_goes_when_no_socket_uses_it():
    mobile = registered()
    mobile.addresses(B)
    accepted(mobile, mobile.addresses(C))
    mobile.associate(Pair(A, P), Pair(C, P))
    mobile.count({A: 1}, 10)
    assert mobile.machine.mobile.waiting == {A: 1}
    mobile.feed(FiltersReleased(B))
    assert not sent(mobile.feed(UsageRead(B, 0)), AddressChange), "the peer never knew it"
    assert mobile.machine.own == Binding(C, (A,))


def test_too_many_old_addresses_are_kept_but_not_told():
    addresses = [ip_address(f"192.0.2.{number}") for number in range(101, 101 + MAX_DEPRECATED + 2)]
    mobile = registered()
    announcement = None
    for address in addresses:
        announcement = only(sent(mobile.addresses(address), AddressChange))
        mobile.receive(answer(announcement))
    assert announcement is not None
    assert announcement.deprecated == tuple(addresses[-MAX_DEPRECATED - 1 : -1])
    assert mobile.machine.own == Binding(addresses[-1], (A, *addresses[:-1]))
    assert Pair(A, P) in mobile.applied.guarded, "its sockets must not send in clear"


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [Verdict.NOT_ALLOWED, Verdict.IN_USE, Verdict.FAILED])
def test_refused_host_goes_back_to_an_address_that_it_still_has(verdict: Verdict):
    # mobile  ADDRESS CHANGE 2 {B, deprecated A}  -->
    # mobile  <--  ACKNOWLEDGMENT refused
    # mobile  ADDRESS CHANGE 3 {A}  -->
    mobile = registered()
    announcement = only(sent(mobile.addresses(B, A), AddressChange))
    actions = mobile.receive(answer(announcement, verdict, last_sequence=1, reason="no"))
    refused = only(reports(actions, Fact.HANDOVER_FINISHED)).handover
    assert refused is not None
    assert refused.result is Result.REFUSED
    assert mobile.machine.mobile.refusal == f"{verdict.name.lower()}: no"
    back = only(sent(actions, AddressChange))
    assert (back.sequence, back.current, back.deprecated) == (3, A, ())
    assert Pair(B, P) in mobile.applied.guarded, "a socket may have been opened on it"
    assert not found(mobile.receive(answer(back)), EstablishFilters)
    assert mobile.machine.mobile.settled
    assert mobile.machine.mobile.refusal == ""
    assert not sent(mobile.addresses(B, A), AddressChange), "not tried again"


@pytest.mark.parametrize("verdict", [Verdict.NOT_ALLOWED, Verdict.IN_USE, Verdict.FAILED, Verdict.NOT_OWNED])
def test_refused_host_without_a_way_back_stays_guarded_and_asks_again_later(verdict: Verdict):
    mobile = registered()
    announcement = only(sent(mobile.addresses(B), AddressChange))
    actions = mobile.receive(answer(announcement, verdict, last_sequence=1, reason="no"))
    if verdict is Verdict.NOT_OWNED:
        announcement = only(sent(actions, AddressChange))
        actions = mobile.receive(answer(announcement, verdict, last_sequence=1, reason="no"))
    assert facts(actions) == [Fact.CHANGE_REFUSED_BY_PEER]
    handover = mobile.machine.mobile.handover
    assert handover is not None
    assert handover.result is Result.REFUSED
    assert not sent(mobile.wait(59), Message)
    again = only(sent(mobile.wait(1), AddressChange))
    assert again == announcement
    assert mobile.applied.guarded == {Pair(A, P), Pair(B, P)}
    mobile.receive(answer(again))
    assert mobile.machine.mobile.settled
    assert mobile.machine.mobile.handover is not None
    assert mobile.machine.mobile.handover.result is Result.RUNNING


def test_rejected_address_is_tried_again_when_nothing_else_is_left():
    mobile = registered()
    announcement = only(sent(mobile.addresses(B, A), AddressChange))
    accepted(mobile, mobile.receive(answer(announcement, Verdict.NOT_ALLOWED)))
    again = only(sent(mobile.addresses(B), AddressChange))
    assert again.current == B


def test_peer_that_does_not_know_an_old_address_is_told_without_it():
    # mobile  ADDRESS CHANGE 2 {B, deprecated A}  -->
    # mobile  <--  ACKNOWLEDGMENT not owned           (it has lost its journal and its IKE_SA)
    # mobile  ADDRESS CHANGE 3 {B}  -->
    mobile = registered()
    announcement = only(sent(mobile.addresses(B), AddressChange))
    actions = mobile.receive(answer(announcement, Verdict.NOT_OWNED, last_sequence=0))
    again = only(sent(actions, AddressChange))
    assert (again.sequence, again.current, again.deprecated) == (3, B, ())
    assert mobile.machine.own == Binding(B, (A,))
    mobile.receive(answer(again))
    assert mobile.machine.mobile.settled
    # A has an IKE_SA again, which proves to the peer whose it is
    mobile.associate()
    mobile.associate(Pair(A, P))
    assert only(sent(mobile.addresses(C), AddressChange)).deprecated == (A, B)


def test_stale_sequence_is_raised_above_what_the_peer_has():
    # mobile  ADDRESS CHANGE 1  -->
    # mobile  <--  ACKNOWLEDGMENT stale, last sequence 41
    # mobile  ADDRESS CHANGE 42  -->
    mobile = Driver()
    announcement = only(sent(mobile.associate(Pair(A, P)), AddressChange))
    again = only(sent(mobile.receive(answer(announcement, Verdict.STALE, last_sequence=41)), AddressChange))
    assert again.sequence == 42
    assert again.nonce != announcement.nonce
    mobile.receive(answer(again))
    assert mobile.machine.mobile.settled


def test_peer_that_lies_about_sequences_neither_lowers_ours_nor_keeps_us_busy():
    mobile = registered()
    announcement = only(sent(mobile.addresses(B), AddressChange))
    announcement = only(sent(mobile.receive(answer(announcement, Verdict.STALE, last_sequence=0)), AddressChange))
    assert announcement.sequence == 3
    assert not sent(mobile.receive(answer(announcement, Verdict.STALE, last_sequence=0)), AddressChange)
    announcement = only(sent(mobile.wait(1), AddressChange))
    assert announcement.sequence == 4
    refused = mobile.receive(answer(announcement, Verdict.STALE, last_sequence=MAX_SEQUENCE))
    assert facts(refused) == [Fact.CHANGE_REFUSED_BY_PEER]
    assert mobile.machine.mobile.sequence == 4


def test_rate_limited_change_is_repeated_a_second_later():
    mobile = registered()
    announcement = only(sent(mobile.addresses(B), AddressChange))
    assert not mobile.receive(answer(announcement, Verdict.RATE_LIMITED))
    assert not sent(mobile.wait(0.9), AddressChange)
    assert sent(mobile.wait(0.1), AddressChange) == [announcement]


# --- a silent peer ----------------------------------------------------------------------------------------------------


def test_silence_after_a_hard_move_leads_to_new_filters_and_patience():
    mobile = registered()
    actions = mobile.addresses(B) + mobile.wait(40)
    assert reports(actions, Fact.PEER_SILENT)
    assert only(found(actions, EstablishFilters)).pair == Pair(B, P)
    assert len(sent(mobile.wait(600), AddressChange)) == 10, "at the refresh interval"
    assert mobile.applied.guarded == {Pair(A, P), Pair(B, P)}


def test_new_filters_to_a_silent_peer_bring_the_answer():
    mobile = registered()
    announcement = only(sent(mobile.addresses(B), AddressChange))
    mobile.wait(40)
    mobile.feed(FiltersEstablished(Pair(B, P)))
    assert sent(mobile.associate(Pair(A, P), Pair(B, P)), AddressChange) == [announcement]
    actions = mobile.receive(answer(announcement))
    assert mobile.machine.mobile.settled
    assert not mobile.machine.mobile.silent
    steps = [report.detail for report in reports(actions, Fact.HANDOVER_STEP)]
    assert steps == ["acknowledged", "proven", "filters", "transport"]


def test_host_that_hears_nothing_at_a_new_address_goes_back_to_one_that_it_still_has():
    # mobile  ADDRESS CHANGE 2 {B, deprecated A}  --X      (for 30 s)
    # mobile  ADDRESS CHANGE 3 {A}  -->
    mobile = registered()
    actions = mobile.addresses(B, A) + mobile.wait(40)
    finished = only(reports(actions, Fact.HANDOVER_FINISHED)).handover
    assert finished is not None
    assert finished.result is Result.UNANSWERED
    assert sent(actions, AddressChange)[-1].current == A
    mobile.receive(answer(sent(actions, AddressChange)[-1]))
    assert mobile.machine.mobile.settled
    assert mobile.machine.own == Binding(A, (B,))


def test_time_without_a_control_channel_is_not_silence():
    mobile = registered()
    mobile.associate()
    mobile.addresses(B, A)
    mobile.wait(120)
    announcement = only(sent(mobile.associate(Pair(A, P)), AddressChange))
    assert announcement.current == B
    assert not mobile.machine.mobile.silent


def test_move_without_any_control_channel_gets_filters_after_some_patience():
    mobile = registered()
    mobile.associate()
    assert not found(mobile.addresses(B) + mobile.wait(FILTERS_PATIENCE - 0.1), EstablishFilters)
    assert only(found(mobile.wait(0.1), EstablishFilters)).pair == Pair(B, P)


# --- filters ----------------------------------------------------------------------------------------------------------


def test_failed_filters_are_tried_again_with_growing_pauses():
    mobile = registered()
    accepted(mobile, mobile.addresses(B))
    for pause in (1, 2, 4, 8, 16, 30, 30):
        actions = mobile.feed(FiltersFailed(Pair(B, P), "NO_PROPOSAL_CHOSEN"))
        assert only(reports(actions, Fact.FILTERS_FAILED)).detail == f"{B}-{P}: NO_PROPOSAL_CHOSEN"
        assert not found(mobile.wait(pause - 0.01), EstablishFilters)
        assert found(mobile.wait(0.01), EstablishFilters)
    assert mobile.applied.carried == {Carried(Pair(A, P), Pair(B, P), control_only=False)}


@pytest.mark.parametrize("late", [FiltersEstablished(Pair(B, P)), FiltersFailed(Pair(B, P), "cancelled")])
def test_filters_of_an_overtaken_move_do_not_delay_those_of_the_next(late):
    mobile = registered()
    assert only(found(accepted(mobile, mobile.addresses(B)), EstablishFilters)).pair == Pair(B, P)
    announcement = only(sent(mobile.addresses(C), AddressChange))
    mobile.feed(late)
    mobile.receive(answer(announcement, challenge=CHALLENGE))
    assert only(found(mobile.receive(answer(announcement)), EstablishFilters)).pair == Pair(C, P)


def test_filters_are_not_made_twice_when_charon_is_read_late():
    mobile = registered()
    accepted(mobile, mobile.addresses(B))
    assert not mobile.feed(FiltersEstablished(Pair(B, P)))
    assert not found(mobile.wait(1), EstablishFilters)
    mobile.associate(Pair(A, P), Pair(B, P))
    assert not found(mobile.wait(9), EstablishFilters)


def test_filters_that_miss_a_child_are_made_again():
    mobile = registered()
    accepted(mobile, mobile.addresses(B))
    mobile.feed(FiltersEstablished(Pair(B, P)))
    mobile.associate(Pair(A, P), Pair(B, P), complete=False)
    assert found(mobile.wait(FILTERS_PATIENCE), EstablishFilters)


def test_filters_of_our_making_are_made_again_when_charon_loses_them():
    mobile = moved()
    mobile.associate(Pair(A, P))
    assert not found(mobile.wait(FILTERS_PATIENCE - 0.1), EstablishFilters), "a rekey takes them away briefly"
    assert only(found(mobile.wait(0.1), EstablishFilters)).pair == Pair(B, P)


def test_connection_of_the_administrator_is_his_to_start():
    mobile = registered()
    mobile.associate()
    assert not found(mobile.wait(300), EstablishFilters)
    assert mobile.applied.guarded == {Pair(A, P)}, "without IKE_SA nothing may leave in clear"


def test_filters_that_are_left_on_an_old_address_alone_are_made_at_the_current_one():
    mobile = registered()
    announcement = only(sent(mobile.addresses(B, A), AddressChange))
    mobile.associate(Pair(A, P), Pair(B, P))
    accepted(mobile, mobile.receive(answer(announcement, Verdict.NOT_ALLOWED)))
    mobile.associate(Pair(B, P))
    assert not found(mobile.wait(FILTERS_PATIENCE - 0.1), EstablishFilters)
    assert only(found(mobile.wait(0.1), EstablishFilters)).pair == Pair(A, P)


@pytest.mark.parametrize(("own", "patience"), [(A, 0.0), (ip_address("203.0.113.1"), FILTERS_PATIENCE)])
def test_when_both_hosts_move_the_lower_address_makes_the_filters(own, patience):
    # mobile  ADDRESS CHANGE 2 {own, deprecated B}  -->
    # mobile  <--  ADDRESS CHANGE 2 {Q, deprecated P}, and its proof
    mobile = Driver()
    mobile.addresses(B)
    accepted(mobile, mobile.associate(Pair(B, P)))
    mobile.receive(change(1, P))
    announcement = only(sent(mobile.addresses(own), AddressChange))
    (challenged,) = sent(mobile.receive(change(2, Q, P)), Acknowledgment)
    mobile.receive(path_response(challenged))
    actions = mobile.receive(answer(announcement)) + mobile.wait(max(0.0, patience - 0.01))
    assert bool(found(actions, EstablishFilters)) is (patience == 0.0)
    if patience:
        actions = mobile.wait(0.01)
    assert only(found(actions, EstablishFilters)).pair == Pair(own, Q)


def test_a_move_of_our_own_proves_nothing_of_the_peers():
    # mobile  ADDRESS CHANGE 2 {B, deprecated A}  -->
    # mobile  <--  ADDRESS CHANGE 2 {Q, deprecated P}
    mobile = registered()
    mobile.receive(change(1, P))
    accepted(mobile, mobile.addresses(B))
    challenged = only(sent(mobile.receive(change(2, Q, P)), Acknowledgment))
    assert {(entry.outer, entry.control_only) for entry in mobile.applied.carried} == {
        (Pair(B, P), False),
        (Pair(B, Q), True),
    }
    mobile.receive(path_response(challenged))
    assert {(entry.outer, entry.control_only) for entry in mobile.applied.carried} == {(Pair(B, Q), False)}


# --- release ----------------------------------------------------------------------------------------------------------


def test_sockets_keep_an_old_address_as_long_as_they_live():
    mobile = moved()
    actions = mobile.count({A: 2}, 600)
    assert reports(actions, Fact.RELEASE_WAITS)[0].detail == f"2 sockets on {A}"
    assert len(reports(actions, Fact.RELEASE_WAITS)) == 1
    assert not found(actions, ReleaseFilters)
    assert len(found(actions, ReadUsage)) < 130, "every five seconds at most"
    handover = mobile.machine.mobile.handover
    assert handover is not None
    assert handover.result is Result.CARRYING
    assert mobile.machine.mobile.waiting == {A: 2}
    assert found(mobile.count({}, 5), ReleaseFilters)
    assert mobile.machine.mobile.waiting == {}


def test_address_is_vacated_when_its_sockets_have_moved_or_cannot():
    mobile = registered()
    announcement = only(sent(mobile.addresses(B), AddressChange))
    mobile.receive(answer(announcement, challenge=CHALLENGE))
    mobile.receive(answer(announcement))
    mobile.feed(FiltersEstablished(Pair(B, P)))
    assert mobile.applied.reachable == {A, B}, "nobody has looked for sockets yet"
    mobile.associate(Pair(A, P), Pair(B, P))
    assert mobile.applied.held == {A, B}
    assert mobile.applied.reachable == {B}
    mobile.addresses(A)
    assert A in mobile.applied.reachable, "this host is back there"


def test_address_whose_sockets_are_not_to_move_is_vacated_after_the_grace_period():
    mobile = registered(replace(SETTINGS, transport=False))
    accepted(mobile, mobile.addresses(B))
    mobile.associate(Pair(A, P), Pair(B, P))
    mobile.count({A: 1}, 9.9)
    assert mobile.applied.reachable == {A, B}
    mobile.count({A: 1}, 0.2)
    assert mobile.applied.held == {A, B}
    assert mobile.applied.reachable == {B}


def test_address_is_not_vacant_while_a_socket_may_have_to_go_back_there():
    mobile = moved()
    assert mobile.applied.reachable == {B}
    searches: list[FindSockets] = []
    while not searches:  # the next round
        mobile.now = mobile.machine.deadline() or 0.0
        searches = found(mobile.machine.feed(TimerExpired(), mobile.now), FindSockets)
    actions = mobile.feed(SocketsFound(searches[0].old, searches[0].new, (Key(Transport.TCP, 40000, 80),), ()))
    request = only(sent(actions, TransferRequest))
    assert mobile.applied.reachable == {B}
    movable = tuple(
        replace(entry, port=entry.remote_port, remote_port=entry.port) for entry in request.connections
    )  # as the peer sees them
    reply = TransferReply(request.sequence, request.handover, request.transfer, TransferStage.PREPARE, movable)
    order = only(found(mobile.receive(reply), StopSockets))
    assert mobile.applied.reachable == {A, B}, "before anything is stopped"
    mobile.feed(TransferExpired(order.transfer))
    mobile.count({A: 1}, SETTLING - 0.1)
    assert mobile.applied.reachable == {A, B}
    mobile.count({A: 1}, 0.2)
    assert mobile.applied.reachable == {B}


def test_socket_that_came_while_the_filters_went_keeps_the_guard():
    mobile = moved()
    assert found(mobile.count({}, 10), ReleaseFilters)
    mobile.associate(Pair(B, P))
    mobile.feed(FiltersReleased(A))
    assert not sent(mobile.feed(UsageRead(A, 1)), AddressChange)
    assert Pair(A, P) in mobile.applied.guarded
    assert A in mobile.applied.held
    actions = mobile.count({}, 5)
    assert not found(actions, ReleaseFilters)
    assert mobile.machine.own == Binding(B)


def test_release_that_was_not_reported_is_ordered_again():
    mobile = moved()
    assert found(mobile.count({}, 10), ReleaseFilters)
    assert not found(mobile.wait(RELEASE_RETRY - 0.1), ReleaseFilters)
    assert found(mobile.wait(0.1), ReleaseFilters)


def test_grace_period_is_the_longer_of_both_hosts():
    mobile = registered()
    announcement = only(sent(mobile.addresses(B), AddressChange))
    mobile.receive(answer(announcement, grace=25.0))
    mobile.associate(Pair(A, P), Pair(B, P))
    assert not found(mobile.wait(24), ReadUsage)
    assert found(mobile.wait(1), ReadUsage)


def test_nothing_is_released_before_the_new_filters_stand():
    mobile = registered()
    accepted(mobile, mobile.addresses(B))
    assert not found(mobile.wait(100), ReadUsage)


def test_count_from_before_the_return_releases_nothing():
    mobile = moved()
    mobile.wait(10)
    accepted(mobile, mobile.addresses(A))
    accepted(mobile, mobile.addresses(B))
    assert not mobile.feed(UsageRead(A, 0))


def test_address_that_returns_while_its_filters_are_released_gets_new_ones():
    mobile = moved()
    assert found(mobile.count({}, 10), ReleaseFilters)
    assert not found(accepted(mobile, mobile.addresses(A)), EstablishFilters)
    assert not found(mobile.feed(FiltersReleased(A)), EstablishFilters)
    assert not found(mobile.associate(Pair(B, P)), EstablishFilters)
    assert only(found(mobile.wait(READ_LATE), EstablishFilters)).pair == Pair(A, P)


# --- restart ----------------------------------------------------------------------------------------------------------


def test_restart_before_the_acknowledgment_announces_again():
    mobile = registered()
    announcement = only(sent(mobile.addresses(B), AddressChange))
    wanted = mobile.machine.wanted()
    mobile = mobile.restart()
    assert mobile.machine.wanted() == replace(wanted, admitted=mobile.machine.wanted().admitted)
    again = only(sent(mobile.associate(Pair(A, P)), AddressChange))
    assert (again.sequence, again.current, again.deprecated) == (2, B, (A,))
    assert again.handover == announcement.handover
    mobile.addresses(B)
    assert found(mobile.receive(answer(again)), EstablishFilters)


def test_restart_before_the_path_response():
    mobile = registered()
    mobile.receive(answer(only(sent(mobile.addresses(B), AddressChange)), challenge=CHALLENGE))
    mobile = mobile.restart()
    again = only(sent(mobile.associate(Pair(A, P)), AddressChange))
    assert sent(mobile.receive(answer(again, challenge=CHALLENGE)), PathResponse)
    assert found(mobile.receive(answer(again)), EstablishFilters)


def test_restart_while_filters_are_made():
    mobile = registered()
    accepted(mobile, mobile.addresses(B))
    mobile = mobile.restart()
    actions = accepted(mobile, mobile.associate(Pair(A, P)))
    assert only(found(actions, EstablishFilters)).pair == Pair(B, P)


def test_restart_while_an_old_address_waits():
    mobile = moved()
    mobile.count({A: 1}, 20)
    mobile = mobile.restart()
    assert mobile.applied.guarded == {Pair(A, P), Pair(B, P)}
    mobile.addresses(B)
    accepted(mobile, mobile.associate(Pair(A, P), Pair(B, P)))
    assert found(mobile.count({}, 10), ReleaseFilters)
    assert mobile.machine.mobile.ours == {B}


def test_restart_before_a_refusal_still_knows_the_way_back():
    mobile = registered()
    mobile.addresses(B, A)
    mobile = mobile.restart()
    mobile.addresses(B, A)
    again = only(sent(mobile.associate(Pair(A, P)), AddressChange))
    assert only(sent(mobile.receive(answer(again, Verdict.NOT_ALLOWED)), AddressChange)).current == A


def test_restart_does_not_claim_what_the_peer_never_heard():
    mobile = registered()
    mobile.addresses(B)
    mobile.addresses(C)
    mobile = mobile.restart()
    assert only(sent(mobile.associate(Pair(A, P)), AddressChange)).deprecated == (A,)
    assert mobile.machine.own == Binding(C, (A, B))


def test_old_address_is_told_as_soon_as_it_has_an_ike_sa():
    # mobile  ADDRESS CHANGE 3 {C, deprecated A}  -->
    # an IKE_SA from B comes up late: the peer knows now whose it is
    # mobile  ADDRESS CHANGE 4 {C, deprecated A, B}  -->
    mobile = registered()
    mobile.addresses(B)
    accepted(mobile, mobile.addresses(C))
    announcement = only(sent(mobile.associate(Pair(A, P), Pair(B, P)), AddressChange))
    assert (announcement.sequence, announcement.current, announcement.deprecated) == (4, C, (A, B))
    mobile.receive(answer(announcement))
    assert not sent(mobile.associate(Pair(A, P)), AddressChange), "once told, it stays"


def test_restart_without_journal_begins_from_what_charon_has():
    # mobile  ADDRESS CHANGE 1 {B}  -->
    # mobile  <--  ACKNOWLEDGMENT stale, last sequence 2
    # mobile  ADDRESS CHANGE 3 {B}  -->
    mobile = moved().restart(journal=False)
    mobile.addresses(B)
    announcement = only(sent(mobile.associate(Pair(A, P), Pair(B, P)), AddressChange))
    assert (announcement.sequence, announcement.current) == (1, B)
    announcement = only(sent(mobile.receive(answer(announcement, Verdict.STALE, last_sequence=2)), AddressChange))
    assert announcement.sequence == 3
    mobile.receive(answer(announcement))
    assert mobile.machine.managed


@pytest.mark.parametrize(
    "damage",
    [
        {"sequence": None},
        {"sequence": -1},
        {"own": []},
        {"own": ["192.0.2.1", "192.0.2.1"]},
        {"own": ["somewhere"]},
        {"handover": "not hex"},
        {"ours": 5},
        {"proven": 3.5},
        {"lingering": None},
        {"unannounced": None},
    ],
)
def test_what_is_not_a_snapshot_is_not_restored(damage):
    snapshot = moved().machine.snapshot()
    machine = Driver().machine
    before = machine.snapshot()
    with pytest.raises(ValueError):
        machine.restore(snapshot | damage, 0.0)
    for key in snapshot.keys() - {"unannounced"}:
        with pytest.raises(ValueError, match="not a snapshot"):
            machine.restore({other: snapshot[other] for other in snapshot if other != key}, 0.0)
    assert machine.snapshot() == before


def test_a_snapshot_from_before_unannounced_addresses_were_stored_is_restored():
    snapshot = moved().machine.snapshot()
    assert snapshot["unannounced"] == []
    machine = Driver().machine
    machine.restore({key: value for key, value in snapshot.items() if key != "unannounced"}, 0.0)
    assert machine.snapshot() == snapshot


# --- the peer goes ----------------------------------------------------------------------------------------------------


def test_guards_outlive_every_ike_sa():
    mobile = moved()
    guarded = mobile.applied.guarded
    mobile.associate()
    assert mobile.applied.guarded == guarded
    assert mobile.restart().machine.wanted().guarded == guarded


def test_peer_that_is_gone_is_forgotten_but_for_guards_of_live_sockets():
    mobile = registered()
    mobile.associate()
    actions = mobile.count({P: 1}, 599)
    assert not facts(actions)
    actions = mobile.count({P: 1}, 20)
    assert facts(actions) == [Fact.PEER_FORGOTTEN]
    assert not mobile.machine.managed
    assert mobile.applied == HostState(guarded=frozenset({Pair(A, P)}))
    assert facts(mobile.count({}, 5)) == [Fact.ADDRESS_RELEASED]
    assert mobile.applied == HostState()


def test_forgotten_peer_that_returns_is_registered_with_anew():
    mobile = registered()
    mobile.associate()
    mobile.count({}, 700)
    announcement = only(sent(mobile.associate(Pair(A, P)), AddressChange))
    assert Fact.PEER_REGISTERED in facts(mobile.receive(answer(announcement)))
    assert mobile.applied.guarded == {Pair(A, P)}


def test_unregistered_peer_that_charon_finds_elsewhere_leaves_a_guard():
    mobile = registered()
    mobile.associate(Pair(A, Q))
    assert mobile.applied.guarded == {Pair(A, P), Pair(A, Q)}
    mobile.count({}, LINGER_LEAST)
    assert mobile.applied.guarded == {Pair(A, Q)}


def test_new_controller_of_the_peer_is_told_at_once_where_we_are():
    # mobile  <--  ADDRESS CHANGE 1 {P}
    # mobile  <--  ADDRESS CHANGE 2 {P}     (another instance)
    # mobile  ADDRESS CHANGE 1 {A}  -->
    mobile = registered()
    mobile.receive(change(1, P))
    assert not sent(mobile.receive(change(1, P)), AddressChange)
    assert only(sent(mobile.receive(change(2, P, instance=7)), AddressChange)).current == A


def test_counterparts_are_the_other_sides_of_the_sockets_to_count():
    mobile = moved()
    mobile.receive(change(1, P))
    mobile.receive(change(2, Q, P))
    mobile.receive(change(3, Q))
    assert mobile.machine.counterparts(A) == {P, Q}, "also those that linger"
    assert mobile.machine.counterparts(P) == {A, B}
    assert mobile.machine.counterparts(D) == {A, B}

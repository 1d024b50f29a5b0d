"""Method migrate: what the two roles say and do, and that the two hosts agree whatever becomes of their messages."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swanroam.protocol.events import (
    Action,
    EstablishFilters,
    Fact,
    FiltersEstablished,
    FiltersFailed,
    FiltersReleased,
    MigrateFilters,
    ReleaseFilters,
    Send,
    UsageRead,
)
from swanroam.protocol.host_state import Crossing, Pair
from swanroam.protocol.messages import FiltersReply, FiltersRequest, Message, Method, Stage
from swanroam.protocol.migration import Follower, Leader
from swanroam.protocol.retransmission import Retransmission
from unit.driver import SETTINGS, STATIONARY, A, B, C, Driver, P, facts, found, only, reports

MIGRATING = replace(SETTINGS, mobile=replace(SETTINGS.mobile, method=Method.MIGRATE, grace=1.0))
FOLLOWING = replace(STATIONARY, mobile=replace(STATIONARY.mobile, grace=1.0))
PAIR = Pair(B, P)
HANDOVER = bytes(8)
MOVE, FINISH = (FiltersRequest(2, HANDOVER, stage) for stage in (Stage.MOVE, Stage.FINISH))
MOVED, FINISHED = (FiltersReply(2, HANDOVER, stage, "") for stage in (Stage.MOVE, Stage.FINISH))


# --- the leader -------------------------------------------------------------------------------------------------------


def leader() -> Leader:
    made = Leader(Retransmission(0.1, 5.0, lambda: 0.0))
    made.begin(PAIR, 0.0)
    return made


def asks(role: Leader, now: float) -> list[Stage]:
    return [action.message.stage for action in role.transmit(2, HANDOVER, now) if isinstance(action, Send)]  # type: ignore[union-attr]


def test_a_leader_moves_its_filters_when_the_follower_has_and_then_lets_it_finish() -> None:
    role = leader()
    assert asks(role, 0.0) == [Stage.MOVE]
    assert role.crossing(PAIR) is Crossing.NONE
    assert role.replied(MOVED) == ([MigrateFilters(PAIR, data=True, control=True)], "")
    assert role.crossing(PAIR) is Crossing.NONE, "its own are not moved yet"
    assert role.established(PAIR, 1.0)
    assert role.crossing(PAIR) is Crossing.DONE
    assert asks(role, 1.0) == [Stage.FINISH]
    assert role.replied(FINISHED) == ([], "")
    assert role.finished
    assert role.crossing(PAIR) is Crossing.DONE
    assert role.crossing(Pair(A, P)) is Crossing.NONE


def test_a_leader_asks_until_it_is_answered_and_not_again() -> None:
    role = leader()
    assert [time for time in (0.0, 0.05, 0.1, 0.2, 0.4) if asks(role, time)] == [0.0, 0.1, 0.4]
    role.replied(MOVED)
    assert not asks(role, 9.0)


@pytest.mark.parametrize("early", [FINISHED, replace(FINISHED, reason="no")])
def test_a_leader_ignores_what_it_has_not_asked_for(early: FiltersReply) -> None:
    role = leader()
    assert role.replied(early) == ([], "")
    role.replied(MOVED)
    assert role.replied(MOVED) == ([], ""), "a duplicate"
    assert role.replied(early) == ([], "")


def test_a_refusal_to_move_begins_all_over_and_one_to_finish_does_not() -> None:
    role = leader()
    actions, problem = role.replied(replace(MOVED, reason="no CHILD_SA data"))
    assert not actions
    assert "no CHILD_SA data" in problem
    assert not role.busy

    role.begin(PAIR, 1.0)
    role.replied(MOVED)
    role.established(PAIR, 1.0)
    assert "later" in role.replied(replace(FINISHED, reason="later"))[1]
    assert role.crossing(PAIR) is Crossing.DONE
    role.begin(PAIR, 2.0)
    assert role.crossing(PAIR) is Crossing.DONE, "its filters stand where they are"
    assert asks(role, 2.0) == [Stage.FINISH]


def test_a_leader_whose_filters_do_not_move_stays_with_the_old_ones() -> None:
    role = leader()
    role.replied(MOVED)
    role.failed(PAIR)
    assert role.crossing(PAIR) is Crossing.NONE
    assert not role.established(PAIR, 1.0)


def test_only_a_leader_that_has_moved_has_anything_to_take_over() -> None:
    for crossing, stages in ((Crossing.DONE, [Stage.FINISH]), (Crossing.NONE, []), (Crossing.ACCEPTING, [])):
        role = Leader(Retransmission(0.1, 5.0, lambda: 0.0))
        role.restore(PAIR, crossing, 0.0)
        assert asks(role, 0.0) == stages


# --- the follower -----------------------------------------------------------------------------------------------------


def test_a_follower_accepts_first_and_sends_by_the_new_filters_once_the_leader_has_moved() -> None:
    role = Follower()
    assert role.requested(MOVE, PAIR) == [MigrateFilters(PAIR, data=True, control=False)]
    assert role.crossing(PAIR) is Crossing.NONE
    assert role.established(PAIR) == [Send(MOVED)]
    assert role.crossing(PAIR) is Crossing.ACCEPTING
    assert role.requested(FINISH, PAIR) == [MigrateFilters(PAIR, data=False, control=True)]
    assert role.crossing(PAIR) is Crossing.DONE, "whoever says finish can read it"
    assert role.established(PAIR) == [Send(FINISHED)]
    assert role.crossing(PAIR) is Crossing.DONE


def test_a_follower_does_everything_once_and_answers_every_time() -> None:
    role = Follower()
    role.requested(MOVE, PAIR)
    assert role.requested(MOVE, PAIR) == [], "under way"
    role.established(PAIR)
    assert role.established(PAIR) == []
    assert role.requested(MOVE, PAIR) == [Send(MOVED)]
    role.requested(FINISH, PAIR)
    assert role.requested(FINISH, PAIR) == []
    assert role.requested(MOVE, PAIR) == [Send(MOVED)], "an old one, overtaken"
    role.established(PAIR)
    assert role.requested(FINISH, PAIR) == [Send(FINISHED)]


def test_a_follower_says_why_it_could_not_and_tries_again_when_asked() -> None:
    role = Follower()
    role.requested(MOVE, PAIR)
    assert role.failed(PAIR, "behind NAT") == [Send(replace(MOVED, reason="behind NAT"))]
    assert role.crossing(PAIR) is Crossing.NONE
    assert role.failed(PAIR, "behind NAT") == []
    assert role.requested(MOVE, PAIR) == [MigrateFilters(PAIR, data=True, control=False)]
    role.established(PAIR)
    role.requested(FINISH, PAIR)
    assert role.failed(PAIR, "busy") == [Send(replace(FINISHED, reason="busy"))]
    assert role.crossing(PAIR) is Crossing.DONE, "the data CHILD_SAs are moved on both hosts"
    assert role.requested(FINISH, PAIR) == [MigrateFilters(PAIR, data=False, control=True)]


def test_nothing_is_finished_that_was_not_begun() -> None:
    assert only(Follower().requested(FINISH, PAIR)) == Send(
        replace(FINISHED, reason="nothing was moved here; begin again")
    )


def test_another_pair_begins_anew() -> None:
    role = Follower()
    role.requested(MOVE, Pair(A, P))
    assert role.requested(MOVE, PAIR) == [MigrateFilters(PAIR, data=True, control=False)]
    assert role.established(Pair(A, P)) == [], "what was asked before is nobody's any more"
    assert role.established(PAIR) == [Send(MOVED)]


@pytest.mark.parametrize("crossing", [Crossing.ACCEPTING, Crossing.DONE])
def test_a_follower_takes_over_and_finishes_again_to_be_sure(crossing: Crossing) -> None:
    role = Follower()
    role.restore(PAIR, crossing)
    assert role.crossing(PAIR) is crossing
    assert role.requested(MOVE, PAIR) == [Send(MOVED)]
    assert role.requested(FINISH, PAIR) == [MigrateFilters(PAIR, data=False, control=True)]


def test_a_follower_of_which_nothing_was_stored_begins_anew() -> None:
    role = Follower()
    role.restore(PAIR, Crossing.NONE)
    assert role.requested(MOVE, PAIR) == [MigrateFilters(PAIR, data=True, control=False)]


# --- two hosts --------------------------------------------------------------------------------------------------------


@dataclass
class Two:
    """A mobile host at A and its correspondent at P, with all messages in the hands of the test."""

    mobile: Driver = field(default_factory=lambda: Driver(MIGRATING))
    correspondent: Driver = field(default_factory=lambda: Driver(FOLLOWING))
    underway: deque[tuple[str, Message | Pair]] = field(default_factory=deque)
    """Messages, and charon's work that is being done, each with the host that it is for."""
    actions: list[Action] = field(default_factory=list)

    def host(self, name: str) -> Driver:
        return self.mobile if name == "mobile" else self.correspondent

    def do(self, name: str, actions: list[Action]) -> None:
        """What the host's machine asks for; afterwards what must always be true."""
        self.actions += actions
        other = "correspondent" if name == "mobile" else "mobile"
        for action in actions:
            if isinstance(action, Send):
                self.underway.append((other, action.message))
            elif isinstance(action, MigrateFilters):
                self.underway.append((name, action.pair))
        self.check()

    def check(self) -> None:
        for one, other in ((self.mobile, self.correspondent), (self.correspondent, self.mobile)):
            state = one.applied
            if state.cleared:
                assert not state.bypassed, "clear inside of what is not ESP"
                assert one.machine.pair not in state.bypassed_in
                assert other.machine.crossing is not Crossing.NONE, "sends what the other cannot read"
                assert state.cleared <= state.guarded

    def deliver(self, index: int = 0, *, keep: bool = False, fails: bool = False) -> None:
        name, what = self.underway[index]
        if not keep or isinstance(what, Pair):
            del self.underway[index]
        host = self.host(name)
        if not isinstance(what, Pair):
            self.do(name, host.receive(what))
        elif fails:
            self.do(name, host.feed(FiltersFailed(what, "charon did not follow")))
        else:
            self.do(name, host.associate(what))
            self.do(name, host.feed(FiltersEstablished(what)))

    def run(self) -> None:
        """Everything arrives at once, in order."""
        while self.underway:
            self.deliver()

    def wait(self, seconds: float) -> None:
        for name in ("mobile", "correspondent"):
            self.do(name, self.host(name).count({}, seconds))

    def settle(self) -> None:
        for _ in range(40):
            self.run()
            if self.mobile.machine.crossing is self.correspondent.machine.crossing is Crossing.DONE:
                return
            self.wait(1.0)
        raise AssertionError((self.mobile.machine.crossing, self.correspondent.machine.crossing))


@pytest.fixture
def registered() -> Two:
    return register()


def register() -> Two:
    two = Two()
    two.do("correspondent", two.correspondent.associate(Pair(P, A)))
    two.do("mobile", two.mobile.associate(Pair(A, P)))
    two.do("mobile", two.mobile.addresses(A, B))
    two.run()
    assert two.mobile.machine.managed
    two.actions.clear()
    return two


def test_a_whole_move(registered: Two) -> None:
    registered.do("mobile", registered.mobile.addresses(B, A))
    registered.run()
    assert registered.mobile.machine.crossing is registered.correspondent.machine.crossing is Crossing.DONE
    assert registered.mobile.applied.cleared == {Pair(A, P)}
    assert registered.correspondent.applied.cleared == {Pair(P, A)}
    assert not found(registered.actions, EstablishFilters)
    moves = found(registered.actions, MigrateFilters)
    assert [(move.pair.local, move.data, move.control) for move in moves] == [
        (P, True, False),
        (B, True, True),
        (P, False, True),
    ]
    assert [report.detail for report in reports(registered.actions, Fact.HANDOVER_STEP)].count("filters") == 2

    registered.wait(3.0)
    registered.run()
    assert found(registered.actions, ReleaseFilters)


def test_filters_do_not_count_as_moved_before_both_hosts_say_so(registered: Two) -> None:
    registered.do("mobile", registered.mobile.addresses(B, A))
    while registered.mobile.machine.crossing is Crossing.NONE:
        registered.deliver()
    steps = [
        report.handover for report in reports(registered.actions, Fact.HANDOVER_STEP) if report.detail == "filters"
    ]
    assert registered.mobile.machine.mobile.handover not in steps


def test_a_follower_that_fails_is_asked_again_and_nothing_changes_meanwhile(registered: Two) -> None:
    registered.do("mobile", registered.mobile.addresses(B, A))
    while not isinstance(registered.underway[0][1], Pair):
        registered.deliver()
    registered.deliver(fails=True)
    before = registered.mobile.applied
    registered.run()
    failed = only(reports(registered.actions, Fact.FILTERS_FAILED))
    assert "charon did not follow" in failed.detail
    assert registered.mobile.applied == before
    assert before.bypassed
    registered.settle()


def test_a_leader_that_fails_tries_again_while_the_follower_waits(registered: Two) -> None:
    registered.do("mobile", registered.mobile.addresses(B, A))
    while not (registered.underway[0][0] == "mobile" and isinstance(registered.underway[0][1], Pair)):
        registered.deliver()
    registered.deliver(fails=True)
    assert registered.correspondent.machine.crossing is Crossing.ACCEPTING
    assert Fact.FILTERS_FAILED in facts(registered.actions)
    registered.settle()


def test_what_an_overtaken_move_has_done_does_not_count_for_the_next_one_to_the_same_address(registered: Two) -> None:
    two = registered
    two.do("mobile", two.mobile.addresses(B, A))
    while not (two.underway[0][0] == "mobile" and isinstance(two.underway[0][1], Pair)):
        two.deliver()
    two.do("mobile", two.mobile.addresses(C))
    two.do("mobile", two.mobile.addresses(B))
    two.deliver()  # charon has moved to B, for the first move
    assert two.correspondent.machine.crossing is Crossing.ACCEPTING
    two.settle()
    assert two.mobile.machine.filter_moves.leader.finished


def test_without_an_ike_sa_there_is_nothing_to_move_and_a_new_one_is_made(registered: Two) -> None:
    registered.do("mobile", registered.mobile.addresses(B, A))
    while registered.mobile.machine.filter_moves.leader.pair is None:
        registered.deliver()
    registered.underway.clear()
    registered.actions.clear()
    registered.do("mobile", registered.mobile.associate())
    registered.wait(10.0)
    assert found(registered.actions, EstablishFilters)
    registered.do("mobile", registered.mobile.associate(PAIR))
    registered.do("mobile", registered.mobile.feed(FiltersEstablished(PAIR)))
    registered.wait(1.0)
    assert "filters" in [report.detail for report in reports(registered.actions, Fact.HANDOVER_STEP)]


def test_a_follower_releases_what_it_kept_when_the_address_is_released(registered: Two) -> None:
    registered.do("mobile", registered.mobile.addresses(B))
    registered.settle()
    registered.actions.clear()
    while not found(registered.actions, ReleaseFilters):
        registered.wait(1.0)
    registered.do("mobile", registered.mobile.feed(FiltersReleased(A)))
    registered.do("mobile", registered.mobile.feed(UsageRead(A, 0)))
    registered.run()
    assert [release.address for release in found(registered.actions, ReleaseFilters)].count(A) == 2, "both hosts"
    assert registered.mobile.applied.cleared == registered.correspondent.applied.cleared == frozenset()


@given(st.data())
def test_the_hosts_agree_in_the_end_whatever_is_lost_doubled_overtaken_or_fails(data: st.DataObject) -> None:
    two = register()
    two.do("mobile", two.mobile.addresses(B, A))
    for _ in range(data.draw(st.integers(0, 40))):
        if not two.underway:
            two.wait(0.5)
            continue
        index = data.draw(st.integers(0, len(two.underway) - 1))
        match data.draw(
            st.sampled_from(("deliver", "deliver", "deliver", "double", "lose", "fail", "wait", "restart"))
        ):
            case "deliver":
                two.deliver(index)
            case "double" if len(two.underway) < 20:
                two.deliver(index, keep=True)
            case "lose" if not isinstance(two.underway[index][1], Pair):
                del two.underway[index]
            case "fail":
                two.deliver(index, fails=True)
            case "restart":
                restart(two, data.draw(st.sampled_from(("mobile", "correspondent"))))
            case _:
                two.wait(0.3)
    two.settle()


def restart(two: Two, name: str) -> None:
    """Its controller is killed: what charon was doing for it is done all the same, and nobody hears of it."""
    host = two.host(name)
    done = [what for whose, what in two.underway if whose == name and isinstance(what, Pair)]
    two.underway = deque(entry for entry in two.underway if entry[0] != name)
    successor = host.restart()
    if name == "mobile":
        two.mobile = successor
    else:
        two.correspondent = successor
    pairs = done[-1:] or list(successor._ike_ids)
    two.do(name, successor.associate(*pairs))
    if name == "mobile":
        two.do(name, successor.addresses(B, A))

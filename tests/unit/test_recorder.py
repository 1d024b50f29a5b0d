"""What the daemon writes into the history while a controller works, and what of it people can read afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from swanroam.daemon import recorder as module
from swanroam.daemon.recorder import Recorder
from swanroam.history.document import PastHandoverDocument, history_document
from swanroam.history.handovers import tell
from swanroam.history.store import HistoryFile, read
from swanroam.protocol.batch import AT_THE_PEER
from swanroam.protocol.events import AddressesRead, Fact, Report
from swanroam.protocol.handover import Cause, Handover, Result, Step
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import Obstacle, Transport, Verdict
from swanroam.protocol.transfer import (
    Kept,
    Key,
    MoveSockets,
    SocketsLetGo,
    SocketsMoved,
    SocketsStopped,
    StopSockets,
    Tally,
    TransferExpired,
    TransferFailed,
)
from unit import skipping_loop
from unit.fake_host import A, B, P, Q, Stage, on_stage
from unit.test_status import registered


def told(path: Path) -> list[PastHandoverDocument]:
    found = read(path)
    assert not found.unreadable
    return history_document(list(tell(found.entries).handovers), [], 0)["handovers"]


def kinds(path: Path) -> list[str]:
    return [entry.kind for entry in read(path).entries]


def test_a_move_of_ours_is_in_the_history_with_its_cause_and_every_step(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        stage.submit(AddressesRead(B, frozenset({B}), Cause.GONE))
        await stage.until(lambda: stage.sent[-1].sequence > 1)
        stage.acknowledge()
        await stage.until(lambda: any("establish" in line for line in stage.host.log))
        stage.associated((B, P))
        await stage.until(lambda: stage.peer.machine.own.deprecated == ())
        stage.acknowledge()
        await stage.until(lambda: stage.peer.history)

        (handover,) = told(stage.history.path)
        record = stage.peer.history[-1]
        assert (handover["id"], handover["old"], handover["new"]) == (record.name, str(A), str(B))
        assert (handover["moved"], handover["cause"], handover["result"]) == ("us", "gone", "done")
        assert handover["steps"] == pytest.approx(record.step_seconds, abs=1e-5)
        assert handover["sockets"] is not None
        assert kinds(stage.history.path)[0] == "peer_registered"

    on_stage(tmp_path, story)


def test_a_move_of_the_peers_is_in_the_history_as_its_own(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        stage.change(1, P)
        stage.change(2, Q, P)
        await stage.until(lambda: stage.peer.machine.correspondent.unproven)

        (handover,) = told(stage.history.path)
        assert (handover["moved"], handover["cause"], handover["result"]) == ("peer", "peer", "running")
        assert (handover["old"], handover["new"], list(handover["steps"])) == (str(P), str(Q), ["acknowledged"])

    on_stage(tmp_path, story)


def test_what_the_peer_refuses_and_what_we_refuse_is_in_the_history(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        stage.submit(AddressesRead(B, frozenset({A, B}), Cause.PLANNED))
        await stage.until(lambda: stage.sent[-1].sequence > 1)
        stage.acknowledge(Verdict.NOT_ALLOWED, "not in allow")
        await stage.until(lambda: stage.peer.history)
        stage.change(1, P)
        stage.change(2, Q, P)
        await stage.until(lambda: stage.peer.trouble)

        (handover,) = told(stage.history.path)
        assert (handover["result"], handover["detail"]) == ("refused", "not_allowed: not in allow")
        assert handover["refusals"] == ["not_allowed: not in allow"]
        (refused,) = [entry for entry in read(stage.history.path).entries if entry.kind == "address_change_refused"]
        assert refused.text("reason") == "outside_allow"

    on_stage(tmp_path, story, peer="allow: [198.51.100.1/32]")


# --- alone ------------------------------------------------------------------------------------------------------------


class Desk:
    """A recorder that writes to a file."""

    def __init__(self, directory: Path) -> None:
        self.history = HistoryFile(directory / "history.jsonl", boot="this boot")
        self.tally = Tally()
        self.recorder = Recorder("server", "peer.example.org", self.tally, self.history.write)

    @property
    def path(self) -> Path:
        return self.history.path

    def report(self, fact: Fact, handover: Handover | None = None, detail: str = "", reason: str = "") -> None:
        self.recorder.report(Report(fact, detail, handover, reason))

    def begin(self, number: int = 1, cause: Cause = Cause.GONE) -> Handover:
        now = asyncio.get_running_loop().time()
        handover = Handover(number.to_bytes(8, "big"), A, B, number, now, cause=cause)
        self.report(Fact.HANDOVER_STARTED, handover)
        return handover

    def reach(self, handover: Handover, step: Step) -> Handover:
        handover = handover.with_step(step, asyncio.get_running_loop().time())
        self.report(Fact.HANDOVER_STEP, handover, step.value)
        return handover


def at_the_desk(directory: Path, story: Callable[[Desk], Awaitable[None]]) -> None:
    async def run() -> None:
        await story(Desk(directory))

    skipping_loop.run(run())


def kept(number: int, obstacle: Obstacle, detail: str = "") -> Kept:
    return Kept(Key(Transport.TCP, number, 443), obstacle, detail, (f"program/{number}",))


def test_only_what_has_moved_since_the_start_counts_and_what_stays_is_told_with_its_reason(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.tally.moved = 40
        handover = desk.begin()
        desk.tally.moved += 2
        entries = [
            kept(1, Obstacle.BOUND, "its program bound it"),
            kept(2, Obstacle.OWNER, AT_THE_PEER),
            kept(3, Obstacle.OWNER, AT_THE_PEER),
            kept(4, Obstacle.NOTHING_TO_DO, "it serves every address"),
        ]
        desk.tally.keep(Pair(A, P), entries)
        desk.reach(handover, Step.TRANSPORT)

        account = told(desk.path)[0]["sockets"]
        assert account is not None
        assert (account["moved"], account["kept_count"]) == (2, 3)
        assert account["kept"] == [
            {"reason": "the program that has it can't be stopped, at the peer", "count": 2},
            {"reason": "its program bound it", "count": 1},
        ]
        assert account["kept_sockets"][0] == "tcp 1-443 (program/1): its program bound it"

    at_the_desk(tmp_path, story)


def test_many_kept_sockets_are_counted_and_few_of_them_named(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        handover = desk.begin()
        desk.tally.keep(Pair(A, P), [kept(number, Obstacle.BOUND) for number in range(1, 1001)])
        desk.reach(handover, Step.TRANSPORT)

        account = told(desk.path)[0]["sockets"]
        assert account is not None
        assert (account["kept_count"], len(account["kept_sockets"])) == (1000, module.NAMED)
        assert desk.path.stat().st_size < 5000

    at_the_desk(tmp_path, story)


def test_the_longest_time_for_which_programs_were_stopped_is_told(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        handover = desk.begin()
        for transfer, duration in ((1, 0.02), (2, 0.05), (3, 0.01)):
            desk.recorder.ordered(StopSockets(transfer, Pair(A, P), Pair(B, P), ()))
            await asyncio.sleep(duration)
            desk.recorder.answered(SocketsLetGo(transfer))
        desk.recorder.answered(SocketsLetGo(9))  # of one that has stopped nobody
        desk.reach(handover, Step.TRANSPORT)

        account = told(desk.path)[0]["sockets"]
        assert account is not None
        assert account["stopped"] == pytest.approx(0.05)

    at_the_desk(tmp_path, story)


def test_attempts_that_were_given_up_are_told_with_the_reason(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.begin()
        desk.recorder.ordered(StopSockets(1, Pair(A, P), Pair(B, P), ()))
        desk.recorder.answered(TransferExpired(1))
        desk.recorder.answered(TransferExpired(1))  # nobody was stopped any more
        desk.recorder.answered(TransferFailed(2, "the mover has died"))

        assert told(desk.path)[0]["given_up"] == [
            "the peer did not answer in time; programs ran on",
            "the mover has died",
        ]

    at_the_desk(tmp_path, story)


def test_an_attempt_that_found_nobody_to_stop_is_not_given_up_when_its_time_is_over(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        handover = desk.begin()
        desk.recorder.ordered(StopSockets(1, Pair(A, P), Pair(B, P), ()))
        desk.recorder.ordered(MoveSockets(2, Pair(A, P), Pair(B, P), ()))
        desk.recorder.answered(SocketsStopped(1, (), ()))
        desk.recorder.answered(SocketsMoved(2, (), ()))
        await asyncio.sleep(5)
        desk.recorder.answered(TransferExpired(1))
        desk.recorder.answered(TransferExpired(2))
        desk.reach(handover, Step.TRANSPORT)

        (told_of,) = told(desk.path)
        assert told_of["given_up"] == []
        assert told_of["sockets"] is not None
        assert told_of["sockets"]["stopped"] == 0

    at_the_desk(tmp_path, story)


def test_an_address_that_comes_back_ends_the_time_without_one(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.recorder.address_lost(A, Cause.LINK_DOWN, None)
        desk.recorder.address_lost(A, Cause.GONE, 0.0)  # first its link, then the address itself
        desk.recorder.address_kept(A)
        desk.recorder.address_kept(A)
        await asyncio.sleep(60)
        desk.begin(cause=Cause.PLANNED)

        assert kinds(desk.path) == ["address_lost", "address_back", "handover_started"]
        assert told(desk.path)[0]["without_address"] is None

    at_the_desk(tmp_path, story)


def test_the_time_without_any_address_is_measured_from_its_loss(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        loop = asyncio.get_running_loop()
        lost = loop.time()
        await asyncio.sleep(0.3)
        for _ in range(3):  # each decision finds it so
            desk.recorder.address_lost(A, Cause.GONE, lost)
        await asyncio.sleep(0.2)
        desk.begin()

        assert told(desk.path)[0]["without_address"] == pytest.approx(0.5)
        assert kinds(desk.path).count("address_lost") == 1

    at_the_desk(tmp_path, story)


def test_a_peer_that_moves_without_end_does_not_drive_out_the_past(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        for number in range(1, 1001):
            handover = desk.begin(number, Cause.PEER)
            desk.reach(handover, Step.ACKNOWLEDGED)
            desk.report(Fact.HANDOVER_FINISHED, handover.ended(Result.OVERTAKEN))
        assert len(told(desk.path)) == module.HANDOVERS
        assert len(kinds(desk.path)) == 3 * module.HANDOVERS

        await asyncio.sleep(module.HANDOVER_INTERVAL)
        desk.begin(2000, Cause.PEER)
        assert read(desk.path).entries[-1].fields["left_out"] == 1000 - module.HANDOVERS

    at_the_desk(tmp_path, story)


@pytest.mark.parametrize("fact", [Fact.CHANGE_REFUSED, Fact.FILTERS_FAILED, Fact.PEER_NOT_FOUND])
def test_what_repeats_itself_is_written_a_few_times_and_then_counted(tmp_path: Path, fact: Fact) -> None:
    async def story(desk: Desk) -> None:
        handover = desk.begin() if fact is Fact.FILTERS_FAILED else None
        for _ in range(100):
            desk.report(fact, handover, "as before", "the_same")
        assert kinds(desk.path).count(fact.value) == module.OTHERS

        await asyncio.sleep(module.OTHERS_INTERVAL)
        desk.report(fact, handover, "as before", "the_same")
        assert read(desk.path).entries[-1].fields["left_out"] == 100 - module.OTHERS

    at_the_desk(tmp_path, story)


@pytest.mark.parametrize("fact", [Fact.CHANGE_ACCEPTED, Fact.PATH_PROVEN, Fact.CHANGE_STALE, Fact.UNEXPECTED_MESSAGE])
def test_what_is_normal_is_not_written(tmp_path: Path, fact: Fact) -> None:
    async def story(desk: Desk) -> None:
        desk.report(fact, None, "as ever")
        assert not desk.path.exists()

    at_the_desk(tmp_path, story)


def test_nothing_is_kept_of_handovers_that_are_over(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        for number in range(1, 1 + 2 * module.HANDOVERS):
            desk.report(Fact.HANDOVER_FINISHED, desk.begin(number).ended(Result.DONE))
        left: list[Any] = [desk.recorder._accounts, desk.recorder._passed_over, desk.recorder._stopped]
        assert [len(part) for part in left] == [0, 0, 0]

    at_the_desk(tmp_path, story)

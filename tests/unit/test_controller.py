"""The controller between machines and host: in which order things are done, and what happens when they fail."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Collection
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from swanroam.config import PeerSettings
from swanroam.daemon import controller as controller_module
from swanroam.daemon import reports
from swanroam.daemon.controller import HostError
from swanroam.daemon.journal import Journal, JournalError
from swanroam.protocol import seeker as seeker_module
from swanroam.protocol.authorisation import Ground
from swanroam.protocol.events import (
    AddressesRead,
    Association,
    AssociationsRead,
    EstablishFilters,
    Event,
    FiltersFailed,
    MessageReceived,
    ReleaseFilters,
    TimerExpired,
)
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import Acknowledgment, AddressChange, IPAddress, PathResponse, Verdict
from unit.fake_host import ITS, A, B, FakeHost, P, Q, Stage, configuration, on_stage

SPARE = frozenset({A, B})
HERE = ip_address("203.0.113.9")
R, S, T = (ip_address(text) for text in ("192.0.2.9", "198.51.100.8", "198.51.100.9"))
OTHER = "other.example.org"
SECOND = "second.example.org"


async def registered(stage: Stage) -> None:
    """The peer knows us at A."""
    stage.associated((A, P))
    stage.submit(AddressesRead(A, frozenset({A})))
    await stage.until(lambda: stage.sent)
    stage.acknowledge()
    await stage.until(lambda: stage.peer.machine.managed)


async def moved(stage: Stage) -> None:
    """We have moved to B, the peer agrees; charon does not have the new filters yet."""
    await registered(stage)
    stage.submit(AddressesRead(B, frozenset({B})))
    await stage.until(lambda: stage.sent[-1].sequence > 1)
    stage.acknowledge()
    await stage.until(lambda: f"establish {Pair(B, P)}" in stage.host.log)


def journalled(directory: Path) -> dict[str, Any]:
    document = json.loads((directory / "state" / "journal.json").read_text())
    peer: dict[str, Any] = document["peers"][ITS]
    return peer


def test_a_peer_that_has_not_answered_gets_nothing_of_the_kernel(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.associated((A, P))
        await stage.until(lambda: stage.sent)
        assert not stage.host.state.held | stage.host.state.carriers | stage.host.state.admitted
        assert stage.host.applied[0] == stage.host.state

    on_stage(tmp_path, story)


def test_the_kernel_is_ready_before_a_message_promises_it(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        stage.host.log.clear()
        stage.submit(AddressesRead(B, frozenset({B})))
        await stage.until(lambda: "send AddressChange" in stage.host.log)
        assert stage.host.log.index("apply") < stage.host.log.index("send AddressChange")
        assert {A, B} == stage.host.state.held

    on_stage(tmp_path, story)


def test_the_journal_is_written_before_the_kernel_is_changed(tmp_path: Path) -> None:
    class Watching(FakeHost):
        async def apply(self, wanted: Any) -> bool:
            if wanted.carriers:
                assert journalled(tmp_path)["own"] == [str(B), str(A)]
                self.log.append("journal was first")
            return await super().apply(wanted)

    async def story(stage: Stage) -> None:
        await moved(stage)
        assert "journal was first" in stage.host.log

    on_stage(tmp_path, story, host=Watching())


def test_what_the_kernel_refuses_is_not_promised_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller_module, "RETRY_APPLY", 0.01)

    async def story(stage: Stage) -> None:
        await registered(stage)
        sent = len(stage.sent)
        stage.host.failure = HostError("no memory for a route: free some")
        stage.submit(AddressesRead(B, frozenset({B})))
        await stage.until(lambda: stage.controller.not_applied)
        assert stage.controller.not_applied == "no memory for a route: free some"
        assert len(stage.sent) == sent

        stage.host.failure = None
        await stage.until(lambda: len(stage.sent) > sent)
        assert stage.controller.not_applied == ""
        assert stage.host.state.carriers

    on_stage(tmp_path, story)


def test_a_journal_that_cannot_be_written_does_not_stop_the_work_and_is_told_once(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        blocked = stage.journal.path.with_name("journal.json.new")
        blocked.mkdir()
        with capture_logs() as logged:
            stage.submit(AddressesRead(B, frozenset({B})))
            await stage.until(lambda: stage.sent[-1].sequence > 1)
            stage.acknowledge()
            await stage.until(lambda: f"establish {Pair(B, P)}" in stage.host.log)
        assert stage.host.state.held == {A, B}
        assert stage.host.state.carriers
        assert "cannot write the journal" in stage.controller.not_journalled
        assert [entry["event"] for entry in logged].count("journal_not_written") == 1
        assert journalled(tmp_path)["own"] == [str(A)]

        blocked.rmdir()
        stage.associated((A, P), (B, P))
        await stage.until(lambda: not stage.controller.not_journalled)
        assert journalled(tmp_path)["own"] == [str(B), str(A)]

    on_stage(tmp_path, story)


def test_a_journal_that_can_be_written_again_is_so_in_the_next_quiet_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller_module, "VERIFY", 0.01)

    async def story(stage: Stage) -> None:
        await registered(stage)
        blocked = stage.journal.path.with_name("journal.json.new")
        blocked.mkdir()
        stage.submit(AddressesRead(B, frozenset({B})))
        await stage.until(lambda: stage.controller.not_journalled)
        with capture_logs() as logged:
            blocked.rmdir()
            await stage.until(lambda: not stage.controller.not_journalled)
        assert "journal_written" in [entry["event"] for entry in logged]
        assert journalled(tmp_path)["own"] == [str(B), str(A)]

    on_stage(tmp_path, story)


def test_after_a_crash_with_an_old_journal_the_connections_are_carried_again(tmp_path: Path) -> None:
    """The move was made while the disk was full: the next run knows only of the address before."""

    async def crash(stage: Stage) -> None:
        await registered(stage)
        (tmp_path / "state" / "journal.json.new").mkdir()
        stage.submit(AddressesRead(B, frozenset({B})))
        await stage.until(lambda: stage.sent[-1].sequence > 1)
        stage.acknowledge()
        await stage.until(lambda: f"establish {Pair(B, P)}" in stage.host.log)

    async def next_run(stage: Stage) -> None:
        stage.associated((A, P))
        stage.submit(AddressesRead(B, frozenset({B})))
        await stage.until(lambda: stage.host.applied and stage.host.state.carriers)
        assert stage.host.state.held == {A, B}
        await stage.until(lambda: stage.sent)
        stage.acknowledge(Verdict.STALE, last_sequence=7)
        await stage.until(lambda: stage.sent[-1].sequence > 7)
        change = stage.sent[-1]
        assert isinstance(change, AddressChange)
        assert (change.current, change.deprecated) == (B, (A,))

    on_stage(tmp_path, crash)
    (tmp_path / "state" / "journal.json.new").rmdir()
    on_stage(tmp_path, next_run)


def test_the_kernel_is_compared_and_trouble_with_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_module, "VERIFY", 0.01)

    async def story(stage: Stage) -> None:
        await stage.until(lambda: stage.host.log.count("forget") > 2)
        assert stage.controller.not_applied == ""
        stage.host.failure = HostError("somebody removed the device")
        await stage.until(lambda: stage.controller.not_applied)
        stage.host.failure = None
        await stage.until(lambda: not stage.controller.not_applied)

    on_stage(tmp_path, story)


def test_the_kernel_is_compared_however_much_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_module, "VERIFY", 0.01)

    async def story(stage: Stage) -> None:
        async with asyncio.timeout(10):
            while stage.host.log.count("forget") < 3:
                for _ in range(10):
                    stage.submit(TimerExpired())
                await asyncio.sleep(0.001)

    on_stage(tmp_path, story)


def test_a_whole_handover_ends_with_the_state_of_the_new_address_alone(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await moved(stage)
        stage.associated((A, P), (B, P))
        await stage.until(lambda: f"release {A}" in stage.host.log)
        stage.associated((B, P))
        await stage.until(lambda: stage.host.state.held == {B})
        stage.acknowledge()
        await stage.until(lambda: stage.peer.history)
        assert stage.peer.history[-1].result.value == "done"
        assert not stage.host.state.carriers
        assert await stage.controller.quiesced()

    on_stage(tmp_path, story)


def test_while_sockets_use_the_old_address_the_controller_does_not_take_it_with_it(tmp_path: Path) -> None:
    host = FakeHost()
    host.sockets = 1

    async def story(stage: Stage) -> None:
        await moved(stage)
        stage.associated((A, P), (B, P))
        await stage.until(lambda: f"usage {A}" in stage.host.log)
        assert not await stage.controller.quiesced()

    on_stage(tmp_path, story, host=host)


def test_sockets_on_an_address_that_the_peer_released_keep_the_guards_at_the_end(tmp_path: Path) -> None:
    host = FakeHost()
    host.sockets = 1

    async def story(stage: Stage) -> None:
        stage.associated((A, P))
        stage.change(1, P)
        await stage.until(lambda: stage.peer.machine.managed)
        stage.associated((A, P), (A, Q))
        stage.change(2, Q, P)
        stage.change(3, Q)
        await stage.until(lambda: stage.peer.machine.correspondent.lingering)
        stage.associated((A, Q))
        assert not await stage.controller.quiesced()
        stage.host.sockets = 0
        assert await stage.controller.quiesced()

    on_stage(tmp_path, story, host=host)


def test_the_next_run_takes_over_where_a_crash_left_off(tmp_path: Path) -> None:
    async def crash(stage: Stage) -> None:
        await moved(stage)

    async def next_run(stage: Stage) -> None:
        await stage.until(lambda: stage.host.applied)
        assert stage.host.applied[0].held == {A, B}
        assert stage.host.applied[0].carriers
        stage.associated((A, P), (B, P))
        stage.submit(AddressesRead(B, frozenset({B})))
        await stage.until(lambda: any(isinstance(message, AddressChange) for message in stage.sent))
        change = stage.sent[0]
        assert isinstance(change, AddressChange)
        assert (change.current, change.deprecated) == (B, (A,))
        assert change.sequence >= journalled(tmp_path)["sequence"]

    on_stage(tmp_path, crash)
    on_stage(tmp_path, next_run)


@pytest.mark.parametrize("reboot", [False, True], ids=["restart", "reboot"])
def test_an_old_address_change_is_old_in_the_next_run_and_after_a_reboot_as_well(tmp_path: Path, reboot: bool) -> None:
    async def first_run(stage: Stage) -> None:
        stage.associated((A, P), (A, Q))
        stage.change(1, P)
        stage.change(7, Q, P)
        await stage.until(lambda: stage.peer.machine.correspondent.last_sequence == 7)

    async def next_run(stage: Stage) -> None:
        half = stage.peer.machine.correspondent
        stage.associated((A, P), (A, Q))
        binding = half.binding
        for sequence in (1, 6, 7):
            stage.change(sequence, P)
        await stage.until(lambda: half.refusals[Ground.STALE] == 3)
        assert half.binding == binding
        stage.change(8, Q)
        await stage.until(lambda: half.last_sequence == 8)

    on_stage(tmp_path, first_run)
    journal = tmp_path / "state" / "journal.json"
    if reboot:
        journal.write_text(journal.read_text().replace("this boot", "another boot"))
    on_stage(tmp_path, next_run)


def answers(stage: Stage) -> list[Acknowledgment]:
    return [message for message in stage.sent if isinstance(message, Acknowledgment)]


def test_a_peer_does_not_get_an_address_that_another_peer_has(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        other = stage.controller.peers[OTHER]
        stage.controller.submit(other, AssociationsRead((Association(Pair(A, Q), 9, control=True, complete=True),)))
        stage.associated((A, P))
        stage.change(1, P)
        stage.change(2, Q, P)
        await stage.until(lambda: len(answers(stage)) == 2)
        assert [answer.verdict for answer in answers(stage)] == [Verdict.ACCEPTED, Verdict.IN_USE]
        assert not stage.host.state.carriers
        assert other.machine.pair is None or other.machine.pair.remote == Q

    on_stage(tmp_path, story, peer=f"moves: peer\n  - identity: {OTHER}\n    connection: other")


def test_a_peer_does_not_get_an_address_of_this_host(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.controller.own_addresses = frozenset({A, Q})
        stage.associated((A, P))
        stage.change(1, P)
        stage.change(2, Q, P)
        await stage.until(lambda: len(answers(stage)) == 2)
        assert [answer.verdict for answer in answers(stage)] == [Verdict.ACCEPTED, Verdict.IN_USE]

    on_stage(tmp_path, story)


@pytest.mark.parametrize("years", [-10, 10])
def test_setting_the_clock_changes_no_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: int) -> None:
    async def story(stage: Stage) -> None:
        stage.associated((A, P))
        stage.change(1, P)
        stage.change(2, Q, P)
        await stage.until(lambda: len(answers(stage)) == 2)
        challenge, handover = answers(stage)[-1].challenge, answers(stage)[-1].handover
        assert challenge is not None

        there = time.time() + years * 365 * 24 * 3600
        monkeypatch.setattr(time, "time", lambda: there)
        stage.submit(MessageReceived(PathResponse(2, handover, challenge)))
        stage.change(3, P, Q)
        await stage.until(lambda: answers(stage)[-1].sequence == 3)
        assert stage.peer.machine.correspondent.proven == Q
        assert answers(stage)[-1].verdict is Verdict.ACCEPTED

    on_stage(tmp_path, story)


def test_peers_that_are_not_configured_any_more_keep_their_sequences(tmp_path: Path) -> None:
    on_stage(tmp_path, registered)
    journal = tmp_path / "state" / "journal.json"
    document = json.loads(journal.read_text())
    document["boot_id"] = "this boot"
    document["peers"]["gone.example.org"] = {**document["peers"][ITS], "sequence": 99}
    journal.write_text(json.dumps(document))

    on_stage(tmp_path, registered)

    assert json.loads(journal.read_text())["peers"]["gone.example.org"]["sequence"] == 99


@pytest.mark.parametrize("damage", [{"sequence": -1}, {"own": ["nonsense"]}, {"own": []}, {"handover": "zz"}, {}])
def test_a_journal_that_no_run_can_have_written_stops_the_start_before_anything_is_done(
    tmp_path: Path, damage: dict[str, Any]
) -> None:
    on_stage(tmp_path, registered)
    journal = tmp_path / "state" / "journal.json"
    document = json.loads(journal.read_text())
    document["peers"][ITS] = {**document["peers"][ITS], **damage} if damage else {}
    journal.write_text(json.dumps(document))
    host = FakeHost()

    async def start() -> None:
        Stage(configuration(tmp_path), host)

    with pytest.raises(JournalError, match=rf"is damaged: {ITS}: .*swanroam cleanup"):
        asyncio.run(start())
    assert host.log == []


def test_a_state_directory_that_cannot_be_written_stops_the_start_before_anything_is_done(tmp_path: Path) -> None:
    host = FakeHost()
    (tmp_path / "state" / "journal.json.new").mkdir(parents=True)

    async def start() -> None:
        Stage(configuration(tmp_path), host)

    with pytest.raises(JournalError, match="cannot write the journal"):
        asyncio.run(start())
    assert host.log == []


# --- floods ---------------------------------------------------------------------------------------------------------


def test_a_message_that_changes_nothing_costs_nothing_of_the_other_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(stage: Stage) -> None:
        second = stage.controller.peers[SECOND]
        stage.associated((A, P))
        stage.change(1, P)
        stage.associated((A, T), peer=second)
        await stage.until(lambda: stage.peer.machine.managed and second.machine.associations)
        asked: list[str] = []
        snapshot, wanted = second.machine.snapshot, second.machine.wanted
        monkeypatch.setattr(second.machine, "snapshot", lambda: asked.append("snapshot") or snapshot())
        monkeypatch.setattr(second.machine, "wanted", lambda: asked.append("wanted") or wanted())
        for _ in range(50):
            stage.change(0, P)
        await stage.until(lambda: stage.peer.machine.correspondent.refusals[Ground.STALE] == 50)
        assert asked == []

    # Neither has timers of its own: this host moves towards none of them.
    second = "{identity: second.example.org, connection: second, moves: peer}"
    on_stage(tmp_path, story, peer=f"moves: peer\n  - {second}")


def test_a_flood_of_changes_gives_a_handful_of_lines_with_the_number_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "INTERVAL", 0.1)
    structlog.configure(processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.PrintLoggerFactory())

    async def story(stage: Stage) -> None:
        stage.associated((A, P))
        stage.change(1, P)
        await stage.until(lambda: stage.peer.machine.managed)
        for _ in range(500):
            stage.change(0, P)
        await stage.until(lambda: stage.peer.machine.correspondent.refusals[Ground.STALE] == 500)
        await stage.until(lambda: not stage.peer.reports._to_tell)

    on_stage(tmp_path, story)

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    stale = [line for line in lines if line["event"] == "address_change_stale"]
    assert len(stale) < 20
    assert sum(1 + line.get("left_out", 0) if "detail" in line else line["left_out"] for line in stale) == 500
    assert {line["reason"] for line in stale} == {"stale"}


# --- what is known of addresses when a peer moves ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "ground"),
    [(A, Ground.OURS), (R, Ground.OURS), (P, Ground.ANOTHER_PEERS), (Q, Ground.ANOTHER_PEERS), (S, None)],
    ids=["ours that was given up", "ours on an interface that does not count", "another's", "another's IKE_SA", "free"],
)
def test_a_peer_moves_to_no_address_that_somebody_has(
    tmp_path: Path, address: IPAddress, ground: Ground | None
) -> None:
    host = FakeHost()
    host.own.add(R)

    async def story(stage: Stage) -> None:
        await moved(stage)
        assert stage.host.state.held == {A, B}
        stage.change(1, P)
        stage.associated((A, P), (A, Q))
        second = stage.controller.peers[SECOND]
        stage.associated((A, T), peer=second)
        stage.change(1, T, peer=second)
        stage.change(2, address, T, peer=second)
        half = second.machine.correspondent
        await stage.until(lambda: half.refusals or half.last_sequence == 2)
        assert half.refusals == ({} if ground is None else {ground: 1})

    on_stage(tmp_path, story, host=host, peer="\n  - {identity: second.example.org, connection: second}")


def test_a_change_that_cannot_be_checked_is_not_taken(tmp_path: Path) -> None:
    class Mute(FakeHost):
        async def is_own(self, address: IPAddress) -> bool:
            raise HostError("the kernel does not answer")

    async def story(stage: Stage) -> None:
        stage.associated((A, P))
        stage.change(1, P)
        stage.submit(AddressesRead(A, frozenset({A})))
        await stage.until(lambda: any(isinstance(message, AddressChange) for message in stage.sent))
        assert stage.peer.machine.correspondent.binding is None
        assert not any(isinstance(message, Acknowledgment) for message in stage.sent)

    on_stage(tmp_path, story, host=Mute())


# --- what status tells of it ------------------------------------------------------------------------------------------


def test_filters_that_fail_are_trouble_until_they_stand(tmp_path: Path) -> None:
    class Refusing(FakeHost):
        async def establish(
            self, peer: PeerSettings, action: EstablishFilters, children: Collection[str], wanted: Callable[[], bool]
        ) -> Event:
            self.log.append(f"establish {action.pair}")
            return FiltersFailed(action.pair, "NO_PROPOSAL_CHOSEN")

    async def story(stage: Stage) -> None:
        await moved(stage)
        await stage.until(lambda: stage.peer.trouble)
        assert stage.peer.trouble is not None
        assert "NO_PROPOSAL_CHOSEN" in stage.peer.trouble.detail
        stage.associated((A, P), (B, P))
        await stage.until(lambda: stage.peer.trouble is None)

    on_stage(tmp_path, story, host=Refusing())


def test_a_place_where_the_peer_may_be_is_guarded_while_ike_is_tried_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeker_module, "SEEK_AFTER", 0.05)

    class Watching(FakeHost):
        guarded: bool | None = None

        async def establish(
            self, peer: PeerSettings, action: EstablishFilters, children: Collection[str], wanted: Callable[[], bool]
        ) -> Event:
            if action.pair == Pair(B, Q):
                self.guarded = action.pair in self.state.pairs
                return FiltersFailed(action.pair, "AUTHENTICATION_FAILED")
            return await super().establish(peer, action, children, wanted)

    host = Watching()
    host.names = (Q,)

    async def story(stage: Stage) -> None:
        await registered(stage)
        stage.change(1, P)
        stage.submit(AddressesRead(B, frozenset({B})))
        await stage.until(lambda: host.guarded is not None)
        assert host.guarded
        await stage.until(lambda: Pair(B, Q) not in host.state.pairs)
        assert Pair(B, P) in host.state.pairs

    on_stage(tmp_path, story, host=host)


def test_a_name_that_leads_to_this_host_is_passed_over_and_asked_again_when_the_kernel_does_not_say(
    tmp_path: Path,
) -> None:
    class Unsure(FakeHost):
        asked = 0

        async def is_own(self, address: IPAddress) -> bool:
            self.asked += address == HERE
            if self.asked == 1:
                raise HostError("no answer of the kernel")
            return await super().is_own(address)

    host = Unsure()
    host.own = {HERE}
    host.names = (HERE, Q)

    async def story(stage: Stage) -> None:
        await registered(stage)
        stage.change(1, P)
        stage.submit(AddressesRead(B, frozenset({B})))
        await stage.until(lambda: f"establish {Pair(B, Q)}" in host.log)
        assert host.asked >= 2
        assert host.log.count("resolve IPv4") >= 2
        assert f"establish {Pair(B, HERE)}" not in host.log

    with capture_logs() as lines:
        on_stage(tmp_path, story, host=host)
    assert [line["error"] for line in lines if line["event"] == "address_change_not_checked"] == [
        "no answer of the kernel"
    ]


def test_a_refusal_sends_us_back_and_stays_in_the_history(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        stage.submit(AddressesRead(B, SPARE))
        await stage.until(lambda: stage.sent[-1].sequence > 1)
        stage.acknowledge(Verdict.NOT_ALLOWED, "not in allow")
        await stage.until(lambda: stage.peer.history)
        last = stage.peer.history[-1]
        assert (last.result.value, last.detail) == ("refused", "not_allowed: not in allow")
        assert stage.peer.machine.own is not None
        assert stage.peer.machine.own.current == A

    on_stage(tmp_path, story)


def test_a_controller_that_comes_to_a_silent_peer_is_asked_at_once(tmp_path: Path) -> None:
    """Not when the next refresh is due."""

    async def story(stage: Stage) -> None:
        stage.associated((A, P))
        await stage.until(lambda: stage.peer.machine.mobile.silent)
        tries = len(stage.sent)
        await asyncio.sleep(0)
        stage.change(1, P)
        await stage.until(lambda: sum(isinstance(message, AddressChange) for message in stage.sent) > tries)

    on_stage(tmp_path, story, timing="first_retransmit: 20ms, give_up: 1s, refresh: 10m")


def test_a_release_that_did_not_work_is_asked_for_again_and_no_task_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swanroam.protocol.release.RELEASE_RETRY", 0.02)

    class Failing(FakeHost):
        async def release(self, peer: PeerSettings, action: ReleaseFilters, current: Pair | None) -> Event | None:
            self.log.append(f"release {action.address}")
            return (
                None
                if self.log.count(f"release {action.address}") < 3
                else await super().release(peer, action, current)
            )

    async def story(stage: Stage) -> None:
        await moved(stage)
        stage.associated((A, P), (B, P))
        await stage.until(lambda: stage.host.log.count(f"release {A}") >= 3)
        stage.associated((B, P))
        await stage.until(lambda: stage.host.state.held == {B})

    on_stage(tmp_path, story, host=Failing())


def test_a_stored_journal_is_the_journals_own_format(tmp_path: Path) -> None:
    on_stage(tmp_path, registered)

    assert ITS in Journal(tmp_path / "state" / "journal.json", boot_id="this boot").load()

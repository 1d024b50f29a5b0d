"""The controller between machines and host: in which order things are done, and what happens when they fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from swanroam.config import PeerSettings
from swanroam.daemon import controller as controller_module
from swanroam.daemon.controller import HostError
from swanroam.daemon.journal import Journal, JournalError
from swanroam.protocol import seeker as seeker_module
from swanroam.protocol.events import AddressesRead, EstablishFilters, Event, FiltersFailed, ReleaseFilters
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import AddressChange, Verdict
from unit.fake_host import ITS, A, B, FakeHost, P, Q, Stage, configuration, on_stage

SPARE = frozenset({A, B})


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


def test_a_journal_that_cannot_be_written_stops_what_is_new_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller_module, "RETRY_APPLY", 0.01)

    async def story(stage: Stage) -> None:
        await registered(stage)
        blocked = stage.journal.path.with_name("journal.json.new")
        blocked.mkdir()
        stage.submit(AddressesRead(B, frozenset({B})))
        await stage.until(lambda: stage.controller.not_applied)
        assert "cannot write the journal" in stage.controller.not_applied
        assert stage.host.state.held == {A}

        blocked.rmdir()
        await stage.until(lambda: stage.host.state.held == {A, B})
        assert stage.controller.not_applied == ""

    on_stage(tmp_path, story)


def test_in_a_quiet_moment_the_kernel_is_compared_and_trouble_with_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller_module, "VERIFY", 0.01)

    async def story(stage: Stage) -> None:
        await stage.until(lambda: stage.host.log.count("forget") > 2)
        assert stage.controller.not_applied == ""
        stage.host.failure = HostError("somebody removed the device")
        await stage.until(lambda: stage.controller.not_applied)
        stage.host.failure = None
        await stage.until(lambda: not stage.controller.not_applied)

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

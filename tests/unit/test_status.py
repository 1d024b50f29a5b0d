"""The status document, and how people read it."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from schemas import closed, schema_of
from swanroam.cli.screen import COLUMNS, Colour, Paint
from swanroam.cli.status import render
from swanroam.config import Config
from swanroam.daemon.addresses import AddressFollower
from swanroam.daemon.charon import CharonWatch
from swanroam.daemon.control_channel import ControlChannel
from swanroam.daemon.reload import Reloading
from swanroam.daemon.status import Status
from swanroam.daemon.status_document import FileDocument, StatusDocument
from swanroam.history.words import seconds
from swanroam.ike.vici import ViciClient
from swanroam.protocol import seeker
from swanroam.protocol.authorisation import Ground
from swanroam.protocol.events import AddressesRead, Association, AssociationsRead
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import Verdict
from swanroam.protocol.transfer import Key
from unit.fake_host import A, B, FakeCharon, FakeHost, P, Q, Stage, on_stage


async def _nothing_dropped() -> dict[str, int]:
    return {}


async def _nobody_has_any(old: Pair, new: Pair) -> dict[Key, tuple[str, ...]]:
    return {}


async def _nothing_adopted(old: Config, new: Config) -> None:
    pass


class AtWork(Reloading):
    """A file that says what is at work, or what a test says of it."""

    current = True
    wrong: list[str] = []  # noqa: RUF012 - never changed in place

    async def document(self) -> FileDocument:
        return {"file": str(self.file), "current": self.current, "wrong": self.wrong, "refused": list(self.refused)}


SCHEMA = jsonschema.Draft202012Validator(closed(schema_of(StatusDocument)))


class View:
    """The status of a stage."""

    def __init__(self, stage: Stage) -> None:
        controller = stage.controller
        config = controller.config
        self.charon = CharonWatch(ViciClient(config.vici_socket), controller, FakeCharon())
        control = config.control
        self.channel = ControlChannel(control.address, control.port, 0, lambda sender: "", lambda sender, message: "")
        follower = AddressFollower(config.addresses, controller)
        self.reloading = AtWork(Path("/etc/swanroam/swanroam.yaml"), config, controller.counts, _nothing_adopted)
        self.status = Status(
            controller,
            self.charon,
            follower,
            self.channel,
            _nothing_dropped,
            _nobody_has_any,
            self.reloading,
            stage.history,
        )

    async def document(self) -> dict[str, Any]:
        answer = json.loads(json.dumps(await self.status.answer({})))  # as the API sends it
        SCHEMA.validate(answer)
        render(answer)
        return answer

    async def peer(self) -> dict[str, Any]:
        peer: dict[str, Any] = (await self.document())["peers"][0]
        return peer


async def registered(stage: Stage) -> None:
    stage.associated((A, P))
    stage.submit(AddressesRead(A, frozenset({A})))
    await stage.until(lambda: stage.sent)
    stage.acknowledge()
    await stage.until(lambda: stage.peer.machine.managed)


def test_a_peer_that_is_not_there_is_no_problem(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        view = View(stage)
        document = await view.document()
        assert document["problems"] == []
        assert document["peers"][0]["state"] == "no IKE_SA with it"
        assert render(document).startswith("all is fine: 1 peer, no handover running")

    on_stage(tmp_path, story)


def test_a_journal_that_cannot_be_written_needs_attention_until_it_can(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        blocked = stage.journal.path.with_name("journal.json.new")
        blocked.mkdir()
        stage.submit(AddressesRead(B, frozenset({B})))
        await stage.until(lambda: stage.controller.not_journalled)
        (problem,) = (await View(stage).document())["problems"]
        assert problem.startswith(f"cannot write the journal {stage.journal.path}: ")
        assert problem.endswith("Handovers go on, but a crash or reboot now would lose what was done since")
        blocked.rmdir()
        stage.associated((B, P))
        await stage.until(lambda: not stage.controller.not_journalled)
        assert (await View(stage).document())["problems"] == []

    on_stage(tmp_path, story)


def test_a_peer_at_rest_is_fine(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        peer = await View(stage).peer()
        assert peer["state"] == "protected and ready to move"
        assert peer["problem"] == ""
        assert peer["own"] == {"current": str(A), "deprecated": []}
        assert peer["managed"]

    on_stage(tmp_path, story)


def test_without_a_control_child_the_command_that_makes_one_is_shown(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.submit(AssociationsRead((Association(Pair(A, P), 1, control=False, complete=False),)))
        await stage.until(lambda: stage.peer.machine.associations)
        peer = await View(stage).peer()
        assert peer["state"] == "not managed: no control CHILD_SA"
        assert "swanctl --initiate --ike server --child swanroam" in peer["problem"]
        assert "as it would without swanroam here" in peer["problem"]

    on_stage(tmp_path, story)


def test_a_controller_that_does_not_answer_is_asked_about(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.associated((A, P))
        await stage.until(lambda: stage.peer.machine.associations)
        assert (await View(stage).peer())["problem"] == ""  # it may take a moment
        await stage.until(lambda: stage.peer.machine.mobile.silent)
        peer = await View(stage).peer()
        assert peer["state"] == "not managed: its controller has not answered"
        assert peer["problem"].startswith("is swanroam running there?")

    on_stage(tmp_path, story, timing="first_retransmit: 20ms, give_up: 1s")


def test_a_peer_that_is_lost_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeker, "SEEK_AFTER", 0.05)
    host = FakeHost()
    host.names = (Q,)

    async def story(stage: Stage) -> None:
        await registered(stage)
        stage.change(1, P)
        assert (await View(stage).peer())["sought_at"] is None
        stage.submit(AddressesRead(B, frozenset({B})))
        await stage.until(lambda: f"establish {Pair(B, Q)}" in host.log)
        peer = await View(stage).peer()
        assert peer["sought_at"] == [str(Q)]
        assert peer["state"] == "lost: we moved, and it is not where it was"
        assert "`fallback`" in peer["problem"]
        stage.acknowledge()
        await stage.until(lambda: stage.peer.machine.mobile.settled)
        peer = await View(stage).peer()
        assert (peer["sought_at"], peer["problem"]) == (None, "")

    on_stage(tmp_path, story, host=host)


def test_where_only_the_peer_moves_it_is_the_one_to_register(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.associated((A, P))
        await stage.until(lambda: stage.peer.machine.associations)
        peer = await View(stage).peer()
        assert (peer["state"], peer["problem"]) == ("not managed: its controller has not registered", "")

    on_stage(tmp_path, story, peer="moves: peer")


def test_an_ike_sa_that_has_gone_is_a_problem_of_a_managed_peer(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        stage.associated()
        await stage.until(lambda: not stage.peer.machine.associations)
        peer = await View(stage).peer()
        assert peer["state"] == "no IKE_SA with it"
        assert "swanctl --initiate --ike server" in peer["problem"]

    on_stage(tmp_path, story)


def test_a_silence_that_ends_is_a_problem_no_more(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        stage.submit(AddressesRead(B, frozenset({B})))
        await stage.until(lambda: stage.peer.machine.mobile.silent)
        view = View(stage)
        assert (await view.peer())["state"] == "its controller does not answer"
        assert "is swanroam running there?" in (await view.peer())["problem"]
        stage.acknowledge()
        await stage.until(lambda: not stage.peer.machine.mobile.silent)
        assert (await view.peer())["problem"] == ""

    on_stage(tmp_path, story, timing="first_retransmit: 20ms, give_up: 1s")


def test_a_move_that_was_refused_is_told_until_another_one_succeeds(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        stage.submit(AddressesRead(B, frozenset({A, B})))
        await stage.until(lambda: stage.sent[-1].sequence > 1)
        stage.acknowledge(Verdict.NOT_ALLOWED, "not in allow")
        await stage.until(lambda: stage.peer.history)
        view = View(stage)
        assert "not_allowed: not in allow" in (await view.peer())["problem"]
        sequence = stage.sent[-1].sequence
        await stage.until(lambda: stage.sent[-1].sequence >= sequence)
        stage.acknowledge()
        await stage.until(lambda: stage.peer.machine.mobile.settled)
        assert (await view.peer())["problem"] == f"the move to {B} failed: not_allowed: not in allow"

    on_stage(tmp_path, story)


def test_a_move_of_the_peers_that_we_refuse_is_told(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        stage.change(1, P)
        stage.change(2, Q, P)
        await stage.until(lambda: stage.peer.trouble)
        stage.change(1, Q, P)
        await stage.until(lambda: stage.peer.machine.correspondent.refusals[Ground.STALE])
        peer = await View(stage).peer()
        assert peer["problem"].startswith("its move was refused: ")
        assert (peer["refused"], peer["refusals"]) == (2, {"outside_allow": 1, "stale": 1})

    on_stage(tmp_path, story, peer="allow: [198.51.100.1/32]")


def test_a_new_address_that_is_not_proven_is_told_and_so_is_the_way_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swanroam.protocol.correspondent.PROOF_TIME", 0.2)

    async def story(stage: Stage) -> None:
        await registered(stage)
        stage.change(1, P)
        stage.change(2, Q, P)
        await stage.until(lambda: stage.peer.machine.correspondent.unproven)
        view = View(stage)
        peer = await view.peer()
        assert (peer["unproven"], peer["proven"]) == (str(Q), str(P))
        assert peer["state"] == "it is moving (running)"
        await stage.until(lambda: stage.peer.history)
        peer = await view.peer()
        assert (peer["unproven"], peer["peer"]) == (None, {"current": str(P), "deprecated": []})
        assert peer["problem"] == f"its new address is not proven: no path response from {Q}; back at {P}"
        assert peer["history"][-1]["result"] == "unproven"

    on_stage(tmp_path, story)


def test_charons_absence_comes_first_and_marks_what_is_old(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        view = View(stage)
        view.charon.trouble = "nobody listens on charon's VICI socket"
        document = await view.document()
        assert document["problems"] == ["nobody listens on charon's VICI socket"]
        assert document["peers"][0]["state"] == "charon is lost; before: protected and ready to move"

    on_stage(tmp_path, story)


def test_what_the_kernel_refused_comes_before_everything(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        stage.controller.not_applied = "cannot add route: No buffer space available"
        document = await View(stage).document()
        assert document["problems"][0].startswith("not done, and tried again: cannot add route")

    on_stage(tmp_path, story)


def test_in_mid_handover_steps_and_carrier_are_shown(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await registered(stage)
        stage.submit(AddressesRead(B, frozenset({B})))
        await stage.until(lambda: stage.sent[-1].sequence > 1)
        stage.acknowledge()
        await stage.until(lambda: any("establish" in line for line in stage.host.log))
        document = await View(stage).document()
        (peer,) = document["peers"]
        assert peer["state"] == "we are moving (running)"
        assert peer["own"] == {"current": str(B), "deprecated": [str(A)]}
        assert peer["carried"] == [{"local": str(A), "remote": str(P), "outer": f"{B} - {P}", "control_only": False}]
        assert {"deprecated", "acknowledged", "proven"} <= set(peer["handover"]["seconds"])
        text = render(document)
        assert "all is fine: 1 peer, 1 handover running" in text
        assert f"our address  {B}, still using {A}" in text
        assert f"carrier      {A} - {P} inside {B} - {P}" in text

    host = FakeHost()
    host.sockets = 1
    on_stage(tmp_path, story, host=host)


# --- for people -------------------------------------------------------------------------------------------------------

LONG = "2001:db8:aaaa:bbbb:cccc:dddd:eeee:"
HANDOVER = {
    "id": "0123456789abcdef",
    "old": f"{LONG}1111",
    "new": f"{LONG}2222",
    "sequence": 2,
    "cause": "gone",
    "result": "carrying",
    "detail": f"3 sockets on {LONG}1111",
    "age": 12.3,
    "seconds": {step: 0.01 * 10**n for n, step in enumerate(("deprecated", "acknowledged", "proven", "filters"))},
}
DOCUMENT: dict[str, Any] = {
    "version": 1,
    "swanroam": "0.1.0",
    "identity": "mobile.example.org",
    "uptime": 7300.5,
    "configuration": {"file": "/etc/swanroam/swanroam.yaml", "current": True, "wrong": [], "refused": []},
    "addresses": [f"{LONG}2222"],
    "charon_connected": True,
    "carrier": {"dropped": {}},
    "problems": ["server.example.org: is swanroam running there? " + "Without it connections end. " * 5],
    "control_channel": {"dropped": {"too_short": 3, "not_ours": 12, "unproven_sender": 1}, "unsent": {}},
    "peers": [
        {
            "name": "server",
            "identity": "C=CH, O=Example Organisation With A Long Name, OU=Network, CN=server.example.org",
            "connection": "server",
            "filters": "renegotiate",
            "state": "we are moving (carrying)",
            "problem": "",
            "contradiction": "",
            "managed": True,
            "swanroam": "0.1.0",
            "leaving": False,
            "settings_wait": True,
            "pinned": f"{LONG}2222",
            "own": {"current": f"{LONG}2222", "deprecated": [f"{LONG}1111", f"{LONG}3333"]},
            "peer": {"current": "2001:db8::1", "deprecated": []},
            "proven": None,
            "unproven": "2001:db8::1",
            "held_back": 0,
            "sequence": 2,
            "last_sequence": 1,
            "guarded_after_release": [],
            "refused": 9,
            "refusals": {"stale": 2, "outside_allow": 7},
            "sought_at": [f"{LONG}4444", f"{LONG}5555"],
            "associations": [
                {"ike_id": 12345, "local": f"{LONG}1111", "remote": f"{LONG}9999", "control": True, "complete": False}
            ],
            "carried": [
                {
                    "local": f"{LONG}1111",
                    "remote": f"{LONG}9999",
                    "outer": f"{LONG}2222 - {LONG}9999",
                    "control_only": True,
                }
            ],
            "sockets": [
                {
                    "protocol": "tcp",
                    "state": "ESTABLISHED",
                    "local": f"[{LONG}1111]:50000",
                    "remote": f"[{LONG}9999]:443",
                    "owners": ["firefox/1234", "a-rather-long-name/567890"],
                    "stays": "its owner uses io_uring: a-rather-long-name/567890",
                }
            ],
            "transport": {"method": "move", "moved": 12, "moving": True},
            "connections": {"tcp": 3, "udp": 1},
            "handover": HANDOVER,
            "peer_handover": None,
            "history": [],
        }
    ],
}


def test_no_line_is_wider_than_a_terminal() -> None:
    text = render(DOCUMENT)

    assert [line for line in text.splitlines() if len(line) > COLUMNS] == []
    assert f"[{LONG}1111]:50000" in text  # an address is never broken


def test_the_examples_of_this_file_are_what_the_daemon_answers() -> None:
    SCHEMA.validate(DOCUMENT)


def test_nothing_of_an_identity_or_an_address_is_cut_off() -> None:
    words = render(DOCUMENT).split()

    for said in (
        DOCUMENT["peers"][0]["identity"],
        f"{LONG}1111 -> {LONG}2222",
        f"[{LONG}1111]:50000 - [{LONG}9999]:443",
    ):
        parts = said.split()
        assert any(words[start : start + len(parts)] == parts for start in range(len(words)))


def test_this_host_and_the_number_of_connections_are_told() -> None:
    text = " ".join(render(DOCUMENT).split())

    assert f"this host mobile.example.org at {LONG}2222; swanroam 0.1.0, up 2 hours" in text
    assert "sockets 3 TCP, 1 UDP at the present addresses; 12 moved since the start; some are just moving" in text
    assert "began 12 seconds ago, the old address was lost" in text


def test_a_number_and_its_unit_stay_together() -> None:
    long = copy.deepcopy(DOCUMENT)
    for length in range(30):
        long["peers"][0]["handover"]["seconds"] = {"x" * (40 + length): 1.0, "filters": 1.1}
        assert "filters 1.1 s\n" in render(long)
    assert "\N{NO-BREAK SPACE}" not in render(long)


def test_the_last_move_is_told_with_its_age_while_nothing_moves() -> None:
    at_rest = copy.deepcopy(DOCUMENT)
    at_rest["peers"][0] |= {"handover": None, "history": [HANDOVER | {"result": "done", "detail": "", "age": 180.0}]}

    text = render(at_rest)
    assert f"  last move    {LONG}1111 ->" in text
    assert "began 3 minutes ago, the old address was lost" in text
    assert "swanroam history 0123456789abcdef" in text
    assert "last move" not in render(DOCUMENT)


def test_colours_change_nothing_but_colours() -> None:
    coloured = render(DOCUMENT, Paint(coloured=True))

    assert coloured.startswith(f"\x1b[{Colour.BAD.value}mattention needed: 1 peer, 1 handover running\x1b[0m\n")
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == render(DOCUMENT)
    assert "\x1b" not in render(DOCUMENT)


def test_a_peers_words_do_not_command_the_terminal() -> None:
    hostile = copy.deepcopy(DOCUMENT)
    hostile["problems"] = ["it refuses our address: \x1b]0;owned\x07\x9b2J\u202e"]

    text = render(hostile)
    assert "it refuses our address: ?]0;owned??2J?" in text
    assert all(char.isprintable() or char == "\n" for char in text)


def test_an_address_that_is_not_proven_is_marked() -> None:
    assert "its address  2001:db8::1 (not proven yet)\n" in render(DOCUMENT)


def test_what_was_refused_is_counted_by_reason() -> None:
    assert "  refused      changes of its address: outside_allow 7, stale 2\n" in render(DOCUMENT)


def test_what_was_dropped_is_counted_at_the_end() -> None:
    last = render(DOCUMENT).rpartition("\n\n")[2]

    assert " ".join(last.split()) == (
        "Datagrams dropped on the control channel: not_ours 12, too_short 3, unproven_sender 1"
    )


def test_the_first_line_says_whether_to_get_up() -> None:
    fine = copy.deepcopy(DOCUMENT)
    fine["problems"] = []

    assert render(DOCUMENT).splitlines()[0] == "attention needed: 1 peer, 1 handover running"
    assert render(fine).splitlines()[0] == "all is fine: 1 peer, 1 handover running"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0004, "0 ms"),
        (0.25, "250 ms"),
        (0.9996, "1.0 s"),
        (1.0, "1.0 s"),
        (75.5, "75.5 s"),
        (700, "11m 40s"),
        (86400, "24h 0m"),
    ],
)
def test_durations_are_written_as_people_say_them(value: float, text: str) -> None:
    assert seconds(value) == text


def test_a_file_that_was_refused_or_not_read_yet_is_told(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        view = View(stage)
        view.reloading.current = False
        changed = await view.document()
        view.reloading.wrong = ["swanroam.yaml:7:5: timing.refresh: is '1'; write more"]
        wrong = await view.document()
        view.reloading.refused = ("swanroam.yaml:7:5: timing.refresh: is '1'; write more",)
        refused = await view.document()

        assert changed["problems"] == []
        said = " ".join(render(changed).split())
        assert "/etc/swanroam/swanroam.yaml is not what is at work: `swanroam reload` takes it over" in said
        assert "it is wrong (swanroam.yaml:7:5: timing.refresh: is '1'; write more)" in " ".join(render(wrong).split())
        assert "swanroam.yaml:7:5: timing.refresh: is '1'; write more" in refused["problems"][0]
        assert render(refused).startswith("attention needed")
        assert "takes it over" not in render(refused)

    on_stage(tmp_path, story)


def test_a_peer_that_is_to_go_says_so(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        view = View(stage)
        assert not (await view.peer())["leaving"]
        stage.peer.depart(0.0)

        assert (await view.peer())["leaving"]
        assert "not configured any more" in render(await view.document())

    on_stage(tmp_path, story)

"""`swanroam history`: what it reads, chooses, prints and draws, and what it says when it can't."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from schemas import closed, schema_of
from swanroam.cli import history as command
from swanroam.cli.exits import Exit
from swanroam.cli.main import main
from swanroam.history.clock import iso, stamp
from swanroam.history.document import HistoryDocument
from swanroam.history.store import HistoryError, HistoryFile

SCHEMA = jsonschema.Draft202012Validator(closed(schema_of(HistoryDocument)))
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the command beside a state directory; returns exit status, output and errors."""
    path = tmp_path / "swanroam.yaml"
    peers = "".join(f"  - {{identity: {name}.example.org, connection: {name}, name: {name}}}\n" for name in ("a", "b"))
    path.write_text(f"identity: me.example.org\nstate_directory: {tmp_path}/state\npeers:\n{peers}")

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["history", "--config", str(path), *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def past(tmp_path: Path) -> HistoryFile:
    """A handover with each peer, two hours and one hour ago, and a stop of the daemon."""
    (tmp_path / "state").mkdir()
    history = HistoryFile(tmp_path / "state" / "history.jsonl")
    for peer, name, age in (("a", "aa01", 7200.0), ("b", "ab02", 3600.0)):
        about = {"peer": peer, "identity": f"{peer}.example.org", "handover": name, "who": "we"}
        history.write(
            "handover_started", about | {"old": "192.0.2.1", "new": "192.0.2.2", "cause": "gone"}, 9e4 - age, age
        )
        history.write("handover_finished", about | {"result": "done"}, 9e4 - age + 2, age - 2)
    history.write("daemon_stopped", {"detail": ""}, 9e4)
    return history


def test_without_a_history_it_says_where_it_would_be(call: Call, tmp_path: Path) -> None:
    status, out, err = call()

    assert (status, err) == (Exit.OK, "")
    assert out.startswith("0 handovers; times are ")
    assert f"{tmp_path}/state/history.jsonl" in out


def test_the_list_needs_no_daemon(call: Call, past: HistoryFile) -> None:
    status, out, err = call()

    assert (status, err) == (Exit.OK, "")
    assert out.startswith("2 handovers; times are ")
    assert out.index("aa01") < out.index("ab02") < out.index("the daemon stopped")
    assert "\x1b" not in out


def test_the_list_can_be_of_one_peer_and_of_the_last_hours(call: Call, past: HistoryFile) -> None:
    assert "ab02" not in call("--peer", "a")[1]
    assert "the daemon stopped" in call("--peer", "a")[1]  # that concerns all
    recent = call("--since", "90m")[1]
    assert recent.startswith("1 handover since ")
    assert "aa01" not in recent
    assert call("--since", iso(stamp() - 5400))[1].count("192.0.2.1 -> 192.0.2.2") == 1


def test_one_is_found_by_its_id_the_beginning_of_it_or_as_the_last(call: Call, past: HistoryFile) -> None:
    for name in ("aa01", "aa", "AA0"):
        assert call(name)[1].startswith("Handover aa01: done, 2.0 s\n")
    assert call("last")[1].startswith("Handover ab02: ")
    assert call("last", "--peer", "a")[1].startswith("Handover aa01: ")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["ff"], Exit.FAILED, "no handover 'ff' is in the history; `swanroam history` lists them"),
        (["a"], Exit.FAILED, "'a' is the beginning of several: aa01, ab02"),
        (["last", "--since", "1m"], Exit.FAILED, "there is no handover in the history"),
        (["--peer", "c"], Exit.USAGE, "no peer is called 'c'; there are: a, b"),
        (["--since", "yesterday"], Exit.USAGE, "--since: 'yesterday' is no moment: write 03:12,"),
        (["--svg", "x.svg"], Exit.USAGE, "--svg draws one handover: name it, or `last`"),
        (["last", "--svg", "/no/such/directory/x.svg"], Exit.FILES, "cannot write /no/such/directory/x.svg: No such"),
    ],
)
def test_what_cannot_be_done_is_said_with_what_can(
    call: Call, past: HistoryFile, arguments: list[str], status: Exit, said: str
) -> None:
    found, out, err = call(*arguments)

    assert (found, out) == (status, "")
    assert err.startswith(f"swanroam: {said}")


@pytest.mark.parametrize(("denied", "status"), [(True, Exit.PRIVILEGES), (False, Exit.FILES)])
def test_a_history_that_cannot_be_read_is_told(
    call: Call, monkeypatch: pytest.MonkeyPatch, denied: bool, status: Exit
) -> None:
    def read(path: Path) -> Any:
        raise HistoryError("cannot read it", denied=denied)

    monkeypatch.setattr(command, "read", read)

    assert call() == (status, "", "swanroam: cannot read it\n")


def test_json_is_what_the_schema_says(call: Call, past: HistoryFile) -> None:
    everything = json.loads(call("--json")[1])
    one = json.loads(call("aa01", "--json")[1])

    SCHEMA.validate(everything)
    SCHEMA.validate(one)
    assert [handover["id"] for handover in everything["handovers"]] == ["aa01", "ab02"]
    assert [event["what"] for event in everything["events"]] == ["daemon_stopped"]
    assert [handover["id"] for handover in one["handovers"]] == ["aa01"]
    assert one["handovers"][0]["duration"] == 2.0


def test_lines_that_make_no_sense_are_told_beside_what_does(call: Call, past: HistoryFile) -> None:
    with past.path.open("ab") as file:
        file.write(b'{"torn": ')

    status, out, err = call()
    assert (status, "ab02" in out) == (Exit.OK, True)
    assert "1 line(s) of" in err
    status, out, err = call("--json")
    assert (json.loads(out)["unreadable"], err) == (1, "")


def test_a_drawing_goes_into_the_file_and_nothing_to_the_output(call: Call, past: HistoryFile, tmp_path: Path) -> None:
    drawing = tmp_path / "timeline.svg"

    assert call("aa01", "--svg", str(drawing)) == (Exit.OK, "", "")
    assert ElementTree.parse(drawing).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert json.loads(call("aa01", "--svg", str(drawing), "--json")[1])["handovers"]

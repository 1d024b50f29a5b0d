"""The history on disk: what comes back after restarts, torn writes, damage and rotation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import closed, schema_of
from swanroam.cli.history_text import render_all, render_one
from swanroam.history import store
from swanroam.history.document import HistoryDocument, history_document
from swanroam.history.handovers import tell
from swanroam.history.store import HistoryError, HistoryFile, older, read
from swanroam.history.svg import draw

DOCUMENT = jsonschema.Draft202012Validator(closed(schema_of(HistoryDocument)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


def kinds(path: Path) -> list[str]:
    return [entry.kind for entry in read(path).entries]


def test_no_history_is_an_empty_one(path: Path) -> None:
    assert (read(path).entries, read(path).unreadable) == ((), 0)


def test_what_was_written_comes_back_in_order_from_several_runs(path: Path) -> None:
    HistoryFile(path, boot="boot one").write("first", {"peer": "server", "detail": "ä\n"}, 12.5)
    HistoryFile(path, boot="boot two").write("second", {}, 1.0)

    first, second = read(path).entries
    assert (first.kind, first.peer, first.text("detail"), first.monotonic) == ("first", "server", "ä\n", 12.5)
    assert (second.kind, second.peer) == ("second", "")
    assert first.boot != second.boot


def test_the_time_of_day_is_that_of_the_event_not_of_the_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "stamp", lambda: 1000.0)

    HistoryFile(path).write("late", {}, 7.0, age=0.25)

    assert read(path).entries[0].at == 999.75


@pytest.mark.parametrize("mask", [0, 0o777], ids=oct)
def test_nobody_else_may_read_it_whatever_the_umask(path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        history = HistoryFile(path, limit=200)
        for number in range(4):
            history.write("x", {"number": number}, 0.0)
    finally:
        os.umask(before)

    assert {found.name: found.stat().st_mode & 0o777 for found in path.parent.iterdir()} == {
        path.name: 0o600,
        older(path).name: 0o600,
    }


@pytest.mark.parametrize("kept", range(0, 60, 7))
def test_a_line_that_a_crash_has_torn_costs_only_itself(path: Path, kept: int) -> None:
    HistoryFile(path).write("before", {}, 0.0)
    whole = path.read_bytes()
    HistoryFile(path).write("torn", {}, 1.0)
    with path.open("r+b") as file:
        file.truncate(len(whole) + kept)

    HistoryFile(path).write("after", {}, 2.0)

    assert kinds(path) == ["before", "after"]
    assert read(path).unreadable == (1 if kept else 0)


def test_it_stays_within_its_limit_and_the_latest_is_what_is_kept(path: Path) -> None:
    limit = 2000
    for number in range(200):
        HistoryFile(path, limit=limit).write("x", {"number": number}, 0.0)  # each as if after a restart

    numbers = [entry.fields["number"] for entry in read(path).entries]
    assert sum(found.stat().st_size for found in path.parent.iterdir()) <= 2 * limit
    assert numbers == list(range(numbers[0], 200))
    assert len(numbers) > 10


def test_a_long_text_is_shortened_and_says_so(path: Path) -> None:
    HistoryFile(path).write("x", {"detail": "y" * 2500}, 0.0)

    assert read(path).entries[0].text("detail").endswith("y … (500 more characters, which the log has)")


def test_what_cannot_be_written_is_told_until_it_can(path: Path) -> None:
    history = HistoryFile(path)
    path.mkdir()
    history.write("lost", {}, 0.0)
    assert history.trouble == f"cannot write the history {path}: Is a directory"

    path.rmdir()
    history.write("found", {}, 0.0)
    assert history.trouble == ""
    assert kinds(path) == ["found"]


def test_a_disk_that_fills_up_in_the_middle_of_a_line_costs_that_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = HistoryFile(path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    history.write("lost", {}, 0.0)
    assert "No space left on device" in history.trouble

    monkeypatch.undo()
    history.write("found", {}, 0.0)
    assert (kinds(path), read(path).unreadable, history.trouble) == (["found"], 1, "")


def test_no_descriptor_stays_open(path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    history = HistoryFile(path, limit=300)
    for number in range(20):
        history.write("x", {"number": number}, 0.0)
    path.unlink()
    path.mkdir()
    history.write("x", {}, 0.0)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_change_of_files_under_the_readers_eyes_loses_and_doubles_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    HistoryFile(path).write("one", {}, 0.0)
    read_bytes = store._bytes
    turns = iter([True])

    def slow(file: Path) -> bytes:
        content = read_bytes(file)
        if file == older(path) and next(turns, False):  # the writer comes between the two
            path.rename(older(path))
            HistoryFile(path).write("two", {}, 1.0)
        return content

    monkeypatch.setattr(store, "_bytes", slow)
    assert kinds(path) == ["one", "two"]


def test_a_history_that_cannot_be_read_is_named_with_what_to_do(path: Path) -> None:
    path.mkdir()

    with pytest.raises(
        HistoryError, match=r"cannot read the history .*: Is a directory: look after the file"
    ) as caught:
        read(path)
    assert not caught.value.denied


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"7",
        b"\xff\xfe",
        b'{"version": 1}',
        b'{"version": 2, "at": 1, "monotonic": 1, "boot": "b", "kind": "k"}',
        b'{"version": 1, "at": NaN, "monotonic": 1, "boot": "b", "kind": "k"}',
        b'{"version": 1, "at": 1e300, "monotonic": 1, "boot": "b", "kind": "k"}',
        b'{"version": 1, "at": 1, "monotonic": [], "boot": "b", "kind": "k"}',
        b'{"version": 1, "at": 1, "monotonic": 1, "boot": 3, "kind": "k"}',
        b"[" * 100_000,
    ],
)
def test_a_line_that_makes_no_sense_is_counted(path: Path, line: bytes) -> None:
    HistoryFile(path).write("before", {}, 0.0)
    with path.open("ab") as file:
        file.write(line + b"\n")

    assert (kinds(path), read(path).unreadable) == (["before"], 1)


TEXT = st.text("a1: <&\x1b\n\u202e\ud800", max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
KEYS = ["at", "monotonic", "boot", "kind", "peer", "handover", "who", "step", "moved", "kept", "kept_sockets", "result"]


HEAD: dict[str, Any] = {"version": 1, "at": 1, "monotonic": 1, "boot": "b", "kind": "handover_started"}
LINES = st.dictionaries(st.sampled_from(KEYS), JSON).map(lambda fields: json.dumps(HEAD | fields).encode())


@given(st.lists(st.binary(max_size=60) | LINES, max_size=6))
def test_whatever_is_in_the_file_can_be_read_and_shown(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-history.jsonl"
    path.write_bytes(b"\n".join(lines))

    found = read(path)
    told = tell(found.entries)
    DOCUMENT.validate(history_document(list(told.handovers), list(told.others), found.unreadable))
    render_all(told, path, None, 0.0)
    for handover in told.handovers:
        render_one(handover)
        ElementTree.fromstring(draw(handover))

"""The journal: what comes back after a crash, a reboot or damage."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swanroam.daemon.journal import VERSION, Journal, JournalError

PEER: dict[str, Any] = {"sequence": 7, "last_sequence": 3, "managed": True, "own": ["192.0.2.1"], "handover": "00"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.json"


def journal(path: Path, boot_id: str = "this boot") -> Journal:
    return Journal(path, boot_id=boot_id)


def test_no_journal_is_an_empty_one(path: Path) -> None:
    assert journal(path).load() == {}


def test_what_was_stored_comes_back_in_the_next_run(path: Path) -> None:
    assert journal(path).store({"peer.example.org": PEER})

    assert journal(path).load() == {"peer.example.org": PEER}


def test_after_a_reboot_only_the_sequences_are_left(path: Path) -> None:
    journal(path, "boot one").store({"peer.example.org": PEER | {"unannounced": ["192.0.2.9"]}})

    loaded = journal(path, "boot two").load()["peer.example.org"]

    assert (loaded["sequence"], loaded["last_sequence"]) == (7, 3)
    assert (loaded["managed"], loaded["own"], loaded["handover"]) == (False, None, None)
    assert loaded["unannounced"] == []


def test_the_same_content_is_not_written_again(path: Path) -> None:
    written = journal(path)
    written.store({"peer.example.org": PEER})
    path.unlink()

    assert not written.store({"peer.example.org": dict(PEER)})
    assert not path.exists()


def test_a_write_that_fails_leaves_the_old_journal_and_is_tried_again(path: Path) -> None:
    written = journal(path)
    written.store({"peer.example.org": PEER})
    blocked = path.with_name(path.name + ".new")
    blocked.mkdir()

    with pytest.raises(JournalError, match=r"cannot write the journal .*: Is a directory: mend the permissions of"):
        written.store({})
    assert journal(path).load() == {"peer.example.org": PEER}

    blocked.rmdir()
    assert written.store({})
    assert journal(path).load() == {}


def test_nobody_else_may_read_it(path: Path) -> None:
    journal(path).store({})

    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is damaged: Expecting value"),
        (b"\xff\xfe\x00", "is damaged: it is not text"),
        (b'{"version": 1, "boot_id": "x", "peers": {"a"', "is damaged: Expecting ':'"),
        (b"[]", "is damaged"),
        (b"7", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b'{"version": 1}', "is damaged: 'boot_id' is missing"),
        (b'{"version": 1, "boot_id": "this boot"}', "is damaged: 'peers' is missing"),
        (b'{"version": 1, "boot_id": "this boot", "peers": []}', "is damaged"),
        (b'{"version": 1, "boot_id": "this boot", "peers": {"a": 1}}', "is damaged: a peer's entry is not an object"),
        (b'{"version": 1, "boot_id": "other", "peers": {"a": 1}}', "is damaged"),
        (b'{"version": 2, "boot_id": "this boot", "peers": {}}', "has version 2, this is version 1"),
    ],
)
def test_a_damaged_journal_is_named_with_the_remedy(path: Path, content: bytes, said: str) -> None:
    path.write_bytes(content)

    with pytest.raises(JournalError) as caught:
        journal(path).load()

    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert "swanroam cleanup" in str(caught.value)
    assert "remove the file" in str(caught.value)
    assert path.read_bytes() == content  # evidence is not thrown away


def test_a_journal_that_cannot_be_read_is_named(path: Path) -> None:
    path.mkdir()

    with pytest.raises(JournalError, match=r"cannot read the journal .*Is a directory"):
        journal(path).load()


@given(st.binary(max_size=200))
def test_whatever_is_in_the_file_raises_nothing_else(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any-journal.json"
    path.write_bytes(content)
    with contextlib.suppress(JournalError):
        journal(path).load()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["this boot", "another"]), JSON)
def test_whatever_stands_for_the_peers_raises_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, boot_id: str, peers: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-peers.json"
    path.write_text(json.dumps({"version": VERSION, "boot_id": boot_id, "peers": peers}))
    try:
        loaded = journal(path).load()
    except JournalError:
        return
    assert all(isinstance(peer, dict) for peer in loaded.values())

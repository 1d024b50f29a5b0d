"""Without file descriptors: what needs one fails as its callers expect, says what to do, and recovers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from swanroam.config import GuardNew
from swanroam.daemon import sealing as sealing_module
from swanroam.daemon.mover import Mover, MoverError
from swanroam.daemon.sealing import Sealing
from swanroam.ike import vici as vici_module
from swanroam.ike.definitions import DefinitionError, read_definitions
from swanroam.ike.messages import ViciUnavailableError
from swanroam.ike.vici import ViciClient, ViciConnected, ViciDisconnected
from swanroam.kernel.sock_diag import SocketDiagError
from swanroam.kernel.sockets import sockets_on
from unit.descriptors import no_descriptors
from unit.vici_server import CONFIRM, EVENT_REGISTER, Peer, response, serving

REMEDY = r"open files \(LimitNOFILE="


async def answer_version(peer: Peer) -> None:
    await peer.serve("version", response(daemon="charon"))


async def register(peer: Peer) -> None:
    await peer.expect(EVENT_REGISTER, "ike-updown")
    await peer.send(CONFIRM)
    await peer.until_closed()


def test_a_command_for_charon(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path / "vici", answer_version) as server, ViciClient(server.path) as client:
            with no_descriptors(), pytest.raises(ViciUnavailableError, match=REMEDY):
                await client.request("version")
            assert await client.request("version") == {"daemon": "charon"}

    asyncio.run(story())


def test_events_of_charon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vici_module, "FIRST_PAUSE", 0.01)

    async def story() -> None:
        async with (
            serving(tmp_path / "vici", register) as server,
            ViciClient(server.path) as client,
            aclosing(client.events(["ike-updown"])) as events,
        ):
            with no_descriptors():
                lost = await anext(events)
            assert isinstance(lost, ViciDisconnected)
            assert "LimitNOFILE=" in lost.reason
            assert await anext(events) == ViciConnected()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("needing", "error"),
    [
        (lambda: read_definitions(swanctl="/bin/true"), DefinitionError),
        (sockets_on, SocketDiagError),
        (lambda: Mover(lambda number: None).open(), MoverError),
    ],
    ids=["definitions", "sockets", "mover"],
)
def test_other_things(needing: Callable[[], Coroutine[Any, Any, object]], error: type[Exception]) -> None:
    async def story() -> None:
        with no_descriptors(), pytest.raises(error, match=REMEDY):
            await needing()

    asyncio.run(story())


def test_whether_new_addresses_are_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found last holds; this is asked for with every event, and must not end the daemon."""
    monkeypatch.setattr(sealing_module, "forwards", lambda version: version == 6)
    sealing = Sealing(GuardNew.AUTO)
    assert sealing.versions() == {4}
    monkeypatch.undo()
    with no_descriptors():
        assert sealing.versions() == {4}


def test_a_full_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """swanctl's answer passes through a socket there."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))

    with pytest.raises(DefinitionError, match="room in"):
        asyncio.run(read_definitions(swanctl="/bin/true"))


THREADS_AND_NAMES = """
import asyncio, resource
import swanroam.daemon.run

async def without_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    await asyncio.to_thread(int)
    "peer.example.org".encode("idna")
    print("done")

asyncio.run(without_descriptors())
"""


def test_what_the_daemon_does_in_threads_needs_no_import() -> None:
    """In an interpreter of its own: here much more has been imported already."""
    argv = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{THREADS_AND_NAMES}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr

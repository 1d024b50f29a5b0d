"""What `swanroam sockets` says: which would move, which would not, and why."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from swanroam.cli.screen import COLUMNS
from swanroam.cli.sockets import render
from swanroam.daemon import socket_report
from swanroam.daemon.api import RequestError
from swanroam.daemon.mover import MoverError
from swanroam.daemon.socket_report import SocketReport
from swanroam.daemon.transport import Candidate
from swanroam.kernel.sockets import SocketInUse, SocketProtocol, SocketState
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import Obstacle, Transport
from swanroam.protocol.transfer import Kept, Key
from unit.fake_host import A, P, Stage, on_stage

SSH = SocketInUse(
    protocol=SocketProtocol.TCP,
    state=SocketState.ESTABLISHED,
    family=2,
    local=A,
    local_port=40000,
    remote=P,
    remote_port=22,
    interface=0,
    inode=1,
    uid=0,
    cookie=b"ssh",
)
SERVER = replace(SSH, local_port=80, remote_port=50000, cookie=b"server")
DNS = replace(SSH, protocol=SocketProtocol.UDP, local_port=5353, remote_port=53, cookie=b"dns")
RING = replace(SSH, local_port=40001, cookie=b"ring")
LISTENER = replace(SSH, state=SocketState.LISTEN, remote=ip_address("0.0.0.0"), remote_port=0)
BOUND = replace(DNS, state=SocketState.CLOSE, remote=ip_address("0.0.0.0"), remote_port=0)


def kept(socket: SocketInUse, obstacle: Obstacle, detail: str) -> Kept:
    transport = Transport.TCP if socket.protocol is SocketProtocol.TCP else Transport.UDP
    return Kept(Key(transport, socket.local_port, socket.remote_port), obstacle, detail)


FOUND = (
    Candidate(RING, ("node/7",), kept(RING, Obstacle.OWNER, "its owner uses io_uring")),
    Candidate(SSH, ("ssh/5",), None),
    Candidate(SERVER, ("nginx/6",), None),
    Candidate(DNS, (), kept(DNS, Obstacle.NOTHING_TO_DO, "it is not connected, and needs nothing")),
)


async def document_of(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    async def candidates(old: Pair, new: Pair) -> tuple[Candidate, ...]:
        assert (old, new) == (Pair(A, P), Pair(A, P))
        return FOUND

    async def automatic(local: object, remote: object) -> frozenset[bytes]:
        return frozenset({b"ssh", b"ring"})

    async def bound(local: object, remote: object) -> tuple[SocketInUse, ...]:
        return (SSH, LISTENER, BOUND)

    monkeypatch.setattr(socket_report, "automatic_ports", automatic)
    monkeypatch.setattr(socket_report, "sockets_on", bound)
    stage.associated((A, P))
    await stage.until(lambda: stage.peer.machine.pair is not None)
    answer = await SocketReport(stage.controller, candidates).answer({})
    document: dict[str, Any] = json.loads(json.dumps(answer))
    return document


def test_every_socket_has_its_verdict_and_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(stage: Stage) -> None:
        document = await document_of(stage, monkeypatch)
        (peer,) = document["peers"]
        verdicts = {entry["local"].rpartition(":")[2]: (entry["moves"], entry["reason"]) for entry in peer["sockets"]}
        assert verdicts == {
            "40001": ("no", "its owner uses io_uring"),
            "40000": ("yes", ""),
            "80": ("perhaps", socket_report.BY_PROGRAM),
            "5353": ("needless", "it is not connected, and needs nothing"),
        }
        assert [entry["reason"] for entry in document["bound"]] == [
            socket_report.LISTENING,
            socket_report.BOUND_DATAGRAMS,
        ]

    on_stage(tmp_path, story)


def test_people_read_a_summary_and_then_each_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(stage: Stage) -> None:
        text = render(await document_of(stage, monkeypatch))
        lines = text.splitlines()
        assert lines[0].endswith(": 1 moves, 1 perhaps, 1 stays, 1 as it is")
        assert lines[1] == f"  moves    tcp {A}:40000 - {P}:22 ESTABLISHED (ssh/5)"
        assert "           its owner uses io_uring" in lines
        assert all(len(line) <= COLUMNS for line in lines)

    on_stage(tmp_path, story)


def test_where_sockets_are_kept_all_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(stage: Stage) -> None:
        (peer,) = (await document_of(stage, monkeypatch))["peers"]
        assert {entry["moves"] for entry in peer["sockets"]} == {"no"}
        assert {entry["reason"] for entry in peer["sockets"]} == {socket_report.KEPT}

    on_stage(tmp_path, story, peer="transport: keep")


def test_a_mover_that_cannot_look_is_told(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        async def candidates(old: Pair, new: Pair) -> tuple[Candidate, ...]:
            raise MoverError("the mover has ended")

        stage.associated((A, P))
        await stage.until(lambda: stage.peer.machine.pair is not None)
        with pytest.raises(RequestError, match="cannot be looked at: the mover has ended"):
            await SocketReport(stage.controller, candidates).answer({})

    on_stage(tmp_path, story)


def test_a_peer_without_connections_is_said_to_have_none() -> None:
    document = {"peers": [{"name": "office", "transport": "move", "sockets": []}], "bound": []}
    assert render(document) == "office: no connection"

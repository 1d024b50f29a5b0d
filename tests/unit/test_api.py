"""The local API: one line of JSON in, one out, whatever the client sends."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from swanroam.cli.client import ClientError, ask
from swanroam.cli.exits import Exit
from swanroam.daemon import api
from swanroam.daemon.api import MAX_REQUEST, Api, RequestError
from swanroam.daemon.logs import loop_failure
from unit.descriptors import no_descriptors


async def echo(request: dict[str, Any]) -> dict[str, Any]:
    return {"echo": request}


async def refuse(request: dict[str, Any]) -> dict[str, Any]:
    raise RequestError("not today")


async def fail(request: dict[str, Any]) -> dict[str, Any]:
    raise ZeroDivisionError("a bug")


HANDLERS = {"echo": echo, "refuse": refuse, "fail": fail}


def serving(path: Path, use: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        server = Api(path, dict(HANDLERS))
        await server.open()
        try:
            await use()
        finally:
            await server.close()

    asyncio.run(run())


async def exchange(path: Path, data: bytes) -> Any:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return json.loads(answer)


def test_a_request_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"

    async def use() -> None:
        answer = await exchange(path, b'{"command": "echo", "x": 1}\n')
        assert answer == {"ok": True, "echo": {"command": "echo", "x": 1}}

    serving(path, use)
    assert not path.exists()


def test_a_refusal_is_a_sentence_for_the_user(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"

    async def use() -> None:
        assert await exchange(path, b'{"command": "refuse"}\n') == {"ok": False, "error": "not today"}

    serving(path, use)


def test_a_bug_in_a_command_does_not_end_the_daemon_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"

    async def use() -> None:
        answer = await exchange(path, b'{"command": "fail"}\n')
        assert answer["ok"] is False
        assert "a bug" in answer["error"]
        assert (await exchange(path, b'{"command": "echo"}\n'))["ok"]

    serving(path, use)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"status\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"null\n",
        b'{"command": null}\n',
        b'{"command": ["echo"]}\n',
        b'{"command": "no such"}\n',
        b'{"command": "ec',
        b"[" * 4000 + b"\n",
        b"x" * (2 * MAX_REQUEST),
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_no_request_is_answered_with_the_commands_there_are(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "api.sock"

    async def use() -> None:
        answer = await exchange(path, data)
        assert answer == {"ok": False, "error": "the request is not one of echo, fail, refuse"}

    serving(path, use)


def test_a_client_that_says_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PATIENCE", 0.01)
    path = tmp_path / "api.sock"

    async def use() -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        assert json.loads(await reader.read())["ok"] is False
        writer.close()

    serving(path, use)


def test_a_client_that_goes_before_the_answer_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"

    async def use() -> None:
        for _ in range(5):
            _, writer = await asyncio.open_unix_connection(path)
            writer.write(b'{"command": "echo"}\n')
            writer.transport.abort()
        assert (await exchange(path, b'{"command": "echo"}\n'))["ok"]

    serving(path, use)


@pytest.mark.parametrize("mask", [0, 0o777], ids=oct)
def test_the_socket_is_for_its_owner_and_group_and_replaces_one_left_by_a_crash(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "api.sock"
    path.touch()

    async def use() -> None:
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o660

    before = os.umask(mask)
    try:
        serving(path, use)
    finally:
        os.umask(before)


# --- the command line's side ------------------------------------------------------------------------------------------


def asked(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """`ask` blocks, so it asks from a thread."""
    answers: list[dict[str, Any]] = []

    async def use() -> None:
        answers.append(await asyncio.to_thread(ask, path, request))

    serving(path, use)
    return answers[0]


def test_the_client_gets_the_answer_and_the_refusal(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"

    assert asked(path, {"command": "echo"})["echo"] == {"command": "echo"}
    with pytest.raises(ClientError, match="not today") as caught:
        asked(path, {"command": "refuse"})
    assert caught.value.status is Exit.FAILED


def test_without_a_daemon_the_client_says_how_to_start_one(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"

    with pytest.raises(ClientError, match=r"no daemon answers on .*: start it \(systemctl start swanroam") as caught:
        ask(path, {"command": "status"})
    assert caught.value.status is Exit.NOT_RUNNING


def test_a_socket_that_a_killed_daemon_left_is_no_daemon(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"

    async def leave_behind() -> None:
        server = await asyncio.start_unix_server(lambda reader, writer: None, path)
        server.close()
        await server.wait_closed()

    asyncio.run(leave_behind())
    assert path.exists()

    with pytest.raises(ClientError, match="no daemon answers") as caught:
        ask(path, {"command": "status"})
    assert caught.value.status is Exit.NOT_RUNNING


def test_a_daemon_that_dies_during_the_request_is_told_apart_from_none(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_unix_server(hang_up, path)
        with pytest.raises(ClientError, match="closed the connection without an answer") as caught:
            await asyncio.to_thread(ask, path, {"command": "status"})
        assert caught.value.status is Exit.FAILED
        server.close()

    asyncio.run(run())


def test_without_descriptors_a_client_waits_until_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncio.constants.ACCEPT_RETRY_DELAY", 0.01)
    path = tmp_path / "api.sock"

    async def use() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(loop_failure)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as client:
            with no_descriptors(), capture_logs() as logged:
                await loop.sock_connect(client, str(path))
                await loop.sock_sendall(client, b'{"command": "echo"}\n')
                while not logged:
                    await asyncio.sleep(0.001)
            assert (logged[0]["event"], "LimitNOFILE=" in logged[0]["remedy"]) == ("loop_failed", True)
            assert json.loads(await loop.sock_recv(client, 1000)) == {"ok": True, "echo": {"command": "echo"}}

    serving(path, use)

"""`status --watch`, and colours: what a terminal gets, and what a file gets."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swanroam.cli.exits import Exit
from swanroam.cli.main import main
from swanroam.cli.screen import Colour, Paint
from swanroam.cli.watch import watch
from unit.test_status import DOCUMENT


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def pictures(*texts: str, stream: io.StringIO) -> str:
    """What is written when Ctrl-C comes after the last one."""
    left = list(texts)

    def pause(interval: float) -> None:
        if not left:
            raise KeyboardInterrupt

    watch(lambda: left.pop(0), stream, 2.0, pause)
    return stream.getvalue()


# --- colours ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "environment", "coloured"),
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": ""}, True),  # empty counts as not there (no-color.org)
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (Terminal(), {}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_colours_are_for_terminals_and_for_who_wants_them(
    stream: io.StringIO, environment: dict[str, str], coloured: bool
) -> None:
    assert Paint.for_stream(stream, environment).coloured is coloured
    assert (Paint.for_stream(stream, environment)("x", Colour.GOOD) != "x") is coloured


# --- the picture ------------------------------------------------------------------------------------------------------


def test_a_file_gets_each_picture_that_differs_under_its_time_and_no_control_sequence() -> None:
    written = pictures("all is fine", "all is fine", "attention needed\n  ! it is lost", stream=io.StringIO())

    time_line = r"--- \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\n"
    assert re.fullmatch(rf"{time_line}all is fine\n{time_line}attention needed\n  ! it is lost\n", written)


def test_a_terminal_gets_its_own_screen_and_has_it_taken_away_again() -> None:
    written = pictures("all is fine", "attention needed", stream=Terminal())

    assert written.startswith("\x1b[?1049h\x1b[?25l\x1b[Hall is fine\x1b[K\r\n")
    assert written.endswith("\x1b[?25h\x1b[?1049l")
    assert written.count("\x1b[H") == 2
    assert "every 2 s; Ctrl-C ends\x1b[K\x1b[J" in written


def test_an_error_leaves_the_terminal_as_it_was() -> None:
    stream = Terminal()
    with pytest.raises(ZeroDivisionError):
        watch(lambda: str(1 // 0), stream, 2.0)

    assert stream.getvalue().endswith("\x1b[?25h\x1b[?1049l")


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("\n".join(f"line {number}" for number in range(9)), 80, 9),
        ("\n".join(f"line {number}" for number in range(11)), 80, 9),
        ("\n".join(f"\x1b[32mline {number}\x1b[0m" for number in range(9)), 10, 9),  # colours take no room
        ("\n".join("x" * 15 for _ in range(9)), 10, 4),  # each takes two rows
    ],
)
def test_what_the_window_cannot_show_is_counted(
    monkeypatch: pytest.MonkeyPatch, text: str, columns: int, shown: int
) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda fallback: os.terminal_size((columns, 10)))

    rows = pictures(text, stream=Terminal()).split("\x1b[H")[1].split("\r\n")
    lines = text.splitlines()
    assert len(rows) == shown + 1
    assert rows[-1].startswith(f"{len(lines) - shown} more lines; enlarge the window. "[:columns]) is (
        shown < len(lines)
    )


# --- as a user has it -------------------------------------------------------------------------------------------------


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "swanroam.yaml"
    path.write_text(
        f"identity: me.example.org\nruntime_directory: {tmp_path}\n"
        "peers:\n  - {identity: server.example.org, connection: server}\n"
    )
    return path


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """Answers every request on the API's socket; the requests."""
    requests: list[dict[str, Any]] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "api.sock"))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, connection.makefile("rb") as lines:
                    requests.append(json.loads(lines.readline()))
                    connection.sendall(json.dumps({"ok": True, **DOCUMENT}).encode() + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield requests
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_on_a_terminal_it_goes_on_until_ctrl_c(config_file: Path, daemon: list[dict[str, Any]]) -> None:
    ours, its = pty.openpty()
    # In the background of a shell without job control SIGINT is ignored, and stays so.
    program = ["env", "--default-signal=INT", sys.executable, "-P", "-m", "swanroam.cli.main"]
    program += ["status", "--watch", "0.1", "--config"]
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen([*program, str(config_file)], stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        try:
            shown = _until(ours, lambda text: text.count("\x1b[H") >= 3)
            process.send_signal(signal.SIGINT)
            shown += _until(ours, lambda text: "\x1b[?1049l" in text)
            assert process.wait(10) == Exit.OK
        finally:
            process.kill()
    os.close(ours)

    assert shown.startswith("\x1b[?1049h")
    assert f"\x1b[{Colour.BAD.value}mattention needed: 1 peer" in shown
    assert "Traceback" not in shown
    assert daemon[0] == {"command": "status", "connections": True}


def _until(terminal: int, enough: Any) -> str:
    text = ""
    deadline = time.monotonic() + 30
    while not enough(text):
        assert time.monotonic() < deadline, text
        if select.select([terminal], [], [], 1)[0]:
            text += os.read(terminal, 65536).decode()
    return text


def test_it_goes_on_while_no_daemon_runs_and_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, config_file: Path
) -> None:
    def pause(interval: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("swanroam.cli.status.watch", lambda draw, out, every: watch(draw, out, every, pause))

    assert main(["status", "--watch", "--config", str(config_file)]) == Exit.OK
    words = " ".join(capsys.readouterr().out.split())
    assert f"not known: no daemon answers on {config_file.parent}/api.sock: start it" in words


@pytest.mark.parametrize("arguments", [["--watch", "--json"], ["--watch", "--check"]])
def test_what_never_ends_goes_with_nothing_that_waits_for_the_end(
    capsys: pytest.CaptureFixture[str], config_file: Path, arguments: list[str]
) -> None:
    assert main(["status", *arguments, "--config", str(config_file)]) == Exit.USAGE
    assert "--watch goes with neither --json nor --check" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "nan", "soon", "100000"])
def test_what_is_no_interval_is_refused(capsys: pytest.CaptureFixture[str], config_file: Path, text: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["status", f"--watch={text}", "--config", str(config_file)])

    assert stopped.value.code == Exit.USAGE
    assert f"'{text}' is not a number of seconds from 0.1 to 3600" in capsys.readouterr().err

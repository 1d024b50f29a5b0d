"""The command line: help, exit statuses, and messages for whoever typed it."""

from __future__ import annotations

import dataclasses
import grp
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from swanroam import __version__
from swanroam.cli import cleanup as cleanup_command
from swanroam.cli import client
from swanroam.cli import move as move_command
from swanroam.cli import reload as reload_command
from swanroam.cli import run as run_command
from swanroam.cli import status as status_command
from swanroam.cli.client import ClientError
from swanroam.cli.exits import Exit
from swanroam.cli.main import main
from swanroam.cli.screen import Paint
from swanroam.config import Config, load_config
from swanroam.daemon import run as daemon_module
from swanroam.daemon.control_channel import ControlChannelError
from swanroam.daemon.controller import HostError
from swanroam.daemon.journal import Journal, JournalError
from swanroam.daemon.requirements import Requirements, Unmet
from swanroam.daemon.run import AlreadyRunningError, DirectoryError, api_group, journal_path, single_instance
from swanroam.kernel.address_watch import AddressWatchError

COMMANDS = ("status", "sockets", "history", "move", "leave", "doctor", "check-config", "reload", "run", "cleanup")


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "swanroam.yaml"
    path.write_text(
        f"""\
identity: mobile.example.org
vici_socket: {tmp_path}/charon.vici
state_directory: {tmp_path}/state
runtime_directory: {tmp_path}/run
peers:
  - identity: server.example.org
    connection: server
    name: server
"""
    )
    return path


def call(command: str, config_file: Path, *arguments: str) -> int:
    return main([command, "--config", str(config_file), *arguments])


# --- help and usage ---------------------------------------------------------------------------------------------------


def test_help_names_every_command_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])

    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_within_a_terminals_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])

    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: swanroam {command}")
    assert any("--config" in line for line in lines)
    assert [line for line in lines if len(line) > 80] == []


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])

    assert capsys.readouterr().out == f"swanroam {__version__}\n"


@pytest.mark.parametrize("argv", [[], ["no-such-command"], ["move"], ["leave"], ["status", "--no-such-option"]])
def test_a_wrong_command_line_is_status_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)

    assert stopped.value.code == Exit.USAGE


def test_every_exit_status_is_another() -> None:
    assert len({status.value for status in Exit}) == len(Exit)


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_is_wrong_in_the_file(
    capsys: pytest.CaptureFixture[str], config_file: Path, command: str
) -> None:
    config_file.write_text("identity: mobile.example.org\npears: []\n")
    arguments = {"move": ["192.0.2.1"], "leave": ["eth0"]}.get(command, [])

    assert call(command, config_file, *arguments) == Exit.CONFIGURATION
    said = capsys.readouterr().err
    assert f"{config_file}:2:1: pears: is not a known key" in said
    assert "did you mean 'peers'?" in said
    assert not (config_file.parent / "run").exists()


def test_a_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("status", tmp_path / "none.yaml") == Exit.CONFIGURATION
    assert "none.yaml: cannot be read: No such file or directory; create it" in capsys.readouterr().err


def test_check_config_prints_the_control_child_or_nothing(
    capsys: pytest.CaptureFixture[str], config_file: Path
) -> None:
    assert call("check-config", config_file) == Exit.OK
    text = capsys.readouterr().out
    for line in ("mode = tunnel", "set_mark_out = 0x5353", "local_ts = fd53:7761:6e72:", "remote_ts = fd53:7761:6e72:"):
        assert line in text

    assert call("check-config", config_file, "--quiet") == Exit.OK
    assert capsys.readouterr().out == ""


# --- the daemon -------------------------------------------------------------------------------------------------------


def with_requirements(monkeypatch: pytest.MonkeyPatch, found: Requirements) -> None:
    async def check(config: Config) -> Requirements:
        return found

    monkeypatch.setattr(run_command, "check_requirements", check)
    monkeypatch.setattr(run_command, "lacking", lambda config: None)
    for function in ("forbid_dumping", "lay_aside"):  # they would last for the whole test run
        monkeypatch.setattr(run_command, function, lambda *_: None)


@pytest.mark.parametrize(
    ("what", "status"),
    [
        (Unmet.PRIVILEGES, Exit.PRIVILEGES),
        (Unmet.KERNEL, Exit.KERNEL),
        (Unmet.CHARON, Exit.CHARON),
        (Unmet.CONFIGURATION, Exit.CONFIGURATION),
    ],
)
def test_what_is_not_met_is_printed_and_gives_the_status(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    config_file: Path,
    what: Unmet,
    status: Exit,
) -> None:
    with_requirements(monkeypatch, Requirements(unmet=[(what, "it lacks: do this"), (Unmet.CHARON, "and this")]))

    assert call("run", config_file) == status
    assert capsys.readouterr().err == "swanroam: it lacks: do this\nswanroam: and this\n"
    assert not (config_file.parent / "run").exists()


def test_capabilities_that_are_missing_are_told_before_anything_is_tried(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, config_file: Path
) -> None:
    with_requirements(monkeypatch, Requirements(unmet=[(Unmet.KERNEL, "not reached")]))
    monkeypatch.setattr(run_command, "lacking", lambda config: "privilege: this process lacks something")

    assert call("run", config_file) == Exit.PRIVILEGES
    assert capsys.readouterr().err == "swanroam: privilege: this process lacks something\n"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (AlreadyRunningError("another swanroam holds it"), Exit.ALREADY_RUNNING),
        (DirectoryError("cannot write"), Exit.FILES),
        (JournalError("damaged"), Exit.FILES),
        (ControlChannelError("port taken"), Exit.FAILED),
        (HostError("no memory"), Exit.FAILED),
        (AddressWatchError("the kernel says no more"), Exit.FAILED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_ends_the_daemon_is_one_line_and_no_traceback(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    config_file: Path,
    error: Exception,
    status: Exit,
) -> None:
    async def fail(config: Config, file: Path, families: object) -> None:
        raise error

    with_requirements(monkeypatch, Requirements())
    monkeypatch.setattr(run_command, "run_daemon", fail)

    assert call("run", config_file) == status
    assert capsys.readouterr().err == f"swanroam: {error}\n"


def test_errors_of_parts_that_run_side_by_side_come_out_as_the_first_of_them() -> None:
    host, watch, bug = HostError("one"), AddressWatchError("two"), ZeroDivisionError("a bug")
    group = BaseExceptionGroup("parts", [BaseExceptionGroup("inner", [host]), watch])

    assert daemon_module._only_expected(group) is host
    assert daemon_module._only_expected(BaseExceptionGroup("parts", [host, bug])) is None


# --- one instance, and its directories --------------------------------------------------------------------------------


def settings(config_file: Path) -> Config:
    return load_config(config_file)


def test_a_second_instance_is_refused_and_a_later_one_is_not(config_file: Path) -> None:
    config = settings(config_file)

    with (
        single_instance(config),
        pytest.raises(AlreadyRunningError, match="another swanroam holds"),
        single_instance(config),
    ):
        pass
    with single_instance(config):
        pass


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o777], ids=oct)
def test_state_is_for_the_user_alone_and_the_runtime_directory_for_its_group_whatever_the_umask(
    config_file: Path, mask: int
) -> None:
    config = settings(config_file)

    with umask(mask), single_instance(config):
        Journal(journal_path(config)).store({"peer.example.org": {}})

        assert mode(config.state_directory) == 0o700
        assert mode(config.runtime_directory) == 0o750
        for directory in (config.state_directory, config.runtime_directory):
            assert [mode(path) for path in directory.iterdir()] == [0o600]


def test_a_directory_that_is_there_keeps_the_mode_that_it_was_given(config_file: Path) -> None:
    config = settings(config_file)
    for directory in (config.runtime_directory, config.state_directory):
        directory.mkdir()
        directory.chmod(0o711)

    with single_instance(config):
        assert {mode(config.runtime_directory), mode(config.state_directory)} == {0o711}


def test_the_runtime_directory_goes_to_the_group_of_the_api(config_file: Path) -> None:
    group = grp.getgrgid(os.getegid()).gr_name
    config = dataclasses.replace(settings(config_file), api_group=group)

    with single_instance(config):
        assert config.runtime_directory.stat().st_gid == api_group(config) == os.getegid()


def test_a_group_that_does_not_exist_is_told_before_anything_is_made(config_file: Path) -> None:
    config = dataclasses.replace(settings(config_file), api_group="no-such-group")

    with (
        pytest.raises(DirectoryError, match="there is no group no-such-group: groupadd --system no-such-group"),
        single_instance(config),
    ):
        pass
    assert not config.runtime_directory.exists()


@pytest.mark.parametrize("which", ["run", "state"])
def test_a_file_in_the_place_of_a_directory_is_told(config_file: Path, which: str) -> None:
    (config_file.parent / which).write_text("")

    with (
        pytest.raises(DirectoryError, match=rf"{which}: .*a file is where a directory must be: remove it"),
        single_instance(settings(config_file)),
    ):
        pass


def test_cleanup_needs_privileges_and_says_so_before_it_makes_anything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, config_file: Path
) -> None:
    monkeypatch.setattr(cleanup_command, "has_net_admin", lambda: False)

    assert call("cleanup", config_file) == Exit.PRIVILEGES
    assert "CAP_NET_ADMIN" in capsys.readouterr().err
    assert not (config_file.parent / "run").exists()


def test_cleanup_beside_a_daemon_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, config_file: Path
) -> None:
    monkeypatch.setattr(cleanup_command, "has_net_admin", lambda: True)

    with single_instance(settings(config_file)):
        assert call("cleanup", config_file) == Exit.ALREADY_RUNNING
    assert "stop it first" in capsys.readouterr().err


def test_cleanup_prints_what_it_removed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, config_file: Path
) -> None:
    found = ["device swanroam4"]

    async def clear(config: Config) -> list[str]:
        return found

    monkeypatch.setattr(cleanup_command, "has_net_admin", lambda: True)
    monkeypatch.setattr(cleanup_command, "clear_host", clear)

    assert call("cleanup", config_file) == Exit.OK
    assert capsys.readouterr().out == "removed device swanroam4\n"
    found.clear()
    assert call("cleanup", config_file) == Exit.OK
    assert capsys.readouterr().out == "nothing was left\n"


# --- status and move --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("status",), ("move", "192.0.2.1"), ("move", "auto"), ("leave", "eth0")])
def test_without_a_daemon_there_is_nobody_to_ask(
    capsys: pytest.CaptureFixture[str], config_file: Path, arguments: tuple[str, ...]
) -> None:
    command, *rest = arguments

    assert call(command, config_file, *rest) == Exit.NOT_RUNNING
    assert "start it (systemctl start swanroam, or swanroam run)" in capsys.readouterr().err


def test_what_is_no_address_is_not_asked_for(capsys: pytest.CaptureFixture[str], config_file: Path) -> None:
    assert call("move", config_file, "192.0.2") == Exit.USAGE
    assert "'192.0.2' is not an IP address" in capsys.readouterr().err


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Answers of a daemon, one after the other; the last one for ever."""
    answers: list[dict[str, Any]] = []

    def ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if "error" in answer:
            raise ClientError(answer["error"], Exit.FAILED)
        return dict(answer)

    monkeypatch.setattr(move_command, "ask", ask)
    monkeypatch.setattr(move_command, "POLL", 0.001)
    monkeypatch.setattr(status_command, "ask", ask)
    monkeypatch.setattr(reload_command, "ask", ask)
    return answers


def document(current: str, *steps: str, state: str = "we are moving (running)", problem: str = "") -> dict[str, Any]:
    handover = {"id": "ab", "seconds": dict.fromkeys(steps, 0.1)}
    peer = {
        "name": "server",
        "state": state,
        "problem": problem,
        "own": {"current": current, "deprecated": []},
        "handover": handover if steps else None,
        "history": [],
    }
    return {"ok": True, "peers": [peer]}


ORDERED = {"ok": True, "peers": ["server"]}


def test_move_waits_until_the_filters_stand(
    capsys: pytest.CaptureFixture[str], config_file: Path, daemon: list[dict[str, Any]]
) -> None:
    daemon += [
        ORDERED,
        document("192.0.2.1"),
        document("192.0.2.2", "deprecated"),
        document("192.0.2.2", "deprecated", "filters"),
    ]

    assert call("move", config_file, "192.0.2.2") == Exit.OK
    said = capsys.readouterr().out
    assert said == "server: moved to 192.0.2.2 (handover ab: deprecated 100 ms, filters 100 ms)\n"


def test_move_to_where_it_is_already_says_so(
    capsys: pytest.CaptureFixture[str], config_file: Path, daemon: list[dict[str, Any]]
) -> None:
    daemon += [ORDERED, document("192.0.2.2")]

    assert call("move", config_file, "192.0.2.2") == Exit.OK
    assert capsys.readouterr().out == "server: moved to 192.0.2.2 (it was there already)\n"


def test_move_that_takes_too_long_fails_and_says_how_far_it_came(
    capsys: pytest.CaptureFixture[str], config_file: Path, daemon: list[dict[str, Any]]
) -> None:
    daemon += [ORDERED, document("192.0.2.1", problem="it refuses our address: not_allowed")]

    assert call("move", config_file, "192.0.2.2", "--timeout", "0.05") == Exit.FAILED
    assert "server: not there after 0.05 s: it refuses our address: not_allowed" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("auto",), ("192.0.2.2", "--no-wait")])
def test_an_order_that_is_not_waited_for(
    capsys: pytest.CaptureFixture[str], config_file: Path, daemon: list[dict[str, Any]], arguments: tuple[str, ...]
) -> None:
    daemon += [ORDERED]

    assert call("move", config_file, *arguments) == Exit.OK
    assert capsys.readouterr().out == "ordered for server\n"


def test_an_order_that_the_daemon_refuses_is_told(
    capsys: pytest.CaptureFixture[str], config_file: Path, daemon: list[dict[str, Any]]
) -> None:
    daemon += [{"error": "192.0.2.2 is not a usable address of this host; it has: none"}]

    assert call("move", config_file, "192.0.2.2") == Exit.FAILED
    assert "swanroam: 192.0.2.2 is not a usable address" in capsys.readouterr().err


def reloaded(result: str, *lines: str, ground: str | None = None) -> dict[str, Any]:
    return {"ok": True, "file": "/etc/swanroam/swanroam.yaml", "result": result, "lines": list(lines), "ground": ground}


def test_reload_says_what_has_changed(
    capsys: pytest.CaptureFixture[str], config_file: Path, daemon: list[dict[str, Any]]
) -> None:
    daemon += [reloaded("applied", "timing.refresh: 1m -> 30s", "peer office: added"), reloaded("unchanged")]

    assert call("reload", config_file) == Exit.OK
    said = capsys.readouterr().out
    assert said == "/etc/swanroam/swanroam.yaml: taken over\n  timing.refresh: 1m -> 30s\n  peer office: added\n"
    assert call("reload", config_file) == Exit.OK
    assert capsys.readouterr().out == "/etc/swanroam/swanroam.yaml: nothing has changed\n"


@pytest.mark.parametrize(
    ("ground", "status", "remedy"),
    [
        ("file", Exit.CONFIGURATION, "mend the file, then: swanroam reload"),
        ("restart", Exit.RESTART, "systemctl restart swanroam"),
        ("host", Exit.FAILED, "do that, then: swanroam reload"),
    ],
)
def test_reload_that_is_refused_says_why_and_what_to_do(
    capsys: pytest.CaptureFixture[str],
    config_file: Path,
    daemon: list[dict[str, Any]],
    ground: str,
    status: Exit,
    remedy: str,
) -> None:
    daemon += [reloaded("refused", "line 7 is wrong", "line 9 too", ground=ground)]

    assert call("reload", config_file) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert "was refused, and what was read before is still at work:\n  line 7 is wrong\n  line 9 too\n" in said.err
    assert remedy in said.err


def test_the_daemon_is_found_by_a_file_that_is_wrong_by_now(
    capsys: pytest.CaptureFixture[str], config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, dict[str, Any]]] = []

    def ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
        asked.append((path, request))
        return reloaded("refused", "line 9: timing.refrech: is not a known key", ground="file")

    monkeypatch.setattr(reload_command, "ask", ask)
    config_file.write_text(config_file.read_text() + "timing: {refrech: 1s}\n")

    assert call("reload", config_file) == Exit.CONFIGURATION
    assert "line 9: timing.refrech: is not a known key" in capsys.readouterr().err
    socket = config_file.parent / "run" / "api.sock"
    assert asked == [(socket, {"command": "reload", "file": str(config_file)})]
    assert client.api_socket(config_file) == socket
    config_file.write_text("- nothing that fits\n")
    assert client.api_socket(config_file) == Path("/run/swanroam/api.sock")


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ("", Exit.NOT_RUNNING, "no daemon answers"),
        ("timing: {refrech: 1s}\n", Exit.CONFIGURATION, "is not a known key"),
    ],
)
def test_without_a_daemon_a_wrong_file_is_told_as_by_check_config(
    capsys: pytest.CaptureFixture[str], config_file: Path, more: str, status: Exit, said: str
) -> None:
    config_file.write_text(config_file.read_text() + more)

    assert call("reload", config_file) == status
    assert said in capsys.readouterr().err


def test_status_is_for_people_for_programs_and_for_monitoring(
    capsys: pytest.CaptureFixture[str], config_file: Path, daemon: list[dict[str, Any]]
) -> None:
    answer: dict[str, Any] = {
        "ok": True,
        "swanroam": "0.1.0",
        "identity": "mobile.example.org",
        "uptime": 1.0,
        "addresses": [],
        "peers": [],
        "problems": [],
        "control_channel": {"dropped": {}},
    }
    daemon += [answer]

    assert call("status", config_file) == Exit.OK
    assert capsys.readouterr().out.splitlines() == [
        "all is fine: 0 peers, no handover running",
        "  this host    mobile.example.org at no address; swanroam 0.1.0, up 1 second",
    ]
    assert call("status", config_file, "--json") == Exit.OK
    assert "ok" not in json.loads(capsys.readouterr().out)
    assert call("status", config_file, "--check") == Exit.OK

    answer["problems"] = ["server: is swanroam running there?"]
    assert call("status", config_file) == Exit.OK
    assert call("status", config_file, "--check") == Exit.ATTENTION


def test_whoever_closes_the_output_gets_no_traceback(
    monkeypatch: pytest.MonkeyPatch, config_file: Path, daemon: list[dict[str, Any]]
) -> None:
    def closed(document: dict[str, Any], paint: Paint) -> str:
        raise BrokenPipeError

    daemon += [ORDERED]
    monkeypatch.setattr(status_command, "render", closed)

    assert call("status", config_file) == Exit.FAILED


def test_an_interrupt_is_the_shells_status_for_it(
    monkeypatch: pytest.MonkeyPatch, config_file: Path, daemon: list[dict[str, Any]]
) -> None:
    def interrupted(document: dict[str, Any], paint: Paint) -> str:
        raise KeyboardInterrupt

    daemon += [{"ok": True, "problems": []}]
    monkeypatch.setattr(status_command, "render", interrupted)

    assert call("status", config_file) == 130

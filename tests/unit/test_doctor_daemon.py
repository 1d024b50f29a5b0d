"""The daemon, its unit and its privileges, and which processes stand behind files and sockets."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from swanroam import __version__
from swanroam.doctor import daemon, programs
from swanroam.doctor.view import Api
from swanroam.kernel.findings import Severity
from unit.doctor_views import ITS, bad, config, healthy, only, status

UNIT = {
    "LoadState": "loaded",
    "UnitFileState": "enabled",
    "User": "swanroam",
    "AmbientCapabilities": "cap_net_bind_service cap_net_admin cap_net_raw cap_sys_ptrace cap_dac_read_search",
    "NeedDaemonReload": "no",
}
"""What `systemctl show` prints for systemd/swanroam.service."""


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    """One daemon with all capabilities, by its unit."""
    text = "".join(f"{name}={value}\n" for name, value in UNIT.items())
    monkeypatch.setattr(programs, "output_of", lambda *argv: programs.Output(0, text, ""))
    monkeypatch.setattr(programs, "daemons", lambda: iter([812]))
    monkeypatch.setattr(programs, "status_of", lambda pid: {"Uid": "997\t997\t997\t997", "CapPrm": "0000000000083404"})


def test_a_daemon_that_runs_as_it_should_is_fine(tmp_path: Path) -> None:
    assert bad(daemon.check(healthy(tmp_path))) == []


def test_no_daemon_is_a_warning_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "daemons", lambda: iter([]))
    view = healthy(tmp_path, daemon_pid=None, api=Api(None, "no daemon answers"))
    finding = only(daemon.check(view))
    assert (finding.severity, finding.command) == (Severity.WARNING, "systemctl start swanroam")


def test_a_second_daemon_in_the_namespace_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "daemons", lambda: iter([812, 4711]))
    finding = only(daemon.check(healthy(tmp_path)))
    assert (finding.check, finding.command) == ("second daemon", "kill 4711")


def test_a_daemon_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    view = healthy(tmp_path, api=Api(None, "the daemon on api.sock does not answer: timed out"))
    assert only(daemon.check(view)).severity is Severity.ERROR
    forbidden = replace(view, api=replace(view.api, forbidden=True))
    assert only(daemon.check(forbidden)).severity is Severity.UNSEEN


def test_a_daemon_that_is_hidden_by_permissions_is_not_taken_for_none(tmp_path: Path) -> None:
    view = healthy(tmp_path, daemon_pid=None, api=Api(None, "no permission to use api.sock", forbidden=True))
    assert {finding.severity for finding in bad(daemon.check(view))} == {Severity.UNSEEN}


def test_a_daemon_that_answers_runs_though_its_process_is_in_another_container(tmp_path: Path) -> None:
    assert bad(daemon.check(healthy(tmp_path, daemon_pid=None))) == []


@pytest.mark.parametrize(
    ("more", "capabilities", "missing"),
    [
        ("", "0000000000083404", ""),
        ("", "0000000000003404", "CAP_SYS_PTRACE"),
        ("defaults: {transport: keep}", "0000000000001000", ""),
        ("defaults: {transport: keep}", "0000000000000000", "CAP_NET_ADMIN"),
    ],
)
def test_the_running_daemons_capabilities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, capabilities: str, missing: str
) -> None:
    monkeypatch.setattr(programs, "status_of", lambda pid: {"Uid": "997 997 997 997", "CapPrm": capabilities})
    found = bad(daemon.check(healthy(tmp_path, config(more=more, directory=tmp_path))))
    assert [finding.check for finding in found] == ["privileges"] * bool(missing)
    assert all(missing in finding.evidence for finding in found)


def test_a_daemon_that_is_hidden_is_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "status_of", lambda pid: {})
    assert only(daemon.check(healthy(tmp_path))).severity is Severity.UNSEEN


@pytest.mark.parametrize(
    ("changes", "severity", "command"),
    [
        ({"LoadState": "not-found", "UnitFileState": ""}, Severity.NOTE, ""),
        ({"AmbientCapabilities": "cap_net_admin"}, Severity.ERROR, ""),
        ({"UnitFileState": "disabled"}, Severity.WARNING, "systemctl enable swanroam"),
        ({"NeedDaemonReload": "yes"}, Severity.WARNING, "systemctl daemon-reload"),
    ],
)
def test_a_unit_that_is_not_as_it_should_be(changes: dict[str, str], severity: Severity, command: str) -> None:
    finding = only(daemon.unit_findings(config(), UNIT | changes))
    assert (finding.severity, finding.command) == (severity, command)


def test_a_unit_that_runs_as_root_needs_no_ambient_capabilities() -> None:
    assert bad(daemon.unit_findings(config(), UNIT | {"User": "", "AmbientCapabilities": ""})) == []


def test_no_systemd_is_nothing_to_tell() -> None:
    assert daemon.unit_findings(config(), None) == []


def test_another_version_runs_than_is_installed(tmp_path: Path) -> None:
    view = healthy(tmp_path, api=Api(status() | {"swanroam": "0.0.1"}))
    assert only(daemon.status_findings(view)).command == "systemctl restart swanroam"


def test_a_peer_of_another_version_is_told_by_what_was_dropped(tmp_path: Path) -> None:
    document = status() | {"control_channel": {"dropped": {"unsupported_version": 3, "too_short": 1}}}
    finding = only(daemon.status_findings(healthy(tmp_path, api=Api(document))))
    assert finding.check == "peer's version"
    assert finding.evidence.startswith("3 datagrams")


def test_problems_of_peers_and_of_the_daemon_are_told_once_each(tmp_path: Path) -> None:
    document = status(state="its controller does not answer", problem="is swanroam running there?")
    document["problems"].insert(0, "cannot write the journal")
    findings = bad(daemon.status_findings(healthy(tmp_path, api=Api(document))))
    assert [(finding.check, finding.severity) for finding in findings] == [
        (f"peer {ITS}", Severity.WARNING),
        ("daemon", Severity.ERROR),
    ]


@pytest.mark.parametrize(
    ("told", "severity"), [("0.0.9", Severity.NOTE), ("", None), (__version__, None)], ids=["older", "silent", "same"]
)
def test_a_peers_version_is_told_when_it_is_another(tmp_path: Path, told: str, severity: Severity | None) -> None:
    findings = bad(daemon.status_findings(healthy(tmp_path, api=Api(status(swanroam=told)))))
    assert [finding.severity for finding in findings] == ([severity] if severity else [])


@pytest.mark.parametrize(
    ("wrong", "evidence"), [([], "not what is at work"), (["line 3: no such key"], "line 3: no such key")]
)
def test_a_file_that_is_not_at_work_is_told(tmp_path: Path, wrong: list[str], evidence: str) -> None:
    document = status()
    document["configuration"] |= {"current": False, "wrong": wrong}
    finding = only(daemon.status_findings(healthy(tmp_path, api=Api(document))))
    assert evidence in finding.evidence
    assert finding.command.startswith("swanroam reload")


def test_a_daemon_that_reads_another_file_is_told(tmp_path: Path) -> None:
    document = status()
    document["configuration"]["file"] = "/etc/other.yaml"
    finding = only(daemon.status_findings(healthy(tmp_path, api=Api(document))))
    assert "the daemon reads /etc/other.yaml" in finding.evidence


# --- processes --------------------------------------------------------------------------------------------------------


def test_who_holds_a_lock_is_told_without_taking_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    assert programs.holder_of(lock) is None
    assert programs.holder_of(tmp_path / "missing") is None
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert programs.holder_of(lock) == os.getpid()


def test_who_listens_on_a_socket_is_told(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    assert programs.peer_of_socket(path) is None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert programs.peer_of_socket(path) == os.getpid()


def test_a_daemon_is_known_by_its_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    program = tmp_path / "swanroam"
    program.write_text("import time\nprint(flush=True)\ntime.sleep(60)\n")
    for command, expected in (("run", True), ("status", False)):
        with subprocess.Popen([sys.executable, str(program), command], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                assert (process.pid in set(programs.daemons())) == expected
            finally:
                process.kill()


def test_a_program_that_fails_or_is_missing_or_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert programs.output_of("sh", "-c", "echo out; echo err >&2; exit 3") == programs.Output(3, "out\n", "err")
    assert programs.output_of("no-such-program").missing
    assert "timed out" in programs.output_of("sleep", "60", limit=0.05).err


def test_environment_and_start_of_a_process_are_read(tmp_path: Path) -> None:
    process = tmp_path / "7"
    process.mkdir()
    (process / "environ").write_bytes(b"STRONGSWAN_CONF=/etc/x.conf\0EMPTY=\0")
    (process / "stat").write_text("7 (a) b) S " + " ".join(map(str, range(4, 22))) + " 250 9 9\n")
    (tmp_path / "stat").write_text(
        textwrap.dedent("""\
            cpu 1 2 3
            btime 1000
        """)
    )
    assert programs.environment_of(7, tmp_path) == {"STRONGSWAN_CONF": "/etc/x.conf", "EMPTY": ""}
    assert programs.environment_of(8, tmp_path) is None
    assert programs.started_at(7, tmp_path) == 1000 + 250 / os.sysconf("SC_CLK_TCK")
    assert programs.started_at(8, tmp_path) is None

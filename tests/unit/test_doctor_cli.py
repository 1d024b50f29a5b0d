"""What `swanroam doctor` shows, and with which exit status it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swanroam.cli import doctor as command
from swanroam.cli.exits import Exit
from swanroam.cli.main import main
from swanroam.config import Config
from swanroam.doctor.view import Api
from swanroam.kernel.findings import Finding, Severity, ok

RP_FILTER = Finding(
    "rp_filter",
    Severity.WARNING,
    "rp_filter is strict on eth0: while both addresses are there, packets that still come to the old one natively are "
    "dropped",
    "to keep it after a reboot, write it to a file in /etc/sysctl.d",
    "sysctl net.ipv4.conf.eth0.rp_filter=2 net.ipv4.conf.a-very-long-name-of-an-interface.rp_filter=2",
)
NOTE = Finding("clock", Severity.NOTE, "not synchronised", command="timedatectl set-ntp true")
ERROR = Finding("charon", Severity.ERROR, "its VICI socket does not exist", command="systemctl restart strongswan")
UNSEEN = Finding("guards", Severity.UNSEEN, "IPsec policies can be read with CAP_NET_ADMIN only")
FINE = ok("charon version", "5.9.8")


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "swanroam.yaml"
    path.write_text(
        f"""\
identity: mobile.example.org
runtime_directory: {tmp_path}/run
peers:
  - identity: server.example.org
    connection: server
"""
    )
    return path


def finds(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> list[Api]:
    """Instead of what is wrong here. Returns what the daemon had answered each time."""
    asked: list[Api] = []

    async def examine(config: Config, config_file: Path, api: Api) -> list[Finding]:
        asked.append(api)
        return list(findings)

    monkeypatch.setattr(command, "examine", examine)
    return asked


@pytest.mark.parametrize(
    ("findings", "status"),
    [
        ((FINE,), Exit.OK),
        ((FINE, NOTE), Exit.OK),
        ((FINE, RP_FILTER), Exit.ATTENTION),
        ((ERROR, UNSEEN), Exit.ATTENTION),
        ((FINE, UNSEEN), Exit.PRIVILEGES),
    ],
)
def test_exit_statuses(
    monkeypatch: pytest.MonkeyPatch,
    config_file: Path,
    capsys: pytest.CaptureFixture[str],
    findings: tuple[Finding, ...],
    status: Exit,
) -> None:
    finds(monkeypatch, *findings)
    assert main(["doctor", "--config", str(config_file)]) == status
    assert main(["doctor", "--json", "--config", str(config_file)]) == status
    text = capsys.readouterr().out
    assert json.loads(text[text.index("{") :])["fine"] == (status is Exit.OK)


def test_without_a_daemon_it_looks_all_the_same(
    monkeypatch: pytest.MonkeyPatch, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = finds(monkeypatch, FINE)
    assert main(["doctor", "--config", str(config_file)]) == Exit.OK
    (api,) = asked
    assert api.status is None
    assert "no daemon answers" in api.refusal
    assert not api.forbidden


def test_the_worst_comes_first_commands_are_whole_and_lines_fit(capsys: pytest.CaptureFixture[str]) -> None:
    text = command.render([FINE, NOTE, RP_FILTER, UNSEEN, ERROR], 80, verbose=False, colours=False)

    assert text.splitlines() == [
        "attention needed: 1 error, 1 warning, 1 not seen, 1 note, 1 ok",
        "error    charon: its VICI socket does not exist",
        "         # systemctl restart strongswan",
        "warning  rp_filter: rp_filter is strict on eth0: while both addresses are there,",
        "         packets that still come to the old one natively are dropped; to keep it",
        "         after a reboot, write it to a file in /etc/sysctl.d",
        f"         # {RP_FILTER.command}",
        "unseen   guards: IPsec policies can be read with CAP_NET_ADMIN only",
        "note     clock: not synchronised",
        "         # timedatectl set-ntp true",
    ]


def test_what_is_right_is_listed_on_demand() -> None:
    assert "charon version" not in command.render([FINE], 80, verbose=False, colours=False)
    assert command.render([FINE], 80, verbose=True, colours=False).splitlines() == [
        "all is fine: 1 ok",
        "ok       charon version: 5.9.8",
    ]


def test_colours_change_nothing_but_the_colour() -> None:
    plain = command.render([ERROR, FINE], 80, verbose=True, colours=False)
    coloured = command.render([ERROR, FINE], 80, verbose=True, colours=True)
    assert "\033[31merror" in coloured
    for code in ("\033[31m", "\033[32m", "\033[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == plain


def test_the_document_has_every_finding() -> None:
    document: Any = command.document([FINE, RP_FILTER])
    assert document["version"] == 1
    assert document["findings"][1] == {
        "check": "rp_filter",
        "severity": "warning",
        "evidence": RP_FILTER.evidence,
        "remedy": RP_FILTER.remedy,
        "command": RP_FILTER.command,
    }
    assert json.loads(json.dumps(document)) == document


def test_check_config_prints_nothing_but_what_swanctl_takes(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-config", "--swanctl", "--config", str(config_file)]) == Exit.OK
    lines = capsys.readouterr().out.strip().splitlines()
    assert (lines[0], lines[-1]) == ("connections {", "}")

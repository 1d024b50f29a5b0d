"""charon, its version, plugins and options, as it and its files tell them."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from swanroam.doctor import charon, programs
from swanroam.doctor.programs import started_at
from swanroam.doctor.settings import Settings, SettingsError, read_settings
from swanroam.kernel.findings import Finding, Severity
from unit.doctor_views import CHARON, bad, config, definitions, healthy, only

DEBIAN = """\
# strongswan.conf - strongSwan configuration file
charon {
	load_modular = yes
	plugins {
		include strongswan.d/charon/*.conf
	}
}

include strongswan.d/*.conf
"""
DROP_INS = Path(__file__).resolve().parents[2] / "strongswan-conf" / "strongswan.d"
AT_START = 2_000_000_000.0
"""When charon was started, long after all files were written."""


def settings(directory: Path, **drop_ins: str) -> Settings:
    """Debian's strongswan.conf with these drop-ins; by default the one for mobile hosts."""
    parts = directory / "strongswan.d"
    (parts / "charon").mkdir(parents=True)
    (directory / "strongswan.conf").write_text(DEBIAN)
    for name, text in (drop_ins or {"mobile": (DROP_INS / "swanroam-mobile.conf").read_text()}).items():
        (parts / f"{name}.conf").write_text(text)
    return read_settings(directory / "strongswan.conf")


def options(directory: Path, *, peer: str = "", connection: str = "", **drop_ins: str) -> list[Finding]:
    found = settings(directory, **drop_ins)
    ours = config(peer, directory=directory)
    defined = definitions(ours, directory, ("# OPTIONS", connection))
    return list(charon.option_findings(healthy(directory, ours, definitions=defined), found, AT_START))


def test_a_mobile_host_with_the_drop_in_is_fine(tmp_path: Path) -> None:
    assert bad(options(tmp_path)) == []


@pytest.mark.parametrize(
    ("peer", "connection", "told"),
    [
        ("", "", "moves the IKE_SAs itself"),
        ("", "mobike = no", "ends the IKE_SA and begins anew (server: mobike = no)"),
        ("", "mobike = no\nlocal_addrs = 10.1.1.2", None),
        ("", "local_addrs = 10.1.1.2", "moves the IKE_SAs itself"),
        ("moves: peer", "", None),
    ],
)
def test_who_follows_changes_of_addresses(tmp_path: Path, peer: str, connection: str, told: str | None) -> None:
    findings = options(tmp_path, peer=peer, connection=connection, empty="")
    if told is None:
        assert bad(findings) == []
        return
    finding = only(findings)
    assert finding.severity is Severity.WARNING
    assert told in finding.evidence
    written = tmp_path / "strongswan.d" / "swanroam-mobile.conf"
    command, _, restart = finding.command.partition(" && ")
    assert restart.startswith("systemctl restart strongswan")

    assert os.system(command) == 0

    assert written.exists()
    assert read_settings(tmp_path / "strongswan.conf").charon(charon.ROAM_EVENTS) == "no"


@pytest.mark.parametrize(
    ("option", "severity"),
    [
        ("interfaces_ignore = docker0, swanroam4", Severity.ERROR),
        ("interfaces_use = eth0 swanroam4", Severity.ERROR),
        ("ignore_routing_tables = 100 5354", Severity.ERROR),
        ("prefer_best_path = yes", Severity.WARNING),
        ("reuse_ikesa = no", Severity.WARNING),
    ],
)
def test_options_that_break_a_move_are_told(tmp_path: Path, option: str, severity: Severity) -> None:
    roam = "plugins {\n kernel-netlink {\n roam_events = no\n }\n }\n"
    finding = only(options(tmp_path, site=f"charon {{\n{roam}{option}\n}}\n"))

    assert finding.severity is severity
    assert finding.check == option.partition(" ")[0]


@pytest.mark.parametrize(
    "option", ["interfaces_ignore = docker0", "interfaces_use = eth0, swanroam4, swanroam6", "prefer_best_path = no"]
)
def test_the_same_options_can_be_harmless(tmp_path: Path, option: str) -> None:
    roam = "plugins {\n kernel-netlink {\n roam_events = no\n }\n }\n"
    assert bad(options(tmp_path, site=f"charon {{\n{roam}{option}\n}}\n")) == []


def test_files_that_changed_after_charon_was_started_are_named(tmp_path: Path) -> None:
    found = settings(tmp_path)
    changed = tmp_path / "strongswan.d" / "mobile.conf"
    found.changed[changed] = AT_START + 3
    finding = only(list(charon.option_findings(healthy(tmp_path), found, AT_START)))

    assert str(changed) in finding.evidence
    assert "strongswan.conf " not in finding.evidence
    assert finding.command.startswith("systemctl restart strongswan")


def test_start_and_change_are_told_by_one_clock(tmp_path: Path) -> None:
    """To a second: a process that is started just after a file was written."""
    file = tmp_path / "file"
    file.write_text("")
    with subprocess.Popen(["sleep", "60"]) as child:
        started = started_at(child.pid)
        child.kill()
    assert started is not None
    assert abs(started - file.stat().st_mtime) < charon._SLACK


# --- the daemon itself ------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """charon was started with a strongswan.conf of this test."""
    where = tmp_path / "etc"
    where.mkdir()
    settings(where)
    monkeypatch.setattr(programs, "environment_of", lambda pid: {"STRONGSWAN_CONF": str(where / "strongswan.conf")})
    monkeypatch.setattr(programs, "started_at", lambda pid: AT_START)


def test_a_healthy_charon(tmp_path: Path) -> None:
    assert bad(charon.check(healthy(tmp_path))) == []


@pytest.mark.parametrize(
    ("version", "old"), [("5.9.7", True), ("5.9.8", False), ("6.0.1dr2", False), ("strange", False)]
)
def test_an_old_charon_is_an_error(tmp_path: Path, version: str, old: bool) -> None:
    found = bad(charon.check(healthy(tmp_path, charon=replace(CHARON, version=version))))
    assert [(finding.check, finding.severity) for finding in found] == [("charon version", Severity.ERROR)] * old


def test_missing_and_harmful_plugins_are_named(tmp_path: Path) -> None:
    plugins = CHARON.plugins - {"kernel-netlink"} | {"bypass-lan"}
    missing, harmful = bad(charon.check(healthy(tmp_path, charon=replace(CHARON, plugins=plugins))))

    assert "kernel-netlink" in missing.evidence
    assert missing.severity is Severity.ERROR
    assert "bypass-lan" in harmful.command


def test_a_charon_that_does_not_answer(tmp_path: Path) -> None:
    dead = healthy(tmp_path, charon=None, charon_trouble="charon's VICI socket /run/charon.vici does not exist: start")
    finding = only(charon.check(dead))
    assert finding.severity is Severity.ERROR
    assert finding.command.startswith("systemctl restart strongswan")

    shut = replace(dead, charon_trouble="no permission for charon's VICI socket /run/charon.vici: run as root")
    assert only(charon.check(shut)).severity is Severity.UNSEEN


# --- the files --------------------------------------------------------------------------------------------------------


def test_files_are_read_as_charon_reads_them(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        a='charon { install_routes = no # comment\n  filelog { "/var/log/a b" { path = "x # y" } } }\n',
        b="charon\n{\n  install_routes = yes\n}\ncharon-systemd : charon {\n  only = here\n}\n",
    )

    assert found.charon("load_modular") == "yes"
    assert found.charon("install_routes") == "yes"
    assert found.charon("only") == "here"
    assert found.charon("plugins.kernel-netlink.roam_events") is None
    assert found.root.sections["charon"].sections["filelog"].sections["/var/log/a b"].options["path"] == "x # y"
    assert set(found.changed) == {tmp_path / "strongswan.conf", *(tmp_path / "strongswan.d").glob("*.conf")}


@pytest.mark.parametrize("text", ["charon {", "}", 'a = "open', "include strongswan.conf"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "strongswan.conf"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"strongswan\.conf"):
        read_settings(path)
    with pytest.raises(SettingsError, match="No such file"):
        read_settings(tmp_path / "missing.conf")

"""The unit and its user: what systemd itself says about them, and that all who name the capabilities name the same."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lab.service import API_GROUP, SYSUSERS
from lab.unit import UNIT, unit
from swanroam.daemon.controller import VERIFY
from swanroam.daemon.watchdog import Watchdog
from swanroam.kernel.privileges import Capability

ROOT = Path(__file__).resolve().parents[2]
SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
VERSIONS = 0.5
"""By how much the score of one unit differs between versions of systemd."""


def systemd(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def exposure(path: Path) -> float:
    """The score of `systemd-analyze security`: 0 is confined, 10 is root without a sandbox."""
    done = systemd("systemd-analyze", "security", "--offline=true", "--no-pager", str(path))
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


def changed(directory: Path, *pairs: tuple[str, str]) -> Path:
    """A copy of the unit with lines exchanged."""
    text = UNIT.read_text(encoding="utf-8")
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = directory / UNIT.name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_exposure_is_what_the_documentation_says() -> None:
    (said,) = re.findall(r"`systemd-analyze security` gives it ([0-9.]+) of 10", SECURITY)

    assert abs(exposure(UNIT) - float(said)) <= VERSIONS


@pytest.mark.parametrize("line", ["NoNewPrivileges=yes", "ProtectSystem=strict", "SystemCallArchitectures=native"])
def test_a_unit_that_confines_less_is_noticed(tmp_path: Path, line: str) -> None:
    assert exposure(changed(tmp_path, (f"\n{line}\n", "\n"))) > exposure(UNIT)


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    program = shutil.which("true")
    assert program is not None
    path = changed(
        tmp_path,
        *((f"{option}=/opt/swanroam/bin/swanroam", f"{option}={program}") for option in ("ExecStart", "ExecReload")),
    )
    done = systemd("systemd-analyze", "verify", str(path))

    assert (done.returncode, done.stdout + done.stderr) == (0, "")

    path.write_text(path.read_text(encoding="utf-8").replace("LimitCORE=0", "LimitCores=0"), encoding="utf-8")
    assert "LimitCores" in systemd("systemd-analyze", "verify", str(path)).stderr


def test_a_reload_is_waited_for_and_fails_when_the_file_is_refused() -> None:
    start, reload = (unit()[option].split() for option in ("ExecStart", "ExecReload"))

    assert (start[1:], reload[1:]) == (["run"], ["reload"])
    assert start[0] == reload[0]
    assert unit()["Type"] == "notify"


def test_the_watchdog_is_patient_enough_for_an_idle_daemon() -> None:
    seconds = float(unit()["WatchdogSec"].removesuffix("s"))

    assert Watchdog(lambda: 0.0, VERIFY, {"WATCHDOG_USEC": str(int(seconds * 1e6))}).interval == seconds
    assert seconds > 2 * VERIFY
    assert unit()["Restart"] == "on-failure"


def test_the_unit_gives_exactly_the_capabilities_that_swanroam_uses() -> None:
    known = {str(capability) for capability in Capability}

    for option in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert set(unit()[option].split()) == known
    assert set(re.findall(r"CAP_[A-Z_]+", SECURITY)) == known


def test_the_user_and_both_groups_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    done = systemd("systemd-sysusers", f"--root={tmp_path}", str(SYSUSERS))
    assert done.returncode == 0, done.stderr

    users = [line.split(":") for line in (tmp_path / "etc" / "passwd").read_text(encoding="utf-8").splitlines()]
    groups = [line.split(":") for line in (tmp_path / "etc" / "group").read_text(encoding="utf-8").splitlines()]
    options = unit()
    (user,) = (fields for fields in users if fields[0] == options["User"])
    assert user[-1].endswith("nologin")
    members = {fields[0]: (fields[2], fields[3]) for fields in groups}
    assert members[options["Group"]][0] == user[3]
    assert members[API_GROUP][1] == options["User"]

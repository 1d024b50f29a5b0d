"""MTU, clock, certificates, files and traces."""

from __future__ import annotations

import asyncio
import os
import subprocess
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from swanroam.daemon.journal import Journal
from swanroam.doctor import clock, files, path, traces
from swanroam.doctor.certificates import CertificateError, validity
from swanroam.doctor.traces import Found, guard_findings, leftover_findings
from swanroam.doctor.view import View, Way
from swanroam.kernel.findings import Finding, Severity
from swanroam.kernel.rtnetlink import WayOut
from swanroam.kernel.xfrm.constants import Direction
from swanroam.kernel.xfrm.guards import guard, prefix_guard
from swanroam.protocol.host_state import Pair
from unit.doctor_views import ITS, LOCAL, REMOTE, bad, config, healthy, only

# --- MTU --------------------------------------------------------------------------------------------------------------


def way(view: View, interface_mtu: int, mtu: int, *, version: int = 4) -> Way:
    ends = Pair(LOCAL, REMOTE) if version == 4 else Pair(ip_address("2001:db8::1"), ip_address("2001:db8::2"))
    return Way(view.config.peers[0], ends, WayOut("eth0", interface_mtu, mtu))


@pytest.mark.parametrize(
    ("interface_mtu", "mtu", "version", "carrier", "severity", "command"),
    [
        (1500, 1500, 4, 1480, Severity.OK, ""),
        (9000, 9000, 4, None, Severity.OK, ""),
        (1492, 1492, 4, 1480, Severity.NOTE, "ip link set dev swanroam4 mtu 1472"),
        (1492, 1492, 4, 1472, Severity.OK, ""),
        (1500, 1400, 4, None, Severity.NOTE, ""),
        (1400, 1400, 6, 1460, Severity.OK, ""),
        (1184, 1184, 4, 1480, Severity.WARNING, "ip link set dev eth0 mtu 1500"),
        (1500, 1184, 4, 1480, Severity.WARNING, ""),
    ],
)
def test_what_a_path_carries(
    tmp_path: Path, interface_mtu: int, mtu: int, version: int, carrier: int | None, severity: Severity, command: str
) -> None:
    finding = path.of_way(way(healthy(tmp_path), interface_mtu, mtu, version=version), carrier)

    assert (finding.severity, finding.command) == (severity, command)
    assert str(mtu) in finding.evidence


def test_no_route_is_a_warning(tmp_path: Path) -> None:
    view = healthy(tmp_path)
    lost = replace(view, ways=(replace(view.ways[0], route=None),))
    assert only(path.check(lost)).severity is Severity.WARNING


# --- clock ------------------------------------------------------------------------------------------------------------

DAY = 24 * 3600


@pytest.fixture(scope="module", params=["PEM", "DER"])
def certificate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """For 100 days from now on, as openssl makes it."""
    file = tmp_path_factory.mktemp("certificate") / "file"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null"]
    form = ["-outform", request.param, "-out", str(file)]
    argv = ["openssl", "req", "-x509", *key, "-subj", "/CN=mobile", "-days", "100", *form]
    subprocess.run(argv, check=True, capture_output=True)
    return file.read_bytes()


def test_a_certificates_time_is_read(certificate: bytes) -> None:
    valid = validity(certificate)
    assert valid.end - valid.start == 100 * DAY
    assert abs(valid.start - clock.now()) < DAY


def test_a_time_after_2049_is_read(tmp_path: Path) -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null"]
    argv = ["openssl", "req", "-x509", *key, "-subj", "/CN=mobile", "-days", "20000"]
    made = subprocess.run(argv, check=True, capture_output=True).stdout
    valid = validity(made)
    assert valid.end - valid.start == 20000 * DAY


@pytest.mark.parametrize("content", [b"", b"\x30", b"\x30\x82\xff\xff", b"\x02\x01\x05", b"\x30\x03\x30\x01\x02"])
def test_what_is_no_certificate_is_refused(content: bytes) -> None:
    with pytest.raises(CertificateError):
        validity(content)


@pytest.mark.parametrize(
    ("day", "severity"),
    [(-1, Severity.ERROR), (1, Severity.OK), (85, Severity.OK), (87, Severity.WARNING), (101, Severity.ERROR)],
)
def test_a_certificate_before_in_and_after_its_time(certificate: bytes, day: int, severity: Severity) -> None:
    start = validity(certificate).start
    (finding,) = clock.certificate_findings([("connection server, local", certificate)], start + day * DAY)
    assert finding.severity is severity


def test_certificates_of_connections_are_found(tmp_path: Path, certificate: bytes) -> None:
    view = healthy(tmp_path)
    assert view.definitions is not None
    message = view.definitions["server"].message
    local = message["local"]
    assert isinstance(local, dict)
    local["certs"] = [certificate]
    assert [finding.check for finding in clock.check(view)] == ["clock", "certificate"]


@pytest.mark.parametrize(
    ("status", "certificates", "severity"),
    [
        (0x2001, True, Severity.OK),
        (0x40, False, Severity.NOTE),
        (0x2041, True, Severity.WARNING),
        (None, True, Severity.UNSEEN),
    ],
)
def test_whether_the_clock_is_synchronised(status: int | None, certificates: bool, severity: Severity) -> None:
    assert clock.synchronised(status, certificates=certificates).severity is severity


def test_the_kernel_tells_the_state_of_its_clock() -> None:
    assert clock.clock_status() is not None


# --- files ------------------------------------------------------------------------------------------------------------


def with_state(directory: Path, more: str = "") -> View:
    state = directory / "state"
    state.mkdir(exist_ok=True)
    state.chmod(0o700)
    return healthy(directory, config(more=more, directory=directory), daemon_pid=None)


def checked(view: View) -> dict[str, Finding]:
    return {finding.check: finding for finding in bad(files.check(view))}


def test_directories_that_are_not_there_yet_are_fine(tmp_path: Path) -> None:
    assert checked(healthy(tmp_path, daemon_pid=None)) == {}


def test_a_journal_that_can_be_read_is_fine(tmp_path: Path) -> None:
    view = with_state(tmp_path)
    Journal(tmp_path / "state" / "journal.json").store({ITS: {}})
    assert checked(view) == {}


def test_a_journal_of_others_is_a_note_and_a_damaged_one_an_error(tmp_path: Path) -> None:
    view = with_state(tmp_path)
    journal = tmp_path / "state" / "journal.json"
    Journal(journal).store({"gone.example.org": {}})
    assert checked(view)["journal"].severity is Severity.NOTE
    assert "gone.example.org" in checked(view)["journal"].evidence

    journal.write_text("{")
    assert checked(view)["journal"].severity is Severity.ERROR
    assert "swanroam cleanup" in checked(view)["journal"].evidence


def test_a_directory_that_others_can_write_is_closed_by_the_command(tmp_path: Path) -> None:
    view = with_state(tmp_path)
    (tmp_path / "state").chmod(0o777)
    finding = checked(view)["state directory"]
    assert finding.severity is Severity.WARNING
    assert os.system(finding.command) == 0
    assert checked(view) == {}


def test_a_directory_of_another_user_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = replace(with_state(tmp_path), daemon_pid=812)
    monkeypatch.setattr(files.programs, "status_of", lambda pid: {"Uid": "4711\t4711\t4711\t4711"})
    assert checked(view)["state directory"].command == f"chown -R 4711 {tmp_path}/state"


def test_a_group_that_is_not_there_is_made_by_the_command(tmp_path: Path) -> None:
    view = with_state(tmp_path, "api_group: no-such-group")
    assert checked(view)["api_group"].command == "groupadd --system no-such-group"


# --- traces -----------------------------------------------------------------------------------------------------------


def guards(view: View) -> frozenset[object]:
    return prefix_guard(view.config.control.prefix) | {guard(LOCAL, REMOTE, Direction.OUT)}


def test_guards_of_the_pair_and_of_the_prefix_are_fine(tmp_path: Path) -> None:
    view = healthy(tmp_path)
    assert bad(guard_findings(view, Found(policies=guards(view)))) == []  # type: ignore[arg-type]


def test_missing_guards_are_an_error(tmp_path: Path) -> None:
    view = healthy(tmp_path)
    only_prefix = prefix_guard(view.config.control.prefix)
    only_pair = frozenset({guard(LOCAL, REMOTE, Direction.OUT)})
    assert f"{LOCAL} - {REMOTE}" in only(guard_findings(view, Found(policies=only_prefix))).evidence
    assert str(view.config.control.prefix) in only(guard_findings(view, Found(policies=only_pair))).evidence


def test_a_peer_that_is_not_managed_has_no_guards(tmp_path: Path) -> None:
    view = healthy(tmp_path)
    assert view.api.status is not None
    view.api.status["peers"][0]["managed"] = False
    assert bad(guard_findings(view, Found(policies=prefix_guard(view.config.control.prefix)))) == []


def test_what_an_earlier_run_left_is_named_and_removed_by_cleanup(tmp_path: Path) -> None:
    view = healthy(tmp_path, daemon_pid=None)
    left = Found(devices=frozenset({"swanroam4"}), held=frozenset({"10.1.1.2"}), locks=2)
    finding = only(leftover_findings(view, left))
    assert finding.command == "swanroam cleanup"
    for text in ("10.1.1.2", "swanroam4", "2 locks"):
        assert text in finding.evidence
    assert bad(leftover_findings(view, Found())) == []


def test_without_privileges_the_kernel_is_not_read(tmp_path: Path) -> None:
    findings = asyncio.run(traces.check(healthy(tmp_path, privileged=False)))
    assert only(findings).severity is Severity.UNSEEN

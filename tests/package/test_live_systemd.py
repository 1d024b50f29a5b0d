"""The unit as systemd runs it, on a booted Debian with the package: what systemd and the kernel say about it.

One boot for each release, and one story in it (live/story.sh), with a second host, a connection and a move; each test
looks at one part of what was reported.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.unit import unit
from package.debian_root import DebianRoot, base
from package.live import guest
from package.live.guest import Section

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".test-results"
VERSIONS = 0.5
"""By how much the score of one unit differs between versions of systemd."""
DAEMONS = 0x1000
"""CAP_NET_ADMIN, as it stands in /proc/PID/status (capabilities(7))."""
ALL = 0x83404
"""The five of the unit."""


@pytest.fixture(scope="module")
def story(release: str, with_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Section]]:
    """What was reported, by section."""
    directory = tmp_path_factory.mktemp("live")
    root = DebianRoot(directory / "root", with_package, base(release))
    guest.furnish(root)
    try:
        report = guest.boot(root, directory / "guest")
    finally:
        KEPT.mkdir(exist_ok=True)
        for name in ("report/output", "console"):
            if (directory / "guest" / name).exists():
                shutil.copy(directory / "guest" / name, KEPT / f"live-{release}-{Path(name).name}.txt")
    yield guest.sections(report)
    shutil.rmtree(directory)


def numbers(section: Section) -> list[int]:
    """How far the connection was; fails when it has ended."""
    (line,) = re.findall(r"^numbers (.*)$", section.text, re.MULTILINE)
    return [int(word) for word in line.split()]


def fields(section: Section, who: str) -> dict[str, str]:
    """What /proc says of a process."""
    return dict(re.findall(rf"^{who} (\w+):\s+(.*)$", section.text, re.MULTILINE))


def properties(section: Section, number: int = -1) -> dict[str, str]:
    """What systemd said of the unit, there the first, second … or last time."""
    blocks = re.findall(r"(?:^\w+=.*\n)+", section.text, re.MULTILINE)
    return dict(line.split("=", 1) for line in blocks[number].splitlines())


def kernel(section: Section, number: int = -1) -> tuple[bool, bool, int]:
    """Whether there were rules and devices of swanroam's, and how many guards."""
    blocks = re.findall(r"((?:^rule .*\n)*)((?:^link .*\n)*)^guards (\d+)\n", section.text, re.MULTILINE)
    rules, links, guards = blocks[number]
    return bool(rules), bool(links), int(guards)


def test_the_guest_is_a_whole_system_with_apparmor_in_force(story: dict[str, Section]) -> None:
    lines = story["system"].text.splitlines()
    assert "systemd" in lines
    assert "Y" in lines
    assert {"/usr/sbin/swanctl (enforce)", "/usr/lib/ipsec/charon (enforce)"} <= set(lines)


def test_it_is_active_as_soon_as_it_has_said_so_itself(story: dict[str, Section]) -> None:
    assert story["start"].statuses == [0, 0]
    said = properties(story["start"])
    wanted = {"Type": "notify", "ActiveState": "active", "SubState": "running", "Result": "success", "NRestarts": "0"}
    assert wanted.items() <= said.items()
    (watchdog,) = (unit()["WatchdogSec"].removesuffix("s"),)
    assert said["WatchdogUSec"] == f"{int(watchdog) // 60}min"


def test_it_runs_as_its_user_with_its_capabilities_in_its_sandbox(story: dict[str, Section]) -> None:
    section = story["process"]
    for who in ("daemon", "nursery"):
        has = fields(section, who)
        assert len(set(has["Uid"].split())) == 1
        assert has["Uid"] != "0\t0\t0\t0"
        assert has["NoNewPrivs"] == "1"
        assert has["Seccomp"] == "2"
        assert has["oom_score_adj"] == unit()["OOMScoreAdjust"]
        assert int(has["CapBnd"], 16) == int(has["CapPrm"], 16) == ALL
        assert f"{who} has mounts of its own" in section.text
        assert f"{who} has the network of the host" in section.text
        mounts = dict(re.findall(rf"^{who} mount: (\S+) (\w+)", section.text, re.MULTILINE))
        assert mounts["/"] == mounts["/home"] == mounts["/proc/sys"] == "ro"
        assert mounts["/tmp"] == mounts["/proc/sys/net"] == "rw"
    assert int(fields(section, "daemon")["CapEff"], 16) == DAEMONS
    assert int(fields(section, "daemon")["CapAmb"], 16) == 0
    assert int(fields(section, "nursery")["CapEff"], 16) == ALL
    assert {
        "/run/swanroam 750 swanroam swanroam-admin",
        "/run/swanroam/api.sock 660 swanroam swanroam-admin",
        "/var/lib/swanroam 700 swanroam swanroam",
        "/var/lib/swanroam/journal.json 600 swanroam swanroam",
    } <= set(section.text.splitlines())


def test_what_its_filter_refuses_is_seen_and_it_asks_for_nothing_of_that(story: dict[str, Section]) -> None:
    """But for clone3, which RestrictNamespaces= refuses so that the C library takes clone: systemd.exec(5)."""
    refused = set(re.findall(r'comm="(\S+)" .*?syscall=(\d+)', story["denied"].text))
    clone3, setpriority = "435", "141"
    assert ("nice", setpriority) in refused
    ours = {(name, call) for name, call in refused if name.startswith(("swan", "python"))}
    assert {call for _, call in ours} <= {clone3}, ours
    assert "callbacks suppressed" not in story["kernel-log"].text
    assert 'apparmor="DENIED"' not in story["denied"].text
    assert "SIGSYS" not in story["journal"].text


def test_swanctl_run_by_the_daemon_has_no_profile_but_the_sandbox(story: dict[str, Section]) -> None:
    """In kernels in which AppArmor watches sockets it could not do what it is run for: swanroam.ike.confinement."""
    records = re.findall(r" uid=(\d+) .* subj=(\S+) .*comm=\"swanctl\"", story["denied"].text)
    assert {subject for user, subject in records if user != "0"} == {"unconfined"}


def test_its_commands_work_beside_it_for_whom_they_are_for(story: dict[str, Section]) -> None:
    assert story["alone"].statuses[:2] == [0, 0]
    assert story["alone"].text.startswith("all is fine: 1 peer")
    for name in ("alone", "doctor"):
        text = story[name].text
        findings = json.loads(text[text.index("{\n") :])["findings"]
        assert [one for one in findings if one["severity"] in ("error", "unseen")] == []
        assert {"daemon", "privileges", "unit", "state directory"} <= {one["check"] for one in findings}
    assert story["admin"].statuses == [0]
    assert story["stranger"].statuses == [6]
    assert "member of the group swanroam-admin" in story["stranger"].text


def test_a_connection_moves_out_of_the_sandbox(story: dict[str, Section]) -> None:
    """The mover, under the unit's filter, stops a program of another user's and moves its socket."""
    assert "protected and ready to move" in story["peer"].text
    section = story["move"]
    assert section.statuses == [0, 0, 0]
    assert re.search(r"^peer: 1 moves", section.text, re.MULTILINE)
    assert re.search(r"^  sockets +1 moved", section.text, re.MULTILINE)
    before, after = re.findall(r"^ESTAB .* (\S+):\d+ +203\.0\.113\.9:7000", section.text, re.MULTILINE)
    assert (before, after) == ("192.0.2.1", "198.51.100.1")
    sooner, later = numbers(section)
    assert later > sooner


def test_networkmanager_waits_for_the_move_before_it_takes_a_connection_down(
    release: str, story: dict[str, Section]
) -> None:
    """Five seconds at most, which may be too few for a slow guest: then the move goes on while the address goes."""
    if release != "bookworm":
        pytest.skip("NetworkManager of Debian 13 does not take a veth device in the guest")
    section = story["networkmanager"]
    assert section.statuses == [0] * 8
    assert '"interface": "wlan0", "remedy": "sysctl net.ipv6.conf.wlan0.disable_ipv6=0' in section.text
    assert "IPv6 is off on wlan0" in section.text
    assert re.search(r"^wlan0 is going down: peer: (moved to|not there after) ", section.text, re.MULTILINE)
    assert re.search(r"^wlan0 is down, following the routing again: ordered for peer$", section.text, re.MULTILINE)
    assert re.findall(r"^ESTAB .* (\S+):\d+ +203\.0\.113\.9:7000", section.text, re.MULTILINE) == ["192.0.2.1"]
    sooner, later = numbers(section)
    assert later > sooner


def test_a_reload_takes_over_what_has_changed(story: dict[str, Section]) -> None:
    assert story["reload"].statuses == [0]
    assert '"current": true' in story["reload"].text
    assert "addresses.readd_window: 1s -> 2s" in story["journal"].text
    assert properties(story["reload"])["MainPID"] == properties(story["reload"], 0)["MainPID"]


def test_a_reload_of_a_wrong_file_fails_and_says_why(story: dict[str, Section]) -> None:
    section = story["refused"]
    assert section.statuses == [1, 0, 0]
    assert properties(section)["ActiveState"] == "active"
    assert properties(section)["MainPID"] == properties(story["reload"])["MainPID"]
    assert "the configuration file was refused at the last reload" in section.text
    assert re.search(r"^  /etc/swanroam/swanroam\.yaml:\d+:\d+: addresses\.readd_window: is 'soon'", section.text, re.M)


def test_a_restart_keeps_connection_and_guards(story: dict[str, Section]) -> None:
    assert story["restart"].statuses == [0]
    assert "other process: yes" in story["restart"].text
    assert {"ActiveState": "active", "NRestarts": "0"}.items() <= properties(story["restart"]).items()
    assert kernel(story["restart"])[2] > 0
    assert numbers(story["restart"]) > numbers(story["move"])[-1:]


def test_one_that_hangs_is_started_anew_and_one_that_does_not_is_left_alone(story: dict[str, Section]) -> None:
    section = story["watchdog"]
    patient, anew = properties(section, 0), properties(section, 1)
    assert (patient["WatchdogUSec"], patient["NRestarts"]) == ("30s", "0")
    assert anew["NRestarts"] == "1"
    assert anew["MainPID"] != patient["MainPID"]
    assert "Watchdog timeout" in section.text
    assert "kernel as before" in section.text
    assert "protected and ready to move" in section.text
    assert numbers(section) > numbers(story["restart"])


def test_one_that_is_killed_leaves_all_and_is_started_anew(story: dict[str, Section]) -> None:
    section = story["killed"]
    assert "kernel as before" in section.text
    assert properties(section)["ActiveState"] == "active"
    assert int(properties(section)["NRestarts"]) == int(properties(story["watchdog"])["NRestarts"]) + 1
    assert numbers(section) > numbers(story["watchdog"])


def test_a_stop_leaves_what_a_connection_on_an_old_address_needs(story: dict[str, Section]) -> None:
    section = story["carried"]
    assert section.statuses == [0, 0, 0, 0, 0]
    assert {"ActiveState": "inactive", "Result": "success"}.items() <= properties(section).items()
    running, stopped = kernel(section, 0), kernel(section, 1)
    assert running == stopped
    assert stopped[:2] == (True, True)
    assert stopped[2] > 0
    assert "connections need them" in section.text
    (while_stopped, afterwards) = re.findall(r"^numbers (.*)$", section.text, re.MULTILINE)
    sooner, later = map(int, while_stopped.split())
    assert sooner < later < int(afterwards)


def test_a_stop_with_nothing_to_hold_leaves_nothing(story: dict[str, Section]) -> None:
    section = story["stop"]
    assert section.statuses == [0, 0]
    assert {"ActiveState": "inactive", "Result": "success"}.items() <= properties(section).items()
    assert "nothing of ours is left" in section.text
    assert kernel(section) == (False, False, 0)


def test_after_a_cleanup_by_root_the_service_has_its_directories_again(story: dict[str, Section]) -> None:
    assert story["cleanup"].statuses == [0, 0, 0]
    owners = dict(re.findall(r"^(/\S+) (\w+)$", story["cleanup"].text.split("== status 0")[-1], re.MULTILINE))
    assert set(owners.values()) == {"swanroam"}


def test_the_score_is_what_the_documentation_says(story: dict[str, Section]) -> None:
    (said,) = re.findall(
        r"`systemd-analyze security` gives it ([0-9.]+) of 10", (ROOT / "docs/security.md").read_text(encoding="utf-8")
    )
    (found,) = re.findall(r"Overall exposure level for swanroam\.service: ([0-9.]+)", story["security"].text)
    assert abs(float(found) - float(said)) <= VERSIONS


def test_its_journal_has_no_errors_but_for_the_wrong_file(story: dict[str, Section]) -> None:
    events = re.findall(r'"event": "(\w+)", "level": "(?:error|critical)"', story["journal"].text)
    assert set(events) - {"controller_hangs"} == {"configuration_refused"}
    # Where the whole guest got nothing of the machine for a minute, that is right; not at each start.
    assert events.count("controller_hangs") < story["journal"].text.count("Watchdog timeout")
    assert "Traceback" not in story["journal"].text

"""`swanroam doctor` on hosts of the lab: nothing to complain of where nothing is wrong; else each fault is found, and
what it says mends it."""

import json
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

import swanroam
from lab import charon as lab_charon
from lab.addressing import Family
from lab.host import Host
from lab.ike_config import CONTROL, DATA
from lab.topology import Lab
from lab.waiting import wait_for
from lab.zygote import MAIN
from scenarios.scenario import start

pytestmark = pytest.mark.lab

BAD = ("warning", "error")
Findings = list[dict[str, Any]]


def examined(host: Host) -> tuple[int, Findings]:
    """Exit status and findings; what people see goes to the test's output."""
    config = ["--config", str(host.controller.config_file)]
    print(host.name, host.controller.command("doctor", *config, timeout=120).stdout)
    done = host.controller.command("doctor", "--json", *config, timeout=120)
    assert not done.stderr, done.stderr
    return done.status, json.loads(done.stdout)["findings"]


def bad(findings: Findings) -> dict[str, dict[str, Any]]:
    return {finding["check"]: finding for finding in findings if finding["severity"] in BAD}


def assert_fine(host: Host) -> None:
    status, findings = examined(host)
    assert not bad(findings)
    assert status == 0


def wait_fine(host: Host) -> None:
    wait_for(lambda: examined(host)[0] == 0, 120, f"the doctor has nothing to complain of on {host.name}", poll=3)


def mend(host: Host, findings: Findings, checks: Collection[str]) -> None:
    """Run the commands that stand with these checks, as an administrator would, in the order in which they stand."""
    programs = host.directory / "bin"
    programs.mkdir(exist_ok=True)
    path = Path(swanroam.__file__).parents[1]
    write(programs / "swanroam", f'PYTHONPATH={path} exec {sys.executable} -P -m {MAIN} "$@"')
    write(programs / "systemctl", f"echo $* >> {host.directory}/systemctl")  # there is none in the lab
    environment = [f"{name}={value}" for name, value in host.charon.environment.items()]
    for finding in findings:
        if finding["check"] in checks and finding["severity"] in BAD and finding["command"]:
            command = f"PATH={programs}:$PATH; {finding['command']}"
            done = host.run(["env", *environment, "sh", "-c", command], check=False, timeout=120)
            print(f"{finding['check']}: {finding['command']}\n{done.returncode}\n{done.stdout}{done.stderr}")


def write(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def test_five_faults_beside_a_running_daemon_are_found_and_mended(make_lab: Callable[..., Lab]) -> None:
    """A strict reverse path filter, a narrow interface, a firewall without the carrier, uniqueness that forbids a
    second IKE_SA, and no control child."""
    lab = make_lab(family=Family.IPV4)
    lab.start()
    start(lab)
    host = lab.mobile
    for one in lab.hosts:
        assert_fine(one)

    host.sysctl(**{f"net__ipv4__conf__{host.network}__rp_filter": 1})
    host.ip(f"link set dev {host.network} mtu 1000")
    host.run(["iptables-legacy", "-A", "INPUT", "-p", "4", "-j", "DROP"])
    file = host.charon.swanctl_directory / "swanctl.conf"
    text = file.read_text(encoding="utf-8")
    before, _, rest = text.partition(f"            {CONTROL} {{")
    without = before + rest.partition("}\n")[2]
    file.write_text(without.replace("version = 2", "version = 2\n        unique = replace"), encoding="utf-8")
    host.charon.load()
    host.swanctl("--terminate", "--child", CONTROL)

    status, findings = examined(host)
    found = bad(findings)
    expected = {"rp_filter", "MTU", "firewall", "unique", "control child"}
    assert status == 9
    assert expected <= set(found)
    assert set(found) - expected <= {"peer correspondent"}
    assert "protocol 4" in found["firewall"]["evidence"]
    assert "net-a" in found["rp_filter"]["evidence"]

    mend(host, findings, expected)
    wait_fine(host)


@pytest.mark.usefixtures("_drop_ins_are_read")
def test_a_dead_charon_and_a_killed_daemon_are_found_and_mended(make_lab: Callable[..., Lab]) -> None:
    """And charon's own roaming, which ends IKE_SAs where MOBIKE is off."""
    lab = make_lab(family=Family.IPV4, mobike=False, roam_events=True)
    lab.start()
    start(lab)
    host = lab.mobile
    status, findings = examined(host)
    assert status == 9
    assert set(bad(findings)) == {"roam_events"}
    assert "begins anew" in bad(findings)["roam_events"]["evidence"]
    mend(host, findings, {"roam_events"})

    host.kill_controller()
    host.charon.kill()
    status, findings = examined(host)
    found = bad(findings)
    assert status == 9
    assert set(found) == {"charon", "daemon", "leftovers"}
    assert found["daemon"]["command"] == "systemctl start swanroam"
    assert found["charon"]["command"].startswith("systemctl restart strongswan")
    assert "swanroam4" in found["leftovers"]["evidence"]
    mend(host, findings, {"leftovers"})
    assert "leftovers" not in bad(examined(host)[1])

    host.charon.start()
    lab.establish(host, lab.correspondent, (DATA, CONTROL))
    host.start_controller()
    wait_fine(host)


@pytest.fixture
def _drop_ins_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """charon's configuration includes strongswan.d, as distributions' does."""
    text = f"{lab_charon._STRONGSWAN_CONF}\ninclude strongswan.d/*.conf\n"
    monkeypatch.setattr(lab_charon, "_STRONGSWAN_CONF", text)
    start_charon = lab_charon.Charon.start

    def start(charon: lab_charon.Charon) -> None:
        (charon.directory / "strongswan.d").mkdir(exist_ok=True)
        start_charon(charon)

    monkeypatch.setattr(lab_charon.Charon, "start", start)

"""The Ansible role on two hosts that have a strongSwan connection already: installed, moved, updated, removed.

One TCP stream, older than all of it, runs from the beginning to the end. `make test-ansible` makes what it needs.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import service
from lab.addressing import Family
from lab.host import Host
from lab.managed import Fleet, tree
from lab.releases import LATER, Releases
from lab.services import Services
from lab.topology import Lab
from lab.waiting import wait_for
from scenarios import remains

pytestmark = [pytest.mark.lab, pytest.mark.ansible]

RELEASES = Releases(Path(__file__).resolve().parents[2] / ".test-results" / "fleet")
PROGRAM = "/usr/local/sbin/swanroam"
STRONGSWAN = ("/etc/swanctl", "/etc/strongswan.d")
PLACES = ("/etc/systemd", "/etc/sysusers.d", "/usr/local/sbin", "/opt", "/var/lib/swanroam", "/etc/swanroam")
SITE = """
connections {
    %(name)s {
        version = 2
        proposals = aes128-sha256-ecp256
        remote_addrs = %(remote_addrs)s
        local {
            auth = psk
            id = %(own)s
        }
        remote {
            auth = psk
            id = %(peer)s
        }
        children {
            web {
                mode = transport
                esp_proposals = aes128gcm16
                start_action = %(start_action)s
            }
        }
    }
}
"""
SECRETS = 'secrets {\n    ike-site {\n        secret = "of the site"\n    }\n}\n'
INVENTORY = {
    "swanroam": {
        "vars": {"swanroam_identity": "{{ lab_identity }}", "swanroam_child_options": ["esp_proposals = aes128gcm16"]},
        "children": {
            "gateways": {
                "vars": {"swanroam_peer_groups": ["edges"]},
                "hosts": {"gateway-1": {"swanroam_connection": "home"}},
            },
            "edges": {
                "vars": {"swanroam_peer_groups": ["gateways"], "swanroam_mobile": True},
                "hosts": {"edge-1": {"swanroam_connection": "roadwarrior"}},
            },
        },
    }
}


def existing_connection(host: Host, peer: Host, name: str, remote_addrs: str, start_action: str) -> None:
    """A connection of the administrator's own, its secret in a file that only root may read."""
    directory = host.charon.swanctl_directory
    (directory / "swanctl.conf").write_text("include conf.d/*.conf\n", encoding="utf-8")
    (directory / "conf.d").mkdir(exist_ok=True)
    values = {"name": name, "remote_addrs": remote_addrs, "start_action": start_action}
    site = SITE % {**values, "own": host.identity, "peer": peer.identity}
    (directory / "conf.d" / "site.conf").write_text(site, encoding="utf-8")
    (directory / "conf.d" / "secrets.conf").write_text(SECRETS, encoding="utf-8")
    (directory / "conf.d" / "secrets.conf").chmod(0o600)


def provide(host: Host, wheel: Path) -> None:
    """What installing the wheel would make in /opt; test_ansible_role.py installs one."""
    made = RELEASES.installed(wheel)
    host.run(["cp", "-a", str(made), f"/opt/{made.name}"])


def status(host: Host) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(host.run([PROGRAM, "status", "--json"]).stdout)
    return document


def wait_moved(host: Host) -> None:
    """Its sockets are at its present address, the old one is released."""

    def done() -> bool:
        (peer,) = status(host)["peers"]
        own = peer["own"]
        return bool(own) and own["current"] == str(host.address) and not own["deprecated"] and not peer["carried"]

    wait_for(done, 120, f"{host.name} has moved", lambda: host.run([PROGRAM, "status"], check=False).stdout, poll=1)


def connections(host: Host) -> str:
    return host.swanctl("--list-conns")


@pytest.mark.timeout(5400)
def test_a_stream_lives_through_installation_move_update_move_and_removal(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(family=Family.IPV4)
    edge, gateway = lab.mobile, lab.correspondent
    first, second = RELEASES.wheels
    variables = {
        "swanroam_install_method": "wheel",
        "swanroam_wheel": str(first),
        "swanroam_packages": [],
        "swanroam_config": {"sockets": {"hold": "5s", "stopped_share": 100}, "defaults": {"grace": "1s"}},
    }
    with Services(lab.directory) as services:
        fleet = Fleet(lab, services, variables)
        inventory = lab.directory / "fleet.yml"
        inventory.write_text(yaml.safe_dump(INVENTORY), encoding="utf-8")
        existing_connection(gateway, edge, "roadwarrior", "%any", "none")
        existing_connection(edge, gateway, "home", str(gateway.address), "start")
        for host, name in ((gateway, "gateway-1"), (edge, "edge-1")):
            fleet.manage(host, name)
            service.restrict_proc(host)
            host.charon.start()
        edge.charon.wait_established("home", "web")
        files = {host.name: tree(host, *STRONGSWAN, *PLACES) for host in lab.hosts}
        loaded = {host.name: connections(host) for host in lab.hosts}
        kernel = {host.name: host.snapshot() for host in lab.hosts}
        for host in lab.hosts:
            provide(host, first)
        began_in = {host.name: host.network for host in lab.hosts}
        capture = lab.start_capture("not tcp port 22")
        stream = lab.traffic.tcp_bulk(edge, gateway, rate=50_000)

        # Installed beside what there is, without touching it.
        run = fleet.playbook("site.yml", [inventory])
        print(run.output)
        assert set(run.changed) == {"edge-1", "gateway-1"}
        for host in lab.hosts:
            now = tree(host, *STRONGSWAN, *PLACES)
            assert {path: now.get(path) for path in files[host.name]} == files[host.name]
        run = fleet.playbook("site.yml", [inventory])
        assert run.changed == {}

        # Another configuration, taken over by the daemons that run.
        pids = {host.name: host.run(["cat", "/run/systemctl/swanroam"]).stdout for host in lab.hosts}
        variables["swanroam_config"]["defaults"] = {"grace": "2s"}
        run = fleet.playbook("site.yml", [inventory])
        assert run.changed == {"gateway-1": ["Write swanroam.yaml"], "edge-1": ["Write swanroam.yaml"]}
        for host in lab.hosts:
            assert host.run(["cat", "/run/systemctl/swanroam"]).stdout == pids[host.name]
            assert status(host)["configuration"]["current"]

        edge.move_to("net-b", soft=True)
        wait_moved(edge)

        # Another version, one host after the other.
        for host in lab.hosts:
            provide(host, second)
        fleet.variables["swanroam_wheel"] = str(second)
        run = fleet.playbook("update.yml", [inventory])
        print(run.output)
        for host in lab.hosts:
            assert status(host)["swanroam"] == LATER
            assert host.run(["cat", "/run/systemctl/swanroam"]).stdout != pids[host.name]

        edge.move_to("net-a", soft=True)
        wait_moved(edge)

        # Removed. The stream is at its present address, under strongSwan's keys.
        run = fleet.playbook("remove.yml", [inventory])
        print(run.output)
        for host in lab.hosts:
            assert tree(host, *STRONGSWAN, *PLACES) == files[host.name]
            assert connections(host) == loaded[host.name]
            assert host.run(["getent", "passwd", "swanroam"], check=False).returncode == 2
        result = stream.stop().check()
        print(f"{result.moved} bytes, longest silence {result.longest_silence * 1000:.0f} ms")
        for host in lab.hosts:
            remains.assert_same(host, kernel[host.name], began_in, "before swanroam came")
        capture.stop()
        assert not capture.clear_packets()
        assert fleet.playbook("remove.yml", [inventory]).changed == {}

"""The Ansible role on two lab hosts, run by the real ansible-playbook over ssh; the service itself is not started.

What the role does with running daemons: scenarios/test_ansible_fleet.py. The inventories are the examples that users
copy. The steps build on each other, as an administrator's do.
"""

import ipaddress
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.host import Host
from lab.managed import COLLECTION, Fleet, tree
from lab.namespace import command
from lab.releases import Releases, name
from lab.services import SYSTEM_PYTHON, Services
from lab.topology import Lab

pytestmark = [pytest.mark.kernel, pytest.mark.ansible, pytest.mark.timeout(1800)]

RELEASES = Releases(Path(__file__).resolve().parents[2] / ".test-results" / "fleet")
PSK, CERTIFICATES = (COLLECTION / "examples" / variant for variant in ("psk", "certificates"))
PLACES = (
    "/etc/swanctl",
    "/etc/strongswan.d",
    "/etc/systemd",
    "/etc/sysusers.d",
    "/usr/local/sbin",
    "/opt",
    "/etc/swanroam",
)
UNFORESEEN = {"Bring wheels to the host", "Make its user and groups"}
"""Tasks that depend on earlier ones of the same run; in check mode those have not done anything."""
NAMES = ("edge-1", "gateway-1")


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    variables = {
        "swanroam_install_method": "wheel",
        "swanroam_wheel": str(RELEASES.wheels[0]),
        "swanroam_wheelhouse": str(RELEASES.house),
        "swanroam_packages": ["python3-venv"],
        "swanroam_start": False,
    }
    with Lab() as lab, Services(lab.directory) as services:
        fleet = Fleet(lab, services, variables)
        for host, inventory_name in zip((lab.mobile, lab.correspondent), NAMES, strict=True):
            fleet.manage(host, inventory_name)
        made = RELEASES.installed(RELEASES.wheels[0])  # one host has it, the other has yet to install it
        lab.mobile.run(["cp", "-a", str(made), f"/opt/{made.name}"])
        yield fleet


def places(fleet: Fleet) -> dict[str, dict[str, str]]:
    return {inventory_name: tree(fleet.host(inventory_name), *PLACES) for inventory_name in NAMES}


def read(host: Host, path: str) -> str:
    return host.run(["cat", path]).stdout


def control_addresses(text: str) -> set[ipaddress.IPv6Address]:
    return {ipaddress.IPv6Address(found) for found in re.findall(r"_ts = ([0-9a-f:]+)/128", text)}


def test_an_administrators_afternoon(fleet: Fleet, tmp_path: Path) -> None:
    fresh = places(fleet)

    # What would happen is told, and does not happen.
    foreseen = fleet.playbook("site.yml", [PSK], "--check", "--diff")
    assert places(fleet) == fresh
    assert "+- identity: gateway-1.example.org" in foreseen.output
    assert "change me" not in foreseen.output  # the secrets

    # It happens so, once.
    done = fleet.playbook("site.yml", [PSK], "--diff")
    assert "change me" not in done.output
    for inventory_name in NAMES:
        assert set(done.changed[inventory_name]) - UNFORESEEN == set(foreseen.changed[inventory_name])
    assert fleet.playbook("site.yml", [PSK]).changed == {}
    assert fleet.playbook("site.yml", [PSK], "--check").changed == {}

    # The program agrees with what the role made of the inventory; charon's tool can read it.
    for inventory_name in NAMES:
        host = fleet.host(inventory_name)
        config = host.run(["/usr/local/sbin/swanroam", "check-config"]).stdout
        drop_in = read(host, "/etc/swanctl/conf.d/swanroam.conf")
        assert control_addresses(config) == control_addresses(drop_in) != set()
        assert host.run(["stat", "-c", "%a %G", "/etc/swanctl/conf.d/swanroam.conf"]).stdout == "640 swanroam\n"
        assert host.run(["stat", "-c", "%a %U", "/etc/swanctl/conf.d/swanroam-secrets.conf"]).stdout == "600 root\n"
        assert host.run(["readlink", "/opt/swanroam"]).stdout == f"/opt/{name(RELEASES.wheels[0])}\n"

    # A wrong setting is told in check mode, too, and changes nothing.
    before = places(fleet)
    wrong = {"swanroam_config": {"log": {"level": "chatty"}}}
    for options in ([], ["--check"]):
        run = fleet.playbook("site.yml", [PSK], *options, variables=wrong, check=False)
        assert set(run.results("fatal")) == set(NAMES)
        assert "chatty" in run.output
        assert places(fleet) == before

    # One setting is changed: that file and nothing else, foreseen and done.
    other = {"swanroam_config": {"log": {"level": "debug"}}}
    for options in (["--check", "--diff"], ["--diff"]):
        run = fleet.playbook("site.yml", [PSK], *options, variables=other)
        assert run.changed == {inventory_name: ["Write swanroam.yaml"] for inventory_name in NAMES}
        assert "+  level: debug" in run.output

    # Certificates instead of keys.
    for inventory_name in NAMES:
        for kind in ("pem", "key"):
            (tmp_path / f"{inventory_name}.{kind}").write_text(f"{inventory_name} {kind}\n", encoding="ascii")
    pki = {
        "swanroam_credentials": [
            {"src": f"{tmp_path}/{{{{ inventory_hostname }}}}.pem", "dest": "x509/{{ inventory_hostname }}.pem"},
            {"src": f"{tmp_path}/{{{{ inventory_hostname }}}}.key", "dest": "private/{{ inventory_hostname }}.key"},
        ]
    }
    for inventory_name in NAMES:
        for directory in ("x509", "private"):
            fleet.host(inventory_name).run(["mkdir", f"/etc/swanctl/{directory}"])
    run = fleet.playbook("site.yml", [CERTIFICATES], variables=pki)
    for inventory_name in NAMES:
        host = fleet.host(inventory_name)
        assert "auth = pubkey" in read(host, "/etc/swanctl/conf.d/swanroam.conf")
        assert read(host, f"/etc/swanctl/private/{inventory_name}.key") == f"{inventory_name} key\n"
        assert host.run(["stat", "-c", "%a", f"/etc/swanctl/private/{inventory_name}.key"]).stdout == "600\n"
        assert host.run(["test", "-e", "/etc/swanctl/conf.d/swanroam-secrets.conf"], check=False).returncode == 1
        host.run(["rm", "-r", "/etc/swanctl/x509", "/etc/swanctl/private"])

    # All is taken back.
    fleet.playbook("remove.yml", [CERTIFICATES])
    before_swanroam = {
        inventory_name: {path: what for path, what in found.items() if not path.startswith("/opt/swanroam-")}
        for inventory_name, found in fresh.items()
    }
    assert places(fleet) == before_swanroam
    assert fleet.playbook("remove.yml", [CERTIFICATES]).changed == {}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"swanroam_psks": {}}, 'swanroam_psks needs an entry named "edge-1.example.org gateway-1.example.org"'),
        ({"swanroam_peer_groups": []}, "edge-1 has no peers: set swanroam_peer_groups or swanroam_peers"),
        ({"swanroam_remote_addrs": []}, "does not know where to find them"),
        ({"swanroam_config": {"control": {"prefix": "fd00::/8"}}}, "needs one that is written like"),
        ({"swanroam_config": {"peers": []}}, "use swanroam_identity, swanroam_peers"),
        ({"swanroam_auth": "password"}, "value of swanroam_auth must be one of: existing, psk, pubkey"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_done(
    fleet: Fleet, variables: dict[str, object], said: str
) -> None:
    run = fleet.playbook("site.yml", [PSK], "--limit", "edge-1", variables=variables, check=False)
    assert run.status != 0
    assert said in " ".join(run.output.replace('\\"', '"').split())
    assert run.changed == {}


RECEIVE = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_RAW, 4) as raw:
    raw.settimeout(3)
    print("ready", flush=True)
    try:
        raw.recv(100)
        print("received", flush=True)
    except TimeoutError:
        print("nothing", flush=True)
"""
SEND = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_RAW, 4) as raw:
    raw.bind((sys.argv[1], 0))
    raw.sendto(bytes(20), (sys.argv[2], 0))
"""
CHAIN = """
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established accept
        tcp dport 22 accept
        meta l4proto ipv6-icmp accept
    }
}
"""


def test_firewall_lets_in_the_carrier_from_where_peers_can_be(fleet: Fleet) -> None:
    edge, gateway = (fleet.host(inventory_name) for inventory_name in NAMES)
    for host in (edge, gateway):
        host.run(["nft", "-f", "-"], stdin_text=CHAIN)
    before = gateway.run(["nft", "list", "ruleset"]).stdout
    # The gateway does not move; edges and relay are allowed here.
    variables = {"swanroam_firewall": "nftables", "swanroam_config": {"defaults": {"allow": ["10.1.1.0/24"]}}}

    fleet.playbook("site.yml", [PSK], variables=variables)
    assert fleet.playbook("site.yml", [PSK], variables=variables).changed == {}
    for host in (edge, gateway):
        host.run(["systemctl", "start", "swanroam-firewall"])
        host.run(["/etc/swanroam/firewall", "start"])  # as when the service is reloaded
    rules = {host.name: host.run(["nft", "-n", "list", "ruleset"]).stdout for host in (edge, gateway)}
    assert rules[gateway.name].count("jump swanroam") == 1
    assert "ip saddr 10.1.1.0/24 ip protocol 4 accept" in rules[gateway.name]
    assert "ip saddr { 10.1.1.0/24, 192.0.2.1 } ip protocol 4 accept" in rules[edge.name]
    assert received(gateway, edge)
    edge.ip(f"addr add 10.1.9.9/32 dev {edge.network}")
    assert not received(gateway, edge, source="10.1.9.9")

    fleet.playbook("site.yml", [PSK])
    assert gateway.run(["test", "-e", "/etc/swanroam/firewall"], check=False).returncode == 1
    assert gateway.run(["nft", "list", "ruleset"]).stdout == before
    assert not received(gateway, edge)


def received(host: Host, sender: Host, source: str | None = None) -> bool:
    """Whether IP-in-IP from the sender gets past the host's firewall: to a raw socket, which comes after it."""
    receiver = host.popen([SYSTEM_PYTHON, "-c", RECEIVE])
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "ready\n"
    sender.run([SYSTEM_PYTHON, "-c", SEND, source or str(sender.address), str(host.address)])
    return receiver.stdout.readline() == "received\n"


def test_the_collection_holds_what_the_role_needs(tmp_path: Path) -> None:
    """Files that are links in the repository are files in the collection."""
    program = Path(sys.executable).with_name("ansible-galaxy")
    command([str(program), "collection", "build", str(COLLECTION), "--output-path", str(tmp_path)])
    (archive,) = tmp_path.glob("swanroam-fleet-*.tar.gz")
    command(["tar", "-xf", str(archive), "-C", str(tmp_path)])
    made = tmp_path / "roles" / "swanroam" / "files"
    links = COLLECTION / "roles" / "swanroam" / "files"
    assert {path.name for path in made.iterdir()} == {path.name for path in links.iterdir()} != set()
    for path in made.iterdir():
        assert not path.is_symlink()
        assert path.read_bytes() == (links / path.name).read_bytes()

"""The files of strongswan-conf/ as an administrator installs them, on two real charons, without swanroam.

What each test installs is the file itself; only the documentation's names and addresses are replaced by the lab's.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from lab import charon as lab_charon
from lab.addressing import inner_address
from lab.charon import Association
from lab.host import Host
from lab.namespace import CommandError
from lab.topology import Lab
from lab.waiting import wait_for

pytestmark = pytest.mark.lab

DROP_INS = Path(__file__).resolve().parents[2] / "strongswan-conf"
GROUP = "swanroam-group.conf"
"""Names a group that a host has once systemd/swanroam.sysusers is installed; charon does not start without it."""
DOCUMENTED_PEER = "192.0.2.1"
DATA, CONTROL = "data", "swanroam"
ROAM_DELAY = 0.1
"""Seconds after which charon follows a change of addresses (ROAM_DELAY in its kernel-netlink plugin)."""

EXISTING = """
connections {
    %(name)s {
        version = 2
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
                start_action = %(start_action)s
            }
        }
    }
}
secrets {
    ike-site {
        secret = "of the site"
    }
}
"""


def install(host: Host, name: str, drop_in: str | Path, replacements: Mapping[str, str] | None = None) -> None:
    """Put a file into the host's conf.d, which its swanctl.conf includes as distributions' do."""
    directory = host.charon.swanctl_directory
    (directory / "swanctl.conf").write_text("include conf.d/*.conf\n", encoding="utf-8")
    (directory / "conf.d").mkdir(exist_ok=True)
    text = drop_in.read_text(encoding="utf-8") if isinstance(drop_in, Path) else drop_in
    for documented, actual in (replacements or {}).items():
        assert documented in text
        text = text.replace(documented, actual)
    (directory / "conf.d" / f"{name}.conf").write_text(text, encoding="utf-8")


@pytest.fixture
def strongswan_drop_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every charon of the lab gets the drop-ins for strongswan.conf but GROUP, after the lab's own settings."""
    files = (path for path in (DROP_INS / "strongswan.d").glob("*.conf") if path.name != GROUP)
    included = "\n".join([lab_charon._STRONGSWAN_CONF, *(f"include {path}" for path in files), ""])
    monkeypatch.setattr(lab_charon, "_STRONGSWAN_CONF", included)


def children(host: Host) -> dict[str, Association]:
    return {sa.child: sa for sa in host.charon.associations()}


def wait_up(host: Host, connection: str, *names: str) -> dict[str, Association]:
    host.charon.wait_established(connection, *names)
    return children(host)


def assert_data_and_control(lab: Lab, host: Host, found: Mapping[str, Association], peer: Host) -> None:
    assert set(found) == {DATA, CONTROL}
    assert found[DATA].mode == "TRANSPORT"
    assert found[DATA].local_ts == (f"{host.address}/32",)
    assert found[DATA].remote_ts == (f"{peer.address}/32",)
    assert found[CONTROL].mode == "TUNNEL"
    assert found[CONTROL].local_ts == (f"{host.inner_address}/128",)
    assert found[CONTROL].remote_ts == (f"{peer.inner_address}/128",)
    assert len({sa.ike_id for sa in found.values()}) == 1


@pytest.mark.usefixtures("strongswan_drop_ins")
@pytest.mark.parametrize(("authentication", "file"), [("psk", "psk.conf"), ("certificate", "certificates.conf")])
def test_complete_connection_comes_up_by_itself(make_lab: Callable[..., Lab], authentication: str, file: str) -> None:
    lab = make_lab(authentication=authentication, roam_events=True)
    install(lab.correspondent, "swanroam", DROP_INS / "swanctl" / "correspondent" / file)
    replacements = {DOCUMENTED_PEER: str(lab.correspondent.address)}
    install(lab.mobile, "swanroam", DROP_INS / "swanctl" / "mobile" / file, replacements)

    lab.correspondent.charon.start()
    lab.mobile.charon.start()

    found = wait_up(lab.mobile, "correspondent", DATA, CONTROL)
    assert_data_and_control(lab, lab.mobile, found, lab.correspondent)
    found = wait_up(lab.correspondent, "mobile", DATA, CONTROL)
    assert_data_and_control(lab, lab.correspondent, found, lab.mobile)
    for host in (lab.mobile, lab.correspondent):
        assert "output-mark 0x5353" in host.ip("xfrm state")
        assert "replay_window 128" in host.ip("xfrm state")


@pytest.mark.usefixtures("strongswan_drop_ins")
def test_mobile_drop_in_keeps_charon_at_the_old_address(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(roam_events=True)  # the drop-in, read later, says no
    lab.start()
    old = str(lab.mobile.address)

    lab.mobile.move_to("net-b")
    wait_for(lambda: lab.mobile.charon.log_lines(r"appeared on net-b"), 10, "charon sees the new address")
    time.sleep(10 * ROAM_DELAY)  # nothing is to happen: there is no event to wait for

    assert {sa.local for sa in lab.mobile.charon.associations()} == {old}


def test_literal_address_without_mobike_keeps_charon_at_the_old_address(make_lab: Callable[..., Lab]) -> None:
    """The other way, for a charon whose other connections are to roam."""
    lab = make_lab(roam_events=True)
    install(lab.correspondent, "swanroam", DROP_INS / "swanctl" / "correspondent" / "psk.conf")
    old = str(lab.mobile.address)
    replacements = {DOCUMENTED_PEER: str(lab.correspondent.address), "local_addrs = %any": f"local_addrs = {old}"}
    install(lab.mobile, "swanroam", DROP_INS / "swanctl" / "mobile" / "psk.conf", replacements)
    lab.correspondent.charon.start()
    lab.mobile.charon.start()
    wait_up(lab.mobile, "correspondent", DATA, CONTROL)

    lab.mobile.move_to("net-b")
    wait_for(
        lambda: lab.mobile.charon.log_lines("keeping statically configured path"), 10, "charon keeps the old address"
    )

    assert {sa.local for sa in lab.mobile.charon.associations()} == {old}


def test_control_child_is_added_to_a_running_connection_without_touching_it(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab()
    mobile, correspondent = lab.mobile, lab.correspondent
    sites = (
        (correspondent, "roadwarrior", "%any", mobile, "none"),
        (mobile, "home", str(correspondent.address), correspondent, "start"),
    )
    for host, name, remote_addrs, peer, start_action in sites:
        values = {"name": name, "remote_addrs": remote_addrs, "start_action": start_action}
        install(host, "site", EXISTING % {**values, "own": host.identity, "peer": peer.identity})
        host.charon.start()
    before = wait_up(mobile, "home", "web")["web"]

    install(correspondent, "swanroam", DROP_INS / "swanctl" / "correspondent" / "extend-existing.conf")
    install(mobile, "swanroam", DROP_INS / "swanctl" / "mobile" / "extend-existing.conf")
    correspondent.swanctl("--load-conns")
    mobile.swanctl("--load-conns")

    after = wait_up(mobile, "home", "web", CONTROL)
    assert (after["web"].spi_in, after["web"].spi_out) == (before.spi_in, before.spi_out)
    assert {sa.ike_id for sa in after.values()} == {before.ike_id}
    assert after[CONTROL].remote_ts == (f"{correspondent.inner_address}/128",)


def many_mobiles(make_lab: Callable[..., Lab], file: str) -> Lab:
    """Two mobile hosts, and a correspondent with one of the files for many; no charon runs yet."""
    lab = make_lab(mobiles=2, authentication="certificate")
    gateway = lab.correspondent
    replacements = {
        "gateway.pem": "correspondent.pem",
        "gateway.example.org": gateway.identity,
        str(inner_address("gateway.example.org")): str(gateway.inner_address),
    }
    if file == "many-mobiles.conf":
        for documented, host in zip(("laptop-1", "laptop-2"), lab.mobiles, strict=True):
            documented_inner = inner_address(f"{documented}.example.org")
            replacements |= {documented: host.name, str(documented_inner): str(host.inner_address)}
    install(gateway, "swanroam", DROP_INS / "swanctl" / "correspondent" / file, replacements)
    for host in lab.mobiles:
        own = {
            DOCUMENTED_PEER: str(gateway.address),
            "mobile.pem": f"{host.name}.pem",
            "mobile.example.org": host.identity,
            str(inner_address("mobile.example.org")): str(host.inner_address),
        }
        install(host, "swanroam", DROP_INS / "swanctl" / "mobile" / "certificates.conf", own)
    return lab


@pytest.mark.parametrize("file", ["many-mobiles.conf", "many-mobiles-prefix.conf"])
def test_each_of_many_mobiles_gets_its_own_inner_address(make_lab: Callable[..., Lab], file: str) -> None:
    lab = many_mobiles(make_lab, file)
    lab.correspondent.charon.start()
    for host in lab.mobiles:
        host.charon.start()

    for host in lab.mobiles:
        found = wait_up(host, "correspondent", DATA, CONTROL)
        assert_data_and_control(lab, host, found, lab.correspondent)


@pytest.mark.parametrize(("file", "refused"), [("many-mobiles.conf", True), ("many-mobiles-prefix.conf", False)])
def test_another_mobiles_inner_address_is_refused_only_where_each_has_its_own(
    make_lab: Callable[..., Lab], file: str, refused: bool
) -> None:
    lab = many_mobiles(make_lab, file)
    thief, victim = lab.mobiles
    conf = thief.charon.swanctl_directory / "conf.d" / "swanroam.conf"
    conf.write_text(conf.read_text().replace(str(thief.inner_address), str(victim.inner_address)))
    lab.correspondent.charon.start()
    thief.charon.start()
    wait_up(thief, "correspondent", DATA)

    if refused:
        with pytest.raises(CommandError, match="TS_UNACCEPTABLE"):
            thief.charon.initiate("correspondent", CONTROL)
    else:
        assert wait_up(thief, "correspondent", CONTROL)[CONTROL].local_ts == (f"{victim.inner_address}/128",)

"""The package's hooks, run by who really calls them while an interface goes down; what they order is noted."""

from __future__ import annotations

from pathlib import Path

import pytest

from package.conftest import CONFIGURATION
from package.debian_root import DebianRoot

DOUBLE = Path(__file__).parent / "daemon_double.py"

WIFI = "192.0.2.1"
CABLE = "198.51.100.1"
PEER = "203.0.113.9"
NOTES = "/root/orders"

EARLY = f"{CABLE} office while 127.0.0.1/8 {WIFI}/24 {CABLE}/24"
"""The order to move, given while the address that goes is still there."""
LATE = f"auto office while 127.0.0.1/8 {CABLE}/24"
"""The order to follow the routing again, when it has gone."""

HOST = f"""
    ip link set lo up
    for name in wlan0 eth0; do
        ip link add $name type veth peer name far-$name
        ip link set $name up; ip link set far-$name up
    done
    ip addr add {WIFI}/24 dev wlan0 label wlan0
    ip addr add {CABLE}/24 dev eth0
    ip route add default via 192.0.2.254 metric 100
    ip route add default via 198.51.100.254 metric 600
    exec 3< <(exec python3 /root/daemon_double.py {WIFI} {PEER} {NOTES})
    read -r ready <&3; [ "$ready" = ready ]
"""


@pytest.fixture
def root(installed: DebianRoot) -> DebianRoot:
    installed.put("/etc/swanroam/swanroam.yaml", CONFIGURATION)
    installed.bring(DOUBLE)
    return installed


def orders(root: DebianRoot, script: str) -> list[str]:
    """What the daemon is asked for while the script runs on a host with Wi-Fi and a cable."""
    said = root.shell(HOST + script + f"\ntouch {NOTES}; echo; cat {NOTES}")
    return said.split("\n\n")[-1].split("\n")[:-1] if "\n\n" in said else said.split("\n")[1:-1]


@pytest.mark.parametrize("reason", ["RELEASE", "STOP", "EXPIRE", "FAIL"])
def test_dhclient_gives_its_address_back(root: DebianRoot, reason: str) -> None:
    script = f"env reason={reason} interface=wlan0 old_ip_address={WIFI} old_subnet_mask=24 pid=1 /sbin/dhclient-script"
    assert orders(root, script) == [EARLY, LATE]


def test_dhclient_renews_or_gets_its_first_address(root: DebianRoot) -> None:
    renews = f"env reason=RENEW interface=wlan0 old_ip_address={WIFI} new_ip_address={WIFI} new_subnet_mask=24"
    first = "env reason=BOUND interface=wlan0 new_ip_address=192.0.2.77 new_subnet_mask=24"
    assert orders(root, f"{renews} /sbin/dhclient-script; {first} /sbin/dhclient-script") == []


def test_ifdown_takes_an_interface_down(root: DebianRoot) -> None:
    root.put(
        "/etc/network/interfaces",
        f"auto wlan0\niface wlan0 inet static\n  address {WIFI}/24\n  gateway 192.0.2.254\n",
    )
    assert orders(root, "mkdir -p /run/network; ifdown --force wlan0") == [EARLY, LATE]


NETWORKMANAGER = """
    # As nm-dispatcher does it: NetworkManager-dispatcher(8). pre-down.d runs first and is waited for.
    dispatch() { # DIRECTORY ACTION
        for script in $(run-parts --list /usr/lib/NetworkManager/$1); do
            env -i CONNECTION_ID=home CONNECTION_UUID=0c2f CONNECTION_FILENAME=/run/NetworkManager/home.nmconnection \
                DEVICE_IFACE=wlan0 DEVICE_IP_IFACE=wlan0 IP4_NUM_ADDRESSES=1 "IP4_ADDRESS_0=192.0.2.1/24 192.0.2.254" \
                IP4_GATEWAY=192.0.2.254 CONNECTIVITY_STATE=FULL NM_DISPATCHER_ACTION=$2 "$script" wlan0 $2
        done
    }
"""


def test_networkmanager_takes_a_connection_down(root: DebianRoot) -> None:
    script = """
        dispatch dispatcher.d/pre-down.d pre-down
        ip link set wlan0 down; ip addr flush dev wlan0
        dispatch dispatcher.d down
    """
    assert orders(root, NETWORKMANAGER + script) == [EARLY, LATE]


def test_networkmanager_says_other_things(root: DebianRoot) -> None:
    script = "for action in up dhcp4-change connectivity-change hostname down; do dispatch dispatcher.d $action; done"
    assert orders(root, NETWORKMANAGER + script) == []


NETWORKD_DISPATCHER = """
import importlib.machinery, importlib.util
loader = importlib.machinery.SourceFileLoader("dispatcher", "/usr/bin/networkd-dispatcher")
dispatcher = importlib.util.module_from_spec(importlib.util.spec_from_loader("dispatcher", loader))
loader.exec_module(dispatcher)
# systemd-networkd does not run here; all else is networkd-dispatcher's own.
dispatcher.get_networkctl_list = lambda: [dispatcher.NetworkctlListState(2, "wlan0", "ether", "routable", "configured")]
dispatcher.get_networkctl_status = lambda name: {"Address": []}
scripts = "/etc/networkd-dispatcher:/usr/lib/networkd-dispatcher"
dispatcher.Dispatcher(scripts).handle_state("wlan0", operational_state="off")
"""


def test_networkctl_takes_down_an_interface_that_was_left(root: DebianRoot) -> None:
    root.put("/root/dispatch.py", NETWORKD_DISPATCHER)
    script = """
        /usr/lib/swanroam/interface-hook leaving wlan0
        ip link set wlan0 down; ip addr flush dev wlan0
        python3 /root/dispatch.py
    """
    assert orders(root, script) == [EARLY, LATE]


def test_an_order_by_hand_is_not_taken_back_when_an_interface_goes(root: DebianRoot) -> None:
    """The last word about an address that an operator asked for is the operator's."""
    script = f"""
        swanroam move {CABLE} --peer office >/dev/null
        {NETWORKMANAGER}
        dispatch dispatcher.d/pre-down.d pre-down
        ip link set wlan0 down; ip addr flush dev wlan0
        dispatch dispatcher.d down
    """
    assert orders(root, script) == [EARLY]


def test_without_daemon_or_configuration_hooks_are_silent_and_quick(root: DebianRoot) -> None:
    script = "/usr/lib/swanroam/interface-hook leaving wlan0; /usr/lib/swanroam/interface-hook gone wlan0"
    assert root.shell(script) == ""
    root.run("rm", "/etc/swanroam/swanroam.yaml")
    assert root.shell(script) == ""


def test_where_there_is_no_other_way_nothing_is_ordered_or_taken_back(root: DebianRoot) -> None:
    script = """
        ip link set eth0 down
        /usr/lib/swanroam/interface-hook leaving wlan0
        ip addr flush dev wlan0
        /usr/lib/swanroam/interface-hook gone wlan0
    """
    assert orders(root, script) == []

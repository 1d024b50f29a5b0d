"""The old address gets a new owner while sockets that do not move still use it.

They go on, protected. The mobile host and the new owner reach each other as any two hosts do; for the correspondent
the address is the mobile host's until it is released. Nothing is in clear between the two.
"""

import re

import pytest

from lab.namespace import Namespace
from lab.topology import Lab
from lab.waiting import wait_for
from scenarios.agreement import rekey_all
from scenarios.scenario import start

pytestmark = pytest.mark.lab


def test_the_new_owner_of_an_old_address_is_reached_beside_its_sockets(lab: Lab) -> None:
    story = start(lab, config={"defaults": {"transport": "keep"}})
    mix = story.traffic()
    old = lab.mobile.address
    lab.mobile.move_to("net-b", gap=0.5)
    story.wait_moved()
    lab.mobile.controller.wait_event("release_waits_for_sockets")

    owner = lab.add_bystander("net-a", lab.mobile.number)
    answered = _ping(owner, old, lab.mobile.address)
    asked = _ping(lab.mobile, lab.mobile.address, old)
    assert (answered, asked) == (3, 3)
    assert _echo_requests(owner, lab) == 3

    _ping(lab.correspondent, lab.correspondent.address, old)
    assert _echo_requests(owner, lab) == 3, "the correspondent's were for the mobile host"
    rekey_all(lab.mobile)  # the old IKE_SA's as well
    mix.wait_passing()
    mix.stop()
    wait_for(lambda: lab.mobile.log_events("address_released"), 30, "the old address is released")
    story.finish()


def _ping(host: Namespace, source: object, target: object) -> int:
    """How many of three were answered."""
    argv = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "5", "-I", str(source), str(target)]
    found = re.search(r"(\d+) received", host.run(argv, check=False).stdout)
    assert found is not None
    return int(found[1])


def _echo_requests(host: Namespace, lab: Lab) -> int:
    """How many have come to a host."""
    path, name = ("snmp", "InType8") if lab.family.value == 4 else ("snmp6", "Icmp6InEchos")
    text = host.run(["cat", f"/proc/net/{path}"]).stdout
    if lab.family.value == 6:
        return int(dict(line.split() for line in text.splitlines())[name])
    names, values = (line.split() for line in text.splitlines() if line.startswith("IcmpMsg:"))
    return int(dict(zip(names, values, strict=True)).get(name, "0"))

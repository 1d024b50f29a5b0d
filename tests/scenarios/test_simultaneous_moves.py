"""Both hosts lose their addresses at the same moment: neither can tell the other where it is, so they look by name.

    mobile          correspondent
    net-a, gone     net-d, gone       the address changes of both go to where nobody is
    net-b           net-e             the name of one of them resolves to here: IKE, and everything is as after any move

The live TCP connections wait meanwhile, and go on.
"""

from collections.abc import Callable

import pytest

from lab.addressing import NETWORKS, Family
from lab.topology import Lab
from scenarios.native import Native
from scenarios.scenario import start

pytestmark = pytest.mark.lab

PATIENT = {"timing": {"give_up": "5m"}}
"""A peer that counts as silent is also tried with IKE where it was. On a slow machine that would succeed late, through
the carrier, in the middle of the comparisons."""
FOUND_WITHIN = 120.0
"""Seconds: a name that leads astray costs one attempt of IKE and a pause."""


def move_both(lab: Lab) -> None:
    """Nothing that one has to say arrives where the other was: its link is down before either has a new address."""
    for host in lab.hosts:
        host.link_down(host.network)
    for host, network in zip(lab.hosts, ("net-b", "net-e"), strict=True):
        host.move_to(network, gap=0.1)


def restore_links(lab: Lab) -> None:
    """For the comparison with how things were in the beginning."""
    lab.mobile.link_up("net-a")
    lab.correspondent.link_up("net-d")


@pytest.fixture
def named(make_lab: Callable[..., Lab], family: Family) -> Lab:
    """The lab with hosts that have names, by which the mobile host connects."""
    made = make_lab(family=family, named=True)
    made.start()
    return made


@pytest.mark.parametrize("method", ["renegotiate", pytest.param("migrate", marks=pytest.mark.long)])
def test_the_mobile_host_finds_the_correspondent_by_its_name(named: Lab, method: str) -> None:
    """Which at first resolves to another host: nothing follows from that."""
    lab = named
    story = start(lab, method=method, config=PATIENT)
    mix = story.traffic(bulk_rate=20_000, udp_rate=0)
    native = Native(story)
    bystander = NETWORKS["net-e"].address(lab.family, 9)
    lab.add_bystander("net-e", 9)

    lab.name_hosts({lab.correspondent: bystander})
    where = lab.mobile.status()["peers"][0]["peer"]
    move_both(lab)
    mobile = lab.mobile.controller
    failed = mobile.wait_event("peer_not_found", FOUND_WITHIN, peer=lab.correspondent.name)
    assert str(bystander) in failed["detail"]
    assert not mobile.log_events("peer_found")
    (peer,) = lab.mobile.status()["peers"]
    assert peer["sought_at"] == [str(bystander)]
    assert (peer["peer"], peer["proven"]) == (where, where["current"])

    lab.name_hosts()
    found = mobile.wait_event("peer_found", FOUND_WITHIN, peer=lab.correspondent.name)
    assert found["detail"] == f"{lab.mobile.address}-{lab.correspondent.address}"
    print(f"native {native.wait():.1f} s after it was found")
    mix.wait_passing()
    mix.stop()
    restore_links(lab)
    story.finish()
    assert not lab.correspondent.log_events("peer_found"), "it has no name of the mobile host"


@pytest.mark.long
@pytest.mark.parametrize("family", [Family.IPV4], ids=["ipv4"])
def test_both_hosts_look_for_each_other_and_one_association_is_left(named: Lab) -> None:
    lab = named
    for host in lab.hosts:
        (peer,) = host.controller.peers
        host.controller.peer_settings = {"fallback": [peer.identity]}
    story = start(lab, config=PATIENT)
    mix = story.traffic(bulk_rate=20_000, udp_rate=0)
    native = Native(story)

    move_both(lab)
    lab.name_hosts()
    print(f"native {native.wait(FOUND_WITHIN):.1f} s after both moved")
    assert any(host.log_events("peer_found") for host in lab.hosts)
    mix.wait_passing()
    mix.stop()
    restore_links(lab)
    story.finish()

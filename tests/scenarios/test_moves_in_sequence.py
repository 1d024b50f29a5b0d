"""Moves that meet: back to where one was, on before the last was through, many in a row, and moves that are none.

TCP connections live through each story from its beginning to its end, and every byte of them is compared.
"""

import pytest

from lab.addressing import NETWORKS, Family
from lab.host import Host
from lab.topology import Lab
from scenarios.agreement import rekey_all
from scenarios.native import Native
from scenarios.scenario import ON_THE_CARRIER, start

pytestmark = pytest.mark.lab


def test_the_same_address_comes_back_and_then_a_planned_move(lab: Lab) -> None:
    """DHCP takes the address away and gives it again, twice; then an administrator moves the host by hand, and back."""
    story = start(lab)
    mobile = lab.mobile
    mix = story.traffic(udp_rate=100)

    mobile.move_to("net-a")
    mix.wait_passing()
    mobile.move_to("net-a", gap=3.0)
    mix.wait_passing()
    assert not mobile.log_events("handover_started")

    add_without_preference(mobile, "net-b")
    mobile.controller.wait_event("addresses_changed", addresses=addresses(mobile, "net-a", "net-b"))
    said = order(mobile, "net-b", str(mobile.address_in("net-b")))
    story.wait_arrived()
    assert all(step in said for step in ("deprecated", "acknowledged", "proven", "filters"))
    mix.wait_passing()
    order(mobile, "net-a", "auto")
    story.wait_arrived()
    mix.wait_passing()

    mobile.remove_address("net-b")
    mix.stop()
    story.finish()


def order(host: Host, network: str, address: str) -> str:
    """`swanroam move ADDRESS`, which succeeds and takes the host to a network; returns what it prints."""
    done = host.controller.command("move", address, "--config", str(host.controller.config_file))
    print(f"$ swanroam move {address}\n{done.stdout}{done.stderr}")
    assert done.status == 0
    host.network = network
    return done.stdout


def add_without_preference(host: Host, network: str) -> None:
    """Addresses in a network, with default routes that are not preferred to the present ones."""
    lines: list[str] = []
    for family in Family:
        where, address = NETWORKS[network], host.address_in(network, family)
        flags = " nodad" if family is Family.IPV6 else ""
        lines += [
            f"addr add {address}/{where.prefix_length(family)} dev {network}{flags}",
            f"route add default via {where.router(family)} dev {network} metric 5000",
        ]
    host.ip(*lines)


def addresses(host: Host, *networks: str) -> list[str]:
    """All addresses of a host in these networks, as its controller logs them."""
    return sorted(str(host.address_in(network, family)) for network in networks for family in Family)


def test_back_within_grace_and_rekeys_while_both_addresses_are_in_use(lab: Lab) -> None:
    """To the second network, back before anything is released, and there again. Then old and new IKE_SA live side by
    side, data runs through the carrier, and everything is rekeyed from both sides."""
    story = start(lab, grace="8s", config=ON_THE_CARRIER)
    mobile = lab.mobile
    mix = story.traffic(udp_rate=100)

    mobile.move_to("net-b", soft=True)
    story.wait_arrived()
    mobile.move_to("net-a")
    back = story.wait_arrived()
    mix.wait_passing()
    assert not mobile.log_events("handover_step_finished", step="grace")
    mobile.move_to("net-b")
    story.wait_arrived()
    assert mobile.controller.wait_event("handover_finished", handover=back["handover"])["result"] == "overtaken"

    story.wait_one_control_child()
    for host in lab.hosts:
        rekey_all(host)
        mix.wait_passing()
    assert not mobile.log_events("address_released")

    mix.stop()
    story.finish()


def test_on_to_a_third_network_before_the_second_is_acknowledged(lab: Lab) -> None:
    """First the peer never hears of the second address; then it does, but its acknowledgment does not arrive."""
    story = start(lab)
    mobile = lab.mobile
    mix = story.traffic(udp_rate=100)

    with lab.router.blocked("net-b", "up"):
        mobile.move_to("net-b")
        unheard = mobile.controller.wait_event("handover_started")
        mobile.move_to("net-c")
        story.wait_arrived()
    mix.wait_passing()
    overtaken = mobile.controller.wait_event("handover_finished", handover=unheard["handover"])
    assert overtaken["result"] == "overtaken"
    assert "acknowledged" not in overtaken["seconds"]

    # On a slow machine the first change may still go out by way of net-c, before the controller knows of that.
    known = len(lab.correspondent.log_events("handover_started"))
    with lab.router.blocked("net-a", "down"):
        mobile.move_to("net-a")
        at_peer = lab.correspondent.controller.wait_event("handover_started", count=known + 1)
        mobile.move_to("net-b")
        story.wait_arrived()
    mix.wait_passing()
    for host in lab.hosts:
        overtaken = host.controller.wait_event("handover_finished", handover=at_peer["handover"])
        assert overtaken["result"] == "overtaken"

    mix.stop()
    story.finish()


def test_ten_moves_in_a_row(lab: Lab) -> None:
    """Soft and hard ones, some finished and some overtaken by the next. The sockets come along."""
    story = start(lab, grace="0.5s")
    mix = story.traffic(udp_rate=0)
    native = Native(story)

    for number, letter in enumerate("bcabcbacbc"):
        network = f"net-{letter}"
        soft = lab.random.random() < 0.5
        lab.mobile.move_to(network, soft=soft, overlap=lab.random.uniform(0.1, 0.6))
        if number % 3 or number == 9:
            story.wait_arrived()
            print(f"move {number + 1}: at {network} {native.wait():.1f} s after the filters")
            mix.wait_passing()

    mix.stop()
    story.finish()
    results = [record["result"] for record in lab.mobile.log_events("handover_finished")]
    assert len(results) == 10
    assert set(results) <= {"done", "overtaken"}

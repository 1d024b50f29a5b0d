"""While sockets are being moved: whatever can be killed is killed, SAs are rekeyed, and both hosts move at once.

One connection in use all the time, an idle one, and UDP. After each interruption all of them are at the present
addresses on both hosts: a daemon that is started again finds them as they are, half moved or not, and completes it.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import pytest

from lab.addressing import Family
from lab.connections import connections, sockets
from lab.host import Host
from lab.topology import Lab
from lab.waiting import wait_for
from scenarios.agreement import begin_rekeys
from scenarios.native import Native
from scenarios.remains import MOVER, NURSERY, kill_one
from scenarios.scenario import GRACE, start

pytestmark = [
    pytest.mark.lab,
    pytest.mark.long,
    pytest.mark.parametrize("family", [Family.IPV4], ids=["ipv4"]),
]

LIGHT = {"bulk_rate": 20_000, "udp_rate": 50}
CONFIG = {"defaults": {"grace": GRACE}}
MESSAGES = (1, 2, 3)
"""Kill at this message of a transfer: to prepare, to move, to end."""


def networks() -> Iterator[str]:
    """Where the mobile host goes next, which is never where it is."""
    return cycle(("net-b", "net-c", "net-a"))


def transfer_messages(host: Host) -> int:
    """How many a host has sent, requests or replies."""
    return sum(record["message"].startswith("Transfer") for record in host.log_events("message_sent"))


def wait_transfer(host: Host, count: int) -> None:
    """Until a host has sent so many messages of transfers."""
    what = f"{host.name} has sent {count} messages of transfers"
    wait_for(lambda: transfer_messages(host) >= count, 60, what, host.controller.log_tail, poll=0.01)


def test_a_daemon_is_killed_while_sockets_move(lab: Lab) -> None:
    """Either host's, at each message of a transfer that it sends. Meanwhile nothing of what was held stays so."""
    story = start(lab)
    mix = story.traffic(**LIGHT)
    native, going = Native(story), networks()
    for host in lab.hosts:
        for number in MESSAGES:
            sent = transfer_messages(host)
            lab.mobile.move_to(next(going), soft=True, overlap=0.2)
            wait_transfer(host, sent + number)
            host.kill_controller()
            killed = time.monotonic()
            host.start_controller(CONFIG)
            story.wait_ready(host)
            native.wait()
            took = time.monotonic() - killed
            print(f"{host.name} killed at its message {number}: all at the new address {took:.1f} s later")
            mix.wait_passing()
    mix.stop()
    story.note_descriptors()
    story.finish()


def test_an_address_returns_while_only_the_peer_has_moved_its_sockets(lab: Lab) -> None:
    """The answer to *move* comes later than programs may be held, and before the next attempt the old address is back.

    So the correspondent's sockets are at the new address, and the mobile host's at the old one, which is where they
    are to be again. Its daemon is killed, too: nothing but the sockets and locks tells.
    """
    story = start(lab)
    mix = story.traffic(bulk_rate=20_000, udp_rate=0)
    native = Native(story)
    lab.router.netem("net-b", delay_ms=1500, direction="down")
    lab.mobile.move_to("net-b", soft=True, overlap=0.2)
    moved = "a socket of the correspondent is at the new address"
    wait_for(
        lambda: any(socket.remote == lab.mobile.address for socket in sockets(lab.correspondent)), 60, moved, poll=0.05
    )
    lab.mobile.kill_controller()
    found = connections(lab.mobile, lab.correspondent)
    apart = [connection for connection in found if len(set(connection.addresses)) == 3]
    assert apart, found
    lab.router.netem("net-b")
    lab.mobile.move_to("net-a", soft=True, overlap=0.2)
    lab.mobile.start_controller(CONFIG)
    story.wait_ready(lab.mobile)
    print(f"{len(apart)} of {len(found)} connections stood apart; together again after {native.wait():.1f} s")
    mix.wait_passing()
    mix.stop()
    story.note_descriptors()
    story.finish()


def test_movers_and_nurseries_are_killed_while_sockets_move(lab: Lab) -> None:
    story = start(lab)
    mix = story.traffic(**LIGHT)
    native, going = Native(story), networks()
    for host in lab.hosts:
        for name, number in ((MOVER, 1), (MOVER, 2), (MOVER, 3), (NURSERY, 1)):
            sent = transfer_messages(host)
            lab.mobile.move_to(next(going), soft=True, overlap=0.2)
            wait_transfer(host, sent + number)
            killed, began = kill_one(host, name, lab.random), time.monotonic()
            native.wait()
            took = time.monotonic() - began
            print(f"{host.name}, at message {number}, {name} killed: {killed}; at the new address {took:.1f} s later")
            mix.wait_passing()
    mix.stop()
    story.note_descriptors()
    story.finish()


def test_everything_is_rekeyed_while_sockets_move(lab: Lab) -> None:
    """By each host in turn, as soon as the transfers have begun."""
    story = start(lab, grace="8s")
    mix = story.traffic(**LIGHT)
    native, going = Native(story), networks()
    for host in lab.hosts:
        sent = transfer_messages(lab.mobile)
        lab.mobile.move_to(next(going), soft=True, overlap=0.2)
        wait_transfer(lab.mobile, sent + 1)
        begin_rekeys(host)
        print(f"all rekeyed by {host.name}; at the new address {native.wait():.1f} s later")
        mix.wait_passing()
    mix.stop()
    story.finish()


def test_both_hosts_move_at_once(lab: Lab) -> None:
    """There and back. Each has both of its addresses for a while, or they could not find each other."""
    story = start(lab)
    mix = story.traffic(bulk_rate=20_000, udp_rate=0)
    native = Native(story)
    for networks in (("net-b", "net-e"), ("net-a", "net-d")):
        with ThreadPoolExecutor() as pool:
            moves = [
                pool.submit(host.move_to, network, soft=True, overlap=5.0)
                for host, network in zip(lab.hosts, networks, strict=True)
            ]
            for move in moves:
                move.result()
        print(f"both moved: at the new addresses {native.wait():.1f} s after the old ones were gone")
        mix.wait_passing()
        story.wait_rest()
    for host in lab.hosts:
        own = [record["detail"] for record in host.log_events("handover_started") if "peer" not in record["detail"]]
        assert len(own) == 2, own
    mix.stop()
    story.finish()

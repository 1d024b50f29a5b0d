"""After a move the connections themselves are at the new address, on both hosts; the tunnel and the old address go.

No program has closed anything then. What passes is ESP between the two present addresses, as it would be had the hosts
met there, and nothing in either kernel tells that it was ever otherwise. The history does: afterwards, with no daemon
running, each host's tells what happened, in agreement with the other's.
"""

import json
import time
from collections import Counter
from collections.abc import Callable

import pytest

from lab.addressing import Family
from lab.analysis import Kind
from lab.capture import Capture
from lab.host import Host
from lab.topology import Lab
from scenarios import remains
from scenarios.native import Native
from scenarios.scenario import Story, start

pytestmark = pytest.mark.lab

MANY = 50
"""ESP packets that show that there was something to be seen."""


@pytest.mark.parametrize(
    ("family", "method"),
    [(Family.IPV4, "renegotiate"), (Family.IPV6, "renegotiate"), (Family.IPV4, "migrate"), (Family.IPV6, "migrate")],
    ids=["ipv4", "ipv6", "migrate-ipv4", "migrate-ipv6"],
)
def test_connections_run_natively_after_soft_and_hard_moves(
    make_lab: Callable[..., Lab], family: Family, method: str
) -> None:
    """TCP in both states of use, UDP of a mobile client, and of a client on the correspondent that calls the mobile.

    The server that it calls has no address of its own: it takes a new one before the controller has heard of it.
    """
    lab = make_lab(family=family)
    lab.start()
    story = start(lab, method=method)
    mix = story.traffic(bulk_rate=50_000, udp_rate=200)
    called = lab.traffic.udp_stream(lab.correspondent, lab.mobile, rate=50)
    native = Native(story)
    at_rest: list[tuple[float, float]] = []

    for network, soft in (("net-b", True), ("net-c", False)):
        lab.mobile.move_to(network, soft=soft, overlap=0.5, gap=0.3)
        story.wait_arrived()
        print(f"{network}: {len(native)} sockets at the new address {native.wait():.1f} s after the filters")
        story.wait_rest()
        since = time.monotonic()
        assert_as_if_always_here(story)
        mix.wait_passing()
        called.wait_received(20)
        at_rest.append((since, time.monotonic()))

    reached, result = called.stop(), mix.stop()
    assert result.udp is not None
    for direction in (reached.up, reached.down, result.udp.up, result.udp.down):
        assert not [lost for window in at_rest for lost in direction.lost_between(*window)], direction
    print(f"client on the correspondent, over both moves: {reached}")
    print(say(lab.mobile, "status"))
    story.finish()
    assert_native_packets_only(story.capture, at_rest)
    assert_history(lab.mobile, lab.correspondent)


def assert_as_if_always_here(story: Story) -> None:
    """With connections open, both kernels have what they had at rest before anything moved, and charon as well."""
    for host in story.lab.hosts:
        remains.assert_same(host, story.fresh[host.name], story.began_in, "at rest before anything moved")
        remains.assert_no_idle_connection(host)


def assert_native_packets_only(capture: Capture, windows: list[tuple[float, float]]) -> None:
    """In these times (CLOCK_MONOTONIC) ESP passed, and nothing in IP-in-IP."""
    since_boot = time.time() - time.monotonic()
    packets = capture.packets()
    for began, ended in windows:
        kinds = Counter(seen.kind for seen in packets if began <= seen.time - since_boot <= ended)
        print(f"{ended - began:.1f} s at rest: {dict(kinds)}")
        assert kinds[Kind.ESP] > MANY
        assert not kinds.keys() - {Kind.ESP, Kind.IKE, Kind.LINK}


def assert_history(*hosts: Host) -> None:
    """Both hosts have written down both moves under the same ids: the soft one, and the one without an address."""
    ours, theirs = (json.loads(say(host, "history", "--json")) for host in hosts)
    for host in hosts:
        print(say(host, "history"), say(host, "history", "last"))

    assert [move["id"] for move in ours["handovers"]] == [move["id"] for move in theirs["handovers"]]
    assert [(move["old"], move["new"]) for move in ours["handovers"]] == [
        (move["old"], move["new"]) for move in theirs["handovers"]
    ]
    for document, moved in ((ours, "us"), (theirs, "peer")):
        assert document["unreadable"] == 0
        whats = [event["what"] for event in document["events"]]
        assert (whats[0], whats[-1]) == ("daemon_started", "daemon_stopped")
        for move in document["handovers"]:
            assert (move["moved"], move["result"]) == (moved, "done")
            assert {"acknowledged", "proven", "filters", "transport", "released"} <= move["steps"].keys()
            assert move["sockets"]["moved"] >= 2  # the idle and the busy TCP connection
            assert move["sockets"]["stopped"] > 0
    soft, hard = ours["handovers"]
    assert soft["cause"] in ("preferred", "deprecated")
    assert soft["without_address"] is None
    assert hard["cause"] in ("gone", "link_down")
    assert hard["without_address"] > 0.2


def say(host: Host, *command: str) -> str:
    """What a command of swanroam prints on the host."""
    done = host.controller.command(*command, "--config", str(host.controller.config_file))
    assert done.status == 0, done.stderr
    return done.stdout

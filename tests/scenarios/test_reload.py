"""The configuration changes in the middle of a handover: the handover goes on, a peer goes and comes back, and a file
that can't be taken over changes nothing. The metrics tell what really has happened.

A correspondent with two mobile hosts. While the first moves with open connections, the second is taken out of the
correspondent's configuration: its guards go, the connections of the first arrive.
"""

import itertools
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab.controller import Finished
from lab.host import Host
from lab.topology import Lab
from lab.waiting import wait_for
from scenarios.scenario import GRACE, start

pytestmark = pytest.mark.lab

LISTEN = "127.0.0.1:9510"
CONFIG = {"metrics": {"listen": LISTEN}, "defaults": {"grace": GRACE}}


def scrape(host: Host) -> dict[tuple[str, ...], float]:
    """The host's metrics by name and sorted label values."""
    page = host.run(["curl", "-sf", "--max-time", "20", f"http://{LISTEN}/metrics"]).stdout
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def reload(host: Host, changes: Mapping[str, Any]) -> Finished:
    """`swanroam reload` with another file."""
    file = host.controller.write_config({**CONFIG, **changes})
    done = host.controller.command("reload", "--config", str(file))
    print(f"{host.name}: swanroam reload: {done.status}\n{done.stdout}{done.stderr}")
    return done


def guards(host: Host, peer: Host) -> list[str]:
    """Policies of a host that block what goes to an address of a peer."""
    lines = host.ip("xfrm policy").splitlines()
    selected = [line for line, details in itertools.pairwise(lines) if line.startswith("src ") and "block" in details]
    return [line for line in selected if f"dst {peer.address}/" in line]


def test_a_handover_goes_on_while_the_configuration_changes(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(mobiles=2)
    lab.start()
    story = start(lab, config=CONFIG)
    mobile, correspondent, other = lab.mobile, lab.correspondent, lab.mobiles[1]
    both = correspondent.controller.default_config()["peers"]
    before = {host.name: scrape(host) for host in (mobile, correspondent)}
    assert before["correspondent"]["swanroam_peers", "ready"] == 2
    assert guards(correspondent, other)

    mix = story.traffic(bulk_rate=20_000, udp_rate=0)
    mobile.move_to("net-b")
    mobile.controller.wait_event("handover_started")
    first = [peer for peer in both if peer["name"] == mobile.name]
    assert reload(correspondent, {"peers": first}).stdout.endswith(f"  peer {other.name}: removed\n")
    assert reload(mobile, {"timing": {"refresh": "30s"}}).stdout.endswith("  timing.refresh: 1m -> 30s\n")
    correspondent.controller.wait_event("peer_removed", peer=other.name)
    assert not guards(correspondent, other)
    moved = sockets_moved(mobile, correspondent)
    mix.stop()
    mobile.controller.wait_event("handover_finished", result="done")
    correspondent.controller.wait_event("handover_finished", result="done")

    for host, role in ((mobile, "mobile"), (correspondent, "correspondent")):
        after = scrape(host)
        ended = ("swanroam_handovers_total", *sorted((role, "done")))
        assert after[ended] - before[host.name][ended] == 1
        assert after["swanroam_handover_step_seconds_count", role, "transport"] == 1
        assert after["swanroam_sockets_moved_total",] == moved[host.name] > 0
        assert after["swanroam_sockets_lost_total",] == 0
        assert after["swanroam_messages_received_total", "path_response" if host is correspondent else "acknowledgment"]
        assert after["swanroam_carriers",] == 0
        assert after["swanroam_peers", "ready"] == 1
        assert after["swanroam_config_reloads_total", "applied"] == 1
        counted = {name: after["swanroam_xfrm_errors_total", name] for name in host.xfrm_errors()}
        assert counted == host.xfrm_errors()

    # What can't be taken over changes nothing, and is told by whatever way the file is read.
    elsewhere = {"peers": first, "identity": "elsewhere.example.org"}
    refused = reload(correspondent, elsewhere)
    assert refused.status == 11
    assert "identity: correspondent.example.org -> elsewhere.example.org: needs a restart" in refused.stderr
    wrong = {"peers": first, "timing": {"refrech": "30s"}}
    assert reload(correspondent, wrong).status == 3
    assert correspondent.controller.pid is not None
    os.kill(correspondent.controller.pid, signal.SIGHUP)
    record = correspondent.controller.wait_event("configuration_refused", count=3)
    assert "timing.refrech: is not a known key" in record["problems"][0]
    status = correspondent.status()
    assert "timing.refrech" in status["problems"][0]
    assert scrape(correspondent)["swanroam_config_last_reload_successful",] == 0

    # It is configured again, and all is as it was.
    assert reload(correspondent, {"peers": both}).stdout.endswith(f"  peer {other.name}: added\n")
    wait_for(lambda: guards(correspondent, other), 20, f"{correspondent.name} guards {other.name} again")
    story.wait_ready()
    assert scrape(correspondent)["swanroam_problems",] == 0
    story.note_descriptors()
    story.finish()


def sockets_moved(*hosts: Host) -> dict[str, int]:
    """How many sockets each host has moved, as its log says."""
    return {
        host.name: host.controller.wait_event("handover_step_finished", 60, step="transport")["moved"] for host in hosts
    }

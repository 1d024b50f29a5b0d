"""Sockets that are to stay, or cannot move: they work on over the carrier, are listed, and are ended in the end."""

import json

import pytest

from lab.addressing import Family
from lab.connections import connections
from lab.host import Host
from lab.services import Services
from lab.sessions import Session
from lab.topology import Lab
from lab.traffic import TcpRequests
from lab.waiting import wait_for
from scenarios.native import Native
from scenarios.scenario import start

pytestmark = [pytest.mark.lab, pytest.mark.parametrize("family", [Family.IPV4], ids=["ipv4"])]

KEPT_PORT, SOURCE_PORT = 7007, 7008
CONFIG = {"sockets": {"exclude_ports": [KEPT_PORT], "exclude_processes": ["redis-*"], "end_after": "2s"}}


def test_excluded_and_bound_sockets_stay_and_are_ended_with_a_reset(lab: Lab) -> None:
    """One by its port, one by its program's name, one bound to the old address and a port. All others move."""
    story = start(lab, grace="12s", config=CONFIG)
    mobile, correspondent = lab.mobile, lab.correspondent
    mix = story.traffic(bulk_rate=20_000, udp_rate=50)
    native = Native(story)
    moving = {one.client.local_port for one in connections(mobile, correspondent)}
    with Services(lab.directory) as services:
        services.redis(correspondent)
        client = Session(mobile, ["redis-cli", "-h", str(correspondent.address)])
        client.ask("PING", "^PONG$")
        by_port = lab.traffic.tcp_idle(mobile, correspondent, port=KEPT_PORT)
        bound = lab.traffic.tcp_idle(mobile, correspondent, source_port=SOURCE_PORT)
        stay = {one.client.local_port for one in connections(mobile, correspondent)} - moving
        assert len(stay) == 3
        before = would_move(mobile)
        assert {port for port, moves in before.items() if moves == "yes"} >= moving
        assert {port for port, moves in before.items() if moves in ("no", "perhaps")} == stay

        mobile.move_to("net-b", soft=True, overlap=0.3)
        story.wait_transport()
        native.wait()
        reasons = listed(mobile)
        print(f"listed: {reasons}")
        assert reasons.keys() == stay
        carried = mobile.status()["peers"][0]["sockets"]
        assert all(entry["owners"] for entry in carried), carried
        for reason in (f"port {KEPT_PORT}", "redis-cli/", "bound it to the old address"):
            assert sum(reason in text for text in reasons.values()) == 1, reason
        client.ask("PING", "^PONG$")
        print(f"on the carrier: answers after {by_port.use():.3f} s, {bound.use():.3f} s")

        mobile.controller.wait_event("sockets_ended", 60)
        wait_ended(mobile, stay)
        for connection in (by_port, bound):
            assert_ended_with_a_reset(connection)
        assert client.end() == 0
    story.wait_rest()
    native.wait()
    mix.wait_passing()
    mix.stop()
    story.finish()


def wait_ended(host: Host, ports: set[int]) -> None:
    """Until these sockets are gone."""
    wait_for(lambda: not listed(host).keys() & ports, 30, "sockets are ended", host.controller.log_tail)
    assert host.log_events("sockets_not_ended") == []


def listed(host: Host) -> dict[int, str]:
    """The sockets that `status` shows on the carrier: by their own ports, why they stay there."""
    shown = [entry for peer in host.status()["peers"] for entry in peer["sockets"]]
    return {int(entry["local"].rpartition(":")[2]): entry["stays"] for entry in shown}


def assert_ended_with_a_reset(connection: TcpRequests) -> None:
    """Both programs were told at once, and not left waiting."""
    assert "ConnectionResetError" in connection.server.answer()["error"]
    connection.client.tell("use")
    (error,) = connection.client.answer()["errors"]
    assert error.startswith(("ConnectionAbortedError", "ConnectionResetError", "BrokenPipeError")), error
    connection.client.wait()
    connection.server.kill()


def would_move(host: Host) -> dict[int, str]:
    """What `swanroam sockets` says of each connection, by its own port."""
    done = host.controller.command("sockets", "--json", "--config", str(host.controller.config_file))
    (peer,) = json.loads(done.stdout)["peers"]
    return {int(entry["local"].rpartition(":")[2]): entry["moves"] for entry in peer["sockets"]}


def test_one_host_that_keeps_its_sockets_is_enough(lab: Lab) -> None:
    """`transport: keep` on the correspondent: nothing moves, and the end of the last socket releases the carrier."""
    story = start(lab)
    assert lab.correspondent.stop_controller() == 0
    lab.correspondent.start_controller({"defaults": {"grace": "1s", "transport": "keep"}})
    story.wait_ready()
    mix = story.traffic(bulk_rate=20_000, udp_rate=50)
    before = connections(lab.mobile, lab.correspondent)
    lab.mobile.move_to("net-b")
    story.wait_arrived()
    lab.mobile.controller.wait_event("release_waits_for_sockets")
    mix.wait_passing()
    assert connections(lab.mobile, lab.correspondent) == before
    reasons = listed(lab.mobile)
    print(f"listed: {reasons}")
    assert all(reasons[one.client.local_port] for one in before), reasons
    mix.stop()
    story.note_descriptors()
    story.finish()

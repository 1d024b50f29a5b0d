"""What all scenarios share: how a story begins, what goes on meanwhile, and what must be true when it is over.

    story = start(lab)                          # controllers up and registered with each other, captures running
    mix = story.traffic()                       # TCP bulk, idle TCP, UDP at 1000 packets a second, all both ways
    lab.mobile.move_to("net-b", soft=True)
    story.wait_moved()
    result = mix.stop()                         # compares every byte; raises TrafficError
    story.finish()                              # the invariants

Every story is told of all hosts of its lab. Method and configuration are parameters of `start`.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lab.analysis import Kind
from lab.capture import Capture
from lab.host import Host
from lab.ike_config import CONTROL
from lab.topology import Lab
from lab.traffic import TcpBulk, TcpBulkResult, TcpRequests, TcpRequestsResult, UdpResult, UdpStream
from lab.waiting import wait_for
from scenarios import remains
from scenarios.agreement import contradictions, rekey_all

GRACE = "1s"
"""Short: what is shown does not depend on its length."""
ON_THE_CARRIER = {"defaults": {"transport": "keep"}}
"""Configuration for stories that are about the carrier: no socket moves."""


def start(
    lab: Lab,
    *,
    method: str = "renegotiate",
    grace: str = GRACE,
    config: Mapping[str, Any] | None = None,
    captured: str = "",
) -> "Story":
    """Controllers on all hosts, registered with each other. `config` is merged into every host's configuration.
    `captured`: which packets to capture (`Capture`), all by default.

    The lab's charons must be up (fixture `lab`) and no socket open: how things stand now is how they must be at the
    end.
    """
    before = {host.name: host.snapshot() for host in lab.hosts}
    began_in = {host.name: host.network for host in lab.hosts}
    capture = lab.start_capture(captured)
    settings = {**(config or {})}
    settings["defaults"] = {"filters": method, "grace": grace, **settings.get("defaults", {})}
    lab.start_controllers(settings)
    story = Story(lab, capture, before, began_in)
    story.wait_registered()
    story.note_fresh()
    return story


@dataclass(frozen=True, slots=True)
class MixResult:
    """What became of the traffic. Nothing of TCP was wrong, or `Mix.stop` had raised."""

    bulk: TcpBulkResult
    idle: TcpRequestsResult
    idle_response: float
    """Seconds until the idle connection answered when it was used again."""
    udp: UdpResult | None

    def __str__(self) -> str:
        udp = ""
        if self.udp is not None:
            began = f"{self.udp.up.silence_began:.3f}, {self.udp.down.silence_began:.3f}"
            udp = f"; UDP {self.udp}; silences began at {began}"
        return (
            f"TCP bulk {self.bulk.moved} bytes, longest silence {self.bulk.longest_silence * 1000:.0f} ms; "
            f"idle TCP answered after {self.idle_response * 1000:.0f} ms{udp}"
        )


@dataclass(slots=True)
class Mix:
    """TCP bulk both ways, an idle TCP connection, and UDP both ways on sockets with a source address of their own."""

    bulk: TcpBulk
    idle: TcpRequests
    udp: UdpStream | None

    def wait_passing(self) -> None:
        """Something passes in both directions, now. Raises LabTimeoutError, TrafficError."""
        self.idle.use()
        if self.udp is not None:
            self.udp.wait_received(20)

    def stop(self) -> MixResult:
        """Use the idle connection, then end all three. Raises TrafficError when a byte of TCP is wrong or missing."""
        response = self.idle.use()
        udp = self.udp.stop() if self.udp is not None else None
        bulk = self.bulk.stop().check()
        result = MixResult(bulk, self.idle.stop().check(), response, udp)
        print(f"{time.monotonic():.3f} {result}")
        return result


@dataclass(slots=True)
class Story:
    """One scenario, from `start` to `finish`."""

    lab: Lab
    capture: Capture
    before: dict[str, str]
    """Snapshots from before the controllers were started."""
    began_in: dict[str, str]
    """The network in which each host was then."""
    fresh: dict[str, str] = field(default_factory=dict)
    """Snapshots of the controllers at rest, before anything moved."""
    descriptors: dict[str, int] = field(default_factory=dict)

    def traffic(
        self,
        client: Host | None = None,
        server: Host | None = None,
        *,
        bulk_rate: int = 200_000,
        udp_rate: float = 1000,
    ) -> Mix:
        """Start everything at once, by default from the mobile host to the correspondent. `udp_rate` 0: no UDP."""
        client, server = client or self.lab.mobile, server or self.lab.correspondent
        traffic = self.lab.traffic
        udp = traffic.udp_stream(client, server, rate=udp_rate) if udp_rate else None
        mix = Mix(traffic.tcp_bulk(client, server, rate=bulk_rate), traffic.tcp_idle(client, server), udp)
        if udp is not None:
            udp.wait_received(100)
        return mix

    # --- waiting ------------------------------------------------------------------------------------------------

    def wait_registered(self, count: int = 1) -> None:
        """Every controller is registered with all its peers, for the `count`-th time."""
        for host in self.lab.hosts:
            for peer in host.controller.peers:
                host.controller.wait_event("peer_registered", peer=peer.name, count=count)

    def wait_step(self, step: str, host: Host | None = None, count: int = 1, timeout: float = 30.0) -> dict[str, Any]:
        """A step of the host's `count`-th handover to come so far is done; by default the mobile host's."""
        controller = (host or self.lab.mobile).controller
        return controller.wait_event("handover_step_finished", timeout, step=step, count=count)

    def begin_move(self, network: str) -> None:
        """The mobile host goes there; returns as soon as its controller has begun that handover."""
        mobile = self.lab.mobile
        old, before = mobile.address, mobile.log_events("handover_started")
        mobile.move_to(network)
        move = f"{old} -> {mobile.address}"
        count = 1 + sum(record["detail"] == move for record in before)
        mobile.controller.wait_event("handover_started", detail=move, count=count)

    def wait_moved(self, count: int = 1) -> None:
        """The filters stand at the new address, on both sides."""
        self.wait_step("filters", self.lab.mobile, count)
        self.wait_step("filters", self.lab.correspondent, count)

    def wait_arrived(self, host: Host | None = None, timeout: float = 60.0) -> dict[str, Any]:
        """The filters of a host's latest handover stand at its present address, on both sides. Returns its record."""
        host = host or self.lab.mobile

        def latest() -> dict[str, Any] | None:
            started = [record for record in host.log_events("handover_started") if _is_own(record)]
            return started[-1] if started and started[-1]["detail"].endswith(f" -> {host.address}") else None

        what = f"{host.name} has started a handover to {host.address}"
        record = wait_for(latest, timeout, what, host.controller.log_tail)
        assert record is not None
        handover = record["handover"]
        for end in (host, *host.controller.peers):
            end.controller.wait_event("handover_step_finished", timeout, step="filters", handover=handover)
        return record

    def wait_transport(self, host: Host | None = None, timeout: float = 60.0) -> dict[str, Any]:
        """The sockets of a host's latest handover have been gone over, on both sides. Returns the host's record."""
        host = host or self.lab.mobile
        handover = self.wait_arrived(host, timeout)["handover"]
        records = [
            end.controller.wait_event("handover_step_finished", timeout, step="transport", handover=handover)
            for end in (host, *host.controller.peers)
        ]
        return records[0]

    def wait_ready(self, host: Host | None = None, timeout: float = 30.0) -> None:
        """The controller of a host (of all, if None) knows all its peers, and they know it. After a restart."""
        for one in [host] if host else self.lab.hosts:
            wait_for(
                lambda one=one: all(peer["managed"] and not peer["problem"] for peer in one.status()["peers"]),
                timeout,
                f"{one.name}: its controller has taken over",
                one.controller.log_tail,
            )

    def wait_one_control_child(self, timeout: float = 30.0) -> None:
        """The control CHILD_SAs of earlier address pairs have ended; each host has one for each peer."""
        for host in self.lab.hosts:
            count = len(host.controller.peers)
            wait_for(
                lambda host=host, count=count: sum(sa.child == CONTROL for sa in host.charon.associations()) == count,
                timeout,
                f"{host.name} has {count} control CHILD_SA(s)",
                lambda host=host: f"{host.charon.associations()}",
                poll=0.2,
            )

    def wait_rest(self, timeout: float = 40.0) -> None:
        """Charon, kernel and controllers agree everywhere, at one time, on the addresses that the hosts have now."""

        def differences() -> list[str]:
            return [f"{host.name}: {text}" for host in self.lab.hosts for text in contradictions(host)]

        wait_for(
            lambda: not any(map(contradictions, self.lab.hosts)),
            timeout,
            "charon, kernel and controllers agree and nothing is left",
            lambda: "\n".join(differences()),
            poll=0.3,
        )

    # --- the end ------------------------------------------------------------------------------------------------

    def note_fresh(self) -> None:
        """This is how it is when nothing has moved."""
        self.wait_rest()
        for host in self.lab.hosts:
            self.fresh[host.name] = host.snapshot()
        self.note_descriptors()

    def note_descriptors(self) -> None:
        """After a restart, when all are at rest: this is how many descriptors each controller has."""
        self.wait_rest()
        for host in self.lab.hosts:
            self.descriptors[host.name] = remains.descriptors(host)

    def finish(self, *, rekey: bool = True) -> None:
        """The invariants, once all sockets are closed. Ends the controllers and the captures."""
        self.wait_rest()
        self.print_timelines()
        self.assert_nothing_left()
        if rekey:
            self.rekey_everything()
        self.assert_traffic_passes()
        for host in self.lab.hosts:
            assert host.stop_controller() == 0
        for host in self.lab.hosts:
            remains.assert_no_process(host)
            remains.assert_same(host, self.before[host.name], self.began_in, "before the controllers came")
        self.assert_nothing_in_clear()
        assert not self.capture.reused_nonces()

    def assert_nothing_in_clear(self) -> None:
        """No packet between two hosts of the lab was in clear, at any point of its path."""
        self.capture.stop()
        assert not self.capture.clear_packets()

    def assert_esp_was_captured(self) -> None:
        """The capture is of everything, so that `finish`, which this comes after, has looked at every nonce."""
        assert any(seen.kind is Kind.ESP for seen in self.capture.packets())

    def assert_nothing_left(self) -> None:
        """Kernel, processes and descriptors are those of a host that was always at its present address."""
        for host in self.lab.hosts:
            remains.assert_same(host, self.fresh[host.name], self.began_in, "at rest before anything moved")
            remains.assert_no_process(host)
            remains.assert_descriptors(host, self.descriptors[host.name])
            remains.assert_no_idle_connection(host)

    def rekey_everything(self) -> None:
        """The next rekey of every CHILD_SA and IKE_SA succeeds, and all agree afterwards."""
        for mobile in self.lab.mobiles:
            rekey_all(mobile)
        self.wait_rest()

    def assert_traffic_passes(self) -> None:
        """Between all pairs, at the present addresses, protected."""
        for mobile in self.lab.mobiles:
            for correspondent in self.lab.correspondents:
                mobile.run(["ping", "-n", "-c", "2", "-i", "0.1", "-W", "2", str(correspondent.address)])

    def print_timelines(self) -> None:
        """Each finished handover with its steps, for the reader of a test's output."""
        for host in self.lab.hosts:
            for record in host.log_events("handover_finished"):
                steps = ", ".join(f"{step} {at * 1000:.0f}" for step, at in record["seconds"].items())
                ended = f"{log_time(record):.3f} {host.name}"
                print(f"{ended}: {record['old']} -> {record['new']} {record['result']}, ms: {steps}")


def _is_own(record: Mapping[str, Any]) -> bool:
    """Whether a handover that was started is the host's own, not its peer's."""
    return not record["detail"].startswith("peer ")


def log_time(record: Mapping[str, Any]) -> float:
    """When a log record was written, on CLOCK_MONOTONIC as the programs' times are. Seconds."""
    return datetime.fromisoformat(record["timestamp"]).timestamp() + time.monotonic() - time.time()

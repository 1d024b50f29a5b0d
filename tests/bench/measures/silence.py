"""How long a TCP and a UDP application hear nothing, what UDP loses, and which step of the handover takes how long."""

import time
from dataclasses import dataclass
from typing import Any

from bench.contenders import Contender
from bench.results import ClearSample, MoveSample
from bench.settings import Settings
from bench.topologies import Stage, stage
from lab.traffic import Program, UdpStream
from lab.zygote import Zygote


@dataclass(slots=True)
class Ticks:
    """The TCP application: a message every few milliseconds, both ways."""

    client: Program
    server: Program

    def ask(self, command: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """What client and server say to `mark` or `stop`. Raises TrafficError."""
        answers = []
        for program in (self.client, self.server):
            program.tell(command)
            answers.append(program.answer())
        return answers[0], answers[1]

    def stop(self) -> tuple[float, float, int]:
        """Longest silence of the server and of the client, in ms, since the last mark; and reconnections."""
        client, server = self.ask("stop")
        return server["longest_silence"] * 1e3, client["longest_silence"] * 1e3, int(client["reconnects"])


def start_ticks(on: Stage) -> Ticks:
    """Start it, with the patience that the contender's application has."""
    server = Program(on.correspondent, "ticks", "listen", on.lab.family.value, on.settings.tick)
    port = server.answer()["port"]
    arguments = (on.correspondent.address, port, on.settings.tick, on.contender.application.patience)
    client = Program(on.mobile, "ticks", "connect", *arguments)
    client.answer()
    return Ticks(client, server)


def start_udp(on: Stage) -> UdpStream:
    connected = on.contender.application.udp_connected
    return on.lab.traffic.udp_stream(on.mobile, on.correspondent, rate=on.settings.udp_rate, connected=connected)


def measure_move(contender: Contender, rtt_ms: int, move: str, settings: Settings, zygote: Zygote) -> MoveSample:
    """One move under both applications at once."""
    with stage(contender, rtt_ms, settings, zygote) as on:
        ticks, udp = start_ticks(on), start_udp(on)
        time.sleep(settings.steady)  # a program's start is work for the CPU
        ticks.ask("mark")
        time.sleep(settings.steady)
        floor = max(end["longest_silence"] for end in ticks.ask("mark"))
        moved = on.move(move)
        settled = on.settled()
        time.sleep(settings.steady)
        tcp_up, tcp_down, reconnects = ticks.stop()
        packets = udp.stop()
        steps, peer_steps = on.steps()
    return MoveSample(
        contender=contender.name,
        rtt_ms=rtt_ms,
        move=move,
        tcp_up_ms=tcp_up,
        tcp_down_ms=tcp_down,
        udp_up_ms=packets.up.longest_silence * 1e3,
        udp_down_ms=packets.down.longest_silence * 1e3,
        udp_sent=packets.up.sent + packets.down.sent,
        udp_lost_up=len(packets.up.lost),
        udp_lost_down=len(packets.down.lost),
        udp_lost_addressless=sum(
            len(way.lost_between(moved.departed, moved.arrived)) for way in (packets.up, packets.down)
        ),
        floor_tcp_ms=floor * 1e3,
        addressless_ms=moved.addressless * 1e3,
        reconnects=reconnects,
        settled_ms=settled * 1e3,
        steps={name: seconds * 1e3 for name, seconds in steps.items()},
        peer_steps={name: seconds * 1e3 for name, seconds in peer_steps.items()},
    )


def measure_clear(contender: Contender, rtt_ms: int, move: str, settings: Settings, zygote: Zygote) -> ClearSample:
    """The same with a capture on the router, which costs time: nothing is timed."""
    with stage(contender, rtt_ms, settings, zygote) as on:
        capture = on.capture()
        ticks, udp = start_ticks(on), start_udp(on)
        time.sleep(settings.steady)
        on.move(move)
        on.settled()
        time.sleep(settings.steady)
        ticks.stop()
        udp.stop()
        capture.stop()
        return ClearSample(contender.name, move, len(capture.clear_packets()), len(capture.packets()))

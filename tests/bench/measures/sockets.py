"""What a connection more costs: moves with 1 to some thousands of connections open."""

import time

from bench.contenders import Contender
from bench.measures.silence import start_ticks
from bench.results import SocketsSample
from bench.settings import Settings
from bench.topologies import Stage, stage
from lab.traffic import Program
from lab.zygote import Zygote

LIMIT = 90.0
EACH = 0.1
"""Seconds more for each connection: on an emulated kernel its move takes a tenth of that."""


def measure_sockets(contender: Contender, count: int, rtt_ms: int, settings: Settings, zygote: Zygote) -> SocketsSample:
    """One move at once, with `count` connections of one client, all used right after it."""
    with stage(contender, rtt_ms, settings, zygote) as on:
        server = Program(on.correspondent, "many", "listen", on.lab.family.value)
        port = server.answer()["port"]
        patience = contender.application.patience
        client = Program(on.mobile, "many", "connect", on.correspondent.address, port, count, patience)
        opened = int(client.answer(LIMIT)["open"])
        ticks = start_ticks(on)
        time.sleep(settings.steady)
        ticks.ask("mark")
        moved = on.move("at once")
        client.tell("use")
        answer = client.answer(LIMIT)
        settled = on.settled(LIMIT + count * EACH)
        silence = max(ticks.stop()[:2])
        status, listed = ask_status(on)
    return SocketsSample(
        contender=contender.name,
        count=count,
        opened=opened,
        handover_ms=settled * 1e3,
        step=contender.last_step,
        answered_ms=(answer["ended"] - moved.arrived) * 1e3,
        lost=int(answer["lost"]),
        reopened=int(answer["reopened"]),
        silence_ms=silence,
        status_ms=status,
        listed=listed,
    )


def ask_status(on: Stage) -> tuple[float | None, int | None]:
    """How long `swanroam status` takes, in ms, and how many sockets it lists on the carrier."""
    if on.contender.controller is None:
        return None, None
    began = time.monotonic()
    status = on.mobile.status()
    return (time.monotonic() - began) * 1e3, sum(len(peer.get("sockets", ())) for peer in status["peers"])

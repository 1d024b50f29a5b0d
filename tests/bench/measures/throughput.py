"""How fast one connection goes, before a move and after it, both ways one after the other."""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.contenders import Contender
from bench.results import ThroughputSample
from bench.settings import Settings
from bench.topologies import Stage, stage
from lab.traffic import Program
from lab.zygote import Zygote

DIRECTIONS = ("up", "down")
WINDOWS = 3


@dataclass(slots=True)
class Flow:
    """One connection, filled in one direction while `running`."""

    sender: Program
    receiver: Program
    settings: Settings

    def _count(self) -> tuple[int, float]:
        self.receiver.tell("count")
        answer = self.receiver.answer()
        return int(answer["received"]), float(answer["at"])

    @contextmanager
    def running(self) -> Iterator[None]:
        self.sender.tell("go")
        yield
        self.sender.tell("pause")
        time.sleep(self.settings.steady)  # what is in the queues must not disturb what is measured next

    def rates(self) -> tuple[float, ...]:
        """Bytes per second in each window, by the receiver's clock."""
        with self.running():
            time.sleep(self.settings.steady)  # until the congestion window has opened
            marks = [self._count()]
            for _ in range(WINDOWS):
                time.sleep(self.settings.window)
                marks.append(self._count())
        pairs = itertools.pairwise(marks)
        return tuple((later[0] - earlier[0]) / (later[1] - earlier[1]) for earlier, later in pairs)


def start_flow(on: Stage, direction: str) -> Flow:
    """A connection that fills nothing yet."""
    server = Program(on.correspondent, "flow", "listen", on.lab.family.value, direction)
    port = server.answer()["port"]
    client = Program(on.mobile, "flow", "connect", on.correspondent.address, port, direction)
    client.answer()
    sender, receiver = (client, server) if direction == "up" else (server, client)
    return Flow(sender, receiver, on.settings)


def measure_throughput(contender: Contender, rtt_ms: int, settings: Settings, zygote: Zygote) -> ThroughputSample:
    """A soft move between two measurements on the same connections, or on new ones where the application reconnects."""
    with stage(contender, rtt_ms, settings, zygote) as on:
        flows = {direction: start_flow(on, direction) for direction in DIRECTIONS}
        before = {direction: flow.rates() for direction, flow in flows.items()}
        on.move("soft")
        on.settled()
        if contender.application.patience:
            flows = {direction: start_flow(on, direction) for direction in DIRECTIONS}
        after = {direction: flow.rates() for direction, flow in flows.items()}
    return ThroughputSample(contender.name, rtt_ms, before, after)

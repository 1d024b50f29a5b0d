"""The run in the lab's kernel. Writes bench.json and bench.md to where the launcher collects what a run leaves."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeVar

from bench import report
from bench.contenders import Contender, contenders
from bench.measures.machine import measure_machine
from bench.measures.silence import measure_clear, measure_move
from bench.measures.sockets import measure_sockets
from bench.measures.throughput import measure_throughput
from bench.results import Machine, Results
from bench.settings import Settings
from lab.zygote import Zygote

T = TypeVar("T")

MEMORY_PER_SOCKET = 24 << 10
"""Bytes of both ends in one kernel, with what the programs hold for them; to find out what fits."""
SPARE = 300 << 20
"""Bytes that the rest needs."""


@dataclass(slots=True)
class Run:
    """One run: results fill up as it goes."""

    settings: Settings
    zygote: Zygote
    results: Results
    directory: Path | None = None
    """Where results are written after each sample; None: nowhere."""
    entrants: list[Contender] = field(default_factory=list)

    @property
    def far(self) -> int:
        """The longest round trip, ms: the one of everything that is measured at one delay only."""
        return max(self.settings.rtts_ms)

    def everything(self) -> None:
        """All measures that are wanted, for all contenders."""
        found, absent = contenders()
        self.entrants = [contender for contender in found if self.settings.wants(contender.name)]
        self.results.not_run += absent
        measures = {
            "silence": self.silence,
            "clear": self.clear,
            "sockets": self.sockets,
            "throughput": self.throughput,
        }
        for name in self.settings.measures:
            measures[name]()

    def silence(self) -> None:
        """Repetitions go round the contenders, so that a slow minute of the machine meets them all."""
        settings = self.settings
        for repetition, rtt, move in product(range(1, settings.repetitions + 1), settings.rtts_ms, settings.moves):
            for entrant in self.entrants:
                what = f"{entrant.name}, {move} move, {rtt} ms, repetition {repetition}"
                measure = partial(measure_move, entrant, rtt, move, settings, self.zygote)
                self._sample(what, measure, self.results.moves)

    def clear(self) -> None:
        for move, entrant in product(self.settings.moves, self.entrants):
            measure = partial(measure_clear, entrant, self.far, move, self.settings, self.zygote)
            self._sample(f"{entrant.name}, {move} move, in clear", measure, self.results.clear)

    def sockets(self) -> None:
        for count in self.settings.counts:
            needed, available = count * MEMORY_PER_SOCKET + SPARE, available_memory()
            if needed > available:
                reason = f"{count} connections: about {needed >> 20} MiB needed, {available >> 20} MiB free"
                self.results.not_run.append(reason)
                continue
            for entrant in self.entrants:
                measure = partial(measure_sockets, entrant, count, self.far, self.settings, self.zygote)
                self._sample(f"{entrant.name}, {count} connections", measure, self.results.sockets)

    def throughput(self) -> None:
        for rtt, entrant in product(self.settings.rtts_ms, self.entrants):
            measure = partial(measure_throughput, entrant, rtt, self.settings, self.zygote)
            self._sample(f"{entrant.name}, throughput, {rtt} ms", measure, self.results.throughput)

    def _sample(self, what: str, measure: Callable[[], T], into: list[T]) -> None:
        """One sample more. One that fails is a result as well, and the others are measured all the same."""
        began = time.monotonic()
        try:
            into.append(measure())
        except (AssertionError, OSError, ExceptionGroup) as error:
            first = str(error).splitlines()
            self.results.failed.append(f"{what}: {first[0] if first else type(error).__name__}")
            say(f"  FAILED {what}: {error}")
        else:
            say(f"  {what} ({time.monotonic() - began:.0f} s)")
        if self.directory is not None:
            write(self.results, self.directory)


def available_memory() -> int:
    """Bytes that can still be used (proc(5))."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    raise OSError("/proc/meminfo has no MemAvailable")


def run(settings: Settings, outside: Machine | None, zygote: Zygote, directory: Path | None = None) -> Results:
    """Measure everything, and write it to `directory` as it becomes known."""
    machine = measure_machine()
    results = Results(settings, machine, outside if machine.emulated else None)
    Run(settings, zygote, results, directory).everything()
    return results


def write(results: Results, directory: Path) -> None:
    """bench.json with all raw figures, bench.md with the tables."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "bench.json").write_text(json.dumps(asdict(results), indent=1), encoding="utf-8")
    (directory / "bench.md").write_text(report.markdown(results), encoding="utf-8")


def main() -> int:
    """Two arguments, made by the launcher: settings and the machine outside, as JSON."""
    given, outside = (json.loads(argument) for argument in sys.argv[1:3])
    settings = Settings(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})
    zygote = Zygote()
    try:
        results = run(settings, Machine(**outside), zygote, Path(os.environ["SWANROAM_ARTIFACTS"]))
    finally:
        zygote.close()
    say("")
    say(report.terminal(results))
    return 1 if results.failed else 0


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())

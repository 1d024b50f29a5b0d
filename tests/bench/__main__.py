"""Measures what a move costs, and against what.

    python -m bench [--repetitions N] [--counts 1,10,…] [--measures silence,…] [--contenders NAME,…] …

Runs on this machine's kernel, or in a guest kernel where it has no ESP; then the machine outside is measured as well.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from bench.measures.machine import measure_machine
from bench.settings import MEASURES, Settings
from lab import guest

TIME_LIMIT = 7200
"""Seconds for everything."""
EMULATED_TICK = 0.01
EMULATED_UDP_RATE = 250


def parse(argv: list[str], emulated: bool) -> tuple[Settings, Path, str]:
    """The settings, where results go, and where to run."""
    default = Settings()
    # An emulated kernel cannot wake programs every millisecond on two hosts and carry all these packets beside it.
    tick = EMULATED_TICK if emulated else default.tick
    udp_rate = EMULATED_UDP_RATE if emulated else default.udp_rate
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path(".test-results"), help="bench.json and bench.md go here")
    parser.add_argument("--repetitions", type=int, default=default.repetitions, help="of each move (default: 5)")
    parser.add_argument("--rtts", type=_numbers, default=default.rtts_ms, help="round trips in ms (default: 20,0)")
    parser.add_argument("--counts", type=_numbers, default=default.counts, help="connections open at a move")
    parser.add_argument("--measures", type=_words, default=MEASURES, help=f"some of {','.join(MEASURES)}")
    parser.add_argument("--contenders", type=_words, default=(), help="parts of names; default: all")
    parser.add_argument("--tick", type=float, default=tick, help="seconds between two messages of the TCP application")
    parser.add_argument("--udp-rate", type=int, default=udp_rate, help="packets per second each way")
    parser.add_argument("--kernel", choices=("auto", "native", "guest"), default="auto")
    options = parser.parse_args(argv)
    unknown = set(options.measures) - set(MEASURES)
    if unknown:
        parser.error(f"no measure {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}")
    settings = Settings(
        repetitions=options.repetitions,
        rtts_ms=options.rtts,
        counts=options.counts,
        measures=options.measures,
        contenders=options.contenders,
        tick=options.tick,
        udp_rate=options.udp_rate,
    )
    return settings, options.results, options.kernel


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def main() -> int:
    """Exit status 0: everything was measured, 1: something failed, 2: the lab cannot run."""
    emulated = bool(guest.missing_features())
    settings, results, kernel = parse(sys.argv[1:], emulated)
    outside = measure_machine()
    for name in ("bench.json", "bench.md"):
        (results / name).unlink(missing_ok=True)  # an old record must not be taken for a new one
    results.mkdir(parents=True, exist_ok=True)
    inside = [sys.executable, "-m", "bench.inside", json.dumps(asdict(settings)), json.dumps(asdict(outside))]
    status = guest.main(
        ["--kernel", kernel, "--time-limit", str(TIME_LIMIT), "--keep", str(results), "--exec", *inside]
    )
    if status in (0, 1) and not (results / "bench.json").exists():
        print("bench: it ended without a result", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())

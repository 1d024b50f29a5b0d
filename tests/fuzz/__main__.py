"""`python -m fuzz [TARGET...] [--inputs N] [--seed N]`, `python -m fuzz --replay FILE...`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from fuzz import codecs, core, parser
from fuzz.engine import Target, read, report, run

TARGETS: dict[str, Target] = {target.name: target for target in (parser.Parser(), core.Core(), codecs.Codecs())}


def tell(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    arguments.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(TARGETS)}; all by default")
    arguments.add_argument("--inputs", type=int, default=1_000_000, help="for each target (default: a million)")
    arguments.add_argument("--seed", type=int, help="to repeat a run (default: a new one)")
    arguments.add_argument("--replay", nargs="+", type=Path, metavar="FILE", help="inputs of the corpus, once each")
    chosen = arguments.parse_args()
    if chosen.replay:
        for path in chosen.replay:
            TARGETS[path.resolve().parent.name].check(read(path))
            tell(f"{path}: did not fail")
        return 0
    if unknown := set(chosen.targets) - TARGETS.keys():
        arguments.error(f"no target is called {', '.join(sorted(unknown))}; there are: {', '.join(TARGETS)}")
    seed = chosen.seed if chosen.seed is not None else int.from_bytes(os.urandom(4))
    failed = False
    for name in chosen.targets or TARGETS:
        tell(f"{name}: seed {seed}")
        outcome = run(TARGETS[name], chosen.inputs, seed)
        report(TARGETS[name], outcome, seed, tell)
        failed = failed or outcome.failure is not None
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

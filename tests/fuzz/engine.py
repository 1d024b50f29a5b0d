"""Runs a target on inputs from one seed. What breaks it is made shorter, kept in the corpus, and can be repeated."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

CORPUS = Path(__file__).parent / "corpus"
SHORTENINGS = 2000
"""Tries to make a failing input shorter."""


class Target(Protocol):
    """What is tried. Names are those of the corpus' directories."""

    name: str

    def generate(self, choose: random.Random) -> bytes:
        """An input."""

    def check(self, data: bytes) -> int:
        """Tries the input; returns for how many it counts. Any exception is a defect."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run."""

    inputs: int
    seconds: float
    failure: Path | None = None
    """The input that broke the target."""
    error: str = ""
    """Its traceback."""


def run(target: Target, inputs: int, seed: int, corpus: Path = CORPUS) -> Outcome:
    """Tries inputs until there were so many, or one has failed. The same seed gives the same inputs."""
    choose = random.Random(f"{target.name} {seed}")
    began, done = time.monotonic(), 0
    while done < inputs:
        data = target.generate(choose)
        try:
            done += target.check(data)
        except Exception:  # noqa: BLE001 - whatever it is
            error = traceback.format_exc()
            return Outcome(done, time.monotonic() - began, keep(target, shortened(target, data), corpus), error)
    return Outcome(done, time.monotonic() - began)


def shortened(target: Target, data: bytes) -> bytes:
    """A shorter input that fails in the same way."""
    fails = failure_of(target, data)
    left, size = SHORTENINGS, max(1, len(data) // 2)
    while size and left:
        at = 0
        while at < len(data) and left:
            candidate = data[:at] + data[at + size :]
            left -= 1
            if failure_of(target, candidate) == fails:
                data = candidate
            else:
                at += size
        size //= 2
    return data


def failure_of(target: Target, data: bytes) -> str:
    """The kind of exception that an input causes, and where; empty when it causes none."""
    try:
        target.check(data)
    except Exception as error:  # noqa: BLE001 - whatever it is
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} {where.filename}:{where.lineno}"
    return ""


def keep(target: Target, data: bytes, corpus: Path) -> Path:
    """Puts an input into the corpus."""
    path = corpus / target.name / f"{sha256(data).hexdigest()[:12]}.hex"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data.hex() + "\n")
    return path


def kept(target: Target, corpus: Path = CORPUS) -> list[Path]:
    """The target's inputs in the corpus."""
    return sorted((corpus / target.name).glob("*.hex"))


def read(path: Path) -> bytes:
    """An input of the corpus; lines that begin with # are for people."""
    lines = path.read_text().splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


def report(target: Target, outcome: Outcome, seed: int, tell: Callable[[str], None]) -> None:
    """Says how a run ended."""
    speed = outcome.inputs / max(outcome.seconds, 1e-9)
    counted = f"{outcome.inputs:,} inputs in {outcome.seconds:.0f} s ({speed:,.0f}/s)"
    if outcome.failure is None:
        tell(f"{target.name}: seed {seed}: {counted}: none failed")
        return
    tell(outcome.error.rstrip())
    tell(f"{target.name}: seed {seed}: failed after {counted}; the input is in {outcome.failure}")
    tell(f"to see it again: python -m fuzz --replay {outcome.failure}, or --seed {seed} {target.name}")

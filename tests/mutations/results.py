"""How tests ended, and whether mutations were noticed; kept in `results.json` beside this file.

A run leaves its own results in a directory. `make requirements` puts them over those that are kept: what was not run
this time stays as it was. What the list does not name any more is left out.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

KEPT = Path(__file__).with_name("results.json")


class Outcome(enum.StrEnum):
    """How a test ended; of one with several parameters, what comes first here."""

    FAILED = "failed"
    """An assertion did not hold."""
    BROKEN = "broken"
    """Something else than an assertion ended it, or it could not run."""
    SKIPPED = "skipped"
    PASSED = "passed"


@dataclass(slots=True)
class Results:
    """Of one run, or of all up to now."""

    tests: dict[str, Outcome] = field(default_factory=dict)
    """By node id without parameters; swanroam as it is."""
    noticed: dict[str, list[str]] = field(default_factory=dict)
    """By mutation: the tests that failed by an assertion. None: it was not noticed."""

    def update(self, newer: Results) -> None:
        self.tests |= newer.tests
        self.noticed |= newer.noticed

    def restrict(self, tests: Iterable[str], mutations: Iterable[str]) -> None:
        """To what the list names."""
        tests, mutations = set(tests), set(mutations)
        self.tests = {name: outcome for name, outcome in self.tests.items() if name in tests}
        self.noticed = {name: failed for name, failed in self.noticed.items() if name in mutations}

    def write(self, path: Path) -> None:
        content = {"tests": dict(sorted(self.tests.items())), "noticed": dict(sorted(self.noticed.items()))}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Results:
    """What `write` has written. Raises FileNotFoundError."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return Results({name: Outcome(outcome) for name, outcome in content["tests"].items()}, content["noticed"])

"""From which seeds a random walk is made."""

from __future__ import annotations

import os
import random

SEED_VARIABLE = "SWANROAM_WALK"
"""Set to a number: this walk only, as to see again what a failed one did."""
WALKS_VARIABLE = "SWANROAM_WALKS"
"""Set to a number: so many walks from seeds that nobody has tried, instead of the usual few."""
MORE = {"mutated": 4, "thorough": 100}
"""By SWANROAM_EXAMPLES: how many times as many as usually."""


def walks(usual: int) -> int:
    """How many walks this run makes."""
    return usual * MORE.get(os.environ.get("SWANROAM_EXAMPLES", ""), 1)


def seeds(usual: int) -> list[int]:
    """The same few in each run, unless the environment says otherwise."""
    if seed := os.environ.get(SEED_VARIABLE):
        return [int(seed)]
    if number := os.environ.get(WALKS_VARIABLE):
        return [random.randrange(2**32) for _ in range(int(number))]
    return list(range(walks(usual)))

"""The time of day, which belongs to the whole kernel: for tests that are marked `guest`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

YEARS = 10 * 365 * 86400.0
"""Ten of them, in seconds."""


@contextmanager
def clock_jumps(seconds: float) -> Iterator[None]:
    """In this block it is so much later, or earlier if negative."""
    time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)
    try:
        yield
    finally:
        time.clock_settime(time.CLOCK_REALTIME, time.time() - seconds)

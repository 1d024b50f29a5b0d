"""Waiting for something to become true, with an explanation when it does not."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL = 0.05  # seconds; a guest has one slow CPU, so looking costs what is looked at


class LabTimeoutError(AssertionError):
    """What was waited for did not happen; the message says what, and how things stand instead."""


def wait_for(
    predicate: Callable[[], T],
    timeout: float,
    what: str,
    explain: Callable[[], str] = lambda: "",
    poll: float = POLL,
) -> T:
    """Call `predicate` until it returns something true, and return that.

    Raises LabTimeoutError after `timeout` seconds, with the last value and what `explain` says.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            message = f"after {timeout:g} s: {what}: still {value!r}"
            raise LabTimeoutError("\n".join(filter(None, (message, explain()))))
        time.sleep(poll)

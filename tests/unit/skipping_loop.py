"""An event loop that does not wait: when nothing is left to be done, its clock goes on to the next timer at once.

For programs that use nothing but timers. Who waits for a descriptor, a thread or another process would find all time
limits over before the answer comes.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _SkippingSelector(selectors.DefaultSelector):  # type: ignore[valid-type, misc]  # chosen at run time
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing is left to be done, and no timer is set"
            self.now += max(0.0, timeout)
        return ready


class SkippingLoop(asyncio.SelectorEventLoop):
    """Its time begins at 0 and stands still while work is done."""

    def __init__(self) -> None:
        self._skipping = _SkippingSelector()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now


def run(main: Coroutine[Any, Any, None]) -> None:
    """As asyncio.run does."""
    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        runner.run(main)

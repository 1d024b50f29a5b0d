"""How often somebody else may have something done here: a token bucket. The clock is the caller's."""

from __future__ import annotations


class Bucket:
    """So much at once, and so much a second in the long run."""

    def __init__(self, burst: float, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._tokens = burst
        self._filled = 0.0

    def take(self, now: float) -> bool:
        """One more, if there is one."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

"""How long a peer may have programs of this host stopped.

A program that is stopped for one peer's connection does not serve anybody else meanwhile. The host limits a single
transfer; this limits them all together, to a share of the time with something in advance, so that a peer that asks
again and again slows programs down by that share and no more. What a handover needs is far below it.
"""

from __future__ import annotations

HELD_ADVANCE = 10.0
"""Seconds that may be used up at once."""


class Allowance:
    """Of one peer. It may begin with debts only as long as what it was allowed to begin has lasted."""

    def __init__(self, share: float) -> None:
        """`share`: of the time, in the long run."""
        self._share = share
        self._left = HELD_ADVANCE
        self._counted = 0.0
        self._since: float | None = None

    def reconfigure(self, share: float, now: float) -> None:
        """Another share, from now on."""
        self._count(now)
        self._share = share

    def is_used_up(self, now: float) -> bool:
        """Nothing more is to be stopped for the peer now."""
        self._count(now)
        return self._left <= 0

    def begin(self, now: float) -> None:
        """Programs are being stopped; no matter if they are already."""
        self._count(now)
        if self._since is None:
            self._since = now

    def end(self, now: float, *, nobody_stopped: bool = False) -> None:
        """They run on, or it has turned out that none had to be stopped; no matter if they do already."""
        self._count(now)
        if self._since is not None and not nobody_stopped:
            self._left -= now - self._since
        self._since = None

    def _count(self, now: float) -> None:
        """What has come in since the last time."""
        self._left = min(HELD_ADVANCE, self._left + self._share * (now - self._counted))
        self._counted = now

"""When this host has filters made for the pair of current addresses, and when it leaves that to somebody else."""

from __future__ import annotations

from collections.abc import Iterable

from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import IPAddress

FILTERS_RETRY = (1.0, 30.0)
"""Seconds between two tries to establish filters: first, and at most."""
FILTERS_PATIENCE = 5.0
"""Seconds that filters may be missing before we do what is usually another's: a rekey takes them away briefly."""


class Filters:
    """The one attempt that is running, and the pause before the next."""

    def __init__(self) -> None:
        self.ours: set[IPAddress] = set()
        """Own addresses whose filters are this controller's to make."""
        self._establishing: Pair | None = None
        self._due = 0.0
        self._delay = FILTERS_RETRY[0]
        self._missing_since: float | None = None

    def restart(self, now: float) -> None:
        """The pair is another one."""
        self._establishing = self._missing_since = None
        self._due = now
        self._delay = FILTERS_RETRY[0]

    def looked(self, now: float, *, complete: bool) -> None:
        """Whether they stand, as seen just now."""
        if complete:
            self._missing_since = None
        elif self._missing_since is None:
            self._missing_since = now

    def begin(self, pair: Pair) -> None:
        self._establishing = pair

    def established(self, pair: Pair, now: float) -> None:
        self.ours.add(pair.local)
        if self._ended(pair):
            self._due = now + FILTERS_PATIENCE  # charon is read a moment later
            self._delay = FILTERS_RETRY[0]

    def failed(self, pair: Pair, now: float) -> None:
        if self._ended(pair):
            self._due = now + self._delay
            self._delay = min(self._delay * 2, FILTERS_RETRY[1])

    def _ended(self, pair: Pair) -> bool:
        """The attempt that is running has ended. One that a move has overtaken is no reason for a pause."""
        if self._establishing != pair:
            return False
        self._establishing = None
        return True

    def may_begin(self, now: float) -> bool:
        return self._establishing is None and now >= self._due

    def missing_for_long(self, now: float) -> bool:
        return self._missing_since is not None and now >= self._missing_since + FILTERS_PATIENCE

    def deadlines(self) -> Iterable[float]:
        """Times at which the answers above change."""
        yield self._due
        if self._missing_since is not None:
            yield self._missing_since + FILTERS_PATIENCE

"""How fast a leader goes: when its next round is due, and how many connections it takes at a time."""

from __future__ import annotations

from collections.abc import Callable

from swanroam.protocol.messages import MAX_CONNECTIONS

ROUNDS = (1.0, 30.0)
"""Seconds between two rounds: first, and at most."""
AGAIN = 0.2
"""Seconds after which a transfer that was cut short is begun anew, and up to as much more. Doubled each time that
nothing has moved, up to what two rounds have between them: nobody is to be stopped again and again for nothing."""
MOST_DOUBLINGS = 8
SMALLER = 4
"""By what the size of a transfer is divided when one was not through within the time limit: on a slow machine many
sockets take longer than a program may be stopped."""


class Pace:
    """Slower while nothing moves, and in smaller steps when the time limit was too short."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self.due: float | None = 0.0
        """When the next round is; None while one goes on."""
        self.size = MAX_CONNECTIONS
        """Connections that a transfer takes: fewer when the last was not through within the time limit."""
        self._jitter = jitter
        self._delay = ROUNDS[0]
        self._cut_short = False
        self._in_vain = 0
        """Times that a round was cut short since a socket moved."""

    def is_due(self, now: float) -> bool:
        return self.due is not None and now >= self.due

    def at_once(self, now: float) -> None:
        """The next round is due."""
        self.due = now

    def begin_anew(self, now: float) -> None:
        """Towards another pair; what was in vain was so for the last one."""
        self.due = now
        self._delay = ROUNDS[0]
        self._in_vain = 0

    def begun(self) -> None:
        """A round goes on."""
        self.due = None
        self._cut_short = False

    def cut_short(self) -> None:
        """The round leaves something that is to be tried again soon."""
        self._cut_short = True

    def expired(self) -> None:
        """A transfer was not through within the time limit."""
        self.size = max(1, self.size // SMALLER)
        self._cut_short = True

    def moved(self) -> None:
        """A transfer has moved sockets."""
        self._in_vain = 0
        self.size = min(self.size * 2, MAX_CONNECTIONS)

    def ended(self, now: float) -> None:
        """The round is over."""
        if self._cut_short:
            self.due = now + min(AGAIN * 2**self._in_vain, ROUNDS[1]) * (1 + self._jitter())
            self._cut_short = False
            self._in_vain = min(self._in_vain + 1, MOST_DOUBLINGS)
        else:
            self._in_vain = 0
            self.due = now + self._delay
            self._delay = min(self._delay * 2, ROUNDS[1])

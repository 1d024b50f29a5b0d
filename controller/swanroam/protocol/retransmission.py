"""When to send again: exponential backoff with jitter (RFC 6298 §5.5, RFC 8085 §3.1.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Retransmission:
    """The timer of one exchange. All times in seconds."""

    first: float
    """Delay before the first retransmission."""
    ceiling: float
    """The longest delay between two retransmissions."""
    jitter: Callable[[], float]
    """A number in [0, 1), new at each call."""
    began: float | None = field(default=None, init=False)
    """When the exchange began; None while nothing is outstanding."""
    due: float | None = field(default=None, init=False)
    """When to send next."""
    attempts: int = field(default=0, init=False)
    """By which the delay grows."""
    transmissions: int = field(default=0, init=False)
    """Since the exchange began."""

    def reconfigure(self, first: float, ceiling: float) -> None:
        """Other delays, from the next transmission on."""
        self.first, self.ceiling = first, ceiling

    def begin(self, now: float) -> None:
        """A new exchange: the first transmission is due at once."""
        self.began = self.due = now
        self.attempts = self.transmissions = 0

    def hasten(self, now: float) -> None:
        """The path has changed: an exchange that is outstanding starts its backoff anew."""
        if self.began is not None:
            self.due = now
            self.attempts = 0

    def postpone(self, until: float) -> None:
        self.due = until

    def stop(self) -> None:
        self.began = self.due = None

    def is_due(self, now: float) -> bool:
        return self.due is not None and now >= self.due

    def sent(self, now: float) -> None:
        """A transmission went out; the next is due after first x 2^n, up to the ceiling, and up to a quarter more."""
        delay = min(self.first * 2 ** min(self.attempts, 16), self.ceiling)
        self.attempts += 1
        self.transmissions += 1
        self.due = now + delay * (1 + self.jitter() / 4)

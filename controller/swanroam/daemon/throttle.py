"""Keeps what somebody else can cause at will from filling the log. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from swanroam.protocol.bucket import Bucket


@dataclass(slots=True)
class _Kind:
    bucket: Bucket
    left_out: int = 0


class Throttle:
    """Of lines of one kind, the first few are written; then one each `interval` seconds, with the number left out."""

    def __init__(self, burst: int, interval: float) -> None:
        self.interval = interval
        self._burst = burst
        self._kinds: dict[Hashable, _Kind] = {}

    def admit(self, kind: Hashable, now: float) -> int | None:
        """How many were left out before this one; None when this one is left out as well."""
        entry = self._kinds.setdefault(kind, _Kind(Bucket(self._burst, 1 / self.interval)))
        if not entry.bucket.take(now):
            entry.left_out += 1
            return None
        return self.left_out(kind)

    def left_out(self, kind: Hashable) -> int:
        """How many were left out since the last that was written; they count as written now."""
        entry = self._kinds[kind]
        left_out, entry.left_out = entry.left_out, 0
        return left_out

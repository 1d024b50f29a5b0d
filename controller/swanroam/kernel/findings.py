"""What a look at this host has found out, as data: for the daemon's start and for `swanroam doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    """Works; in some networks something would be better, or there is something to know."""
    WARNING = "warning"
    """Works, but not everything, or less securely."""
    ERROR = "error"
    """Handovers do not work."""
    UNSEEN = "unseen"
    """It could not be looked at, for want of privileges."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy` and `command` are empty when there is nothing to do."""

    check: str
    severity: Severity
    evidence: str
    remedy: str = ""
    """What to do, in words."""
    command: str = ""
    """What to type on this host, as root; what a shell takes as it stands."""

    @property
    def mend(self) -> str:
        """Command and words."""
        return "; ".join(part for part in (self.command, self.remedy) if part)

    def __str__(self) -> str:
        return f"{self.check}: {self.evidence}" + (f": {self.mend}" if self.mend else "")


def ok(check: str, evidence: str) -> Finding:
    """Nothing is wrong with it."""
    return Finding(check, Severity.OK, evidence)

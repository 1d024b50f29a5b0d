"""The time of day, for people. It jumps when somebody sets it, so nothing is measured or decided by it."""

from __future__ import annotations

import re
import time
from datetime import date, datetime, timedelta
from datetime import time as time_of_day

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
FORMS = "03:12, 2026-11-26, '2026-11-26 03:12', or an age as 90m, 12h, 3d"
"""How a moment can be written."""


def stamp() -> float:
    """Now, in seconds since 1970-01-01 UTC."""
    return time.time()


def moment(text: str, now: float) -> float:
    """The moment that somebody means, not after `now`; a time of day is its last occurrence. Raises ValueError."""
    text = text.strip()
    if age := re.fullmatch(r"(\d+) ?([smhdw])", text):
        return max(0.0, now - int(age[1]) * _UNITS[age[2]])
    try:
        if not re.fullmatch(r"\d{1,2}:\d\d(:\d\d)?", text):
            return datetime.fromisoformat(text).timestamp()
        clock = time_of_day.fromisoformat(text if text[2] == ":" else f"0{text}")
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no moment: write {FORMS}") from None
    today = _local(now).date()
    found = datetime.combine(today, clock).timestamp()
    return found if found <= now else datetime.combine(today - timedelta(days=1), clock).timestamp()


def iso(at: float) -> str:
    """For programs: local time with its offset from UTC, to the millisecond (RFC 3339)."""
    return _local(at).isoformat(timespec="milliseconds")


def day_and_time(at: float) -> str:
    """For people, to the second."""
    return f"{_local(at):%Y-%m-%d %H:%M:%S}"


def day(at: float) -> date:
    """The day on which it was, here."""
    return _local(at).date()


def to_the_millisecond(at: float) -> str:
    """The time of day."""
    return _local(at).time().isoformat(timespec="milliseconds")


def zone(at: float) -> str:
    """The time zone in which times are shown."""
    here = _local(at)
    name, offset = here.tzname(), f"{here:%z}"
    return "UTC" if name == "UTC" else f"{name}, UTC{offset[:3]}:{offset[3:]}"


def _local(at: float) -> datetime:
    return datetime.fromtimestamp(at).astimezone()

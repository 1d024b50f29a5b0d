"""Times of day: as people write and read them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from swanroam.history import clock
from unit.zones import zone

NOW = datetime(2026, 11, 26, 12, 30, tzinfo=UTC).timestamp()


@pytest.fixture(autouse=True)
def _in_zurich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with zone(monkeypatch, "CET-1CEST,M3.5.0,M10.5.0/3"):
        yield


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("03:12", "2026-11-26 02:12 UTC"),
        ("3:12", "2026-11-26 02:12 UTC"),
        ("03:12:30", "2026-11-26 02:12:30 UTC"),
        ("13:29", "2026-11-26 12:29 UTC"),
        ("13:31", "2026-11-25 12:31 UTC"),  # it is not yet: yesterday's
        ("2026-11-25", "2026-11-24 23:00 UTC"),
        ("2026-07-01 03:12", "2026-07-01 01:12 UTC"),  # in summer time
        ("2026-11-25T03:12:07+00:00", "2026-11-25 03:12:07 UTC"),
        ("90m", "2026-11-26 11:00 UTC"),
        ("2 h", "2026-11-26 10:30 UTC"),
        ("3d", "2026-11-23 12:30 UTC"),
        ("1w", "2026-11-19 12:30 UTC"),
        ("9999999w", "1970-01-01 00:00 UTC"),
    ],
)
def test_a_moment_is_found_as_people_write_it(text: str, meant: str) -> None:
    expected = datetime.fromisoformat(meant.replace(" UTC", "+00:00")).timestamp()

    assert clock.moment(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "25:00", "3", "-5m", "0001-01-01 00:00", "2026-13-01"])
def test_what_is_no_moment_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no moment: write 03:12, 2026-11-26, '2026-11-26 03:12', or an age"):
        clock.moment(text, NOW)


def test_times_are_shown_in_the_zone_of_the_host_which_is_named() -> None:
    assert clock.day_and_time(NOW) == "2026-11-26 13:30:00"
    assert clock.iso(NOW + 0.1234) == "2026-11-26T13:30:00.123+01:00"
    assert clock.to_the_millisecond(NOW + 0.1234) == "13:30:00.123"
    assert clock.zone(NOW) == "CET, UTC+01:00"
    assert clock.zone(NOW - 150 * 86400) == "CEST, UTC+02:00"

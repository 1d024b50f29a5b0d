"""What other settings do to what is under way already."""

from __future__ import annotations

from ipaddress import ip_address

from swanroam.protocol.allowance import HELD_ADVANCE, Allowance
from swanroam.protocol.events import EndSockets
from swanroam.protocol.release import USAGE_INTERVAL, Releases
from swanroam.protocol.retransmission import Retransmission

OLD = ip_address("192.0.2.1")


def counted(releases: Releases, now: float) -> list[object]:
    """The address is past its grace period, and one socket uses it."""
    releases.advance([OLD], now, 0.0)
    return list(releases.usage_read(OLD, 1, now) or [])


def test_a_limit_for_old_addresses_counts_from_when_it_is_set() -> None:
    releases = Releases(None)
    releases.advance([OLD], 0.0, 0.0)
    assert counted(releases, 100.0) == []

    releases.reconfigure(30.0)
    assert counted(releases, 101.0) == []
    assert counted(releases, 130.0) == []
    assert counted(releases, 101.0 + 30.0 + USAGE_INTERVAL[1]) == [EndSockets(OLD)]


def test_a_limit_that_is_taken_away_ends_nothing_any_more() -> None:
    releases = Releases(30.0)
    assert counted(releases, 0.0) == []
    releases.reconfigure(30.0)  # as it was: the time that has passed counts
    releases.reconfigure(None)

    assert counted(releases, 1000.0) == []


def test_another_share_of_the_time_counts_from_now_on() -> None:
    allowance = Allowance(0.1)
    allowance.begin(0.0)
    allowance.end(HELD_ADVANCE * 2)  # 8 s in debt, with what has come in
    allowance.reconfigure(1.0, HELD_ADVANCE * 2)

    assert allowance.is_used_up(HELD_ADVANCE * 2 + 8.0)
    assert not allowance.is_used_up(HELD_ADVANCE * 2 + 11.0)


def test_other_delays_count_from_the_next_transmission_on_and_a_new_path_does_not_make_it_the_first() -> None:
    exchange = Retransmission(1.0, 8.0, lambda: 0.0)
    exchange.begin(0.0)
    exchange.sent(0.0)
    exchange.reconfigure(0.5, 1.0)
    assert exchange.due == 1.0
    exchange.hasten(0.2)
    exchange.sent(0.2)

    assert exchange.due == 0.7
    assert (exchange.attempts, exchange.transmissions) == (1, 2)
    exchange.begin(5.0)
    assert exchange.transmissions == 0

"""When to stay, to move and to wait. Time is a number; nothing sleeps."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swanroam.kernel.address_choice import (
    DAD_WAIT,
    HISTORY_LIMIT,
    AddressChooser,
    AddressHistory,
    Decision,
    Keep,
    Lost,
    MoveReason,
    MoveTo,
    WaitUntil,
)
from swanroam.kernel.addresses import HostAddresses, IPAddress, LinkState, LocalAddress, RouteChoice

WIRED = LinkState(1, "eth0", up=True, running=True)
RADIO = LinkState(2, "wlan0", up=True, running=True)
RADIO_OFF = replace(RADIO, running=False)
WIRED_OFF = replace(WIRED, running=False)


def on(link: LinkState, address: str, **flags: bool) -> LocalAddress:
    return LocalAddress(ip_address(address), 24, link.name, link.index, scope=0, **flags)


A = on(WIRED, "192.0.2.1")
B = on(RADIO, "198.51.100.1")
C = on(RADIO, "203.0.113.1")
A6 = on(WIRED, "2001:db8:1::1")
A6_TEMPORARY = on(WIRED, "2001:db8:1::abcd", temporary=True)
A6_NEXT_TEMPORARY = on(WIRED, "2001:db8:1::dcba", temporary=True)
B6 = on(RADIO, "2001:db8:2::1")


class Host:
    """A host whose address towards one destination is chosen, step by step."""

    def __init__(self, current: LocalAddress, *, prefer: tuple[str, ...] = (), window: float = 1.0) -> None:
        self.history = AddressHistory()
        self.chooser = AddressChooser(prefer, window)
        self.current: IPAddress = current.address

    def at(
        self,
        now: float,
        *addresses: LocalAddress,
        routed: LocalAddress | None = None,
        links: tuple[LinkState, ...] = (WIRED, RADIO),
    ) -> Decision:
        """What is decided at this time with these addresses."""
        host = HostAddresses(frozenset(addresses), frozenset(links))
        self.history.observe(host, now)
        choice = RouteChoice(routed.address, routed.interface) if routed else None
        return self.chooser.decide(host, self.history, choice, self.current, now)


def moved(address: LocalAddress, reason: MoveReason) -> MoveTo:
    return MoveTo(address, reason)


def test_nothing_happens_while_nothing_changes() -> None:
    host = Host(A)

    assert host.at(0, A, B, routed=A) == Keep()
    assert host.at(100, A, B, routed=A) == Keep()


def test_soft_move_follows_the_routing_at_once() -> None:
    host = Host(A)
    host.at(0, A, routed=A)

    assert host.at(10, A, B, routed=A) == Keep()
    assert host.at(11, A, B, routed=B) == moved(B, MoveReason.PREFERRED)
    assert host.at(12, A, B, routed=B) == moved(B, MoveReason.PREFERRED)
    host.current = B.address
    assert host.at(13, A, B, routed=B) == Keep()
    assert host.at(14, A, B, routed=A) == moved(A, MoveReason.PREFERRED)


def test_address_that_was_current_from_the_start_stays_though_the_routing_picks_another() -> None:
    """The connection may be bound to it by configuration; only a change of the routing is a reason to leave."""
    host = Host(A)

    assert host.at(0, A, B, routed=B) == Keep()
    assert host.at(1, A, B, routed=B) == Keep()
    assert host.at(2, A, B, C, routed=C) == moved(C, MoveReason.PREFERRED)


def test_routing_that_returns_to_the_current_address_counts_from_then_on() -> None:
    host = Host(A)
    host.at(0, A, B, routed=B)
    host.at(1, A, B, routed=A)

    assert host.at(2, A, B, routed=B) == moved(B, MoveReason.PREFERRED)


def test_routing_that_has_changed_during_a_move_is_followed() -> None:
    host = Host(A)
    host.at(0, A, routed=A)
    assert host.at(1, A, B, routed=B) == moved(B, MoveReason.PREFERRED)
    host.current = B.address

    assert host.at(2, A, B, C, routed=C) == moved(C, MoveReason.PREFERRED)


def test_missing_route_is_no_reason_to_leave_a_working_address() -> None:
    host = Host(A)
    host.at(0, A, B, routed=A)

    assert host.at(1, A, B, routed=None) == Keep()
    assert host.at(2, A, B, routed=A) == Keep()


def test_routing_that_picks_an_address_which_does_not_count_moves_nothing() -> None:
    host = Host(A)
    host.at(0, A, routed=A)

    assert host.at(1, A, routed=B) == Keep()


def test_address_removed_and_added_again_within_the_window_has_not_moved() -> None:
    host = Host(A)
    host.at(0, A, B, routed=A)

    assert host.at(10, B, routed=B) == WaitUntil(11)
    assert host.at(10.5, B, routed=B) == WaitUntil(11)
    assert host.at(10.9, A, B, routed=A) == Keep()
    assert host.at(20, A, B, routed=A) == Keep()


def test_address_that_stays_away_is_left_when_the_window_is_over() -> None:
    host = Host(A)
    host.at(0, A, B, routed=A)
    host.at(10, B, routed=B)

    assert host.at(11, B, routed=B) == moved(B, MoveReason.GONE)


def test_address_that_stays_away_without_another_is_lost_until_one_comes() -> None:
    host = Host(A)
    host.at(0, A, routed=A)

    assert host.at(10, routed=None) == WaitUntil(11)
    assert host.at(11, routed=None) == Lost(MoveReason.GONE)
    assert host.at(15, B, routed=None) == Lost(MoveReason.GONE)
    assert host.at(15.1, B, routed=B) == moved(B, MoveReason.GONE)


def test_new_address_after_the_removal_is_taken_at_once() -> None:
    host = Host(A)
    host.at(0, A, routed=A)
    assert host.at(10, routed=None) == WaitUntil(11)

    assert host.at(10.01, B, routed=None) == WaitUntil(11)
    assert host.at(10.02, B, routed=B) == moved(B, MoveReason.GONE)


def test_new_address_in_the_same_change_as_the_removal_is_taken_at_once() -> None:
    host = Host(A)
    host.at(0, A, routed=A)

    assert host.at(10, B, routed=B) == moved(B, MoveReason.GONE)


@pytest.mark.parametrize(("before", "expected"), [(0.9, MoveTo(B, MoveReason.GONE)), (1.1, WaitUntil(11))])
def test_address_that_came_shortly_before_the_removal_is_its_replacement(before: float, expected: Decision) -> None:
    host = Host(A)
    host.at(0, A, routed=A)
    host.at(10 - before, A, B, routed=A)

    assert host.at(10, B, routed=B) == expected


def test_old_address_that_is_left_over_is_not_taken_before_the_window_is_over() -> None:
    host = Host(A)
    host.at(0, A, B, routed=A)

    assert host.at(10, B, routed=B) == WaitUntil(11)


def test_without_a_link_nothing_is_waited_for() -> None:
    host = Host(A)
    host.at(0, A, B, routed=A)

    assert host.at(10, B, routed=B, links=(WIRED_OFF, RADIO)) == moved(B, MoveReason.GONE)


def test_removed_interface_is_not_waited_for() -> None:
    host = Host(A)
    host.at(0, A, B, routed=A)

    assert host.at(10, B, routed=B, links=(RADIO,)) == moved(B, MoveReason.GONE)


def test_link_that_goes_down_while_the_address_is_away_ends_the_wait() -> None:
    host = Host(A)
    host.at(0, A, routed=A)
    assert host.at(10, routed=None) == WaitUntil(11)

    assert host.at(10.1, routed=None, links=(WIRED_OFF,)) == Lost(MoveReason.GONE)


def test_window_of_zero_waits_for_nothing() -> None:
    host = Host(A, window=0)
    host.at(0, A, B, routed=A)

    assert host.at(10, B, routed=B) == moved(B, MoveReason.GONE)


def test_address_the_host_never_had_is_left_for_what_the_routing_picks() -> None:
    host = Host(C)

    assert host.at(0, A, B, routed=A) == moved(A, MoveReason.GONE)
    assert host.at(1, A, B, routed=None) == Lost(MoveReason.GONE)


def test_address_on_a_link_without_carrier_is_left_when_there_is_another() -> None:
    host = Host(A)
    host.at(0, A, B, routed=A)

    assert host.at(1, A, B, routed=A, links=(WIRED_OFF, RADIO)) == Lost(MoveReason.LINK_DOWN)
    assert host.at(2, A, B, routed=B, links=(WIRED_OFF, RADIO)) == moved(B, MoveReason.LINK_DOWN)
    assert host.at(3, A, B, routed=A) == Keep()


def test_address_on_a_link_without_carrier_is_never_moved_to() -> None:
    host = Host(A)
    host.at(0, A, B, routed=A)

    assert host.at(1, A, B, routed=B, links=(WIRED, RADIO_OFF)) == Keep()


def test_deprecated_address_gives_way_to_the_one_the_routing_picks() -> None:
    host = Host(A6)
    host.at(0, A6, B6, routed=A6)

    assert host.at(1, replace(A6, deprecated=True), B6, routed=B6) == moved(B6, MoveReason.DEPRECATED)


def test_deprecated_address_gives_way_to_its_neighbour_when_the_routing_has_no_opinion() -> None:
    neighbour = on(WIRED, "192.0.2.9")
    host = Host(A)
    host.at(0, A, B, routed=A)

    assert host.at(1, replace(A, deprecated=True), neighbour, B, routed=A) == moved(neighbour, MoveReason.DEPRECATED)


def test_deprecated_address_without_a_successor_stays() -> None:
    host = Host(A6)
    host.at(0, A6, routed=A6)

    assert host.at(1, replace(A6, deprecated=True), A6_TEMPORARY, B6, routed=A6) == Keep()


@pytest.mark.parametrize("flag", ["tentative", "dadfailed", "deprecated"])
def test_address_that_is_not_ready_is_never_moved_to(flag: str) -> None:
    host = Host(A6)
    host.at(0, A6, routed=A6)

    assert host.at(1, A6, replace(B6, **{flag: True}), routed=B6) == Keep()


def test_returned_address_is_waited_for_while_it_is_checked_for_duplicates() -> None:
    host = Host(A6)
    host.at(0, A6, B6, routed=A6)
    assert host.at(10, B6, routed=B6) == WaitUntil(11)

    assert host.at(10.2, replace(A6, tentative=True), B6, routed=B6) == WaitUntil(10.2 + DAD_WAIT)
    assert host.at(12.1, A6, B6, routed=A6) == Keep()


def test_returned_address_that_another_host_has_is_left() -> None:
    host = Host(A6)
    host.at(0, A6, B6, routed=A6)
    host.at(10, B6, routed=B6)
    host.at(10.2, replace(A6, tentative=True), B6, routed=B6)

    assert host.at(11.2, replace(A6, dadfailed=True), B6, routed=B6) == moved(B6, MoveReason.GONE)


def test_check_for_duplicates_that_does_not_end_is_not_waited_for_for_ever() -> None:
    host = Host(A6)
    host.at(0, A6, B6, routed=A6)
    host.at(10, B6, routed=B6)
    host.at(10.2, replace(A6, tentative=True), B6, routed=B6)

    assert host.at(13.2, replace(A6, tentative=True), B6, routed=B6) == moved(B6, MoveReason.GONE)


def test_temporary_address_is_taken_where_the_routing_picks_it() -> None:
    temporary = on(RADIO, "2001:db8:2::abcd", temporary=True)
    host = Host(A6)
    host.at(0, A6, routed=A6)

    assert host.at(1, A6, B6, temporary, routed=temporary) == moved(temporary, MoveReason.PREFERRED)


def test_daily_change_of_the_temporary_address_moves_nothing() -> None:
    host = Host(A6)
    host.at(0, A6, A6_TEMPORARY, routed=A6_TEMPORARY)

    old = replace(A6_TEMPORARY, deprecated=True)
    assert host.at(86400, A6, old, A6_NEXT_TEMPORARY, routed=A6_NEXT_TEMPORARY) == Keep()


def test_temporary_address_in_use_is_followed_by_its_successor() -> None:
    host = Host(A6_TEMPORARY)
    host.at(0, A6, A6_TEMPORARY, routed=A6_TEMPORARY)

    old = replace(A6_TEMPORARY, deprecated=True)
    decision = host.at(86400, A6, old, A6_NEXT_TEMPORARY, routed=A6_NEXT_TEMPORARY)
    assert decision == moved(A6_NEXT_TEMPORARY, MoveReason.DEPRECATED)


def test_families_are_not_mixed() -> None:
    host = Host(A6)
    host.at(0, A6, A, routed=A6)

    assert host.at(10, A, B, routed=None, links=(RADIO,)) == Lost(MoveReason.GONE)


def test_planned_move_overrides_the_routing() -> None:
    host = Host(A)
    host.at(0, A, B, routed=A)
    host.chooser.pin(B.address)

    assert host.at(1, A, B, routed=A) == moved(B, MoveReason.PLANNED)
    host.current = B.address
    assert host.at(2, A, B, routed=A) == Keep()
    assert host.at(3, A, B, C, routed=C) == Keep()
    assert host.chooser.pinned == B.address


def test_planned_move_ends_when_its_address_has_gone() -> None:
    host = Host(A)
    host.at(0, A, B, routed=A)
    host.chooser.pin(B.address)
    host.at(1, A, B, routed=A)
    host.current = B.address

    assert host.at(10, A, routed=A) == WaitUntil(11)
    assert host.chooser.pinned == B.address
    assert host.at(11, A, routed=A) == moved(A, MoveReason.GONE)
    assert host.chooser.pinned is None
    host.current = A.address
    assert host.at(12, A, B, routed=A) == Keep()


def test_planned_move_survives_remove_and_readd() -> None:
    host = Host(A)
    host.at(0, A, B, routed=A)
    host.chooser.pin(B.address)
    host.at(1, A, B, routed=A)
    host.current = B.address
    host.at(10, A, routed=A)

    assert host.at(10.5, A, B, routed=A) == Keep()
    assert host.chooser.pinned == B.address


def test_planned_move_to_an_address_the_host_does_not_have_is_forgotten() -> None:
    host = Host(A)
    host.at(0, A, routed=A)
    host.chooser.pin(B.address)

    assert host.at(1, A, routed=A) == Keep()
    assert host.chooser.pinned is None


def test_planned_move_waits_for_its_address_to_be_ready() -> None:
    host = Host(A6)
    host.at(0, A6, routed=A6)
    host.chooser.pin(B6.address)

    assert host.at(1, A6, replace(B6, tentative=True), routed=A6) == Keep()
    assert host.at(2, A6, B6, routed=A6) == moved(B6, MoveReason.PLANNED)


def test_planned_move_that_is_taken_back_returns_to_what_the_routing_picks() -> None:
    host = Host(A)
    host.at(0, A, B, routed=A)
    host.chooser.pin(B.address)
    host.at(1, A, B, routed=A)
    host.current = B.address
    host.at(2, A, B, routed=A)
    host.chooser.unpin()

    assert host.at(3, A, B, routed=A) == moved(A, MoveReason.PREFERRED)


def test_list_prefers_the_interface_further_up_whatever_the_routing_says() -> None:
    host = Host(B, prefer=("eth*", "wlan*"))

    assert host.at(0, B, routed=B) == Keep()
    assert host.at(1, A, B, routed=B) == moved(A, MoveReason.PREFERRED)
    host.current = A.address
    assert host.at(2, A, B, routed=B) == Keep()


def test_list_keeps_the_current_address_among_equals() -> None:
    host = Host(C, prefer=("eth*", "wlan*"))

    assert host.at(0, B, C, routed=B) == Keep()


def test_list_takes_among_equals_what_the_routing_picks() -> None:
    host = Host(A, prefer=("eth*", "wlan*"))
    host.at(0, A, B, C, routed=A)

    assert host.at(1, B, C, routed=C, links=(RADIO,)) == moved(C, MoveReason.GONE)


def test_list_takes_an_interface_that_it_does_not_name_only_when_nothing_else_is_left() -> None:
    other = on(LinkState(3, "usb0", up=True, running=True), "192.0.2.200")
    links = (WIRED, RADIO, LinkState(3, "usb0", up=True, running=True))
    host = Host(B, prefer=("eth*", "wlan*"))

    assert host.at(0, B, other, routed=other, links=links) == Keep()
    assert host.at(1, other, routed=other, links=links[2:]) == moved(other, MoveReason.GONE)


def test_list_passes_over_temporary_addresses() -> None:
    host = Host(B6, prefer=("eth*", "wlan*"))

    assert host.at(0, A6_TEMPORARY, B6, routed=B6) == Keep()
    assert host.at(1, A6_TEMPORARY, A6, B6, routed=B6) == moved(A6, MoveReason.PREFERRED)


def test_address_that_is_also_on_another_interface_has_not_gone() -> None:
    host = Host(A)
    host.at(0, A, on(RADIO, "192.0.2.1"), routed=A)

    assert host.at(1, on(RADIO, "192.0.2.1"), routed=on(RADIO, "192.0.2.1"), links=(RADIO,)) == Keep()


def test_history_forgets_what_went_long_ago() -> None:
    history = AddressHistory()
    history.observe(HostAddresses(frozenset({A, B})), 0)
    history.observe(HostAddresses(frozenset({B})), 1)
    assert history.gone(A.address) == 1
    history.observe(HostAddresses(frozenset({B})), 2 + HISTORY_LIMIT)

    assert history.gone(A.address) is None
    assert history.last_index(A.address) is None
    assert history.appeared(B.address) == float("-inf")


# Any host whatever

POOL = [on(link, f"{net}.{last}") for link, net in ((WIRED, "192.0.2"), (RADIO, "198.51.100")) for last in (1, 2)] + [
    on(link, f"2001:db8:{link.index}::{last}") for link in (WIRED, RADIO) for last in (1, 2)
]

locals_ = st.builds(
    lambda local, tentative, failed, deprecated, temporary: replace(
        local,
        tentative=tentative,
        dadfailed=failed,
        deprecated=deprecated,
        temporary=temporary and local.address.version == 6,
    ),
    st.sampled_from(POOL),
    *[st.sampled_from([False, False, False, True])] * 4,
)
links_ = st.tuples(st.sampled_from([WIRED, WIRED, WIRED_OFF]), st.sampled_from([RADIO, RADIO, RADIO_OFF]))
moments = st.tuples(
    st.sampled_from([0.0, 0.01, 0.3, 0.9, 1.0, 5.0]),
    st.lists(locals_, max_size=6, unique_by=lambda local: local.address),
    links_,
    st.one_of(st.none(), st.sampled_from(POOL)),
)
preferences = st.sampled_from([(), ("eth*", "wlan*"), ("wlan0",)])


@given(st.sampled_from(POOL), preferences, st.lists(moments, min_size=1, max_size=12), st.booleans())
def test_decisions_always_make_sense(
    current: LocalAddress,
    prefer: tuple[str, ...],
    story: list[tuple[float, list[LocalAddress], tuple[LinkState, ...], LocalAddress | None]],
    obedient: bool,
) -> None:
    host = Host(current, prefer=prefer)
    now = 0.0
    for step, present, links, routed in story:
        now += step
        decision = host.at(now, *present, routed=routed, links=links)
        assert host.at(now, *present, routed=routed, links=links) == decision, "asking again changes nothing"
        running = {link.index for link in links if link.running}
        mine = next((local for local in present if local.address == host.current), None)
        match decision:
            case MoveTo(address, _):
                assert address in present
                assert address.address != host.current
                assert address.address.version == host.current.version
                assert address.usable
                assert not address.deprecated
                assert address.index in running
                assert not address.temporary or (routed is not None and routed.address == address.address)
                if obedient:
                    host.current = address.address
                    after = host.at(now, *present, routed=routed, links=links)
                    assert after == Keep(), "a move leads to rest"
            case WaitUntil(time):
                assert now < time <= now + DAD_WAIT
                assert mine is None or mine.tentative
            case Lost(_):
                assert mine is None or not mine.usable or mine.index not in running
            case Keep():
                assert mine is not None
                assert mine.usable
                assert mine.index in running


@given(st.sampled_from(POOL), preferences, moments, moments)
def test_waiting_comes_to_an_end(
    current: LocalAddress,
    prefer: tuple[str, ...],
    before: tuple[float, list[LocalAddress], tuple[LinkState, ...], LocalAddress | None],
    after: tuple[float, list[LocalAddress], tuple[LinkState, ...], LocalAddress | None],
) -> None:
    host = Host(current, prefer=prefer)
    host.at(0, *before[1], routed=before[3], links=before[2])
    _, present, links, routed = after
    decision = host.at(1, *present, routed=routed, links=links)
    if isinstance(decision, WaitUntil):
        assert not isinstance(host.at(decision.time, *present, routed=routed, links=links), WaitUntil)


@given(st.floats(0.0, 0.99), st.sampled_from([None, A, B]), preferences)
def test_address_that_comes_back_within_the_window_never_moves_anything(
    away: float, routed: LocalAddress | None, prefer: tuple[str, ...]
) -> None:
    host = Host(A, prefer=prefer if prefer != ("wlan0",) else ())
    host.at(0, A, B, routed=A)

    assert host.at(10, B, routed=routed) == WaitUntil(11)
    assert host.at(10 + away, A, B, routed=A) == Keep()

"""Handovers put together from what the daemon has written, and how people read them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from swanroam.cli.history_text import render_all, render_one
from swanroam.cli.screen import COLUMNS, Paint
from swanroam.history import svg
from swanroam.history.document import sockets_of
from swanroam.history.handovers import PastHandover, tell
from swanroam.history.store import Entry
from swanroam.history.svg import draw
from swanroam.history.words import silence
from unit.zones import zone

DAY = 1_795_662_727.0  # 2026-11-26 03:12:07 UTC
LONG = "2001:db8:aaaa:bbbb:cccc:dddd:eeee:"
IDENTITY = "C=CH, O=Example Organisation With A Long Name, OU=Network, CN=server.example.org"
KEPT = {
    "moved": 12,
    "stopped": 0.0231,
    "kept": [{"reason": "its owner uses io_uring: a-rather-long-name/567890", "count": 3}],
    "kept_count": 3,
    "kept_sockets": ["tcp 50000-443 (a-rather-long-name/567890): its owner uses io_uring: a-rather-long-name/567890"],
}


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with zone(monkeypatch, "UTC"):
        yield


class Story:
    """Entries, one after the other."""

    def __init__(self, peer: str = "server") -> None:
        self.entries: list[Entry] = []
        self.peer = peer
        self.boot = "boot one"

    def says(self, at: float, kind: str, **fields: Any) -> None:
        peer = {} if kind.startswith("daemon") else {"peer": self.peer, "identity": IDENTITY}
        self.entries.append(Entry(DAY + at, 500.0 + at, self.boot, kind, peer | fields))

    def starts(self, at: float, name: str, old: str, new: str, cause: str = "gone", who: str = "we") -> None:
        self.says(at, "handover_started", handover=name, who=who, old=old, new=new, cause=cause)

    def does(self, at: float, name: str, *steps: str, who: str = "we", **fields: Any) -> None:
        for number, step in enumerate(steps):
            offset = at + number * 0.1
            self.says(offset, "handover_step_finished", handover=name, who=who, step=step, **fields)

    def ends(self, at: float, name: str, result: str = "done", who: str = "we", **fields: Any) -> None:
        self.says(at, "handover_finished", handover=name, who=who, result=result, **fields)

    @property
    def handovers(self) -> tuple[PastHandover, ...]:
        return tell(self.entries).handovers

    @property
    def results(self) -> list[str]:
        return [handover.result for handover in self.handovers]


def lost_and_found() -> Story:
    """An address is lost, and another comes half a second later; three sockets can't move until they close."""
    story = Story()
    story.says(-0.5, "address_lost", address=f"{LONG}1111", cause="gone")
    story.starts(0, "aa01", f"{LONG}1111", f"{LONG}2222")
    story.does(0.045, "aa01", "deprecated", "acknowledged", "proven")
    story.says(0.3, "filters_failed", detail="charon says: no IKE config found, sending NO_PROPOSAL_CHOSEN " * 3)
    story.does(0.35, "aa01", "filters")
    story.does(0.41, "aa01", "transport", **KEPT)
    story.does(10.5, "aa01", "grace")
    story.says(10.6, "release_waits_for_sockets", handover="aa01", who="we", detail=f"3 sockets on {LONG}1111", **KEPT)
    story.does(700.0, "aa01", "released")
    story.ends(700.0, "aa01", moved=13, stopped=0.0231, kept=[], kept_count=0, kept_sockets=[])
    return story


def test_a_handover_has_its_steps_its_sockets_and_its_end() -> None:
    (handover,) = lost_and_found().handovers

    assert (handover.id, handover.old, handover.new) == ("aa01", f"{LONG}1111", f"{LONG}2222")
    assert (handover.result, handover.cause, handover.ours) == ("done", "gone", True)
    assert handover.duration == pytest.approx(700.0)
    assert handover.without_address == pytest.approx(0.5)
    assert handover.steps == {
        "deprecated": 0.045,
        "acknowledged": 0.145,
        "proven": 0.245,
        "filters": 0.35,
        "transport": 0.41,
        "grace": 10.5,
        "released": 700.0,
    }
    account = sockets_of(handover)
    assert account is not None
    assert (account["moved"], account["kept_count"], account["stopped"]) == (13, 3, 0.0231)
    assert account["kept"] == KEPT["kept"]  # what had stayed, not what is left at the end


def test_what_happens_in_the_middle_of_a_handover_is_on_its_timeline() -> None:
    (handover,) = lost_and_found().handovers

    whats = [moment.what for moment in handover.moments]
    assert whats[:6] == ["handover_started", "deprecated", "acknowledged", "proven", "filters_failed", "filters"]
    assert whats[-1] == "handover_finished"


def test_what_happens_outside_stands_for_itself() -> None:
    story = lost_and_found()
    story.says(800, "address_change_refused", detail="192.0.2.9 is outside the prefixes allowed for you")

    others = [entry.kind for entry in tell(story.entries).others]
    assert others == ["address_lost", "address_change_refused"]


def test_a_trouble_while_sockets_just_stay_on_the_old_address_stands_for_itself() -> None:
    story = Story()
    story.starts(0, "aa", "192.0.2.1", "192.0.2.2")
    story.says(20, "release_waits_for_sockets", handover="aa", who="we", detail="1 socket on 192.0.2.1", **KEPT)
    story.says(9000, "peer_silent", detail="no answer for 30 s")

    (handover,) = story.handovers
    assert (handover.result, handover.detail) == ("carrying", "1 socket on 192.0.2.1")
    assert [entry.kind for entry in tell(story.entries).others] == ["peer_silent"]


def test_the_two_sides_and_several_peers_are_kept_apart() -> None:
    ours, other = Story(), Story("other")
    ours.starts(0, "aa", "192.0.2.1", "192.0.2.2")
    ours.starts(1, "aa", "198.51.100.1", "198.51.100.2", "peer", "peer")
    other.starts(2, "aa", "192.0.2.1", "192.0.2.2")
    ours.does(3, "aa", "filters", who="peer")
    ours.ends(4, "aa", who="peer")

    handovers = tell(ours.entries[:2] + other.entries + ours.entries[2:]).handovers
    assert [(one.start.peer, one.ours, one.result, len(one.steps)) for one in handovers] == [
        ("server", True, "running", 0),
        ("server", False, "done", 1),
        ("other", True, "running", 0),
    ]


@pytest.mark.parametrize("how", ["daemon_started", "daemon_stopped"])
def test_a_daemon_that_ends_in_the_middle_leaves_a_handover_cut_short(how: str) -> None:
    story = Story()
    story.starts(0, "aa", "192.0.2.1", "192.0.2.2")
    assert story.results == ["running"]
    story.says(5, how)
    assert story.results == ["cut_short"]


def test_a_handover_that_goes_on_after_a_restart_is_one_handover() -> None:
    story = Story()
    story.starts(0, "aa", "192.0.2.1", "192.0.2.2")
    story.does(0.1, "aa", "deprecated")
    story.says(5, "daemon_started")
    story.does(6, "aa", "deprecated", "acknowledged", "released")
    story.ends(7, "aa")

    (handover,) = story.handovers
    assert (handover.result, handover.duration) == ("done", pytest.approx(7))
    assert handover.steps["deprecated"] == pytest.approx(0.1)  # the first time counts
    assert story.results == ["done"]


def test_after_a_reboot_no_duration_is_made_up() -> None:
    story = Story()
    story.starts(0, "aa", "192.0.2.1", "192.0.2.2")
    story.boot = "boot two"
    story.says(100, "daemon_started")
    story.does(101, "aa", "acknowledged")

    (handover,) = story.handovers
    assert handover.steps == {}
    assert [moment.offset for moment in handover.moments] == [0.0, None]
    assert "?" in render_one(handover)
    assert "(after a restart of the host)" in " ".join(said for _, _, _, said in texts(draw(handover)))


def test_a_peer_that_is_forgotten_ends_what_ran_with_it() -> None:
    story = Story()
    story.starts(0, "aa", "192.0.2.1", "192.0.2.2")
    story.says(300, "peer_forgotten", detail="no IKE_SA and no message for 300 s")

    assert story.results == ["forgotten"]


def test_the_rest_of_a_handover_whose_beginning_is_gone_is_passed_over() -> None:
    story = Story()
    story.does(0, "aa", "grace", "released")
    story.ends(1, "aa")

    assert tell(story.entries).chronicle() == []


def test_the_time_of_day_follows_the_offset_unless_somebody_has_set_the_clock() -> None:
    story = Story()
    story.starts(0, "aa", "192.0.2.1", "192.0.2.2")
    for late in (-0.002, 3600.0):  # written in a hurry; summer time was switched on by hand
        story.does(0.5, "aa", "deprecated")
        story.entries[-1] = replace(story.entries[-1], at=DAY + 0.5 + late)

    times = [moment.at - DAY for moment in story.handovers[0].moments]
    assert times == pytest.approx([0.0, 0.5, 3600.5], abs=1e-5)


def test_a_return_within_a_minute_and_many_moves_are_flapping() -> None:
    story = Story()
    for number, (at, old, new) in enumerate([(0, "a", "b"), (20, "b", "a"), (30, "a", "c"), (200, "c", "b")]):
        story.starts(at, f"a{number}", old, new)

    assert [handover.flapping for handover in story.handovers] == [
        "",
        "flapping: back at an address that was left 20 s before",
        "flapping: 3 moves within a minute",
        "",
    ]


# --- silence ----------------------------------------------------------------------------------------------------------


def test_silence_is_told_from_the_loss_on() -> None:
    (handover,) = lost_and_found().handovers

    assert silence(handover) == "no address for 500 ms; then sending after 45 ms, receiving after 245 ms"


def test_no_silence_is_claimed_where_the_old_address_worked_or_where_only_the_peer_knows() -> None:
    story = Story()
    story.starts(0, "aa", "192.0.2.1", "192.0.2.2", "planned")
    story.starts(0, "bb", "198.51.100.1", "198.51.100.2", "peer", "peer")
    story.does(0.2, "bb", "proven", who="peer")

    ours, peers = story.handovers
    assert silence(ours).startswith("none to be expected")
    assert silence(peers) == "the peer's history knows, under the same id; we sent there after 200 ms"


def test_a_silence_that_did_not_end_is_not_called_short() -> None:
    story = Story()
    story.starts(0, "aa", "192.0.2.1", "192.0.2.2")

    assert silence(story.handovers[0]) == "sending never began again, receiving not known"


# --- as text ----------------------------------------------------------------------------------------------------------


def everything() -> Story:
    story = lost_and_found()
    story.starts(1000, "bb02", f"{LONG}2222", f"{LONG}3333", "planned")
    refusal = f"not_allowed: {LONG}3333 is outside the prefixes allowed for you"
    story.says(1000.2, "address_change_refused_by_peer", handover="bb02", who="we", detail=refusal)
    story.ends(1000.2, "bb02", "refused", detail=refusal)
    story.says(2000, "transfer_given_up", detail="the peer did not answer in time; programs ran on", left_out=7)
    story.says(90_000, "daemon_stopped", detail="")
    return story


def text_of(story: Story) -> str:
    return render_all(tell(story.entries), Path("history.jsonl"), None, DAY)


def test_no_line_is_wider_than_a_terminal_and_no_address_is_cut() -> None:
    story = everything()
    texts = [text_of(story), *(render_one(handover) for handover in story.handovers)]

    for text in texts:
        assert [line for line in text.splitlines() if len(line) > COLUMNS] == []
        assert f"{LONG}2222" in text


def test_the_list_answers_what_happened_at_03_12() -> None:
    words = " ".join(text_of(everything()).split())

    assert words.startswith("2 handovers; times are UTC Thursday 2026-11-26 03:12:06 server: our address was lost:")
    assert f"03:12:07 server: we moved {LONG}1111 -> {LONG}2222 aa01: done, 11m 40s" in words
    assert "the old address was lost; 13 sockets moved, 3 stayed" in words
    assert "bb02: refused by the peer, 200 ms" in words
    assert "the peer did not answer in time; programs ran on; 7 more like this before it" in words
    assert "Friday 2026-11-27 04:12:07 the daemon stopped" in words


def test_moves_that_were_not_written_down_are_counted() -> None:
    story = Story()
    story.starts(0, "aa", "192.0.2.1", "192.0.2.2")
    story.entries[0] = replace(story.entries[0], fields={**story.entries[0].fields, "left_out": 12})

    for text in (text_of(story), render_one(story.handovers[0])):
        assert "12 moves before it were not written down: too many" in " ".join(text.split())


def test_an_empty_history_says_where_it_would_be() -> None:
    assert "Nothing is in history.jsonl." in text_of(Story())


def test_one_handover_is_told_with_every_step_and_the_time_that_it_took() -> None:
    text = render_one(lost_and_found().handovers[0])

    assert text.startswith("Handover aa01: done, 11m 40s\n")
    assert "  03:12:07.145    145 ms    +100 ms  acknowledged: both hosts know, and agree\n" in text
    assert "sockets      13 moved, 3 stayed; programs were stopped for 23 ms at most\n" in text
    assert "stayed       3: its owner uses io_uring: a-rather-long-name/567890\n" in text
    assert "and 2 more" in text
    assert "03:23:47.000   11m 40s" in text


def test_a_refusal_is_told_with_its_reason() -> None:
    text = " ".join(render_one(everything().handovers[1]).split())

    assert f"because not_allowed: {LONG}3333 is outside the prefixes allowed for you" in text
    assert "cause planned: somebody asked for it" in text
    assert "sockets were not gone over" in text


def test_colours_change_nothing_but_colours() -> None:
    handover = lost_and_found().handovers[0]
    coloured = render_one(handover, Paint(coloured=True))

    assert "\x1b[32mHandover aa01: done" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == render_one(handover)


# --- as a drawing -----------------------------------------------------------------------------------------------------

NAMESPACE = {"svg": "http://www.w3.org/2000/svg"}


def texts(drawing: str) -> list[tuple[float, float, float, str]]:
    """Of each text where it begins and ends, its line, and what it says; glyphs as wide as the drawing reckons."""
    root = ElementTree.fromstring(drawing)
    found = []
    for element in root.findall("svg:text", NAMESPACE):
        words = element.text or ""
        size = 18 if element.get("class") == "title" else 12
        width = len(words) * size * 0.55  # the mean of DejaVu Sans, which is a wide one
        x, y = float(element.get("x", "")), float(element.get("y", ""))
        left = x - width / 2 if element.get("text-anchor") == "middle" else x
        found.append((left, left + width, y, words))
    return found


@pytest.mark.parametrize("number", range(2))
def test_no_two_labels_of_the_drawing_overlap_and_none_leaves_it(number: int) -> None:
    drawing = draw(everything().handovers[number])
    placed = texts(drawing)

    height = float(ElementTree.fromstring(drawing).get("height", ""))
    for index, (left, right, y, words) in enumerate(placed):
        assert 0 <= left < right <= svg.WIDTH, words
        assert 10 <= y <= height - 5, words
        for other_left, other_right, other_y, other in placed[index + 1 :]:
            assert abs(y - other_y) >= 12 or right <= other_left or other_right <= left, (words, other)


def test_the_drawing_tells_what_the_text_tells() -> None:
    words = " ".join(said for _, _, _, said in texts(draw(lost_and_found().handovers[0])))

    for said in ("aa01: done, 11m 40s", f"{LONG}1111 -> {LONG}2222", "the old address was lost", IDENTITY, "145 ms"):
        assert said in words
    for step in ("deprecated", "acknowledged", "proven", "filters", "transport", "grace", "released"):
        assert step in words


def test_bars_follow_one_another_in_time() -> None:
    root = ElementTree.fromstring(draw(lost_and_found().handovers[0]))
    bars = [bar for bar in root.findall("svg:rect", NAMESPACE) if bar.get("class") == "step"]

    ends = [float(bar.get("x", "")) + float(bar.get("width", "")) for bar in bars]
    assert len(bars) == 7
    assert ends == sorted(ends)
    assert all(float(bar.get("width", "")) >= 3 for bar in bars)


def test_the_drawing_has_colours_for_light_and_for_dark() -> None:
    drawing = draw(lost_and_found().handovers[0])
    light, dark = drawing.split("@media (prefers-color-scheme: dark)")

    for style in (".ground", ".step", ".aside", ".bad", ".event", ".grid"):
        assert style in light
        assert style in dark


def test_what_a_peer_says_is_text_in_the_drawing_and_nothing_else() -> None:
    story = Story()
    story.starts(0, "aa", "192.0.2.1", "192.0.2.2")
    story.ends(1, "aa", "refused", detail="</text><script>alert(1)</script>\x1b&")

    drawing = draw(story.handovers[0])
    assert ElementTree.fromstring(drawing).findall(".//svg:script", NAMESPACE) == []
    assert any("<script>alert(1)</script>?&" in words for _, _, _, words in texts(drawing))

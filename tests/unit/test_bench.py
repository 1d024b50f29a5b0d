"""The bench's own logic: what it reckons, how it shows it, and how it is called. Times are measured elsewhere."""

import json
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import pytest

from bench import figures, report
from bench.__main__ import EMULATED_TICK, EMULATED_UDP_RATE, parse
from bench.contenders import Kind, accepts_transport, contenders
from bench.inside import available_memory, write
from bench.report import NONE, Table
from bench.results import ClearSample, Machine, MoveSample, Results, SocketsSample, ThroughputSample
from bench.settings import MEASURES, Settings
from bench.topologies import Moved, shown_at

KEEP, MOBIKE, PLAIN = (kind.value for kind in (Kind.KEEP, Kind.MOBIKE, Kind.PLAIN))
MOVE = MoveSample(
    contender=KEEP,
    rtt_ms=20,
    move="hard",
    tcp_up_ms=100.0,
    tcp_down_ms=200.0,
    udp_up_ms=50.0,
    udp_down_ms=40.0,
    udp_sent=1000,
    udp_lost_up=3,
    udp_lost_down=4,
    udp_lost_addressless=5,
    floor_tcp_ms=11.0,
    addressless_ms=500.0,
    reconnects=0,
    settled_ms=300.0,
    steps={"deprecated": 30.0, "filters": 250.0},
    peer_steps={"filters": 240.0},
)
SOCKETS = SocketsSample(
    contender=KEEP,
    count=100,
    opened=100,
    handover_ms=300.0,
    step="filters",
    answered_ms=400.0,
    lost=0,
    reopened=0,
    silence_ms=90.0,
    status_ms=33.0,
    listed=100,
)
MACHINE = Machine("6.1.0", emulated=True, processors=1, costs={"call": 10.0, "only here": 1.0})
OUTSIDE = Machine("6.12.0", emulated=False, processors=2, costs={"call": 0.5})


def results(**changes: object) -> Results:
    return replace(Results(Settings(), MACHINE, OUTSIDE), **changes)


def cells(table: Table, first: str) -> dict[str, str]:
    """A row by its columns; columns of the same name keep the last."""
    (row,) = [row for row in table.rows if row[0] == first]
    return dict(zip(table.columns, row, strict=True))


def test_the_median_of_an_even_number_lies_between_the_middle_two() -> None:
    assert figures.median([4.0, 1.0, 100.0, 2.0]) == 3.0
    with pytest.raises(ValueError, match="no median"):
        figures.median([])


def test_slope_is_that_of_the_line_and_needs_two_places() -> None:
    assert figures.slope([(100, 5.0), (1000, 14.0), (2000, 24.0)]) == pytest.approx(0.01)
    assert figures.slope([(100, 5.0), (100, 6.0)]) is None
    assert figures.slope([]) is None


@pytest.mark.parametrize(("value", "reference"), [(None, 1.0), (1.0, None), (1.0, 0.0)])
def test_there_is_no_ratio_to_nothing(value: float | None, reference: float | None) -> None:
    assert figures.ratio(value, reference) is None
    assert report.times(figures.ratio(value, reference)) == NONE


def test_silence_is_compared_in_its_worse_direction_with_each_reference() -> None:
    samples = [MOVE, replace(MOVE, tcp_down_ms=400.0), replace(MOVE, tcp_down_ms=300.0)]
    samples.append(replace(MOVE, contender=MOBIKE, tcp_up_ms=600.0, tcp_down_ms=1.0))
    table = report.silence_table(samples, 20, "hard", 1.0)
    row = dict(zip(table.columns[:5], next(row for row in table.rows if row[0] == KEEP)[:5], strict=True))
    assert row == {
        "contender": KEEP,
        "TCP up": "100 (100)",
        "TCP down": "300 (400)",
        "/ mobike": "0.50x",
        "/ plain": NONE,
    }
    assert next(row for row in table.rows if row[0] == MOBIKE)[3:5] == (NONE, NONE)
    assert "median (worst) of 3" in table.note
    assert "500 ms without any address" in table.note


def test_steps_that_a_contender_does_not_have_are_left_open() -> None:
    table = report.steps_table([MOVE, replace(MOVE, contender=PLAIN, steps={}, peer_steps={})], 20, "hard")
    assert cells(table, f"{KEEP}, mobile")["deprecated"] == "30 (30)"
    assert cells(table, f"{KEEP}, correspondent")["deprecated"] == NONE
    assert cells(table, f"{PLAIN}, both hosts")["settled"] == "300 (300)"
    assert len(table.rows) == 4


def test_cost_of_a_connection_leaves_out_where_the_move_itself_costs_more() -> None:
    samples = [
        replace(SOCKETS, contender=name, count=n, opened=n, answered_ms=base + n * each)
        for name, base, each in ((KEEP, 300.0, 0.5), (PLAIN, 1000.0, 2.0))
        for n in (100, 1000, 2000)
    ]
    samples.append(replace(SOCKETS, count=1, opened=1, answered_ms=9999.0))
    row = cells(report.slope_table(samples), KEEP)
    assert row["all answered"] == "500"
    assert row["/ plain"] == "0.25x"
    assert row["all answered / mobike"] == NONE


def test_throughput_after_the_move_is_compared_with_plain_transport_before_it() -> None:
    samples = [
        ThroughputSample(KEEP, 20, before={"up": (30e6, 10e6, 20e6)}, after={"up": (15e6, 15e6, 15e6)}),
        ThroughputSample(PLAIN, 20, before={"up": (30e6, 30e6, 30e6)}, after={"up": (30e6, 30e6, 30e6)}),
    ]
    row = cells(report.throughput_table(samples, 20), KEEP)
    assert (row["before"], row["after"]) == ("20", "15")
    assert (row["after / before"], row["after / plain before"]) == ("0.75x", "0.50x")


def test_emulation_is_named_with_its_share() -> None:
    table = report.machine_table(MACHINE, OUTSIDE)
    assert "EMULATED" in table.note
    assert cells(table, "call")["emulated / native"] == "20.00x"
    assert cells(table, "only here")["native"] == NONE
    assert "not emulated" in report.machine_table(OUTSIDE, None).note


def test_what_was_not_run_and_what_failed_is_said() -> None:
    made = results(not_run=["5000 connections: no room"], failed=["x: broken"])
    for shown in (report.terminal(made), report.markdown(made)):
        assert "Not run: 5000 connections: no room" in shown
        assert "FAILED: x: broken" in shown


def test_columns_stand_below_each_other_and_a_page_has_as_many_cells_in_every_line() -> None:
    table = Table("Title", "note", ("name", "a", "long heading"), (("x", "1", "2"), ("longer | name", "10,000", "3")))
    shown = table.text().splitlines()[3:]
    assert len({len(line) for line in shown}) == 1
    lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {4}


def test_everything_measured_is_in_the_tables_and_in_the_file(tmp_path: Path) -> None:
    made = results(
        moves=[MOVE],
        clear=[ClearSample(PLAIN, "hard", 7, 100)],
        sockets=[SOCKETS],
        throughput=[ThroughputSample(PLAIN, 0, {"up": (1e6,)}, {"up": (2e6,)})],
    )
    write(made, tmp_path)
    written = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(asdict(made)))
    page = (tmp_path / "bench.md").read_text(encoding="utf-8")
    for title in (
        "Silence in a hard move, 20 ms",
        "Steps of a hard",
        "In clear",
        "Many connections",
        "Throughput, 0 ms",
    ):
        assert f"### {title}" in page


def test_an_address_is_seen_to_come_and_to_go() -> None:
    shown = (
        "[2026-11-26T15:20:43.250000] Deleted 4: net-a    inet 10.1.1.2/24 scope global net-a\n"
        "[2026-11-26T15:20:43.750000] 5: net-b    inet 10.2.2.2/24 scope global net-b\n"
    )
    departed, arrived = shown_at(shown, "10.1.1.2", deleted=True), shown_at(shown, "10.2.2.2", deleted=False)
    assert arrived is not None
    assert departed == datetime(2026, 11, 26, 15, 20, 43, 250_000).timestamp()
    assert Moved(departed, arrived).addressless == pytest.approx(0.5)
    assert Moved(arrived, departed).addressless == 0.0
    assert shown_at(shown, "10.2.2.2", deleted=True) is None
    assert shown_at(shown.rstrip("\n"), "10.2.2.2", deleted=False) is None


def test_an_emulated_kernel_gets_less_to_do_unless_it_is_asked_for() -> None:
    settings, _, _ = parse([], emulated=True)
    assert (settings.tick, settings.udp_rate) == (EMULATED_TICK, EMULATED_UDP_RATE)
    assert parse([], emulated=False)[0] == Settings()
    settings, directory, kernel = parse(
        ["--counts", "1,10", "--measures", "sockets,clear", "--udp-rate", "9", "--results", "x", "--kernel", "guest"],
        emulated=True,
    )
    assert (settings.counts, settings.measures, settings.udp_rate) == ((1, 10), ("sockets", "clear"), 9)
    assert (directory, kernel) == (Path("x"), "guest")


def test_a_measure_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--measures", "silence,speed"], emulated=False)
    assert f"no measure speed; there are {', '.join(MEASURES)}" in capsys.readouterr().err


def test_a_contender_that_this_swanroam_cannot_be_is_said_to_be_missing() -> None:
    found, absent = contenders()
    assert {contender.kind for contender in found} >= {Kind.KEEP, Kind.MOBIKE, Kind.PLAIN}
    assert (Kind.MOVE in {contender.kind for contender in found}) is accepts_transport()
    assert bool(absent) is not accepts_transport()


def test_the_references_of_the_tables_are_contenders() -> None:
    assert set(report.REFERENCES) == {Kind.MOBIKE.value, Kind.PLAIN.value}


def test_free_memory_is_known() -> None:
    assert available_memory() > 1 << 20

"""Counters of /proc/net/xfrm_stat."""

from pathlib import Path

from swanroam.kernel.xfrm.stats import difference, parse_statistics, read_statistics

TEXT = """\
XfrmInError             \t0
XfrmInNoStates          \t12
XfrmOutPolBlock         \t3
"""


def test_counters_are_read_by_name(tmp_path: Path) -> None:
    path = tmp_path / "xfrm_stat"
    path.write_text(TEXT)
    assert read_statistics(path) == {"XfrmInError": 0, "XfrmInNoStates": 12, "XfrmOutPolBlock": 3}


def test_lines_of_another_form_are_left_out() -> None:
    assert parse_statistics("Header\nXfrmInError x\nXfrmInError 1 2\n\nXfrmInNoStates 4") == {"XfrmInNoStates": 4}


def test_difference_has_what_moved() -> None:
    after = {"XfrmInError": 0, "XfrmInNoStates": 15, "XfrmOutPolBlock": 3, "XfrmNew": 1}
    assert difference(parse_statistics(TEXT), after) == {"XfrmInNoStates": 3, "XfrmNew": 1}

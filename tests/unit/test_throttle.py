"""What somebody else can cause at will costs a bounded share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swanroam.daemon.throttle import Throttle
from swanroam.protocol.bucket import Bucket


def test_a_bucket_gives_its_burst_and_then_its_rate():
    bucket = Bucket(burst=3, rate=2.0)
    assert [bucket.take(100.0) for _ in range(5)] == [True, True, True, False, False]
    assert [bucket.take(100.5), bucket.take(100.5)] == [True, False]
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False], "no more than the burst is saved up"


@given(st.lists(st.floats(0.0, 3.0), max_size=200), st.floats(1.0, 20.0), st.floats(0.1, 50.0))
def test_a_bucket_never_gives_more_than_it_has(pauses: list[float], burst: float, rate: float):
    bucket, now, taken = Bucket(burst, rate), 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now)
        assert taken <= burst + now * rate + 1e-6


def test_the_first_lines_are_written_then_one_now_and_then_with_the_number_left_out():
    throttle = Throttle(burst=2, interval=60.0)
    assert [throttle.admit("a", 0.0) for _ in range(4)] == [0, 0, None, None]
    assert throttle.admit("b", 0.0) == 0, "each kind for itself"
    assert throttle.admit("a", 59.0) is None
    assert throttle.admit("a", 60.0) == 3
    assert throttle.admit("a", 60.0) is None


def test_what_was_left_out_is_told_once():
    throttle = Throttle(burst=1, interval=60.0)
    assert [throttle.admit("a", 0.0) for _ in range(3)] == [0, None, None]
    assert throttle.left_out("a") == 2
    assert throttle.left_out("a") == 0
    assert throttle.admit("a", 60.0) == 0

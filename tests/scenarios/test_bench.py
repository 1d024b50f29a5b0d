"""The bench works: each contender moves, and each measure is taken, as small as it goes. No time is looked at."""

from dataclasses import replace

import pytest

from bench import report
from bench.inside import run
from bench.measures.machine import measure_machine
from bench.settings import Settings
from lab.zygote import Zygote

pytestmark = [pytest.mark.lab, pytest.mark.long]

CONNECTIONS = 10
SMALL = Settings(
    repetitions=1,
    rtts_ms=(0,),
    moves=("hard",),
    counts=(CONNECTIONS,),
    measures=("silence",),
    tick=0.02,
    udp_rate=50,
    gap=0.2,
    overlap=0.2,
    steady=0.3,
    window=0.2,
)


def test_bench_measures_what_it_promises(zygote: Zygote) -> None:
    results = run(SMALL, measure_machine(), zygote)
    others = replace(SMALL, measures=("clear", "sockets", "throughput"), contenders=("keep",))
    more = run(others, measure_machine(), zygote)
    results = replace(results, clear=more.clear, sockets=more.sockets, throughput=more.throughput)
    print(report.terminal(results))

    assert not results.failed + more.failed
    assert len({sample.contender for sample in results.moves}) == len(results.moves) >= 3
    for moved in results.moves:
        assert moved.udp_sent
        assert min(moved.tcp_up_ms, moved.tcp_down_ms, moved.udp_up_ms, moved.udp_down_ms) > 0
        assert moved.addressless_ms > 0
        assert bool(moved.steps) is moved.contender.startswith("swanroam")
    assert [(sample.clear, sample.packets > 0) for sample in results.clear] == [(0, True)]
    assert [(sample.opened, sample.lost) for sample in results.sockets] == [(CONNECTIONS, 0)]
    (throughput,) = results.throughput
    assert min(rate for rates in (*throughput.before.values(), *throughput.after.values()) for rate in rates) > 0

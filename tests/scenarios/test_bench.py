"""The bench works: every measure once, with every contender, as small as it goes. No time is looked at."""

import pytest

from bench import report
from bench.inside import run
from bench.measures.machine import measure_machine
from bench.settings import Settings
from lab.zygote import Zygote

pytestmark = pytest.mark.lab


def test_bench_measures_everything_it_promises(zygote: Zygote) -> None:
    connections = 10
    settings = Settings(
        repetitions=1, rtts_ms=(0,), moves=("soft",), counts=(connections,), tick=0.02, udp_rate=50, window=0.2
    )
    results = run(settings, measure_machine(), zygote)
    print(report.terminal(results))

    assert not results.failed
    names = {sample.contender for sample in results.moves}
    assert len(names) >= 3
    for samples in (results.moves, results.clear, results.sockets, results.throughput):
        assert {sample.contender for sample in samples} == names
    for moved in results.moves:
        assert moved.udp_sent
        assert 0 < moved.tcp_up_ms < 60_000
        assert bool(moved.steps) is moved.contender.startswith("swanroam")
    assert [sample.clear for sample in results.clear if sample.contender.startswith("swanroam")] == [0]
    for sample in results.sockets:
        assert (sample.opened, sample.lost) == (connections, 0)
    for sample in results.throughput:
        for rates in (*sample.before.values(), *sample.after.values()):
            assert min(rates) > 0

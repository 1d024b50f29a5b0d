"""What a program hears of it when movers move its connection. It needs neither IPsec nor a network, so any kernel will
do, and the same measured outside of an emulated kernel tells how much of a handover's silence is emulation."""

import json
import sys
from pathlib import Path
from statistics import median

from kernel.mover_hosts import NEW, OLD, PATIENCE, PEER, Mover, Pair
from swanroam.kernel.sock_diag import SocketProtocol
from swanroam.transport.orders import Entry

MOVERS = "the silence of a program whose connection is moved by the movers of two hosts, without network and daemons"
MOVES = 11
_TICKS = str(Path(__file__).parents[2] / "lab" / "programs" / "ticks.py")
_TICK = 0.001
"""Seconds between two messages, each way."""


def measure_movers() -> float:
    """Microseconds: the longest time without a message at either end, the median of some moves there and back."""
    with Pair() as hosts:
        hosts.steer(OLD)
        server = hosts.peer.start(sys.executable, _TICKS, "listen", "4", str(_TICK))
        server_port = json.loads(server.line())["port"]
        client = hosts.mobile.start(sys.executable, _TICKS, "connect", str(PEER), str(server_port), str(_TICK), "0")
        port = json.loads(client.line())["port"]
        here = Entry(SocketProtocol.TCP, OLD, port, PEER, server_port, NEW, PEER)
        there = Entry(SocketProtocol.TCP, PEER, server_port, OLD, port, PEER, NEW)
        silences = []
        for number in range(MOVES):
            hosts.steer(OLD if number % 2 else NEW)
            with hosts.mobile.mover() as leader, hosts.peer.mover() as follower:
                leader.inspect([here])
                follower.inspect([there])
                for program in (client, server):
                    program.ask("mark")
                _hand_over(leader, follower, here, there)
                silences.append(max(json.loads(program.ask("mark"))["longest_silence"] for program in (client, server)))
            here, there = here.reversed, there.reversed
    return median(silences) * 1e6


def _hand_over(leader: Mover, follower: Mover, here: Entry, there: Entry) -> None:
    """One after the other, as the daemons have it (protocol/leader.py)."""
    one, two = leader.next_transfer(), follower.next_transfer()
    theirs = leader.stop(one, [here], hold_seconds=PATIENCE)
    ours = follower.stop(two, [there], hold_seconds=PATIENCE)
    assert follower.rebuild(two, dict(theirs.numbers)).done == (0,)
    assert leader.rebuild(one, dict(ours.numbers)).done == (0,)
    assert not leader.go(one).refusals
    assert not follower.go(two).refusals

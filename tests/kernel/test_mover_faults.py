"""Whoever dies whenever: the connection lives on, at the old addresses or at the new ones, with every octet."""

import json
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from kernel.mover_hosts import NEW, OLD, PATIENCE, Host, Mover, MoverDied, OtherAnswer, Pair, entries, hand_over, settle
from swanroam.transport.orders import Entry, Expired, Failed, Go, Gone, Place

pytestmark = pytest.mark.kernel

AT_A_TIME = 4
"""Pairs of hosts; most of the time is spent waiting for retransmissions."""


class FaultyMovers:
    """Starts movers of one host that die when they are told to."""

    def __init__(self, hosts: Pair, host: Host, log: Path) -> None:
        self._hosts = hosts
        self._requests = host.nursery("faulty")
        self._log = log

    def start(self, who: str = "nobody", step: int = 0, transfers: Iterable[int] = count(1)) -> Mover:
        ours, theirs = socket.socketpair()
        self._hosts.callback(ours.close)
        request = json.dumps({"who": who, "step": step, "log": str(self._log)})
        with theirs:
            socket.send_fds(self._requests, [request.encode()], [theirs.fileno()])
        return Mover(ours, transfers)


def deaths(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def try_to_hand_over(mobile: Mover, peer: Mover, here: Entry, there: Entry) -> None:
    """The mobile host leads; when its mover dies the peer's lets go where it stands, and keeps its locks."""
    one, two = mobile.next_transfer(), peer.next_transfer()
    try:
        theirs = mobile.stop(one, [here], hold_seconds=PATIENCE)
        ours = peer.stop(two, [there], hold_seconds=PATIENCE)
        rebuilt = peer.rebuild(two, dict(theirs.numbers))
        assert rebuilt.done == (0,), rebuilt.refusals
        assert mobile.rebuild(one, dict(ours.numbers)).done == (0,)
        assert not mobile.go(one).refusals
        assert not peer.go(two).refusals
    except (MoverDied, OtherAnswer) as stopped:
        # Without its tracer it says that it has ended the transfer, or cannot begin it.
        if isinstance(stopped, OtherAnswer) and not isinstance(stopped.answer, Failed | Expired):
            raise
        peer.send(Go(two, keep_locks=(0,)))
        peer.receive_any(Gone, Failed)


def test_the_worker_dies_at_every_step(tmp_path: Path) -> None:
    def run(first: int) -> int:
        """Every AT_A_TIMEth step; how many there were."""
        log = tmp_path / f"died{first}"
        with Pair() as hosts:
            client, ports = hosts.client("epoll-edge")
            mobile = FaultyMovers(hosts, hosts.mobile, log).start("worker", transfers=count(first, AT_A_TIME))
            peer = FaultyMovers(hosts, hosts.peer, log).start()
            here, there = entries(*ports)
            for moves in count(1):
                hosts.steer(NEW if moves % 2 else OLD)
                hand_over(mobile, peer, here, there)
                here, there = [here[0].reversed], [there[0].reversed]
                client.goes_on()
                if deaths(log) < moves:
                    break
            client.end()
            assert hosts.resets() == 0
            return deaths(log)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        assert sum(pool.map(run, range(1, AT_A_TIME + 1))) > 80


@pytest.mark.parametrize(
    ("who", "style", "fewest"),
    # When the tracer dies the program runs while its socket is in pieces, and had better leave it alone.
    [("keeper", "epoll-edge", 30), ("in-hand", "epoll-edge", 3), ("tracer", "resting", 5)],
)
def test_keeper_or_tracer_die_at_every_step(who: str, style: str, fewest: int, tmp_path: Path) -> None:
    def run(first: int) -> int:
        """Every AT_A_TIMEth step; how many there were."""
        log = tmp_path / f"died{first}"
        with Pair() as hosts:
            client, ports = hosts.client(style)
            movers = FaultyMovers(hosts, hosts.mobile, log), FaultyMovers(hosts, hosts.peer, log)
            (here,), (there,) = entries(*ports)
            for died in count():
                hosts.steer(NEW)
                with movers[0].start(who, first + AT_A_TIME * died) as mobile, movers[1].start() as peer:
                    try_to_hand_over(mobile, peer, here, there)
                hosts.steer(OLD)
                with movers[0].start() as mobile, movers[1].start() as peer:
                    if settle(mobile, peer, here, there) is Place.NEW:
                        hand_over(mobile, peer, [here.reversed], [there.reversed])
                if style != "resting":
                    client.goes_on()
                if deaths(log) == died:
                    break
            client.end()
            assert hosts.resets() == 0
            return deaths(log)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        assert sum(pool.map(run, range(1, AT_A_TIME + 1))) >= fewest

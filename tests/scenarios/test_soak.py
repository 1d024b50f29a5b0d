"""Move after move, with faults of every kind or under load: nothing grows, is lost, or leaves in clear.

SWANROAM_MOVES sets how many; `make soak` makes 2,000 with faults, from one seed, 1,000 under load, and 100 by method
migrate. With faults: one connection in use all the time, an idle one, and UDP; after each move the connections are at
the new address on both hosts, whatever has happened meanwhile. Every CHECKPOINT moves, with the connections open, both
kernels have what they had before anything moved. SWANROAM_SEED replays a run.
"""

import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from statistics import median

import pytest

from lab.addressing import Family
from lab.capture import UNPROTECTED
from lab.host import Host
from lab.topology import Lab
from scenarios import remains
from scenarios.agreement import begin_rekeys, rekey_all
from scenarios.native import Native
from scenarios.remains import MOVER, NURSERY
from scenarios.scenario import ON_THE_CARRIER, Story, start

MOVES = int(os.environ.get("SWANROAM_MOVES") or 24)
pytestmark = [pytest.mark.lab, pytest.mark.long, pytest.mark.timeout(600 + 20 * MOVES)]

CHECKPOINT = 25
"""Moves between two looks at everything."""
RARELY = {"charon killed": 0.2}
"""How often compared with the others: until a charon finds that its peer's is another takes many seconds."""
RECOVERY = 120.0
"""Seconds in which all must be well again, on a slow machine."""
MIGRATION = 20.0
"""Seconds in which SAs are to be moved: hosts that do not understand each other make new ones after half a minute."""
CONFIG = {"defaults": {"grace": "0.3s"}, "log": {"level": "info"}}
GROWTH = 2048
"""KiB that a controller's resident memory may vary by, over the second half of the moves but for its first fifth: there
no controller is restarted, and its history is full."""


class Soak:
    """The hosts, and what can happen to them while the mobile host moves."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.random: Random = lab.random
        self.fault: dict[str, Callable[[str], None]] = {
            "none": self.move,
            "loss": self._with_loss,
            "deaf for a while": self._blocked("down"),
            "mute for a while": self._blocked("up"),
            "and back": self._and_back,
            "and on": self._and_on,
            "rekeyed": self._rekeyed,
            "correspondent instead": self._correspondent_instead,
            "correspondent as well": self._correspondent_as_well,
            "mover killed": self._mover_killed,
            "charon killed": self._charon_killed,
            "controller killed": self._controller_killed,
        }
        """What is done with the name of the network to move to."""

    def choose(self, *excluded: str) -> str:
        """The name of the next fault."""
        names = [name for name in self.fault if name not in excluded]
        (name,) = self.random.choices(names, [RARELY.get(name, 1.0) for name in names])
        return name

    def elsewhere(self) -> str:
        return self._other_network(self.lab.mobile)

    def _other_network(self, host: Host) -> str:
        return self.random.choice([network for network in host.networks if network != host.network])

    def move(self, network: str, host: Host | None = None) -> None:
        host = host or self.lab.mobile
        if self.random.random() < 0.5:
            host.move_to(network, soft=True, overlap=self.random.uniform(0.02, 0.4))
        else:
            host.move_to(network, gap=self.random.uniform(0, 0.3))

    def _with_loss(self, network: str) -> None:
        with self._lossy(network):
            self.move(network)
            time.sleep(self.random.uniform(0.5, 2.0))

    @contextmanager
    def _lossy(self, network: str) -> Iterator[None]:
        self.lab.router.netem(
            network, delay_ms=5, jitter_ms=3, loss=self.random.choice([5, 20]), duplicate=5, reorder=10
        )
        try:
            yield
        finally:
            self.lab.router.netem(network)

    def _blocked(self, direction: str) -> Callable[[str], None]:
        def fault(network: str) -> None:
            with self.lab.router.blocked(network, direction):  # type: ignore[arg-type]  # one of its words
                self.move(network)
                time.sleep(self.random.uniform(0.1, 1.0))

        return fault

    def _and_back(self, network: str) -> None:
        before = self.lab.mobile.network
        self.move(network)
        time.sleep(self.random.uniform(0, 0.5))
        self.move(before)

    def _and_on(self, network: str) -> None:
        self.move(network)
        time.sleep(self.random.uniform(0, 0.5))
        self.move(self.elsewhere())

    def _rekeyed(self, network: str) -> None:
        self.move(network)
        time.sleep(self.random.uniform(0, 1.0))
        begin_rekeys(self._either())

    def _correspondent_instead(self, _: str) -> None:
        correspondent = self.lab.correspondent
        self.move(self._other_network(correspondent), correspondent)
        self.lab.name_hosts()

    def _correspondent_as_well(self, network: str) -> None:
        """While the mobile host's change is under way; each is at its old address long enough to hear of the other."""
        self.move(network)
        time.sleep(self.random.uniform(0, 0.5))
        correspondent = self.lab.correspondent
        correspondent.move_to(self._other_network(correspondent), soft=True, overlap=1.0)
        self.lab.name_hosts()

    def _charon_killed(self, network: str) -> None:
        self.move(network)
        time.sleep(self.random.uniform(0, 1.5))
        host = self._either()
        host.charon.kill()
        time.sleep(self.random.uniform(0, 0.5))
        host.charon.start()

    def _mover_killed(self, network: str) -> None:
        self.move(network)
        time.sleep(self.random.uniform(0, 1.5))
        remains.kill_one(self._either(), self.random.choice([MOVER, NURSERY]), self.random)

    def _controller_killed(self, network: str) -> None:
        self.move(network)
        time.sleep(self.random.uniform(0, 1.5))
        host = self._either()
        host.kill_controller()
        time.sleep(self.random.uniform(0, 0.5))
        host.start_controller(CONFIG)

    def _either(self) -> Host:
        return self.random.choice(self.lab.hosts)


def resident(host: Host) -> int:
    """KiB of the host's controller, its nursery not counted."""
    status = Path(f"/proc/{host.controller.pid}/status").read_text(encoding="ascii")
    (size,) = re.findall(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return int(size)


def assert_nothing_grew(story: Story) -> None:
    """With connections open: policies, SAs, routes, rules, devices, filters, descriptors, processes."""
    story.wait_rest(RECOVERY)
    for host in story.lab.hosts:
        remains.assert_same(host, story.fresh[host.name], story.began_in, "at rest before anything moved")
        remains.assert_no_process(host, _programs(host))
        remains.assert_descriptors(host, story.descriptors[host.name])
        remains.assert_no_idle_connection(host)


def _programs(host: Host) -> list[int]:
    """Those that have the connections."""
    return [pid for pid in host.pids() if b"lab/programs/" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.parametrize("family", [Family.IPV4], ids=["ipv4"])
def test_many_moves_with_faults(make_lab: Callable[..., Lab], family: Family) -> None:
    lab = make_lab(family=family, named=True, kept_up=True, connection_options=["dpd_delay = 2s"])
    lab.start()
    story = start(lab, config=CONFIG, grace=CONFIG["defaults"]["grace"], captured=UNPROTECTED)
    mix = story.traffic(bulk_rate=20_000, udp_rate=20)
    native = Native(story)
    soak = Soak(lab)
    took: defaultdict[str, list[float]] = defaultdict(list)
    memory: dict[str, list[int]] = {host.name: [] for host in lab.hosts}

    for number in range(1, MOVES + 1):
        name = soak.choose(*(["controller killed"] if number > MOVES // 2 else []))
        began = time.monotonic()
        soak.fault[name](soak.elsewhere())
        native.wait(RECOVERY)
        took[name].append(time.monotonic() - began)
        if number % CHECKPOINT == 0 or number == MOVES:
            mix.wait_passing()
            assert_nothing_grew(story)
            for host in lab.hosts:
                if number > MOVES * 0.6:
                    memory[host.name].append(resident(host))
            sizes = ", ".join(f"{host.name} {resident(host)} KiB" for host in lab.hosts)
            print(f"{time.strftime('%H:%M:%S')} {number} moves; {sizes}", flush=True)

    for name, seconds in sorted(took.items()):
        print(f"{name}: {len(seconds)} times, {median(seconds):.1f} s as a rule, at most {max(seconds):.1f} s")
    for name, sizes in memory.items():
        print(f"{name}: resident memory of its controller {min(sizes)} to {max(sizes)} KiB over {len(sizes)} looks")
        assert max(sizes) - sizes[0] < GROWTH, f"{name}: {sizes}"
    mix.stop()
    story.finish()


@pytest.mark.parametrize("family", [Family.IPV6], ids=["ipv6"])
def test_many_moves_under_load(lab: Lab) -> None:
    """Something is sent at every moment of every move: on connections and on connected UDP sockets, which are on the
    old address as long as they are, and by a socket that takes the new one as soon as there is a route."""
    story = start(lab, config=CONFIG, grace=CONFIG["defaults"]["grace"], captured=UNPROTECTED)
    mix = story.traffic(bulk_rate=100_000, udp_rate=300)
    unconnected = lab.traffic.udp_stream(lab.mobile, lab.correspondent, rate=100, connected=False)
    native = Native(story)
    soak = Soak(lab)
    before = passed(lab)

    for number in range(1, MOVES // 2 + 1):
        soak.move(soak.elsewhere())
        native.wait(RECOVERY)
        if number % CHECKPOINT == 0:
            mix.wait_passing()
            unconnected.wait_received(20)
            print(f"{time.strftime('%H:%M:%S')} {number} moves under load", flush=True)

    print(f"the router has passed on {passed(lab) - before} packets; sent meanwhile by the unconnected socket: ")
    print(unconnected.stop())
    mix.stop()
    story.finish()


@pytest.mark.parametrize("family", [Family.IPV6], ids=["ipv6"])
def test_rows_of_moves_with_method_migrate(lab: Lab) -> None:
    """There, on and back before anything has been moved everywhere: whatever the peer still uses is understood here."""
    story = start(lab, method="migrate", grace="8s", config=ON_THE_CARRIER)
    mix = story.traffic(bulk_rate=20_000, udp_rate=50)
    mobile = lab.mobile

    for number in range(1, max(2, MOVES // 60) + 1):
        there, beyond = (network for network in mobile.networks if network != mobile.network)
        for network in (there, beyond, there):
            story.begin_move(network)
        began = time.monotonic()
        story.wait_arrived(timeout=MIGRATION)
        mix.wait_passing()
        print(f"row {number}: arrived and passing after {time.monotonic() - began:.1f} s", flush=True)
        if number % 3 == 0:
            rekey_all(mobile)

    mix.stop()
    story.finish()


def passed(lab: Lab) -> int:
    """Packets that came to the router so far."""
    lines = lab.router.namespace.run(["cat", "/proc/net/dev"]).stdout.splitlines()[2:]
    return sum(int(line.partition(":")[2].split()[1]) for line in lines)

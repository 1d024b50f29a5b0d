"""The stage: two hosts and a router, the delay between them, a contender set up on it, and its one move.

A stage is used once: no repetition inherits anything from another.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bench.contenders import FILTERS, VIRTUAL_ADDRESS, Contender, Kind, establish
from bench.settings import Settings
from lab.addressing import Family
from lab.capture import Capture
from lab.host import Host
from lab.topology import Lab
from lab.waiting import wait_for
from lab.zygote import Zygote

ACCESS = ("net-a", "net-b")
"""Where the mobile host is before and after; both have the same delay."""
LOG_FORMAT = "%H:%M:%S.%f"
DAY = 86400.0
MARKER = "127.53.53.53"
"""An address of the loopback that comes and goes until `ip monitor` shows it: it does not say when it listens."""
LIMIT = 90.0
"""Seconds that a move may take at most."""


@dataclass(frozen=True, slots=True)
class Moved:
    """When the kernel removed the old address and when it added the new one, by CLOCK_MONOTONIC."""

    departed: float
    arrived: float

    @property
    def addressless(self) -> float:
        """Seconds without any address."""
        return max(0.0, self.arrived - self.departed)


@dataclass(slots=True)
class Stage:
    """A lab in which everything stands and nothing has moved."""

    contender: Contender
    lab: Lab
    settings: Settings
    arrived: float = 0.0
    """When the new address came, by CLOCK_MONOTONIC; after the move."""

    @property
    def mobile(self) -> Host:
        return self.lab.mobile

    @property
    def correspondent(self) -> Host:
        return self.lab.correspondent

    def move(self, kind: str) -> Moved:
        """Change networks: "soft", "hard" (with a gap) or "at once"."""
        settings = self.settings
        old, new = (str(self.mobile.address_in(network)) for network in ACCESS)
        path = self._monitor()
        if kind == "soft":
            self.mobile.move_to(ACCESS[1], soft=True, overlap=settings.overlap)
        else:
            self.mobile.move_to(ACCESS[1], gap=settings.gap if kind == "hard" else 0.0)
        moved = wait_for(
            lambda: _seen(path.read_text(encoding="utf-8"), old, new),
            LIMIT,
            f"{self.mobile.name} is seen to go from {old} to {new}",
        )
        assert moved is not None
        self.arrived = moved.arrived
        return moved

    def _monitor(self) -> Path:
        """The kernel's own word on when addresses change; the commands that ask for it take long under emulation."""
        path = self.lab.directory / "addresses"
        with path.open("w", encoding="utf-8") as output:
            self.mobile.popen(["ip", "-ts", "-4", "monitor", "address"], stdout=output.fileno())

        def listens() -> bool:
            self.mobile.ip(*(f"addr {action} {MARKER}/32 dev lo" for action in ("add", "del")))
            return MARKER in path.read_text(encoding="utf-8")

        wait_for(listens, LIMIT, f"`ip monitor` in {self.mobile.name} shows an address")
        return path

    def settled(self, limit: float = LIMIT) -> float:
        """Wait until all that the contender moves stands at the new address. Seconds from its arrival until then."""
        hosts = (self.mobile, self.correspondent)
        if self.contender.controller is not None:
            wanted = (self.contender.last_step, FILTERS)
            records = [
                host.controller.wait_event("handover_step_finished", limit, step=step)
                for host, step in zip(hosts, wanted, strict=True)
            ]
            ended = [_since_epoch(record["timestamp"]) for record in records]
        else:
            address = str(self.mobile.address)
            for host in hosts:
                wait_for(lambda host=host: _is_at(host, address), limit, f"{host.name}: its SAs are at {address}")
            ended = [_updated(host) for host in hosts]
        return _monotonic(max(ended)) - self.arrived

    def steps(self) -> tuple[dict[str, float], dict[str, float]]:
        """Of both hosts' handover: seconds from its start to the end of each step. Waits for the handover's end."""
        if self.contender.controller is None:
            return {}, {}
        records = [host.controller.wait_event("handover_finished", LIMIT) for host in (self.mobile, self.correspondent)]
        return records[0]["seconds"], records[1]["seconds"]

    def capture(self) -> Capture:
        """A capture that knows all addresses of the two, the virtual one among them."""
        capture = self.lab.start_capture()
        if self.contender.kind is Kind.MOBIKE:
            capture.pairs.append(({VIRTUAL_ADDRESS}, self.correspondent.all_addresses))
        return capture


def _seen(shown: str, old: str, new: str) -> Moved | None:
    departed, arrived = shown_at(shown, old, deleted=True), shown_at(shown, new, deleted=False)
    return Moved(_monotonic(departed), _monotonic(arrived)) if departed is not None and arrived is not None else None


def shown_at(shown: str, address: str, *, deleted: bool) -> float | None:
    """When `ip -ts monitor address` showed an address come or go, in seconds since the epoch; None: not yet."""
    for line in shown.splitlines(keepends=True):
        if line.endswith("\n") and f"inet {address}/" in line and ("Deleted" in line) is deleted:
            return _since_epoch(line[1 : line.index("]")])
    return None


def _monotonic(since_epoch: float) -> float:
    """On the clock that the programs use. The difference of the two does not change within a run."""
    return since_epoch + time.monotonic() - time.time()


def _is_at(host: Host, address: str) -> bool:
    data = [sa for sa in host.charon.associations() if sa.child == "data"]
    return bool(data) and all(address in (sa.local, sa.remote) for sa in data)


def _since_epoch(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def _updated(host: Host) -> float:
    """When charon re-addressed its last SA, by its log; seconds since the epoch."""
    clock = host.charon.log_lines("updating SAD entry")[-1].split()[0]
    now = datetime.now().astimezone()
    at = datetime.strptime(clock, LOG_FORMAT).replace(year=now.year, month=now.month, day=now.day, tzinfo=now.tzinfo)
    return at.timestamp() - (DAY if at > now else 0.0)


@contextmanager
def stage(contender: Contender, rtt_ms: int, settings: Settings, zygote: Zygote) -> Iterator[Stage]:
    """Set up everything; it is gone after the block."""
    with contender.make_lab(zygote) as lab:
        # The lab's hosts have both families, and charon would try paths of both. Only the one that is measured remains.
        network = lab.correspondent.network
        lab.correspondent.ip(f"addr del {lab.correspondent.address_in(network, Family.IPV6)}/64 dev {network}")
        if rtt_ms:
            for access in ACCESS:
                lab.router.netem(access, delay_ms=rtt_ms / 2)
        establish(contender, lab)
        yield Stage(contender, lab, settings)

"""tcpdump on all legs of the router, and what it saw."""

import os
import re
import signal
import subprocess
from collections import Counter
from pathlib import Path

from lab import analysis, pcap
from lab.analysis import Kind, Observation, Pair
from lab.charon import unconfined
from lab.host import Host
from lab.namespace import CommandError
from lab.network import Router
from lab.waiting import wait_for

SNAPSHOT_LENGTH = 256  # bytes: two IPv6 headers, ESP or TCP with options, and some payload
BUFFER = 32768  # KiB; a capture that lost packets proves nothing

UNPROTECTED = (
    "not (ip proto 50 or ip6 proto 50"
    " or (ip proto 4 and ip[0] & 0x0f == 5 and ip[6:2] & 0x1fff == 0 and ip[29] == 50)"
    " or (ip6[6] == 41 and ip6[46] == 50))"
)
"""For pcap-filter(7): everything but ESP, native or right inside IP-in-IP. With that as well tcpdump does not keep up
when the hosts send at full speed."""


class Capture:
    """`start`, `stop`, then the questions. Packets count once, as they came in."""

    def __init__(self, router: Router, path: Path, expression: str = "") -> None:
        """`expression`: what to capture, for pcap-filter(7); everything, if empty."""
        self.path = path
        self._expression = expression
        self.pairs: list[Pair] = []
        """Pairs of hosts that `clear_packets` and `counts` are about."""
        self._router = router.namespace
        self._messages = path.with_suffix(".tcpdump")
        self._process: subprocess.Popen[str] | None = None
        self._frames: list[pcap.Frame] | None = None
        self._legs: dict[int, str] = {}

    def start(self) -> None:
        """Returns when the capture runs."""
        self._legs = self._devices()
        with self._messages.open("w", encoding="utf-8") as messages:
            argv = [
                unconfined("tcpdump", self.path.parent),
                "-i",
                "any",
                "-Q",
                "in",  # each packet once
                "-y",
                "LINUX_SLL2",
                "-n",
                "-U",
                "--immediate-mode",
                "-Z",
                "root",
            ]
            argv += ["-s", str(SNAPSHOT_LENGTH), "-B", str(BUFFER), "-w", str(self.path)]
            argv += [self._expression] if self._expression else []
            self._process = self._router.popen(argv, stdout=subprocess.DEVNULL, stderr=messages.fileno())
        wait_for(self._listening, 20, "tcpdump listens on the router", self._said, poll=0.02)

    def _devices(self) -> dict[int, str]:
        listed = self._router.ip("-o link show")
        return {int(index): name for index, name in re.findall(r"^(\d+): ([^:@]+)[@:]", listed, re.MULTILINE)}

    def _said(self) -> str:
        return self._messages.read_text(encoding="utf-8")

    def _listening(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise CommandError(f"tcpdump ended: {self._said()}")
        return "listening on" in self._said()

    def stop(self) -> None:
        """Returns when all that passed so far is in the file. Raises CommandError when packets were missed."""
        if self._process is None:
            return
        # The last packet is known when a later one of our own is in the file.
        marker = os.urandom(16)
        self._router.run(["ping", "-c", "1", "-p", marker.hex(), "127.0.0.1"])
        wait_for(lambda: marker in self.path.read_bytes(), 30, "the capture has caught up", self._said)
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=20)
        self._process = None
        dropped = re.search(r"(\d+) packets? dropped by kernel", self._said())
        if dropped is None or int(dropped[1]):
            raise CommandError(f"the capture is not complete: {self._said()}")

    def kill(self) -> None:
        """End it without looking at the result."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def frames(self) -> list[pcap.Frame]:
        """All frames, after `stop` (before it: those so far)."""
        if self._process is not None:
            return pcap.read(self.path)
        if self._frames is None:
            self._frames = pcap.read(self.path)
        return self._frames

    def between(self, one: Host, other: Host) -> list[Observation]:
        """Packets between two hosts."""
        return analysis.observe(self.frames, (one.all_addresses, other.all_addresses), self._legs)

    def packets(self) -> list[Observation]:
        """Packets between all pairs, in order of time."""
        found = [seen for pair in self.pairs for seen in analysis.observe(self.frames, pair, self._legs)]
        return sorted(found, key=lambda seen: seen.time)

    def clear_packets(self) -> list[Observation]:
        """Packets of all pairs that were in clear; a failing `assert not capture.clear_packets()` lists them."""
        return [seen for seen in self.packets() if seen.kind.clear]

    def reused_nonces(self) -> list[tuple[Observation, Observation]]:
        """ESP packets with the nonce of another one; a failing `assert not capture.reused_nonces()` lists them."""
        return analysis.reused_nonces(self.packets())

    def counts(self) -> Counter[Kind]:
        """How many packets of each kind passed between all pairs."""
        return analysis.counts(self.packets())

"""Programs that a user talks to, and what comes out of those that just run.

session = Session(lab.mobile, ["redis-cli", "-h", address])
session.ask("INCR x", r"^\\d+$")
beat = Beat(lambda: session.ask("PING", "PONG"))     # goes on in the background
beat.stop()                                          # how often, how long; raises what was wrong
"""

import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from lab.host import Host
from lab.traffic import TrafficError

ANSWER_TIMEOUT = 60.0
INTERVAL = 0.1
PIECE = 65536
RESERVE = 20.0
"""Seconds for which what is left of a download always lasts."""


class Session:
    """A program with lines in and lines out, standard error among these."""

    def __init__(self, host: Host, argv: list[str]) -> None:
        self.name = f"{argv[0]} in {host.name}"
        self._process = host.popen(argv, stdin=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.lines: list[tuple[float, str]] = []
        """Everything that it has said so far, and when (CLOCK_MONOTONIC)."""
        self._read = 0
        self._more = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    def _collect(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._more:
                self.lines.append((time.monotonic(), line.rstrip("\n")))
                self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()

    def say(self, line: str) -> None:
        """Give it a line. Raises TrafficError when it has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise TrafficError(f"{self.name} has ended: {self.tail()}") from error

    def wait_line(self, pattern: str, timeout: float = ANSWER_TIMEOUT) -> re.Match[str]:
        """The next line in which the pattern is found; those before it are passed over. Raises TrafficError."""
        deadline = time.monotonic() + timeout
        with self._more:
            while True:
                while self._read < len(self.lines):
                    match = re.search(pattern, self.lines[self._read][1])
                    self._read += 1
                    if match:
                        return match
                if self._ended or not self._more.wait(deadline - time.monotonic()):
                    why = "has ended" if self._ended else f"says nothing like it for {timeout:g} s"
                    raise TrafficError(f"{self.name}: waiting for {pattern!r}: {why}: {self.tail()}")

    def ask(self, line: str, pattern: str, timeout: float = ANSWER_TIMEOUT) -> re.Match[str]:
        """Give it a line and wait for the answer. Raises TrafficError."""
        self.say(line)
        return self.wait_line(pattern, timeout)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def end(self, line: str | None = None, timeout: float = ANSWER_TIMEOUT) -> int:
        """A last line, if any, then the end of the input; returns the exit status once it has ended."""
        if line is not None:
            self.say(line)
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.wait(timeout)

    def wait(self, timeout: float = ANSWER_TIMEOUT) -> int:
        """Its exit status, once it has ended by itself. Raises TrafficError when it does not."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TrafficError(f"{self.name} does not end: {self.tail()}") from error
        self._reader.join()
        return status

    def terminate(self) -> None:
        """SIGTERM, and wait for its end."""
        self._process.terminate()
        self.wait()

    def tail(self) -> str:
        """The last that it said."""
        return "\n".join(line for _, line in self.lines[-20:])


@dataclass(frozen=True, slots=True)
class BeatResult:
    """What a program saw. Seconds."""

    count: int
    longest: float
    """The longest time until an answer."""
    median: float

    def __str__(self) -> str:
        return f"{self.count} answers, median {self.median * 1000:.0f} ms, longest {self.longest * 1000:.0f} ms"


class Beat:
    """Does the same over and over in the background until `stop`; each time begins when the last is done."""

    def __init__(self, act: Callable[[], object], interval: float = INTERVAL) -> None:
        self._act = act
        self._interval = interval
        self._seconds: list[float] = []
        self._error: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            began = time.monotonic()
            try:
                self._act()
            except Exception as error:  # noqa: BLE001 - told by `check`
                self._error = error
                return
            self._seconds.append(time.monotonic() - began)

    @property
    def count(self) -> int:
        """How often it was done."""
        return len(self._seconds)

    def check(self) -> None:
        """Raises what went wrong, if anything did."""
        if self._error is not None:
            raise self._error

    def stop(self) -> BeatResult:
        """Let the last one finish. Raises what went wrong; TrafficError when nothing was done at all."""
        self._stop.set()
        self._thread.join()
        self.check()
        if not self._seconds:
            raise TrafficError("not one answer")
        ordered = sorted(self._seconds)
        return BeatResult(len(ordered), ordered[-1], ordered[len(ordered) // 2])


class Download:
    """A program whose output is read at a rate, the slower the less is left, and from `finish` on as fast as it comes.

    So it is under way for as long as a story lasts, on machines of any speed; the rate reaches the peer by way of full
    buffers, as with any slow reader.
    """

    def __init__(self, host: Host, argv: list[str], *, size: int, rate: int) -> None:
        """`size` bytes are expected; `rate` in bytes per second."""
        self.name = f"{argv[0]} in {host.name}"
        self._process = host.popen(argv)
        self._rate = rate
        self._size = size
        self._digest = sha256()
        self.received = 0
        self.longest_silence = 0.0
        """The longest wait for the next piece while reading. Seconds."""
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        assert self._process.stdout is not None
        pipe = self._process.stdout.buffer
        while True:
            began = time.monotonic()
            piece = pipe.read1(PIECE)
            if not piece:
                return
            now = time.monotonic()
            self.longest_silence = max(self.longest_silence, now - began)
            self._digest.update(piece)
            self.received += len(piece)
            left = max(self._size - self.received, 1)
            self._hurry.wait(len(piece) / min(self._rate, left / RESERVE))

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_received(self, count: int, timeout: float = ANSWER_TIMEOUT) -> None:
        """Wait until so many more bytes are there. Raises TrafficError."""
        deadline, wanted = time.monotonic() + timeout, self.received + count
        while self.received < wanted:
            if time.monotonic() > deadline or not self.running:
                raise TrafficError(f"{self.name}: {self.received} bytes, {wanted} wanted: {self._complaint()}")
            time.sleep(INTERVAL)

    def _complaint(self) -> str:
        assert self._process.stderr is not None
        return "it runs" if self.running else self._process.stderr.read()

    def finish(self, timeout: float) -> str:
        """Read the rest; returns the SHA-256 of everything, in hexadecimal. Raises TrafficError unless all is well."""
        self._hurry.set()
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TrafficError(f"{self.name}: does not end, {self.received} bytes so far") from error
        self._thread.join()
        if status or self.received != self._size:
            raise TrafficError(f"{self.name}: status {status}, {self.received} of {self._size}: {self._complaint()}")
        return self._digest.hexdigest()

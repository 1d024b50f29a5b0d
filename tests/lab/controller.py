"""One host's swanroam: its configuration, its life, its log, its answers."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lab import dying
from lab.charon import unconfined
from lab.namespace import CommandError, Namespace
from lab.waiting import wait_for
from lab.zygote import MAIN, Run, Zygote

if TYPE_CHECKING:
    from lab.host import Host
    from lab.unit import Service

START_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0
HOLD = "5s"
"""For how long programs may be stopped. The default of a second is for machines that are not emulated."""
STOPPED_SHARE = 100
"""For how much of the time, percent. For the same reason."""
STARTED_EVENT = "started"
"""The log event that says: the daemon is up and manages its peers."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A command line run that has ended."""

    status: int
    stdout: str
    stderr: str


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, mappings merged key by key; None removes a key."""
    merged = dict(base)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


@dataclass(slots=True)
class Controller:
    """`swanroam run` in a host, and the other commands beside it."""

    namespace: Namespace
    directory: Path
    zygote: Zygote
    peers: list["Host"] = field(default_factory=list)
    """Hosts that the default configuration manages."""
    peer_settings: dict[str, Any] = field(default_factory=dict)
    """What the default configuration says of each of them besides."""
    service: "Service | None" = None
    """What `swanroam run` runs as, and with which privileges; None: as the lab does, as root."""
    pid: int | None = None
    mortal: bool = False
    """Those that are started from now on obey `die_at`."""
    _runs: int = 0
    _starts_before: int = 0

    @property
    def config_file(self) -> Path:
        return self.directory / "swanroam.yaml"

    @property
    def log(self) -> Path:
        return self.directory / "swanroam.log"

    @property
    def output(self) -> Path:
        """Standard output of `swanroam run`."""
        return self.directory / "swanroam.output"

    def default_config(self) -> dict[str, Any]:
        """What the topology asks for; `start(changes)` merges into it."""
        return {
            "identity": f"{self.namespace.name}.example.org",
            "vici_socket": str(self.directory / "charon.vici"),
            "swanctl": unconfined("swanctl", self.directory),
            "swanctl_file": str(self.directory / "swanctl" / "swanctl.conf"),
            "state_directory": str(self.directory / "state"),
            "runtime_directory": str(self.directory / "run"),
            "sockets": {"hold": HOLD, "stopped_share": STOPPED_SHARE},
            "log": {"format": "json", "level": "debug"},
            "peers": [
                {
                    "identity": peer.identity,
                    "connection": f"peer-{peer.name}",
                    "name": peer.name,
                    **self.peer_settings,
                }
                for peer in self.peers
            ],
        }

    def write_config(self, changes: Mapping[str, Any] | None = None) -> Path:
        """Write the configuration file: the default with these changes."""
        config = merge(self.default_config(), changes or {})
        self.config_file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        return self.config_file

    @property
    def running(self) -> bool:
        return self.pid is not None and self.zygote.poll(self.pid) is None

    def start(self, changes: Mapping[str, Any] | None = None, *, wait: bool = True) -> None:
        """Write the configuration and run the daemon; returns when it is up, unless not `wait`."""
        if self.running:
            raise CommandError(f"{self.namespace.name}: its controller runs already")
        self.write_config(changes)
        self._starts_before = len(self.log_events(STARTED_EVENT))
        argv = ["run", "--config", str(self.config_file)]
        program = self.service.wrap([sys.executable, "-P", "-m", MAIN, *argv]) if self.service else []
        self.pid = self._launch(argv, self.output, self.log, program)
        if wait:
            self.wait_started()

    def wait_started(self) -> None:
        """Wait until the daemon that was started last is up. Raises CommandError when it ends instead."""
        wait_for(
            lambda: self._up() and len(self.log_events(STARTED_EVENT)) > self._starts_before,
            START_TIMEOUT,
            f"the controller of {self.namespace.name} logs '{STARTED_EVENT}'",
            self.log_tail,
        )

    def _up(self) -> bool:
        """True as long as it runs. Raises CommandError when it has ended."""
        assert self.pid is not None
        status = self.zygote.poll(self.pid)
        if status is not None:
            raise CommandError(f"{self.namespace.name}: swanroam run ended with status {status}\n{self.log_tail()}")
        return True

    def _launch(self, argv: list[str], stdout: Path, stderr: Path, program: list[str] | None = None) -> int:
        # charon's programs that the controller starts are to find this host's files.
        environment = {
            "STRONGSWAN_CONF": str(self.directory / "strongswan.conf"),
            "SWANCTL_DIR": str(self.directory / "swanctl"),
        }
        if self.mortal:
            environment[dying.VARIABLE] = str(self._death)
        run = Run(argv, self.namespace.holder_pid, str(stdout), str(stderr), environment, program or [])
        return self.zygote.run(run)

    @property
    def _death(self) -> Path:
        return self.directory / "death"

    def die_at(self, moment: dying.Moment, number: int) -> None:
        """As if SIGKILL came at the `number`-th such moment from now on."""
        dying.order(self._death, moment, number)

    def kill_at(self, moment: dying.Moment, number: int, *victims: int) -> None:
        """SIGKILL comes to other processes at that moment; to the controller only if `dying.ITSELF` is the last."""
        dying.order(self._death, moment, number, victims)

    def die_no_more(self) -> bool:
        """Withdraw the order; False when it was too late, and somebody has died or is about to."""
        try:
            self._death.unlink()
        except FileNotFoundError:
            return False
        return True

    def stop(self) -> int:
        """SIGTERM and wait; returns the exit status. No controller is status 0."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the daemon and whatever it started; what it has in the kernel stays."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        pid, self.pid = self.pid, None
        if pid is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
        wait_for(
            lambda: self.zygote.poll(pid) is not None,
            STOP_TIMEOUT,
            f"the controller of {self.namespace.name} ends after {number.name}",
            self.log_tail,
        )
        status = self.zygote.poll(pid)
        assert status is not None
        return status

    def command(self, *argv: str, timeout: float = 60.0) -> Finished:
        """Run another command of swanroam in the host, e.g. `command("move", "correspondent", "10.2.2.2")`."""
        self._runs += 1
        stdout, stderr = (self.directory / f"command-{self._runs}.{name}" for name in ("out", "err"))
        pid = self._launch(list(argv), stdout, stderr)
        wait_for(lambda: self.zygote.poll(pid) is not None, timeout, f"swanroam {' '.join(argv)} ends", self.log_tail)
        status = self.zygote.poll(pid)
        assert status is not None
        return Finished(status, stdout.read_text(encoding="utf-8"), stderr.read_text(encoding="utf-8"))

    def status(self) -> dict[str, Any]:
        """`swanroam status --json`. Raises CommandError when it fails."""
        done = self.command("status", "--json", "--config", str(self.config_file))
        if done.status != 0:
            raise CommandError(f"{self.namespace.name}: swanroam status: {done.status}\n{done.stderr}")
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    def log_events(self, event: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """Log records with this event (any, if None) in which these fields have these values."""
        records = []
        for line in self._lines():
            if event is not None and event not in line:
                continue  # spares parsing what is asked for every few milliseconds
            try:
                record = json.loads(line)
            except ValueError:
                continue  # a traceback, or a line that is just being written
            if event in (None, record.get("event")) and all(
                record.get(name) == value for name, value in fields.items()
            ):
                records.append(record)
        return records

    def wait_event(self, event: str, timeout: float = 30.0, *, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait for the `count`-th log record like this one and return it."""
        wait_for(
            lambda: len(self.log_events(event, **fields)) >= count,
            timeout,
            f"the controller of {self.namespace.name} logs '{event}' {fields or ''} {count} time(s)",
            self.log_tail,
        )
        return self.log_events(event, **fields)[count - 1]

    def _lines(self) -> list[str]:
        try:
            return self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def log_tail(self, lines: int = 60) -> str:
        """The end of the log and of the output, for a failure's report."""
        output = self.output.read_text(encoding="utf-8", errors="replace") if self.output.exists() else ""
        return "\n".join(
            [
                f"--- swanroam of {self.namespace.name}, end of {self.log.name}",
                *self._lines()[-lines:],
                *output.splitlines()[-20:],
            ]
        )

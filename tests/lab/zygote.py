"""A process that has imported swanroam and forks for each of its runs.

Importing takes seconds on a guest kernel. What runs is the command's own `main(argv)`, in the host's network and
mount namespaces and in a session of its own, with the standard streams it is given; nothing is replaced, unless it is
to die (`lab.dying`).

Requests and replies are lines of JSON on a socket: {"run": argv, …} → {"pid": N}; {"poll": pid} → {"status": S}.
"""

import contextlib
import ctypes
import importlib
import json
import os
import pkgutil
import random
import signal
import socket
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from lab import dying
from lab.namespace import CommandError

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
PACKAGE = "swanroam"
MAIN = "swanroam.cli.main"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the command line."""

    argv: list[str]
    """Arguments after the program's name."""
    holder: int
    """A process in the namespaces to run in."""
    stdout: str
    """File that is appended to."""
    stderr: str
    environment: dict[str, str]
    program: list[str]
    """What to execute there instead, if anything."""


class Zygote:
    """The test process's side. One for all hosts and tests; the process starts with the first run."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._replies: TextIO | None = None

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lab.zygote", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._replies = self._socket.makefile("r", encoding="utf-8")

    def _ask(self, **request: Any) -> dict[str, Any]:
        if self._process is None:
            self._start()
        assert self._socket is not None
        assert self._replies is not None
        try:
            self._socket.sendall((json.dumps(request) + "\n").encode())
            reply = self._replies.readline()
        except (BrokenPipeError, ConnectionResetError):
            reply = ""
        if not reply:
            self.close()
            raise CommandError("the process that runs swanroam's commands has ended; its output tells why")
        return json.loads(reply)

    def run(self, run: Run) -> int:
        """Start; returns the process id."""
        request = {
            "run": run.argv,
            "holder": run.holder,
            "stdout": run.stdout,
            "stderr": run.stderr,
            "environment": run.environment,
            "program": run.program,
        }
        return int(self._ask(**request)["pid"])

    def poll(self, pid: int) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        status = self._ask(poll=pid)["status"]
        return None if status is None else int(status)

    def close(self) -> None:
        """End it and everything that it runs."""
        if self._process is not None and self._socket is not None and self._replies is not None:
            self._replies.close()
            self._socket.close()
            self._process.wait(timeout=20)
            self._process = None


def _import_everything() -> None:
    """Every module of the package: what a command imports late was imported here."""
    package = importlib.import_module(PACKAGE)
    for module in pkgutil.walk_packages(package.__path__, f"{PACKAGE}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _enter(holder: int) -> None:
    """setns(2) into the namespaces of a process."""
    libc = ctypes.CDLL(None, use_errno=True)
    for name, kind in (("net", CLONE_NEWNET), ("mnt", CLONE_NEWNS)):
        with open(f"/proc/{holder}/ns/{name}", "rb") as namespace:  # noqa: PTH123 - opened before root changes
            if libc.setns(namespace.fileno(), kind) != 0:
                raise OSError(ctypes.get_errno(), f"setns into {name} of process {holder}")


def _child(request: dict[str, Any]) -> int:
    """What runs after the fork; returns the exit status."""
    os.setsid()
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for path, descriptor in ((request["stdout"], 1), (request["stderr"], 2)):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    _enter(request["holder"])
    os.environ.update(request["environment"])
    if request["program"]:
        os.execvp(request["program"][0], request["program"])
    random.seed()  # every child would have its parent's state
    sys.argv = [PACKAGE, *request["run"]]
    main = importlib.import_module(MAIN).main
    if (orders := request["environment"].get(dying.VARIABLE)) is not None:
        dying.obey(Path(orders))
    try:
        return int(main(request["run"]) or 0)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1


def _fork(request: dict[str, Any], stream: socket.socket) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 70  # EX_SOFTWARE: what Python would report as a traceback
    try:
        stream.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = _child(request)
    except BaseException:  # noqa: BLE001 - the border of the process
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def serve(stream: socket.socket) -> None:
    """Answer requests until the other side closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    children: dict[int, int | None] = {}
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    with stream.makefile("r", encoding="utf-8") as requests:
        for line in requests:
            request = json.loads(line)
            if "run" in request:
                pid = _fork(request, stream)
                children[pid] = None
                reply: dict[str, Any] = {"pid": pid}
            else:
                pid = request["poll"]
                if children[pid] is None:
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    children[pid] = os.waitstatus_to_exitcode(status) if ended else None
                reply = {"status": children[pid]}
            stream.sendall((json.dumps(reply) + "\n").encode())
    for pid, status in children.items():
        if status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    _import_everything()
    serve(socket.socket(fileno=int(sys.argv[1])))

"""Starts nurseries in the hosts' network namespaces, without a new interpreter for each, which takes most of the time.

    --fd N    socket over which requests come: a JSON object, and the descriptor for the nursery's requests with it

`holder` is a process in the namespace; `kind` is "movers" for the nursery itself, which the
daemon starts as a program of its own, or "faulty" for `mover_faults`. The answer is the new process's id. It ends when
the other end of its descriptor is closed.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from threading import Lock

from kernel import mover_faults
from swanroam.transport import nursery

_CLONE_NEWNET = 0x40000000
_KINDS: dict[str, Callable[[socket.socket], None]] = {"movers": nursery.serve, "faulty": mover_faults.serve}
_ONE_AT_A_TIME = Lock()


def start(holder: int, kind: str) -> tuple[int, socket.socket]:
    """A nursery's process id, and the daemon's end of its channel."""
    ours, theirs = socket.socketpair()
    with theirs, _ONE_AT_A_TIME:
        socket.send_fds(_server(), [json.dumps({"holder": holder, "kind": kind}).encode()], [theirs.fileno()])
        return int(_server().recv(64)), ours


@cache
def _server() -> socket.socket:
    """The process that forks them, which ends with this one."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "kernel.mover_nurseries", "--fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    atexit.register(process.wait)
    atexit.register(ours.close)  # before that
    return ours


def _become(holder: int, kind: str, requests: socket.socket) -> None:
    namespace = os.open(f"/proc/{holder}/ns/net", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(namespace)
    _KINDS[kind](requests)


def main() -> None:
    server = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(server, 4096, 1)
        if not message:
            return
        if (pid := os.fork()) == 0:
            status = 1
            try:
                server.close()
                _become(**json.loads(message), requests=socket.socket(fileno=descriptors[0]))
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        os.close(descriptors[0])
        server.send(str(pid).encode())


if __name__ == "__main__":
    main()

"""Movers that die at a chosen moment: the real ones, in which the interpreter's profiling hook counts and kills.

Requests are JSON objects, each with the descriptor for a mover's channel, and fork a keeper. `who` dies (SIGKILL) just
before its step number `step`:

    worker    each step is a call of the socket module or of poll; transfer number T begins with a worker that dies at
              step T, so that one keeper goes through all of them. Later workers of the transfer live.
    keeper    each step is a call of a function that stops, locks, builds or lets go, from the first order on
    in-hand   the keeper too, when it hears that the worker takes a socket apart, or is through with it
    tracer    each step is a call of ptrace or waitpid
    nobody

What died is written to the file `log`, one line "who step" each.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, FrameType

from swanroam.transport import crew, keeper, stopping, tracer, transfer, worker
from swanroam.transport.orders import Stop

_SETTING = frozenset(["setsockopt", "getsockopt", "connect", "bind", "shutdown", "getsockname", "getpeername"])
_SOCKET_CALLS = _SETTING | frozenset(["send", "sendall", "recv", "recv_into", "poll", "ioctl"])
_KEEPER_MODULES = frozenset(["transfer.py", "crew.py", "tracer.py", "locks.py"])
_PURE = frozenset(["_is_tcp", "_left", "_remaining", "_slots", "_tuple", "_tuples", "lock", "_connection", "locks_of"])


_TRACING = frozenset(function.__code__ for function in (stopping._ptrace, stopping._status_of))


def die_at(step: int, counts: Callable[[FrameType, str, object], bool], log: Path, who: str) -> None:
    """From now on count the steps of this process, and end at one of them."""
    count = 0

    def hook(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        if counts(frame, event, argument):
            count += 1
            if count == step:
                with log.open("a") as file:
                    file.write(f"{who} {step}\n")
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(hook)


def socket_call(frame: FrameType, event: str, argument: object) -> bool:
    return event == "c_call" and getattr(argument, "__name__", "") in _SOCKET_CALLS


def keeper_call(frame: FrameType, event: str, argument: object) -> bool:
    return event == "call" and _is_step(frame.f_code)


@cache
def _is_step(code: CodeType) -> bool:
    path = Path(code.co_filename)
    name = code.co_name
    return (
        path.name in _KEEPER_MODULES
        and path.parent.name in ("transport", "xfrm")
        and name not in _PURE
        and not name.startswith("<")
    )


def report(frame: FrameType, event: str, argument: object) -> bool:
    return event == "call" and frame.f_code.co_name == "_note"


def tracing_call(frame: FrameType, event: str, _: object) -> bool:
    return event == "call" and frame.f_code in _TRACING


def let_workers_die(log: Path) -> None:
    current = 0
    workers = 0
    begin, run = transfer.Transfer.__init__, worker.Worker.run
    start = crew.Crew.start

    def __init__(self: transfer.Transfer, order: Stop, *more: object) -> None:  # noqa: N807
        nonlocal current, workers
        current, workers = order.transfer, 0
        begin(self, order, *more)  # type: ignore[arg-type]

    def count(self: crew.Crew) -> None:
        nonlocal workers
        workers += 1
        start(self)

    def run_and_die(self: worker.Worker) -> None:
        if workers == 1:
            die_at(current, socket_call, log, "worker")
        run(self)

    transfer.Transfer.__init__ = __init__  # type: ignore[assignment, method-assign]
    crew.Crew.start = count  # type: ignore[method-assign]
    worker.Worker.run = run_and_die  # type: ignore[method-assign]


def let_the_tracer_die(step: int, log: Path) -> None:
    serve = tracer._serve

    def serve_and_die(*arguments: socket.socket) -> None:
        die_at(step, tracing_call, log, "tracer")
        serve(*arguments)

    tracer._serve = serve_and_die


def keep(channel: socket.socket, who: str, step: int, log: Path) -> None:
    if who == "tracer":
        let_the_tracer_die(step, log)
    owners_tracer = tracer.start()
    if who == "worker":
        let_workers_die(log)
    elif who in ("keeper", "in-hand"):
        begin = transfer.Transfer.__init__

        def __init__(self: transfer.Transfer, *arguments: object) -> None:  # noqa: N807
            die_at(step, keeper_call if who == "keeper" else report, log, who)
            begin(self, *arguments)  # type: ignore[arg-type]

        transfer.Transfer.__init__ = __init__  # type: ignore[assignment, method-assign]
        run = worker.Worker.run

        def run_unharmed(self: worker.Worker) -> None:
            sys.setprofile(None)
            run(self)

        worker.Worker.run = run_unharmed  # type: ignore[method-assign]
    asyncio.run(keeper.serve(channel, owners_tracer))


def serve(requests: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 4096, 1)
        if not message:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            request = json.loads(message)
            try:
                keep(socket.socket(fileno=descriptors[0]), request["who"], request["step"], Path(request["log"]))
            finally:
                os._exit(0)
        os.close(descriptors[0])

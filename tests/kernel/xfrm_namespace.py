"""Runs the body of a test in a fresh network namespace, in a thread of its own.

`unshare` moves only the calling thread, so the rest of the test process stays where it is, and the namespace is gone
when the thread and the sockets that it opened are.
"""

import asyncio
import ctypes
import functools
import os
import subprocess
import threading
from collections.abc import Callable, Coroutine
from typing import Any

CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def ip(line: str, *, check: bool = True) -> str:
    """`ip` with these arguments in the calling thread's namespace; what it prints."""
    done = subprocess.run(["ip", *line.split()], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"ip {line}: {done.stderr.strip()}")
    return done.stdout


def run_in_namespace(body: Callable[[], None]) -> None:
    """Call `body` in a new thread with a new network namespace; what it raises is raised here."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            if _LIBC.unshare(CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
            ip("link set lo up")
            body()
        except BaseException as error:  # noqa: BLE001 - handed over to the test's own thread
            failures.append(error)

    thread = threading.Thread(target=run, name="namespace")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def in_namespace(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """An asynchronous test that runs in a fresh network namespace with `lo` up."""

    @functools.wraps(test)
    def wrapped(**arguments: Any) -> None:
        run_in_namespace(lambda: asyncio.run(test(**arguments)))

    return wrapped


def drop_capabilities() -> None:
    """Take every effective capability from the calling thread (capset of version 3), for good."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    if _LIBC.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def words(text: str) -> str:
    """Printed output with its layout taken out, for comparing."""
    return " ".join(text.split())

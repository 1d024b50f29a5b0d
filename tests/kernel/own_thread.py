"""Runs something in a thread with namespaces of its own, made for it and gone with it.

unshare(2) changes only the calling thread, and what it starts inherits them: nothing has to be named or removed.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable

NEW_MOUNTS = 0x00020000
NEW_NETWORK = 0x40000000
"""CLONE_NEWNS, CLONE_NEWNET; include/uapi/linux/sched.h."""
_libc = ctypes.CDLL(None, use_errno=True)


def in_own_thread(namespaces: int, body: Callable[[], None]) -> None:
    """Call `body` in a new thread with these namespaces; what it raises is raised here."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            if _libc.unshare(namespaces) != 0:
                raise OSError(ctypes.get_errno(), f"unshare({namespaces:#x}): {os.strerror(ctypes.get_errno())}")
            body()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=run, name="own-namespaces")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]

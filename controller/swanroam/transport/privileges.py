"""What the mover may do: no more than stopping processes and re-addressing sockets takes."""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from swanroam.kernel.privileges import Capability, forbid_dumping, give_up_all_but, permitted, prctl

NEEDED: Final = frozenset({Capability.NET_ADMIN, Capability.SYS_PTRACE})
"""Without these nothing can be moved at all; the others are missed only for some processes and ports."""

_PR_SET_NAME: Final = 15
_OOM_SCORE_ADJ_MIN: Final = -1000


class PrivilegeError(Exception):
    """The mover lacks a capability, or could not give up others."""


def be_spared_and_named(name: str) -> None:
    """Ask the kernel to kill others first when memory is short (needs CAP_SYS_RESOURCE, so before `drop`, or the
    service manager's OOMScoreAdjust), and tell `ps` what this process is: `name`, at most 15 characters."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE_ADJ_MIN), encoding="ascii")
    buffer = ctypes.create_string_buffer(name.encode("ascii")[:15])
    prctl("set the process's name", _PR_SET_NAME, ctypes.addressof(buffer))


def drop(keep: Collection[Capability] = frozenset(Capability)) -> None:
    """Give up every capability but these, for good, and those for programs that would be started entirely.

    Nobody without CAP_SYS_PTRACE can read the process's memory afterwards, through which the sockets' data passes.
    Call while the process has a single thread: capabilities are each thread's own. Raises PrivilegeError.
    """
    try:
        missing = sorted(NEEDED & set(keep) - permitted())
        if missing:
            names = ", ".join(map(str, missing))
            raise PrivilegeError(f"sockets cannot be moved without {names}: give them to the swanroam service")
        give_up_all_but(keep)
        forbid_dumping()
    except OSError as error:
        raise PrivilegeError(str(error)) from error

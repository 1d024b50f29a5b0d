"""What the mover may do: no more than stopping processes and re-addressing sockets takes.

Source: capabilities(7); prctl(2); include/uapi/linux/{capability,prctl}.h.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import Final


class Capability(IntEnum):
    """Those that the mover keeps, as far as it has them."""

    DAC_READ_SEARCH = 2
    """Reading /proc/PID/fd of other users' processes."""
    NET_BIND_SERVICE = 10
    """Binding a socket to its port again when that is below 1024."""
    NET_ADMIN = 12
    """TCP_REPAIR, locks."""
    NET_RAW = 13
    """Releasing a socket from the device that it was bound to so that the new address became its source."""
    SYS_PTRACE = 19
    """Stopping processes, and duplicating their descriptors."""


NEEDED: Final = frozenset({Capability.NET_ADMIN, Capability.SYS_PTRACE})
"""Without these nothing can be moved at all; the others are missed only for some processes and ports."""

_VERSION: Final = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two words for each set
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_OOM_SCORE_ADJ_MIN: Final = -1000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


class PrivilegeError(Exception):
    """The mover lacks a capability, or could not give up others."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def be_spared_and_named(name: str) -> None:
    """Ask the kernel to kill others first when memory is short (needs CAP_SYS_RESOURCE, so before `drop`), and tell
    `ps` what this process is: `name`, at most 15 characters."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE_ADJ_MIN), encoding="ascii")
    buffer = ctypes.create_string_buffer(name.encode("ascii")[:15])
    _prctl("set the process's name", _PR_SET_NAME, ctypes.addressof(buffer))


def drop(keep: Collection[Capability] = frozenset(Capability)) -> None:
    """Give up every capability but these, for good, and those for programs that would be started entirely.

    Nobody without CAP_SYS_PTRACE can read the process's memory afterwards, through which the sockets' data passes.
    Call while the process has a single thread: capabilities are each thread's own. Raises PrivilegeError.
    """
    header = _Header(_VERSION, 0)
    sets = (_Sets * 2)()
    _check("read the capabilities", _libc.capget(ctypes.byref(header), sets))
    permitted = sets[0].permitted | sets[1].permitted << 32
    missing = [capability for capability in sorted(NEEDED & set(keep)) if not permitted >> capability & 1]
    if missing:
        names = ", ".join(f"CAP_{capability.name}" for capability in missing)
        raise PrivilegeError(f"sockets cannot be moved without {names}: give them to the swanroam service")
    _drop_bounding_set()
    _prctl("clear the ambient capabilities", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    kept = permitted & sum(1 << capability for capability in keep)
    for word in range(2):
        part = kept >> 32 * word & 0xFFFFFFFF
        sets[word] = _Sets(part, part, 0)
    _check("give up capabilities", _libc.capset(ctypes.byref(header), sets))
    _prctl("set no_new_privs", _PR_SET_NO_NEW_PRIVS, 1)
    _prctl("forbid dumping", _PR_SET_DUMPABLE, 0)


def _drop_bounding_set() -> None:
    """Needs CAP_SETPCAP; without it no_new_privs alone keeps started programs from getting capabilities."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii"))
    for capability in range(last + 1):
        with suppress(PermissionError):
            _prctl("narrow the bounding set", _PR_CAPBSET_DROP, capability)


def _prctl(what: str, option: int, argument: int) -> None:
    _check(what, _libc.prctl(option, argument, 0, 0, 0))


def _check(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        error = OSError(number, f"cannot {what}: {os.strerror(number)}")
        if isinstance(error, PermissionError):
            raise error
        raise PrivilegeError(str(error)) from error

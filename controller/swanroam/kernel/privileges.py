"""What this process may do, and who may look into it.

Capabilities belong to threads: call these functions while the process has a single one.
Source: capabilities(7), capget(2), prctl(2), core(5); include/uapi/linux/{capability,prctl}.h.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Final


class Capability(IntEnum):
    """Those that swanroam uses; the number is the kernel's."""

    DAC_READ_SEARCH = 2
    NET_BIND_SERVICE = 10
    NET_ADMIN = 12
    NET_RAW = 13
    SYS_PTRACE = 19

    def __str__(self) -> str:
        return f"CAP_{self.name}"


PURPOSES: Final = {
    Capability.NET_ADMIN: "addresses, routes, IPsec policies, and taking sockets apart (TCP_REPAIR)",
    Capability.SYS_PTRACE: "stopping programs, and duplicating their sockets",
    Capability.DAC_READ_SEARCH: "finding the sockets of other users' programs in /proc/PID/fd",
    Capability.NET_RAW: "releasing a socket from its device, and handing on what comes for its old address",
    Capability.NET_BIND_SERVICE: "binding a socket to its port again when that is below 1024",
}
"""What each is needed for. All but the first are for the process that moves sockets."""

_VERSION: Final = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two words for each set
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def effective() -> frozenset[Capability]:
    """Those of swanroam's that this thread has in force. Raises OSError."""
    return _known(_read()[0])


def permitted() -> frozenset[Capability]:
    """Those of swanroam's that this thread has, or could put in force. Raises OSError."""
    return _known(_read()[1])


def lay_aside(capabilities: Collection[Capability]) -> None:
    """Put these out of force, for this process and what it starts; they remain at hand for `handed_on` only.

    A superuser's programs get all of a superuser's capabilities nevertheless. Raises OSError.
    """
    in_force, at_hand, _ = _read()
    _write(in_force & ~_bits(capabilities), at_hand, at_hand & _bits(Capability))
    prctl("clear the ambient capabilities", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


@contextmanager
def handed_on() -> Iterator[None]:
    """What is started inside gets all of swanroam's capabilities that this process has at hand. Raises OSError."""
    inheritable = _known(_read()[2])
    try:
        for capability in sorted(inheritable & permitted()):
            prctl(f"hand on {capability}", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)
        yield
    finally:
        prctl("clear the ambient capabilities", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


def give_up_all_but(kept: Collection[Capability]) -> None:
    """For good, and for programs that would be started entirely. Raises OSError."""
    _drop_bounding_set()
    prctl("clear the ambient capabilities", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    remaining = _read()[1] & _bits(kept)
    _write(remaining, remaining, 0)
    prctl("set no_new_privs", _PR_SET_NO_NEW_PRIVS, 1)


def forbid_dumping() -> None:
    """No core is written of this process, and nobody without CAP_SYS_PTRACE can read its memory. Raises OSError.

    The limit is inherited by what it starts; the rest ends with execve(2). The limit alone would not keep a core from
    a program that core_pattern names.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl("forbid dumping", _PR_SET_DUMPABLE, 0)


def prctl(what: str, option: int, argument: int, second: int = 0) -> None:
    """prctl(2). Raises OSError that says `what` cannot be done."""
    _check(what, _libc.prctl(option, argument, second, 0, 0))


def _drop_bounding_set() -> None:
    """Needs CAP_SETPCAP; without it no_new_privs alone keeps started programs from getting capabilities."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii"))
    for capability in range(last + 1):
        try:
            prctl("narrow the bounding set", _PR_CAPBSET_DROP, capability)
        except PermissionError:
            return


def _read() -> tuple[int, int, int]:
    """Effective, permitted and inheritable set, as bits."""
    header, sets = _Header(_VERSION, 0), (_Sets * 2)()
    _check("read the capabilities", _libc.capget(ctypes.byref(header), sets))
    low, high = sets
    return (
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def _write(in_force: int, at_hand: int, inheritable: int) -> None:
    header, sets = _Header(_VERSION, 0), (_Sets * 2)()
    for word in range(2):
        sets[word] = _Sets(*(value >> 32 * word & 0xFFFFFFFF for value in (in_force, at_hand, inheritable)))
    _check("give up capabilities", _libc.capset(ctypes.byref(header), sets))


def _bits(capabilities: Collection[Capability] | type[Capability]) -> int:
    return sum(1 << capability for capability in capabilities)


def _known(bits: int) -> frozenset[Capability]:
    return frozenset(capability for capability in Capability if bits >> capability & 1)


def _check(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot {what}: {os.strerror(number)}")

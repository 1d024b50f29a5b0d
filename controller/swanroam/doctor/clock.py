"""The clock: certificates are valid in a span of time, and two hosts' logs can be laid side by side.

Source: adjtimex(2); RFC 5280 section 4.1.2.5.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from typing import Final

from swanroam.doctor.certificates import CertificateError, Validity, validity
from swanroam.doctor.view import View
from swanroam.ike.messages import RawValue
from swanroam.kernel.findings import Finding, Severity, ok

_UNSYNCHRONISED: Final = 0x0040  # STA_UNSYNC, include/uapi/linux/timex.h
_SOON: Final = 14 * 24 * 3600
"""Seconds before its end at which a certificate is worth a word."""


class _Timex(ctypes.Structure):
    """struct timex, up to what is read; the rest is the kernel's."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 32),
    )


def check(view: View) -> list[Finding]:
    """Is it synchronised, and are our certificates valid now?"""
    certificates = list(_certificates(view))
    return [synchronised(clock_status(), certificates=bool(certificates)), *certificate_findings(certificates, now())]


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


def clock_status() -> int | None:
    """The kernel's status bits; None when they must not be read."""
    state = _Timex()
    libc = ctypes.CDLL(None, use_errno=True)
    return None if libc.adjtimex(ctypes.byref(state)) < 0 else int(state.status)


def synchronised(status: int | None, *, certificates: bool) -> Finding:
    check = "clock"
    if status is None:
        return Finding(
            check, Severity.UNSEEN, f"the kernel does not tell whether it is synchronised ({os.strerror(1)})"
        )
    if not status & _UNSYNCHRONISED:
        return ok(check, "synchronised")
    return Finding(
        check,
        Severity.WARNING if certificates else Severity.NOTE,
        "the kernel's clock is not synchronised: "
        + ("certificates may count as expired, or not yet valid" if certificates else "logs of two hosts do not fit"),
        "in a container or virtual machine the clock may be kept right from outside",
        "apt install systemd-timesyncd && timedatectl set-ntp true",
    )


def _certificates(view: View) -> Iterator[tuple[str, bytes]]:
    """Those that our connections use, ours and pinned ones of peers, with where they stand."""
    for peer in view.config.peers:
        connection = view.connection(peer)
        if connection is None:
            continue
        for name, section in connection.message.items():
            if name.startswith(("local", "remote")) and isinstance(section, dict):
                for content in _list(section.get("certs")):
                    yield f"connection {connection.name}, {name}", content


def _list(value: RawValue | None) -> list[bytes]:
    return [item for item in value if isinstance(item, bytes)] if isinstance(value, list) else []


def certificate_findings(certificates: list[tuple[str, bytes]], time_now: int) -> list[Finding]:
    """`time_now`: seconds since 1970."""
    found: list[Finding] = []
    for where, content in dict.fromkeys(certificates):
        try:
            found.append(_of_certificate(where, validity(content), time_now))
        except CertificateError as error:
            found.append(Finding("certificate", Severity.NOTE, f"{where}: {error}", "openssl x509 -text shows more"))
    return found


def _of_certificate(where: str, valid: Validity, time_now: int) -> Finding:
    check = "certificate"
    span = f"{where}: valid from {_shown(valid.start)} to {_shown(valid.end)}"
    renew = "issue a new one, put it in its place, then swanctl --load-all"
    if time_now < valid.start:
        return Finding(
            check, Severity.ERROR, f"{span}, not yet", f"is the clock right ({_shown(time_now)})? Otherwise {renew}"
        )
    if time_now >= valid.end:
        return Finding(
            check, Severity.ERROR, f"{span}: over", f"is the clock right ({_shown(time_now)})? Otherwise {renew}"
        )
    if time_now >= valid.end - _SOON:
        return Finding(check, Severity.WARNING, f"{span}: soon over; then no second IKE_SA can be made", renew)
    return ok(check, span)


def _shown(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds)) + " UTC"

"""Errors of the XFRM netlink family. Every message says what was tried, on what, and what to do where that is known.

No message holds message contents: they can be keys.
"""

from __future__ import annotations

import errno
import os
from typing import Final


class XfrmError(Exception):
    """The kernel refused a request, or an answer did not come.

    Attributes: `errno` (a positive number of errno.h), `operation` ("add policy"), `subject` (the object, printed
    without keys), `text` (the kernel's own explanation, NLMSGERR_ATTR_MSG, often empty).
    """

    remedy: str = ""

    def __init__(self, number: int, operation: str, subject: str = "", text: str = "") -> None:
        self.errno = number
        self.operation = operation
        self.subject = subject
        self.text = text
        super().__init__(number, operation, subject, text)

    def __str__(self) -> str:
        what = f"cannot {self.operation}"
        if self.subject:
            what += f" ({self.subject})"
        why = os.strerror(self.errno)
        if self.text:
            why += f": {self.text}"
        return f"{what}: {why} [{errno.errorcode.get(self.errno, self.errno)}]" + (
            f"; {self.remedy}" if self.remedy else ""
        )


class XfrmDecodeError(XfrmError):
    """Octets from the kernel that are not the structure they should be: truncated, too long, or out of range."""

    remedy = "the kernel's XFRM interface differs from linux/xfrm.h; please report it with the kernel's version"

    def __init__(self, structure: str, problem: str) -> None:
        super().__init__(errno.EBADMSG, f"decode {structure}", "", problem)

    def __reduce__(self) -> tuple[type[XfrmDecodeError], tuple[str, str]]:
        return XfrmDecodeError, (self.operation.removeprefix("decode "), self.text)


class XfrmPermission(XfrmError):  # noqa: N818 - the permission is what is wrong
    """CAP_NET_ADMIN is missing."""

    remedy = "run with CAP_NET_ADMIN in the user namespace that owns the network namespace"


class XfrmUnsupported(XfrmError):  # noqa: N818 - as above
    """This kernel lacks XFRM, a transform, an algorithm or migration."""

    @property
    def remedy(self) -> str:  # type: ignore[override]  # depends on what was tried
        if "migrat" in self.operation:
            return "the kernel needs CONFIG_XFRM_MIGRATE=y"
        if "lockdown" in self.text:
            return "leave lockdown=confidentiality, or use method renegotiate"
        if "open" in self.operation:
            return "load the module: modprobe xfrm_user (CONFIG_XFRM_USER)"
        return "load the modules: modprobe esp4 esp6, and the ciphers in use (CONFIG_INET_ESP, CONFIG_INET6_ESP)"


class XfrmNotFound(XfrmError):  # noqa: N818 - as above
    """No such policy or SA."""


class XfrmExists(XfrmError):  # noqa: N818 - as above
    """There is a policy with this direction, selector, mark and if_id, or an SA with this daddr, spi and proto."""


class XfrmOverrun(XfrmError):  # noqa: N818 - as above
    """Answers were lost because the receive buffer was full: read the state again, then repeat what is missing."""

    remedy = "read back and repeat; a larger net.core.rmem_max helps where SO_RCVBUFFORCE is not permitted"


_BY_ERRNO: Final[dict[int, type[XfrmError]]] = {
    errno.EPERM: XfrmPermission,
    errno.EACCES: XfrmPermission,
    errno.EPROTONOSUPPORT: XfrmUnsupported,
    errno.ENOPROTOOPT: XfrmUnsupported,
    errno.EAFNOSUPPORT: XfrmUnsupported,
    errno.ENOSYS: XfrmUnsupported,
    errno.EOPNOTSUPP: XfrmUnsupported,
    errno.ENOENT: XfrmNotFound,
    errno.ESRCH: XfrmNotFound,
    errno.EEXIST: XfrmExists,
    errno.ENOBUFS: XfrmOverrun,
}


def error_for(number: int, operation: str, subject: str = "", text: str = "") -> XfrmError:
    """The error class for a kernel's errno (positive)."""
    return _BY_ERRNO.get(number, XfrmError)(number, operation, subject, text)

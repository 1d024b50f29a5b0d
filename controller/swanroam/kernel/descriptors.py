"""What is said when there are no file descriptors left.

And what Python itself would import only when it is first used, by `asyncio.to_thread` and `getaddrinfo`: an import
needs a descriptor, so it comes while there are some.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401
import encodings.idna  # noqa: F401
import errno
from typing import Final

MORE_FILES: Final = "let swanroam have more open files (LimitNOFILE= of its service)"
"""The remedy."""


def lacks_descriptors(error: BaseException | None) -> bool:
    """Whether this is why something failed: the process, or the whole host, has as many open as it may."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)

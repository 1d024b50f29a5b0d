"""Exit statuses. A script can tell by them what has to be mended."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What `swanroam` returns."""

    OK = 0
    FAILED = 1  # the command was understood and could not be carried out; the message says why
    USAGE = 2  # the command line is wrong
    CONFIGURATION = 3  # the file is wrong, or names something that charon does not have
    CHARON = 4  # charon's VICI socket is missing or does not answer
    KERNEL = 5  # the kernel lacks ESP, IP-in-IP, XFRM migration or traffic control
    PRIVILEGES = 6  # capabilities are missing; `doctor`: it found nothing wrong, and could not look at everything
    NOT_RUNNING = 7  # no daemon answers on the local API
    ALREADY_RUNNING = 8  # another daemon has the runtime directory
    ATTENTION = 9  # `status --check`, `doctor`: something needs an operator
    FILES = 10  # the state or runtime directory, the journal or the history can't be used
    RESTART = 11  # `reload`: what has changed takes a restart

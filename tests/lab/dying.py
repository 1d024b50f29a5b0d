"""A controller that dies at an exact moment: as it has written its journal, or as it has changed the kernel.

A log line or a packet would be seen too late, on a slow machine several steps later. So a controller that is told where
its orders are looks for one after each step, and does what SIGKILL from outside would do just there.
"""

import enum
import os
import signal
from pathlib import Path
from typing import Any

from swanroam.daemon.host import LocalHost
from swanroam.daemon.journal import Journal

VARIABLE = "SWANROAM_LAB_DEATH"
"""Where the order is: a file with a moment and which of its kind from now on, as in `journal 3`."""


class Moment(enum.Enum):
    JOURNALLED = "journal"
    """The journal says what is to be done; nothing of it is."""
    APPLIED = "kernel"
    """The kernel is as wanted; nothing of it was said to the peer."""


def order(path: Path, moment: Moment, number: int) -> None:
    """Let a controller whose orders are there die at the `number`-th such moment from now on, from 1."""
    new = path.with_suffix(".new")
    new.write_text(f"{moment.value} {number}", encoding="ascii")
    new.rename(path)


def obey(path: Path) -> None:
    """From now on, in this process, orders at this path are carried out."""
    counted = dict.fromkeys(Moment, 0)

    def after(moment: Moment) -> None:
        try:
            kind, number = path.read_text(encoding="ascii").split()
        except FileNotFoundError:
            return
        if kind == moment.value:
            counted[moment] += 1
            if counted[moment] == int(number):
                path.unlink()
                os.killpg(0, signal.SIGKILL)

    store, apply = Journal.store, LocalHost.apply

    def dying_store(self: Journal, peers: dict[str, dict[str, Any]]) -> bool:
        written = store(self, peers)
        if written:
            after(Moment.JOURNALLED)
        return written

    async def dying_apply(self: LocalHost, wanted: Any) -> bool:
        changed = await apply(self, wanted)
        if changed:
            after(Moment.APPLIED)
        return changed

    Journal.store = dying_store  # type: ignore[method-assign]
    LocalHost.apply = dying_apply  # type: ignore[method-assign]

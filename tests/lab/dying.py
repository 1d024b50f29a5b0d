"""Death at an exact moment of the controller: as it has written its journal, or as it has changed the kernel.

A log line or a packet would be seen too late, on a slow machine several steps later. So a controller that is told where
its orders are looks for one after each step, and sends SIGKILL just there: to itself, to its charon, or to both.
"""

import enum
import os
import signal
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from swanroam.daemon.host import LocalHost
from swanroam.daemon.journal import Journal

VARIABLE = "SWANROAM_LAB_DEATH"
"""Where the order is: a file with a moment, which of its kind from now on, and who dies, as in `journal 3 1234 0`."""
ITSELF = 0
"""In the place of a process ID: the controller and whatever it has started. It comes last."""


class Moment(enum.Enum):
    JOURNALLED = "journal"
    """The journal says what is to be done; nothing of it is."""
    APPLIED = "kernel"
    """The kernel is as wanted; nothing of it was said to the peer."""


def order(path: Path, moment: Moment, number: int, victims: Iterable[int] = (ITSELF,)) -> None:
    """Let a controller whose orders are there kill processes at the `number`-th such moment from now on, from 1."""
    new = path.with_suffix(".new")
    new.write_text(" ".join(map(str, (moment.value, number, *victims))), encoding="ascii")
    new.rename(path)


def obey(path: Path) -> None:
    """From now on, in this process, orders at this path are carried out."""
    counted: Counter[int] = Counter()

    def after(moment: Moment) -> None:
        try:
            made = path.stat().st_mtime_ns
            kind, number, *victims = path.read_text(encoding="ascii").split()
        except FileNotFoundError:
            return
        if kind == moment.value:
            counted[made] += 1
            if counted[made] == int(number):
                try:
                    path.unlink()
                except FileNotFoundError:  # it was withdrawn
                    return
                for victim in map(int, victims):
                    with suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)  # 0 is the own process group

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

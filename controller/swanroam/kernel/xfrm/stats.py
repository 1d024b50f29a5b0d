"""Counters of packets that IPsec dropped, with the reason.

Source: Documentation/networking/xfrm_proc.rst; net/xfrm/xfrm_proc.c.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

XFRM_STAT: Final = Path("/proc/thread-self/net/xfrm_stat")
"""Of the calling thread's network namespace; /proc/net would be that of the main thread."""


def parse_statistics(text: str) -> dict[str, int]:
    """`XfrmInNoStates 3` per line to name and count. Lines of another form are left out."""
    counters = {}
    for line in text.splitlines():
        match line.split():
            case [name, value] if value.isdigit():
                counters[name] = int(value)
    return counters


def read_statistics(path: Path = XFRM_STAT) -> dict[str, int]:
    """All counters. Raises OSError; the file is missing where the kernel lacks CONFIG_XFRM_STATISTICS."""
    return parse_statistics(path.read_text(encoding="ascii"))


def difference(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """The counters that moved, by how much."""
    moved = {name: value - before.get(name, 0) for name, value in after.items()}
    return {name: by for name, by in moved.items() if by}

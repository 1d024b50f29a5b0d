"""What is different in another configuration: what a running daemon can take over, and what needs a restart. Pure."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from swanroam.config import Config, render_duration

AT_START_ONLY = (
    "identity",
    "control",
    "carrier",
    "vici_socket",
    "swanctl",
    "swanctl_file",
    "state_directory",
    "runtime_directory",
    "api_group",
)
"""Keys that are what the daemon is, where its files are, or what marks its objects in the kernel."""
SECTIONS = ("addresses", "sockets", "timing", "log", "metrics")


def need_restart(old: Config, new: Config) -> list[str]:
    """The changes that a running daemon can't take over, one a line."""
    lines = []
    for key in AT_START_ONLY:
        before, after = getattr(old, key), getattr(new, key)
        if before == after:
            continue
        if key in ("control", "carrier"):
            follows = "control.address:" if old.identity != new.identity else None  # from the identity
            different = [line for line in _different(key, before, after) if not follows or follows not in line]
            lines += [f"{line}: needs a restart" for line in different]
        else:
            lines.append(f"{key}: {_text(before)} -> {_text(after)}: needs a restart")
    return lines


def changes(old: Config, new: Config) -> list[str]:
    """All others, one a line."""
    lines = [line for key in SECTIONS for line in _different(key, getattr(old, key), getattr(new, key))]
    before, after = ({peer.identity: peer for peer in config.peers} for config in (old, new))
    lines += [f"peer {peer.name}: added" for identity, peer in after.items() if identity not in before]
    lines += [f"peer {peer.name}: removed" for identity, peer in before.items() if identity not in after]
    for identity in before.keys() & after.keys():
        lines += _different(f"peer {before[identity].name}", before[identity], after[identity])
    return lines


def _different(where: str, before: Any, after: Any) -> list[str]:  # Any: each section is a dataclass of its own
    separator = " " if where.startswith("peer ") else "."
    return [
        f"{where}{separator}{field.name}: {_text(one)} -> {_text(other)}"
        for field in fields(before)
        if (one := getattr(before, field.name)) != (other := getattr(after, field.name))
    ]


def _text(value: object) -> str:
    """About as it is written in the file."""
    match value:
        case None:
            return "none"
        case float():
            return render_duration(value)
        case tuple():
            return f"[{', '.join(map(str, value))}]"
        case _:
            return str(getattr(value, "value", value))

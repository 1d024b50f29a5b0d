"""Does this host pass on packets of others?"""

from __future__ import annotations

from pathlib import Path


def forwards(version: int) -> bool:
    """Whether any interface forwards packets of an IP version.

    Raises OSError when that can't be read. Source: Documentation/networking/ip-sysctl.rst, conf/interface/forwarding.
    """
    interfaces = Path(f"/proc/sys/net/ipv{version}/conf")
    return any(_is_on(interface / "forwarding") for interface in interfaces.glob("*") if interface.name != "default")


def _is_on(parameter: Path) -> bool:
    try:
        return parameter.read_text(encoding="ascii").strip() != "0"
    except FileNotFoundError:  # the interface has gone
        return False

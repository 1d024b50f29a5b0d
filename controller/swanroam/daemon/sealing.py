"""Whether a new address of this host is guarded before it is known; `addresses.guard_new` in the configuration."""

from __future__ import annotations

from contextlib import suppress

from swanroam.config import GuardNew
from swanroam.kernel.forwarding import forwards


class Sealing:
    """A host that forwards must not stop packets of others, which the kernel does not tell from its own there."""

    def __init__(self, guard_new: GuardNew) -> None:
        self.guard_new = guard_new
        self._found: frozenset[int] = frozenset()

    def versions(self) -> frozenset[int]:
        """IP versions in which it is, as things are now."""
        match self.guard_new:
            case GuardNew.ALWAYS:
                return frozenset({4, 6})
            case GuardNew.NEVER:
                return frozenset()
            case GuardNew.AUTO:
                with suppress(OSError):  # without a descriptor to read it: as it was
                    self._found = frozenset(version for version in (4, 6) if not forwards(version))
                return self._found

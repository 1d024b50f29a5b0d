"""The mover's entries for connections that the machines name by address pair and key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from swanroam.daemon.socket_names import TRANSPORTS
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import IPAddress
from swanroam.protocol.transfer import Key
from swanroam.transport.orders import Entry


class EntryMaker:
    """`interface_of` tells the index of the interface that has an address of this host, 0 if none."""

    def __init__(self, interface_of: Callable[[IPAddress], int]) -> None:
        self._interface_of = interface_of

    def between(self, old: Pair, new: Pair, keys: Iterable[Key]) -> tuple[Entry, ...]:
        """Of sockets that stand at the old pair, and go to the new one."""
        return self.from_homes(dict.fromkeys(keys, old), new)

    def homeward(self, old: Pair, new: Pair, keys: Iterable[Key]) -> tuple[Entry, ...]:
        """Of sockets that stand at the new pair, and go to the old one."""
        return tuple(entry.reversed for entry in self.between(old, new, keys))

    def from_homes(self, homes: Mapping[Key, Pair], new: Pair) -> tuple[Entry, ...]:
        """Of sockets that stand where it says, and go to the new pair."""
        interface = self._interface_of(new.local)
        return tuple(
            Entry(
                TRANSPORTS[key.transport],
                old.local,
                key.port,
                old.remote,
                key.remote_port,
                new.local,
                new.remote,
                interface,
            )
            for key, old in homes.items()
        )

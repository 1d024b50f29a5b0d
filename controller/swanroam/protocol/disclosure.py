"""Which of this host's deprecated addresses the peer is told.

The binding can hold more than an address change may name: an address that was current for so short a time that the
peer never heard of it (A -> B -> C before the acknowledgment), one that the peer refused, or one too many. The peer
would refuse the whole change for the first kind (NOT_OWNED): it lets nobody claim an address on his word alone. Such
addresses stay in the binding, held and guarded, until no socket uses them, but nothing is sent to them by the peer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from swanroam.protocol.binding import Binding
from swanroam.protocol.messages import MAX_DEPRECATED, IPAddress


class Disclosure:
    """What the peer knows to be ours: what it accepted, and where it has an IKE_SA with us."""

    def __init__(self) -> None:
        self.disclosed: set[IPAddress] = set()
        """In the last binding that it accepted, and in all that it was told since."""
        self.anchored: frozenset[IPAddress] = frozenset()
        """Where there is an IKE_SA with the peer."""
        self._denied: set[IPAddress] = set()

    def associations_read(self, own: Iterable[IPAddress]) -> None:
        anchored = frozenset(own)
        self._denied -= anchored - self.anchored
        self.anchored = anchored

    def announcement(self, binding: Binding) -> Binding:
        """What is to be told of a binding: the youngest of those addresses that the peer can know."""
        known = (self.disclosed | self.anchored) - self._denied
        named = tuple(address for address in binding.deprecated if address in known)
        return Binding(binding.current, named[-MAX_DEPRECATED:])

    def told(self, announced: Binding) -> None:
        """The peer may forget what is not named any more, whether or not it answers."""
        self.disclosed &= set(announced.addresses)

    def accepted(self, announced: Collection[IPAddress]) -> None:
        self.disclosed = set(announced)

    def denied(self, announced: Binding) -> bool:
        """It does not know some of the deprecated addresses; tells whether naming fewer can help."""
        self._denied |= set(announced.deprecated)
        return bool(announced.deprecated)

    def clear(self) -> None:
        self.disclosed.clear()
        self._denied.clear()

"""What a host says of its addresses: where it is now, and which old addresses of its are still in use.

The term is Mobile IPv6's (RFC 6275 §3.2); here a binding holds several old addresses at once, because connections on
A must go on when the host moved A -> B -> C before anything of A was released.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from swanroam.protocol.messages import IPAddress


@dataclass(frozen=True, slots=True)
class Binding:
    """A current address and the deprecated ones, oldest first. All of one family."""

    current: IPAddress
    deprecated: tuple[IPAddress, ...] = ()

    def __post_init__(self) -> None:
        if self.current in self.deprecated or len(set(self.deprecated)) != len(self.deprecated):
            raise ValueError(f"an address stands twice in {self}")

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """All addresses, the current one first."""
        return (self.current, *self.deprecated)

    def moved_to(self, address: IPAddress) -> Binding:
        """The binding after a move. An old address that comes back is current again, not deprecated."""
        if address == self.current:
            return self
        kept = tuple(old for old in (*self.deprecated, self.current) if old != address)
        return Binding(address, kept)

    def without(self, address: IPAddress) -> Binding:
        """The binding after a deprecated address was released."""
        return replace(self, deprecated=tuple(old for old in self.deprecated if old != address))

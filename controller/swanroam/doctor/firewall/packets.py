"""A packet as packet filters see it, before it was ever sent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from swanroam.kernel.rtnetlink import IPAddress

UDP = 17


class Field(Enum):
    """What a rule can ask of a packet."""

    PROTOCOL = auto()
    SOURCE = auto()
    DESTINATION = auto()
    SOURCE_PORT = auto()
    DESTINATION_PORT = auto()
    IN_INTERFACE = auto()
    OUT_INTERFACE = auto()
    STATE = auto()
    """Of connection tracking: `new` or `established`."""
    IPSEC = auto()
    """Whether it came out of IPsec."""
    FAMILY = auto()
    """4 or 6."""
    OTHER = auto()
    """Anything else: not known."""


class Unknown(Enum):
    """Stands for a value."""

    ABSENT = auto()
    """The packet has no such field; a rule that asks for it does not apply."""
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """`interface`: by which it comes or goes; None if that is not known."""

    incoming: bool
    protocol: int
    source: IPAddress
    destination: IPAddress
    ports: tuple[int, int] | None = None
    """UDP source and destination port."""
    interface: str | None = None
    begins: bool = True
    """No packet of its conversation has passed before it, in either direction."""
    ipsec: bool = False

    def value(self, field: Field) -> object:
        """What it has there, or an `Unknown`."""
        match field:
            case Field.PROTOCOL:
                return self.protocol
            case Field.SOURCE:
                return self.source
            case Field.DESTINATION:
                return self.destination
            case Field.SOURCE_PORT:
                return self.ports[0] if self.ports else Unknown.ABSENT
            case Field.DESTINATION_PORT:
                return self.ports[1] if self.ports else Unknown.ABSENT
            case Field.IN_INTERFACE:
                return self._interface(here=self.incoming)
            case Field.OUT_INTERFACE:
                return self._interface(here=not self.incoming)
            case Field.STATE:
                return "new" if self.begins else "established"
            case Field.IPSEC:
                return self.ipsec
            case Field.FAMILY:
                return self.source.version
            case Field.OTHER:
                return Unknown.UNKNOWN

    def _interface(self, *, here: bool) -> object:
        if not here:
            return ""
        return Unknown.UNKNOWN if self.interface is None else self.interface

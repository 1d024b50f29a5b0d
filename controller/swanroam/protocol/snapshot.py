"""What of a peer's machine must survive a restart of the controller, and its form in JSON."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from swanroam.protocol.binding import Binding
from swanroam.protocol.host_state import Crossing, Pair
from swanroam.protocol.messages import IPAddress


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Names are the keys of the JSON object."""

    sequence: int
    managed: bool
    own: Binding | None
    handover: bytes | None
    """The id of the one that is running."""
    ours: tuple[IPAddress, ...]
    accepted: IPAddress | None
    disclosed: tuple[IPAddress, ...]
    """Which of our addresses the peer knows for certain."""
    last_sequence: int
    peer: Binding | None
    """As it has registered."""
    remembered_peer: Binding | None
    """As far as it is known at all."""
    proven: IPAddress | None
    lingering: tuple[IPAddress, ...]
    unannounced: tuple[IPAddress, ...]
    """Of the peer, known from charon alone. An older journal does not have it."""
    migrated: Pair | None
    """Method migrate: the pair to which the filters are being or were moved."""
    crossing: Crossing
    led: bool
    """This host led the migration."""

    def to_json(self) -> dict[str, Any]:
        return {
            "sequence": self.sequence,
            "managed": self.managed,
            "own": _binding_out(self.own),
            "handover": None if self.handover is None else self.handover.hex(),
            "ours": _addresses_out(self.ours),
            "accepted": _address_out(self.accepted),
            "disclosed": _addresses_out(self.disclosed),
            "last_sequence": self.last_sequence,
            "peer": _binding_out(self.peer),
            "remembered_peer": _binding_out(self.remembered_peer),
            "proven": _address_out(self.proven),
            "lingering": _addresses_out(self.lingering),
            "unannounced": _addresses_out(self.unannounced),
            "migrated": None if self.migrated is None else [str(self.migrated.local), str(self.migrated.remote)],
            "crossing": self.crossing.value,
            "led": self.led,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Snapshot:
        """Raises ValueError for what `to_json` cannot have written."""
        try:
            snapshot = cls(
                sequence=int(stored["sequence"]),
                managed=bool(stored["managed"]),
                own=_binding_in(stored["own"]),
                handover=None if stored["handover"] is None else bytes.fromhex(stored["handover"]),
                ours=_addresses_in(stored["ours"]),
                accepted=_address_in(stored["accepted"]),
                disclosed=_addresses_in(stored["disclosed"]),
                last_sequence=int(stored["last_sequence"]),
                peer=_binding_in(stored["peer"]),
                remembered_peer=_binding_in(stored["remembered_peer"]),
                proven=_address_in(stored["proven"]),
                lingering=_addresses_in(stored["lingering"]),
                unannounced=_addresses_in(stored.get("unannounced", [])),
                migrated=None if stored["migrated"] is None else Pair(*_addresses_in(stored["migrated"])),
                crossing=Crossing(stored["crossing"]),
                led=bool(stored["led"]),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a snapshot of a peer: {error!r}") from error
        if snapshot.sequence < 0 or snapshot.last_sequence < 0:
            raise ValueError("not a snapshot of a peer: a sequence below 0")
        return snapshot


def _address_out(address: IPAddress | None) -> str | None:
    return None if address is None else str(address)


def _address_in(text: str | None) -> IPAddress | None:
    return None if text is None else ip_address(text)


def _addresses_out(addresses: tuple[IPAddress, ...]) -> list[str]:
    return sorted(map(str, addresses))


def _addresses_in(texts: list[str]) -> tuple[IPAddress, ...]:
    return tuple(ip_address(text) for text in texts)


def _binding_out(binding: Binding | None) -> list[str] | None:
    return None if binding is None else [str(address) for address in binding.addresses]


def _binding_in(texts: list[str] | None) -> Binding | None:
    if texts is None:
        return None
    current, *deprecated = _addresses_in(texts)
    return Binding(current, tuple(deprecated))

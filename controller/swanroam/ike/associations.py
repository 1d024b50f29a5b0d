"""charon's IKE_SAs and CHILD_SAs as data, read with `list-sas`.

Field names and presence: strongSwan src/libcharon/plugins/vici/vici_query.c, `list_ike`, `list_child`. Much is
absent at times: an IKE_SA that is CONNECTING has no algorithms and identity `%any`, a CHILD_SA that is UPDATING
has no SPIs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Self

from swanroam.ike.messages import ViciMessage, ViciProtocolError, ViciValue
from swanroam.ike.selectors import IPAddress, TrafficSelector
from swanroam.ike.vici import ViciClient


class _OpenEnum(Enum):
    """Values that a newer charon may add to read as UNKNOWN."""

    @classmethod
    def _missing_(cls, value: object) -> Self:
        return cls("?")


class IkeState(_OpenEnum):
    """Source: strongSwan src/libcharon/sa/ike_sa.c, `ike_sa_state_names`."""

    CREATED = "CREATED"
    CONNECTING = "CONNECTING"
    ESTABLISHED = "ESTABLISHED"
    PASSIVE = "PASSIVE"
    REKEYING = "REKEYING"
    REKEYED = "REKEYED"
    DELETING = "DELETING"
    DESTROYING = "DESTROYING"
    UNKNOWN = "?"


class ChildState(_OpenEnum):
    """Source: strongSwan src/libcharon/sa/child_sa.c, `child_sa_state_names`."""

    CREATED = "CREATED"
    ROUTED = "ROUTED"
    INSTALLING = "INSTALLING"
    INSTALLED = "INSTALLED"
    UPDATING = "UPDATING"
    REKEYING = "REKEYING"
    REKEYED = "REKEYED"
    RETRYING = "RETRYING"
    DELETING = "DELETING"
    DELETED = "DELETED"
    DESTROYING = "DESTROYING"
    UNKNOWN = "?"


class Mode(_OpenEnum):
    """Source: strongSwan src/libstrongswan/ipsec/ipsec_types.c, `ipsec_mode_names`."""

    TRANSPORT = "TRANSPORT"
    TUNNEL = "TUNNEL"
    BEET = "BEET"
    TRANSPORT_PROXY = "TRANSPORT_PROXY"
    IPTFS = "IPTFS"
    UNKNOWN = "?"


@dataclass(frozen=True, slots=True)
class Mark:
    value: int
    mask: int = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of an IKE_SA. `host` is None while charon has not resolved it (`%any`)."""

    host: IPAddress | None
    port: int | None
    identity: str


@dataclass(frozen=True, slots=True)
class Counters:
    bytes: int = 0
    packets: int = 0
    used_ago: int | None = None
    """Seconds since the last packet; None if there was none."""


@dataclass(frozen=True, slots=True)
class ChildSa:
    """A CHILD_SA. SPIs are as in `ip xfrm state`, None while charon does not tell them; times are in seconds."""

    name: str
    unique_id: int
    reqid: int
    state: ChildState
    mode: Mode
    protocol: str = ""
    udp_encapsulation: bool = False
    spi_in: int | None = None
    spi_out: int | None = None
    if_id_in: int = 0
    if_id_out: int = 0
    mark_in: Mark | None = None
    mark_out: Mark | None = None
    local_ts: tuple[TrafficSelector, ...] = ()
    remote_ts: tuple[TrafficSelector, ...] = ()
    received: Counters = Counters()
    sent: Counters = Counters()
    installed_ago: int | None = None
    rekey_in: int | None = None
    expires_in: int | None = None
    per_cpu: bool = False
    """One of several with the same selectors, each for a processor (`per_cpu_sas`, strongSwan 6.0.2)."""

    @property
    def is_usable(self) -> bool:
        """Whether it carries traffic and has not been replaced; a rekeying one does until its successor is there."""
        return self.state in (ChildState.INSTALLED, ChildState.REKEYING)

    def same_selectors(self, other: "ChildSa") -> bool:
        """Whether the kernel keeps one policy for both: selectors, marks and interface identifiers are equal."""
        return (
            set(self.local_ts) == set(other.local_ts)
            and set(self.remote_ts) == set(other.remote_ts)
            and (self.if_id_in, self.if_id_out) == (other.if_id_in, other.if_id_out)
            and (self.mark_in, self.mark_out) == (other.mark_in, other.mark_out)
        )


@dataclass(frozen=True, slots=True)
class IkeSa:
    """An IKE_SA with its CHILD_SAs. `name` is the connection's, `(unnamed)` before charon has chosen one.

    An IKE rekey gives it another `unique_id`, so look an association up again before acting on an identifier
    kept for long.
    """

    name: str
    unique_id: int
    state: IkeState
    version: int
    local: Endpoint
    remote: Endpoint
    initiator: bool
    initiator_spi: str = ""
    responder_spi: str = ""
    nat_local: bool = False
    nat_remote: bool = False
    nat_any: bool = False
    established_ago: int | None = None
    rekey_in: int | None = None
    reauth_in: int | None = None
    tasks_queued: tuple[str, ...] = ()
    tasks_active: tuple[str, ...] = ()
    tasks_passive: tuple[str, ...] = ()
    children: tuple[ChildSa, ...] = ()

    @property
    def is_usable(self) -> bool:
        """Whether it is authenticated and has not been replaced."""
        return self.state in (IkeState.ESTABLISHED, IkeState.REKEYING)

    def child(self, name: str) -> ChildSa | None:
        """The usable CHILD_SA of this configured name; the newest if there are several."""
        usable = [child for child in self.children if child.name == name and child.is_usable]
        return max(usable, key=lambda child: child.unique_id, default=None)

    @property
    def hosts(self) -> tuple[IPAddress | None, IPAddress | None]:
        """Its own and the peer's address."""
        return self.local.host, self.remote.host

    def connects(self, local: IPAddress, remote: IPAddress) -> bool:
        """Whether its packets travel between exactly these two addresses."""
        return self.hosts == (local, remote)


async def list_ike_sas(
    client: ViciClient, *, ike: str | None = None, ike_unique_id: int | None = None, noblock: bool = True
) -> tuple[IkeSa, ...]:
    """All IKE_SAs, or those of one connection, or the one with this identifier.

    With `noblock` charon silently leaves out IKE_SAs that it is working on in that moment: fit for display and
    polling, not for concluding that something is gone. Without, it waits for them.
    """
    message: dict[str, str] = {}
    if ike is not None:
        message["ike"] = ike
    if ike_unique_id is not None:
        message["ike-id"] = str(ike_unique_id)
    if noblock:
        message["noblock"] = "yes"
    events = await client.stream("list-sas", "list-sa", message)
    return tuple(ike_sa for event in events for ike_sa in parse_list_sa(event))


def parse_list_sa(event: ViciMessage) -> tuple[IkeSa, ...]:
    """The IKE_SAs of one `list-sa`, `ike-updown`, `child-updown` or `ike-update` event; each event is about one.

    Values beside the sections (`up`, the new hosts of `ike-update`) are passed over. The rekey events have pairs of
    associations where these have one: take them as a hint to list. Raises ViciProtocolError for what cannot be read.
    """
    try:
        return tuple(_ike_sa(name, section) for name, section in event.items() if isinstance(section, dict))
    except (ValueError, KeyError) as error:
        raise ViciProtocolError(f"charon reports an IKE_SA that cannot be read: {error}") from error


def _ike_sa(name: str, section: ViciMessage) -> IkeSa:
    return IkeSa(
        name=name,
        unique_id=int(_text(section, "uniqueid")),
        state=IkeState(_text(section, "state")),
        version=int(_text(section, "version", "0")),
        local=_endpoint(section, "local"),
        remote=_endpoint(section, "remote"),
        initiator=_flag(section, "initiator"),
        initiator_spi=_text(section, "initiator-spi", ""),
        responder_spi=_text(section, "responder-spi", ""),
        nat_local=_flag(section, "nat-local"),
        nat_remote=_flag(section, "nat-remote"),
        nat_any=_flag(section, "nat-any"),
        established_ago=_number(section, "established"),
        rekey_in=_number(section, "rekey-time"),
        reauth_in=_number(section, "reauth-time"),
        tasks_queued=_texts(section, "tasks-queued"),
        tasks_active=_texts(section, "tasks-active"),
        tasks_passive=_texts(section, "tasks-passive"),
        children=_children(section.get("child-sas", {})),
    )


def _endpoint(section: ViciMessage, side: str) -> Endpoint:
    host = _text(section, f"{side}-host", "%any")
    address = None if host.startswith("%") else ip_address(host)
    return Endpoint(
        host=None if address is None or address.is_unspecified else address,
        port=_number(section, f"{side}-port"),
        identity=_text(section, f"{side}-id", "%any"),
    )


def _children(sections: ViciValue) -> tuple[ChildSa, ...]:
    if not isinstance(sections, dict):
        raise ValueError("child-sas is no section")  # of what charon sent, not a caller's mistake
    children = (_child_sa(name, value) for name, value in sections.items() if isinstance(value, dict))
    return tuple(sorted(children, key=lambda child: child.unique_id))


def _child_sa(section_name: str, section: ViciMessage) -> ChildSa:
    return ChildSa(
        name=_text(section, "name", section_name),
        unique_id=int(_text(section, "uniqueid")),
        reqid=int(_text(section, "reqid", "0")),
        state=ChildState(_text(section, "state")),
        mode=Mode(_text(section, "mode", "?")),
        protocol=_text(section, "protocol", ""),
        udp_encapsulation=_flag(section, "encap"),
        spi_in=_number(section, "spi-in", 16),
        spi_out=_number(section, "spi-out", 16),
        if_id_in=_number(section, "if-id-in", 16) or 0,
        if_id_out=_number(section, "if-id-out", 16) or 0,
        mark_in=_mark(section, "in"),
        mark_out=_mark(section, "out"),
        local_ts=_selectors(_texts(section, "local-ts")),
        remote_ts=_selectors(_texts(section, "remote-ts")),
        received=_counters(section, "in"),
        sent=_counters(section, "out"),
        installed_ago=_number(section, "install-time"),
        rekey_in=_number(section, "rekey-time"),
        expires_in=_number(section, "life-time"),
        per_cpu="cpu" in section or "per-cpu-sas" in section,
    )


def _counters(section: ViciMessage, direction: str) -> Counters:
    return Counters(
        bytes=_number(section, f"bytes-{direction}") or 0,
        packets=_number(section, f"packets-{direction}") or 0,
        used_ago=_number(section, f"use-{direction}"),
    )


def _mark(section: ViciMessage, direction: str) -> Mark | None:
    value = _number(section, f"mark-{direction}", 16)
    mask = _number(section, f"mark-mask-{direction}", 16)
    return None if value is None else Mark(value) if mask is None else Mark(value, mask)


def _selectors(texts: Iterable[str]) -> tuple[TrafficSelector, ...]:
    return tuple(TrafficSelector.parse(text) for text in texts)


def _text(section: ViciMessage, key: str, default: str | None = None) -> str:
    value = section.get(key, default)
    if not isinstance(value, str):
        raise ValueError(f"{key} is missing or no text")
    return value


def _texts(section: ViciMessage, key: str) -> tuple[str, ...]:
    value = section.get(key, [])
    if not isinstance(value, list):
        raise ValueError(f"{key} is no list")
    return tuple(value)


def _number(section: ViciMessage, key: str, base: int = 10) -> int | None:
    text = _text(section, key, "")
    return int(text, base) if text else None


def _flag(section: ViciMessage, key: str) -> bool:
    return _text(section, key, "no") == "yes"

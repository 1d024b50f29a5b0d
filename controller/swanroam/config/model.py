"""The configuration as the rest of the controller sees it. All defaults stand here and nowhere else.

Times are seconds. Every value has been checked; consumers need not check again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path

IPNetwork = IPv4Network | IPv6Network
IPAddress = IPv4Address | IPv6Address

VIRTUAL_INTERFACES = ("docker*", "br-*", "veth*", "virbr*")
"""Interfaces of containers and virtual machines: their addresses lead nowhere from outside."""

DEFAULT_PREFIX = IPv6Network("fd53:7761:6e72::/48")
"""Where inner addresses are taken from: "Swanr" in ASCII after the fd of locally assigned addresses (RFC 4193)."""
DEFAULT_PORT = 4510
DEFAULT_CHILD = "swanroam"
DEFAULT_RUNTIME_DIRECTORY = Path("/run/swanroam")


class Moves(Enum):
    """Which host's address may change towards a peer."""

    US = "us"
    PEER = "peer"
    BOTH = "both"

    @property
    def we_may(self) -> bool:
        return self is not Moves.PEER

    @property
    def peer_may(self) -> bool:
        return self is not Moves.US


class FilterMethod(Enum):
    """How security filters get to the new address."""

    RENEGOTIATE = "renegotiate"
    """Make before break: a second IKE_SA and its children from the new address."""
    MIGRATE = "migrate"
    """The existing SAs and policies are re-addressed, keys kept (XFRM_MSG_MIGRATE)."""


class TransportMethod(Enum):
    """What becomes of the sockets when an address changes."""

    MOVE = "move"
    """They move to the new address, as far as they can."""
    KEEP = "keep"
    """They stay on the old one, over the carrier, until they close."""


class GuardNew(Enum):
    """Whether packets to a peer are guarded that leave from an address which the host has just been given."""

    AUTO = "auto"
    """In each IP version, unless the host forwards packets of others: theirs would be stopped as well."""
    ALWAYS = "always"
    NEVER = "never"


class LogFormat(Enum):
    AUTO = "auto"
    """Readable on a terminal, JSON otherwise."""
    CONSOLE = "console"
    JSON = "json"


class LogLevel(Enum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """The secured control channel."""

    address: IPv6Address
    """Our own inner address; derived from our identity unless the file names one."""
    port: int = DEFAULT_PORT
    prefix: IPv6Network = DEFAULT_PREFIX
    mark: int = 0x5353
    """SO_MARK of control datagrams."""
    child: str = DEFAULT_CHILD
    """Name of the tunnel-mode CHILD_SA that protects the channel."""


@dataclass(frozen=True, slots=True)
class CarrierSettings:
    table: int = 5353
    rule_priority: int = 150


@dataclass(frozen=True, slots=True)
class AddressSettings:
    """Which of the host's addresses count, and which one is taken."""

    interfaces: tuple[str, ...] = ("*",)
    """Globs. Loopback and the carrier devices never count, whatever is written."""
    ignore_interfaces: tuple[str, ...] = VIRTUAL_INTERFACES
    """Globs. Empty by default once `interfaces` is given, so that a bridge named there does count."""
    ignore: tuple[IPNetwork, ...] = ()
    prefer: tuple[str, ...] = ()
    """Interface globs, best first. Empty: the source address that the host's routing picks towards the peer."""
    readd_window: float = 1.0
    """An address that comes back within this time on a link that is up has not gone."""
    guard_new: GuardNew = GuardNew.AUTO


@dataclass(frozen=True, slots=True)
class SocketSettings:
    """How the sockets of old addresses are moved to the new one, and what becomes of those that stay."""

    hold: float = 1.0
    """The longest that a program is stopped for the move of its sockets. What is not done by then stays as it was."""
    stopped_share: int = 10
    """Percent of the time for which one peer may have programs stopped, in the long run, with 10 s in advance."""
    exclude_processes: tuple[str, ...] = ()
    """Globs on names of processes (the 15 characters of comm) whose sockets stay where they are."""
    exclude_ports: tuple[int, ...] = ()
    """Sockets with such a port, of either end, stay where they are."""
    end_after: float | None = None
    """How long after the grace period sockets may stay on an old address before they are ended with a reset;
    None: as long as they live."""


@dataclass(frozen=True, slots=True)
class TimingSettings:
    first_retransmit: float = 0.1
    give_up: float = 30.0
    """Time after the first transmission of a message at which its sender stops retransmitting."""
    refresh: float = 60.0
    """Interval at which an idle binding is confirmed with the peer."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    format: LogFormat = LogFormat.AUTO
    level: LogLevel = LogLevel.INFO


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """A local address and TCP port to listen on."""

    address: IPAddress
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    listen: Endpoint | None = None
    """Where they can be had by HTTP; None: nowhere. A port alone is one of 127.0.0.1."""


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """A host whose connections are kept alive. Optional keys not given come from `defaults`."""

    identity: str
    connection: str
    """Name of the swanctl connection to it."""
    control_address: IPv6Address
    """Its inner address; derived from its identity unless the file names one."""
    name: str
    """What logs, `status` and `move` call it; its identity unless the file names one."""
    moves: Moves = Moves.BOTH
    allow: tuple[IPNetwork, ...] = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    """Where it may move to."""
    filters: FilterMethod = FilterMethod.RENEGOTIATE
    transport: TransportMethod = TransportMethod.MOVE
    grace: float = 10.0
    children: tuple[str, ...] | None = None
    """Names of the CHILD_SAs to move; None: every one that is installed."""
    fallback: tuple[IPAddress | str, ...] | None = None
    """Where it may be found when both hosts have moved at once: addresses and DNS names, in the order in which they
    are tried; None: what the connection has as `remote_addrs`."""


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file."""

    identity: str
    """Our own IKE identity, as the swanctl connections send it."""
    control: ControlSettings
    peers: tuple[PeerSettings, ...]
    vici_socket: Path = Path("/run/charon.vici")
    swanctl: str = "swanctl"
    """Program, by name or absolute path."""
    swanctl_file: Path | None = None
    """swanctl.conf to load definitions from; None: the program's own default."""
    state_directory: Path = Path("/var/lib/swanroam")
    runtime_directory: Path = DEFAULT_RUNTIME_DIRECTORY
    api_group: str | None = None
    """Whose members may use the command line; None: those of the group that the daemon runs as."""
    carrier: CarrierSettings = CarrierSettings()
    addresses: AddressSettings = AddressSettings()
    sockets: SocketSettings = SocketSettings()
    timing: TimingSettings = TimingSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()

    def peer(self, name_or_identity: str) -> PeerSettings | None:
        """The peer with this name, or else this identity."""
        for peer in self.peers:
            if peer.name == name_or_identity:
                return peer
        return next((peer for peer in self.peers if peer.identity == name_or_identity), None)

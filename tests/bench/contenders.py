"""Who is measured: each a way to live through a change of address, on the lab's hosts, set up as its users would."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from lab.charon import Charon
from lab.ike_config import Credentials
from lab.topology import Lab
from lab.zygote import Zygote
from swanroam.config import ConfigError, parse_config

PATIENCE = 1.0
"""Seconds of silence after which an application that reconnects opens a new connection."""
POOL = IPv4Network("10.99.0.0/28")
VIRTUAL_ADDRESS = POOL[1]
FILTERS = "filters"
TRANSPORT = "transport"
"""Steps of a handover: SAs and policies stand at the new address; the sockets are there as well."""
_MINIMAL = """
identity: mobile.example.org
defaults: {{transport: {transport}}}
peers: [{{identity: correspondent.example.org, connection: correspondent}}]
"""


class Kind(enum.Enum):
    """The contenders."""

    MOVE = "swanroam (move)"  # sockets themselves go to the new address
    KEEP = "swanroam (keep)"  # sockets stay on the old address, on the carrier
    MOBIKE = "mobike + virtual ip"  # tunnel mode; sockets have an address that never changes
    PLAIN = "plain transport"  # transport mode, charon's defaults, an application that reconnects


@dataclass(frozen=True, slots=True)
class Application:
    """What the programs do by themselves about a change of address."""

    patience: float
    """TCP: seconds of silence until a new connection is opened; 0: never."""
    udp_connected: bool
    """UDP: the source address is chosen once, and not for every packet."""


UNMODIFIED = Application(patience=0.0, udp_connected=True)
RECONNECTING = Application(patience=PATIENCE, udp_connected=False)


@dataclass(frozen=True, slots=True)
class Contender:
    """One of them, as it is set up in this run."""

    kind: Kind
    application: Application
    make_lab: Callable[[Zygote], Lab]
    controller: dict[str, Any] | None = None
    """swanroam's configuration; None: it does not run."""
    last_step: str = ""
    """swanroam's last step before the grace period, on the mobile host."""

    @property
    def name(self) -> str:
        return self.kind.value


def contenders() -> tuple[list[Contender], list[str]]:
    """Those that can be measured with this swanroam, and why others can't."""
    found, absent = [], []
    knows = accepts_transport()
    for kind, transport in ((Kind.MOVE, "move"), (Kind.KEEP, "keep")):
        step = TRANSPORT if kind is Kind.MOVE else FILTERS
        if knows or kind is Kind.KEEP:
            config = _config(transport if knows else None)
            found.append(Contender(kind, UNMODIFIED, swanroam_lab, config, step))
        else:
            absent.append(f"{kind.value}: this swanroam has no `transport: move`; its sockets stay on the carrier")
    found.append(Contender(Kind.MOBIKE, UNMODIFIED, mobike_lab))
    found.append(Contender(Kind.PLAIN, RECONNECTING, plain_lab))
    return found, absent


def accepts_transport() -> bool:
    """Whether swanroam's configuration has the key `transport`."""
    try:
        parse_config(_MINIMAL.format(transport="move"))
    except ConfigError:
        return False
    return True


def _config(transport: str | None) -> dict[str, Any]:
    defaults = {"grace": "1s"} | ({"transport": transport} if transport else {})
    return {"defaults": defaults, "log": {"format": "json", "level": "info"}}


def swanroam_lab(zygote: Zygote) -> Lab:
    """The lab's own: transport mode, charon does not move by itself."""
    return Lab(zygote=zygote)


def plain_lab(zygote: Zygote) -> Lab:
    """Transport mode with charon's defaults: MOBIKE on, roam events on."""
    return Lab(zygote=zygote, roam_events=True)


class FullCharon(Charon):
    """A charon that installs virtual addresses and the routes to use them, as it does unless told otherwise."""

    @property
    def environment(self) -> dict[str, str]:
        path = self.directory / "virtual-ip.conf"
        text = "include strongswan.conf\ncharon {\n    install_routes = yes\n    install_virtual_ip = yes\n}\n"
        path.write_text(text, encoding="utf-8")
        return {"STRONGSWAN_CONF": str(path), "SWANCTL_DIR": str(self.swanctl_directory)}


_CONNECTION = """
connections {{
    peer-{peer} {{
        version = 2
        mobike = yes
        remote_addrs = {reach}
        proposals = aes128-sha256-ecp256
        {assignment}
        local {{
            auth = psk
            id = {own_identity}
        }}
        remote {{
            auth = psk
            id = {peer_identity}
        }}
        children {{
            data {{
                mode = tunnel
                esp_proposals = aes128gcm16
            }}
        }}
    }}
}}
pools {{
    virtual {{
        addrs = {pool}
    }}
}}
secrets {{
    ike-1 {{
        id-1 = {own_identity}
        id-2 = {peer_identity}
        secret = 0x{secret}
    }}
}}
"""


def mobike_lab(zygote: Zygote) -> Lab:
    """Tunnel mode with a virtual address from the correspondent's pool, MOBIKE on, roam events on."""
    lab = Lab(zygote=zygote, roam_events=True)
    mobile, correspondent = lab.mobile, lab.correspondent
    secret = Credentials(lab.directory / "none", "psk").secret(mobile.identity, correspondent.identity)
    for host, peer, assignment, reach in (
        (mobile, correspondent, "vips = 0.0.0.0", str(correspondent.address)),
        (correspondent, mobile, "pools = virtual", "%any"),
    ):
        host.charon = FullCharon(host, host.directory, roam_events=True)
        text = _CONNECTION.format(
            peer=peer.name,
            reach=reach,
            assignment=assignment,
            own_identity=host.identity,
            peer_identity=peer.identity,
            pool=POOL,
            secret=secret,
        )
        (host.charon.swanctl_directory / "swanctl.conf").write_text(text, encoding="utf-8")
    return lab


def establish(contender: Contender, lab: Lab) -> None:
    """Everything that stands before anything moves: charons, SAs, controllers that know each other."""
    if contender.kind is Kind.MOBIKE:
        for host in lab.hosts:
            host.charon.start()
        lab.establish(lab.mobile, lab.correspondent, ("data",))
    else:
        lab.start()
    if contender.controller is not None:
        lab.start_controllers(contender.controller)
        for host in lab.hosts:
            for peer in host.controller.peers:
                host.controller.wait_event("peer_registered", peer=peer.name)

"""Traffic selectors as charon prints and reads them.

Source: strongSwan src/libstrongswan/selectors/traffic_selector.c, `traffic_selector_printf_hook` and
`traffic_selector_create_from_cidr`; swanctl.conf(5), `local_ts`.
"""

import socket
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

IPAddress = IPv4Address | IPv6Address

ANY_PORT = (0, 65535)
OPAQUE_PORT = (65535, 0)
"""RFC 7296 section 3.13.1: only packets whose ports cannot be read (later fragments)."""

_ICMP = (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6)


@dataclass(frozen=True, slots=True)
class TrafficSelector:
    """An inclusive range of addresses with protocol and ports.

    `start` and `end` are None for `dynamic`: the host's own address in the IKE_SA, or its virtual address.
    `protocol` 0 is any. `ports` is inclusive; for ICMP it holds type * 256 + code, as in RFC 7296 section 3.13.1.
    """

    start: IPAddress | None
    end: IPAddress | None
    protocol: int = 0
    ports: tuple[int, int] = ANY_PORT

    @classmethod
    def parse(cls, text: str) -> "TrafficSelector":
        """Read `10.0.0.0/24`, `a..b` (as printed) or `a-b` (as configured), `dynamic`, all with optional
        `[protocol/port]`. Raises ValueError.
        """
        addresses, bracket, rest = text.strip().partition("[")
        if bracket and not rest.endswith("]"):
            raise ValueError(f"{text!r} is not a traffic selector: the bracket is not closed")
        try:
            start, end = _addresses(addresses)
            protocol, ports = _protocol_and_ports(rest[:-1]) if bracket else (0, ANY_PORT)
        except (ValueError, OSError) as error:
            raise ValueError(f"{text!r} is not a traffic selector: {error}") from error
        return cls(start, end, protocol, ports)

    @property
    def is_dynamic(self) -> bool:
        return self.start is None

    def is_host(self, address: IPAddress) -> bool:
        """Whether the addresses are exactly this one."""
        return self.start == address == self.end

    def moved(self, old: IPAddress, new: IPAddress) -> "TrafficSelector":
        """The same selector with host `old` (or `dynamic`) replaced by host `new`; others are returned unchanged."""
        return replace(self, start=new, end=new) if self.is_dynamic or self.is_host(old) else self

    def __str__(self) -> str:
        if self.start is None or self.end is None:
            text = "dynamic"
        elif self.start == self.end:
            text = f"{self.start}/{self.start.max_prefixlen}"
        else:
            text = f"{self.start}..{self.end}"
        if self.protocol == 0 and self.ports == ANY_PORT:
            return text
        return f"{text}[{self.protocol}{self._ports_text()}]"

    def _ports_text(self) -> str:
        if self.ports == ANY_PORT:
            return ""
        if self.ports == OPAQUE_PORT:
            return "/OPAQUE"
        first, last = (f"{n >> 8}({n & 255})" if self.protocol in _ICMP else str(n) for n in self.ports)
        return f"/{first}" if first == last else f"/{first}-{last}"


def _addresses(text: str) -> tuple[IPAddress | None, IPAddress | None]:
    text = text.strip()
    if text == "dynamic":
        return None, None
    first, dash, last = text.replace("..", "-").partition("-")
    if dash:
        return ip_address(first.strip()), ip_address(last.strip())
    network = ip_network(text, strict=False)
    return network.network_address, network.broadcast_address


def _protocol_and_ports(text: str) -> tuple[int, tuple[int, int]]:
    name, slash, ports = text.partition("/")
    protocol = _protocol(name.strip())
    if not slash:
        return protocol, ANY_PORT
    ports = ports.strip()
    match ports.lower():
        case "any" | "%any":
            return protocol, ANY_PORT
        case "opaque":
            return protocol, OPAQUE_PORT
    first, dash, last = ports.partition("-")
    start = _port(first, protocol)
    return protocol, (start, _port(last, protocol) if dash else start)


@lru_cache(maxsize=64)
def _protocol(name: str) -> int:
    """Number of a protocol; charon prints the names of /etc/protocols."""
    if name.isdecimal():
        return int(name)
    return 0 if name in ("any", "%any") else socket.getprotobyname(name)


@lru_cache(maxsize=256)
def _port(text: str, protocol: int) -> int:
    """Number of a port; charon prints the names of /etc/services, and for ICMP `type(code)`, or `type` for code 0."""
    text = text.strip()
    if protocol in _ICMP:
        kind, _, code = text.removesuffix(")").partition("(")
        return _bounded(int(kind), 255) * 256 + _bounded(int(code or 0), 255)
    if text.isdecimal():
        return _bounded(int(text), 65535)
    return socket.getservbyname(text, {6: "tcp", 17: "udp"}.get(protocol, "tcp"))


def _bounded(number: int, limit: int) -> int:
    if number > limit:
        raise ValueError(f"{number} is over {limit}")
    return number

"""What lies between the hosts: a switch for each access network, and the router, with faults to order.

      host ──┐
             ├── switch (bridge) ── "up" ──►  router ── other networks
      host ──┘                   ◄── "down" ──

Both directions of a leg leave through a device of their own, so delay, loss and drops are set for each by itself.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from lab.addressing import NETWORKS, Family, IPAddress
from lab.namespace import Namespace
from lab.waiting import wait_for

Direction = Literal["up", "down", "both"]
QUEUE = 100_000  # packets that netem holds; its default of 1000 would be a loss of its own

ROUTER_SYSCTL = {
    "net__ipv4__ip_forward": 1,
    "net__ipv6__conf__all__forwarding": 1,
    "net__ipv4__conf__all__rp_filter": 0,
    "net__ipv6__conf__default__accept_dad": 0,
}
SWITCH_SYSCTL = {
    "net__ipv6__conf__all__disable_ipv6": 1,
    "net__ipv6__conf__default__disable_ipv6": 1,
}


@dataclass(frozen=True, slots=True)
class Match:
    """Which packets a drop is about; None leaves a field open. Looks at the outermost header only, except for
    `spi`: ESP with this SPI, bare or inside one layer of IP-in-IP; with `protocol` "esp" or "ipip" one of the two only.
    """

    protocol: Literal["esp", "ipip", "ike", "tcp", "udp"] | None = None
    spi: int | None = None
    source: IPAddress | None = None
    destination: IPAddress | None = None
    length: int | None = None
    """Total length of the packet with that SPI, without the carrier's header. IPv4 only."""


_NUMBERS = {"esp": (50, 50), "ipip": (4, 41), "tcp": (6, 6), "udp": (17, 17)}  # in IPv4, in IPv6
_EVERYTHING = Match()


class DropRule:
    """Packets dropped on one leg in one direction, until `remove`."""

    def __init__(self, namespace: Namespace, device: str, first: int, classifiers: list[str]) -> None:
        self._namespace = namespace
        self._device = device
        self._preferences = range(first, first + len(classifiers))
        namespace.tc(
            *(
                f"filter add dev {device} egress pref {preference} {classifier} action drop"
                for preference, classifier in zip(self._preferences, classifiers, strict=True)
            )
        )

    @property
    def hits(self) -> int:
        """Packets dropped so far."""
        shown = self._namespace.run(["tc", "-s", "filter", "show", "dev", self._device, "egress"]).stdout
        dropped = 0
        for entry in re.split(r"^filter ", shown, flags=re.MULTILINE):
            preference = re.search(r"\bpref (\d+)\b", entry)
            if preference and int(preference[1]) in self._preferences:
                dropped += sum(int(count) for count in re.findall(r"Sent \d+ bytes (\d+) pkt", entry))
        return dropped

    def wait_hits(self, count: int, timeout: float = 10.0) -> None:
        """Wait until so many packets were dropped."""
        wait_for(lambda: self.hits >= count, timeout, f"{count} packet(s) dropped on {self._device}")

    def remove(self) -> None:
        """Let packets pass again; harmless when done before."""
        self._namespace.tc(
            *(f"filter del dev {self._device} egress pref {number}" for number in self._preferences),
            check=False,
        )


def _classifiers(match: Match) -> list[str]:
    """One u32 classifier for each shape that a matching packet can have (tc-u32(8))."""
    classifiers = []
    for family, protocol, word, next_header, header in (
        (Family.IPV4, "ip", "ip", 9, 20),
        (Family.IPV6, "ipv6", "ip6", 6, 40),
    ):
        ends = [(end, address) for end, address in (("src", match.source), ("dst", match.destination)) if address]
        if any(address.version != family.value for _, address in ends):
            continue
        common = "".join(f" match {word} {end} {address}/{family.host_bits}" for end, address in ends)
        shapes = [""]
        if match.spi is not None:
            tunnel = _NUMBERS["ipip"][family is Family.IPV6]
            if match.length is not None and family is Family.IPV6:
                continue
            shapes = [
                f"{outer} match u8 50 0xff at {inner + next_header} match u32 {match.spi:#x} 0xffffffff at"
                f" {inner + header}" + (f" match u16 {match.length} 0xffff at {inner + 2}" if match.length else "")
                for kind, outer, inner in (
                    ("esp", "", 0),
                    ("ipip", f" match u8 {tunnel} 0xff at {next_header}", header),
                )
                if match.protocol in (None, kind)
            ]
        elif match.protocol == "ike":
            shapes = [
                f" match u8 17 0xff at {next_header} match u16 {port} 0xffff at {header + 2}" for port in (500, 4500)
            ]
        elif match.protocol is not None:
            number = _NUMBERS[match.protocol][family is Family.IPV6]
            shapes = [f" match u8 {number} 0xff at {next_header}"]
        classifiers += [f"protocol {protocol} u32{common}{shape or ' match u32 0 0'}" for shape in shapes]
    return classifiers


class Router:
    """Router and switches."""

    def __init__(self) -> None:
        self.switch = Namespace("switch", SWITCH_SYSCTL)
        try:
            self.namespace = Namespace("router", ROUTER_SYSCTL)
        except BaseException:
            self.switch.delete()
            raise
        self._preference = 0
        self._clsact: set[str] = set()
        try:
            self._build()
        except BaseException:
            self.delete()
            raise

    def _build(self) -> None:
        switch, router = [], []
        for name, network in NETWORKS.items():
            switch += [
                f"link add {name} type bridge forward_delay 0 mcast_snooping 0",
                f"link add up-{name} type veth peer name {name} netns {self.namespace.holder_pid}",
                f"link set up-{name} master {name} up",
                f"link set {name} up",
            ]
            for family in Family:
                address = f"{network.router(family)}/{network.prefix_length(family)}"
                router.append(f"addr add {address} dev {name}{' nodad' if family is Family.IPV6 else ''}")
            router.append(f"link set {name} up")
        self.switch.ip(*switch)
        self.namespace.ip(*router)

    def attach(self, host: Namespace, networks: Iterable[str], number: int) -> None:
        """Cables from a host's devices (named like the networks) to the networks' switches."""
        lines: list[str] = []
        for network in networks:
            port = f"{network}.{number}"
            lines += [
                f"link add {port} type veth peer name {network} netns {host.holder_pid}",
                f"link set {port} master {network} up",
            ]
        self.switch.ip(*lines)

    def _devices(self, network: str, direction: Direction) -> Iterator[tuple[Namespace, str]]:
        if direction in ("up", "both"):
            yield self.switch, f"up-{network}"
        if direction in ("down", "both"):
            yield self.namespace, network

    def netem(
        self,
        network: str,
        *,
        delay_ms: float = 0,
        jitter_ms: float = 0,
        loss: float = 0,
        duplicate: float = 0,
        reorder: float = 0,
        direction: Direction = "both",
    ) -> None:
        """Set delay, its variation, and percentages of lost, doubled and overtaken packets on one leg.

        The delay is for one way. All at zero: a clean leg. `reorder` needs a delay to overtake.
        """
        settings = [f"delay {delay_ms}ms" + (f" {jitter_ms}ms" if jitter_ms else "")] if delay_ms else []
        settings += [
            f"{name} {value}%"
            for name, value in (("loss", loss), ("duplicate", duplicate), ("reorder", reorder))
            if value
        ]
        for namespace, device in self._devices(network, direction):
            if settings:
                namespace.tc(f"qdisc replace dev {device} root netem limit {QUEUE} {' '.join(settings)}")
            else:
                namespace.tc(f"qdisc del dev {device} root", check=False)

    @contextmanager
    def blocked(self, network: str, direction: Direction = "both") -> Iterator[None]:
        """Nothing passes this leg inside the block."""
        sides: tuple[Literal["up", "down"], ...] = ("up", "down") if direction == "both" else (direction,)
        rules = [self.drop(network, side) for side in sides]
        try:
            yield
        finally:
            for rule in rules:
                rule.remove()

    def drop(self, network: str, direction: Literal["up", "down"], match: Match = _EVERYTHING) -> DropRule:
        """Drop what matches on its way up (from the hosts) or down (to them), before netem sees it."""
        ((namespace, device),) = self._devices(network, direction)
        if device not in self._clsact:
            namespace.tc(f"qdisc add dev {device} clsact")
            self._clsact.add(device)
        classifiers = _classifiers(match)
        first, self._preference = self._preference + 1, self._preference + len(classifiers)
        return DropRule(namespace, device, first, classifiers)

    def delete(self) -> None:
        self.namespace.delete()
        self.switch.delete()

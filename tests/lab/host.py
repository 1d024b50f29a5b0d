"""A host of the lab: addresses that come and go, charon, swanroam, and what the kernel holds of them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import snapshot
from lab.addressing import NETWORKS, Family, IPAddress, inner_address
from lab.charon import Charon
from lab.controller import Controller
from lab.namespace import Namespace
from lab.network import Router
from lab.zygote import Zygote

FIRST_METRIC = 4_000
"""Of the default routes: each move takes the next lower one, and is preferred so. Tests add their own above it."""


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What a host is before anything moves."""

    name: str
    number: int
    """The last part of its addresses: 2, 3, …"""
    networks: tuple[str, ...]
    """Networks that it has a device in; it begins in the first."""
    duplicate_address_detection: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """A change of networks that has been made. Times are of CLOCK_MONOTONIC, as those of UDP results."""

    old: IPAddress
    new: IPAddress
    began: float
    """Just before the first change. Hard: nothing was missing earlier."""
    ended: float
    """Just after the last change. Hard: from now on the new address was usable."""


class Host(Namespace):
    """In each of its networks the host has a device named like the network, and at most one address per family.

    `ip`, `tc`, `run`, `popen` work inside it (Namespace); `charon` and `controller` are its daemons.
    """

    def __init__(
        self,
        settings: HostSettings,
        *,
        family: Family,
        directory: Path,
        router: Router,
        zygote: Zygote,
        charon_options: Mapping[str, Any],
    ) -> None:
        sysctl = {
            "net__ipv6__conf__all__accept_ra": 0,
            "net__ipv6__conf__default__accept_ra": 0,
            "net__ipv6__conf__default__accept_dad": int(settings.duplicate_address_detection),
        }
        super().__init__(settings.name, sysctl)
        self.number = settings.number
        self.networks = settings.networks
        self.family = family
        self.directory = directory
        self.identity = f"{settings.name}.example.org"
        self.network = settings.networks[0]
        """The network whose default route is preferred."""
        self._metric = FIRST_METRIC
        self._nodad = "" if settings.duplicate_address_detection else " nodad"
        try:
            directory.mkdir()
            self.charon = Charon(self, directory, **charon_options)
            self.controller = Controller(self, directory, zygote)
            router.attach(self, self.networks, self.number)
            links = [f"link set {network} up" for network in self.networks]
            self.ip(*links, *self._arrival(self.network))
        except BaseException:
            self.delete()
            raise

    # Addresses

    @property
    def address(self) -> IPAddress:
        """Its address, in the scenario's family, in the network it is in now."""
        return self.address_in(self.network)

    @property
    def inner_address(self) -> IPAddress:
        """Its address on the control channel."""
        return inner_address(self.identity)

    def address_in(self, network: str, family: Family | None = None) -> IPAddress:
        """Its address in a network, whether it is there or not."""
        return NETWORKS[network].address(family or self.family, self.number)

    @property
    def all_addresses(self) -> frozenset[IPAddress]:
        """Every address by which a packet of this host can be recognised."""
        outer = {self.address_in(network, family) for network in self.networks for family in Family}
        return frozenset(outer | {self.inner_address})

    def _lines(self, network: str, action: str, family: Family) -> tuple[str, str]:
        where = NETWORKS[network]
        address = f"{self.address_in(network, family)}/{where.prefix_length(family)}"
        flags = self._nodad if action == "add" and family is Family.IPV6 else ""
        return (
            f"addr {action} {address} dev {network}{flags}",
            f"route {action} default via {where.router(family)} dev {network}",
        )

    def _arrival(self, network: str) -> list[str]:
        self._metric -= 1
        lines: list[str] = []
        for family in Family:
            address, route = self._lines(network, "add", family)
            lines += [address, f"{route} metric {self._metric}"]
        return lines

    def add_address(self, network: str) -> None:
        """Its addresses in a network, and default routes there that are preferred to all earlier ones."""
        self.ip(*self._arrival(network))

    def _departure(self, network: str) -> list[str]:
        lines: list[str] = []
        for family in Family:
            address, route = self._lines(network, "del", family)
            lines += [route, address]
        return lines

    def remove_address(self, network: str) -> None:
        """Its addresses in a network and its default routes there, gone. What is not there is passed over."""
        self.ip(*self._departure(network), check=False)

    def link_down(self, network: str) -> None:
        """The device loses its carrier's worth: down, with IPv6 addresses and all routes gone (kernel's doing)."""
        self.ip(f"link set {network} down")

    def link_up(self, network: str) -> None:
        self.ip(f"link set {network} up")

    def move_to(self, network: str, *, gap: float = 0.0, soft: bool = False, overlap: float = 1.0) -> Move:
        """Change networks.

        Hard: the old addresses and their routes go; after `gap` seconds (0: at once) the new ones come.
        Soft: the new addresses and their preferred default routes come first; the old go after `overlap` seconds.
        """
        old, self.network = self.network, network
        began = time.monotonic()
        if soft:
            self.add_address(network)
            time.sleep(overlap)
            self.remove_address(old)
        elif gap:
            self.remove_address(old)
            time.sleep(gap)
            self.add_address(network)
        else:
            self.ip(*self._departure(old), *self._arrival(network))
        return Move(self.address_in(old), self.address, began, time.monotonic())

    # Daemons

    def swanctl(self, *arguments: str, check: bool = True) -> str:
        """`swanctl` against this host's charon."""
        return self.charon.swanctl(*arguments, check=check)

    def start_controller(self, config: dict[str, Any] | None = None, *, wait: bool = True) -> None:
        """Write the configuration (default: made from the topology) and run `swanroam run`."""
        self.controller.start(config, wait=wait)

    def stop_controller(self) -> int:
        """SIGTERM; returns the exit status."""
        return self.controller.stop()

    def kill_controller(self) -> None:
        """SIGKILL."""
        self.controller.kill()

    def status(self) -> dict[str, Any]:
        """What `swanroam status --json` prints."""
        return self.controller.status()

    def log_events(self, event: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """Records of the controller's log with this event and these fields."""
        return self.controller.log_events(event, **fields)

    # What the kernel holds

    def snapshot(self) -> str:
        """Addresses, rules, routes, links, filters, policies and SAs as text that equals itself at another time:
        no counters, ages, keys, SPIs or reqids; sorted."""
        return snapshot.take(self)

    def xfrm_errors(self) -> dict[str, int]:
        """The counters of /proc/net/xfrm_stat that are not zero."""
        lines = self.run(["cat", "/proc/net/xfrm_stat"]).stdout.splitlines()
        return {name: int(count) for name, count in (line.split() for line in lines) if int(count)}

    def dump(self) -> str:
        """How things stand on this host, for a failure's report; without key material."""
        return "\n".join(
            [
                f"=== {self.name} ({self.identity}), in {self.network}",
                snapshot.raw(self),
                f"--- xfrm_stat\n{self.xfrm_errors()}",
                self.controller.log_tail(),
                self.charon.log_tail(),
            ]
        )

    def delete(self) -> None:
        controller = getattr(self, "controller", None)
        if controller is not None:
            controller.kill()
        super().delete()

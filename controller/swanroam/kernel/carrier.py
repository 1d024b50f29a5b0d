"""The carrier: packets between old addresses travel as IP-in-IP between the current ones.

A *carrier* is two things in the kernel: a rule `from LOCAL to REMOTE` that leads to a table of our own, and in
that table a route to REMOTE that encapsulates (`encap ip src OUTER_LOCAL dst OUTER_REMOTE dev swanroam4`). The route
is chosen by the packet's old source address and therefore never catches what belongs to the new one.

Five more things make it whole:

- When REMOTE is an old address, the rule is also for packets without a source address: a socket that is bound to
  none and answers there (most UDP servers) looks up its route before it has one, and transport mode keeps that route.
- LOCAL is *held*: kept as a /32 or /128 on the carrier device, so that it stays a local address when its
  interface loses it, and no application sees ENETUNREACH. An IPv4 address is held with scope link, which keeps the
  kernel from choosing it as source where the outgoing interface has no address of its own (inet_select_addr), and
  charon from announcing it to its peers; charon still accepts it as the source of the IKE_SA that it has. An IPv6
  address is held as it is: the kernel prefers addresses of the outgoing interface (RFC 6724 §5 rule 5), and
  deprecating it would make charon leave it. For whom it is local is told by `swanroam.kernel.local_routes`.
- An `unreachable` default route closes each table: a packet that a rule has sent there never falls through to the main
  table, also when the device disappears with its routes.
- Two tables. Before a peer's new address is proven, its control datagrams go there and its data does not, so one
  remote address can need two outer ones at once. Control datagrams are told by their mark.
- The ingress filter (`swanroam.kernel.ingress`) drops whatever comes out of the carrier without being admitted.

Order: what comes in is admitted before anything is sent; addresses before routes before rules; removal the other way
round. A changed outer address replaces the route in one step.

The mark of control datagrams has to be on the ESP packet: in tunnel mode the kernel looks up the outer route with the
*SA's* output mark and forgets the mark of the inner packet (xfrm_bundle_create, net/xfrm/xfrm_policy.c, 6.1 to 6.12).
The control channel's CHILD_SA therefore needs `set_mark_out = <control mark>` (swanctl.conf(5)).

An outer IPv4 packet may be fragmented on its way (no DF), so no narrower path becomes a black hole; the device's MTU
makes TCP adapt to the additional header. IPv6 discovers the path's MTU for the outer addresses.

Found again by: the names of the devices, everything on them, and protocol number 83 on routes and rules.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from socket import AF_INET, AddressFamily
from typing import Final

from swanroam.kernel.carrier_devices import (
    Device,
    create_device,
    find_devices,
    remove_device,
    set_up,
)
from swanroam.kernel.carrier_routes import (
    ClosingRoute,
    HeldAddress,
    KernelObject,
    Removable,
    Rule,
    TunnelRoute,
    find_addresses,
    find_routes,
    find_rules,
)
from swanroam.kernel.carrier_settings import Carrier, CarrierSettings, check
from swanroam.kernel.ingress import Admitted, Ingress
from swanroam.kernel.local_routes import (
    LOCAL_TABLE,
    LOOPBACK,
    ArrivalRule,
    AutomaticRoute,
    LocalRoute,
    find_arrival_rules,
    find_automatic_routes,
    find_local_routes,
)
from swanroam.kernel.rtnetlink import IPAddress, RouteSocket, family_of

__all__ = ["Admitted", "Carrier", "CarrierPlane", "CarrierSettings", "Changes", "FoundCarriers", "check"]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a call did, in words and in order, for the log. False when the kernel was as wanted already."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


@dataclass(frozen=True, slots=True)
class FoundCarriers:
    """Our objects in this namespace, of an earlier run as well."""

    devices: frozenset[str]
    held: frozenset[IPAddress]
    """On a host that holds none, current addresses that stand in for the placeholder."""
    carriers: frozenset[Carrier]
    """Those that are complete: rule and route."""
    admitted: frozenset[Admitted]


PLACEHOLDER: Final = IPv4Address("192.0.0.8")
"""The IPv4 dummy address (RFC 7600 §4.8), on the device for as long as there is no other. Of a device without any
address the kernel drops whatever comes in as soon as rp_filter is on, loose mode included (fib_validate_source:
no_addr).

Not beside a real one: charon with `install_routes = yes` looks into all tables, finds the device on the way to the
peer, and begins a new IKE_SA that has no address of its own yet from the first address there (get_route, 5.9.8)."""

NO_SOURCE: Final = IPv4Address(0)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the kernel has of ours, as read or as left by the last `apply`."""

    devices: dict[AddressFamily, Device]
    addresses: frozenset[HeldAddress]
    routes: frozenset[TunnelRoute]
    closings: frozenset[ClosingRoute]
    rules: frozenset[Rule]
    locals: frozenset[LocalRoute]
    arrivals: frozenset[ArrivalRule]
    automatic: frozenset[AutomaticRoute]
    admitted: frozenset[Admitted] | None
    """None: not looked at."""


class CarrierPlane:
    """All carriers of this network namespace. One call at a time; every call may be repeated after an error.

    What `apply` has done is remembered, because reading it back takes longer than the change itself. `forget` makes
    the next `apply` read everything anew, and so does an error.
    All methods raise RouteSocketError when the kernel refuses, CarrierDeviceError when a device cannot be had.
    """

    def __init__(self, netlink: RouteSocket, settings: CarrierSettings | None = None) -> None:
        self._netlink = netlink
        self._settings = settings or CarrierSettings()
        self._known: _Known | None = None
        self._indexes: dict[AddressFamily, int] = {}

    def forget(self) -> None:
        """Somebody else may have changed what is ours: the next `apply` compares with the kernel itself."""
        self._known = None

    async def arm(self, families: Iterable[AddressFamily]) -> dict[AddressFamily, Device]:
        """Make the devices of these families, closed and then up. Those that are there already are only checked."""
        devices = await find_devices(self._netlink)
        for family in families:
            device = devices.get(family) or await create_device(self._netlink, family)
            await self._ingress(device).close()
            if not device.up:
                placeholder = HeldAddress(PLACEHOLDER, device.index)
                if family == AF_INET and placeholder not in await find_addresses(self._netlink, [device.index]):
                    await placeholder.add(self._netlink)
                await set_up(self._netlink, device)
            devices[family] = Device(family, device.index, up=True)
        self._indexes = {family: device.index for family, device in devices.items()}
        return devices

    async def apply(
        self,
        held: Collection[IPAddress],
        carriers: Collection[Carrier],
        admitted: Collection[Admitted],
        narrowed: Collection[IPAddress] = (),
    ) -> Changes:
        """Make exactly this the state of the kernel; devices are made as needed and stay.

        `narrowed` are those of the held addresses that are local for what comes out of the carrier alone.
        Raises ValueError, before anything is changed, when the carriers contradict each other.
        """
        check(carriers)
        inner = [*held, *(carrier.local for carrier in carriers), *(pair.local for pair in admitted)]
        known, self._known = await self._read({family_of(address) for address in inner}), None
        devices = known.devices
        addresses = {HeldAddress(address, devices[family_of(address)].index) for address in held}
        if AF_INET in devices and not any(address.version == 4 for address in held):
            outer = {carrier.outer_local for carrier in carriers if carrier.outer_local.version == 4}
            addresses |= {HeldAddress(address, devices[AF_INET].index) for address in outer or {PLACEHOLDER}}
        local_routes = {self._local_route(address, devices[family_of(address)], narrowed) for address in held}
        arrivals = {rule for address in narrowed for rule in self._arrivals(address, devices, admitted)}
        routes = {self._route(carrier, devices[family_of(carrier.local)].index) for carrier in carriers}
        rules = {rule for carrier in carriers for rule in self._rules(carrier)}
        closings = {ClosingRoute(rule.family, rule.table) for rule in rules}
        filters_differ = known.admitted is None or known.admitted != frozenset(admitted)

        added: list[str] = []
        for device in devices.values() if filters_differ else ():
            added += await self._ingress(device).admit(_of_family(device.family, admitted))
        missing: list[KernelObject] = [
            *sorted(addresses - known.addresses, key=str),
            *sorted(local_routes - known.locals, key=str),
            *sorted(arrivals - known.arrivals, key=str),
            *sorted(closings - known.closings, key=str),
            *sorted(routes - known.routes, key=str),
            *sorted(rules - known.rules, key=str),
        ]
        for wanted in missing:
            await wanted.add(self._netlink)
            added.append(str(wanted))

        replaced = {route.key for route in routes}
        automatic = known.automatic | {AutomaticRoute(item.address, item.index) for item in addresses - known.addresses}
        surplus_automatic = {route for route in automatic if route.address in held}
        superfluous: list[Removable] = [
            *sorted(surplus_automatic, key=str),
            *sorted(known.rules - rules, key=str),
            *sorted((route for route in known.routes - routes if route.key not in replaced), key=str),
            *sorted(known.closings - closings, key=str),
            *sorted(known.arrivals - arrivals, key=str),
            *sorted(known.locals - local_routes, key=str),
            *sorted(known.addresses - addresses, key=str),
        ]
        removed: list[str] = []
        for surplus in superfluous:
            await surplus.remove(self._netlink)
            removed.append(str(surplus))
        for device in devices.values() if filters_differ else ():
            removed += await self._ingress(device).retain(_of_family(device.family, admitted))
        self._known = _Known(
            devices,
            frozenset(addresses),
            frozenset(routes),
            frozenset(closings),
            frozenset(rules),
            frozenset(local_routes),
            frozenset(arrivals),
            frozenset(automatic - surplus_automatic),
            frozenset(admitted),
        )
        return Changes(tuple(added), tuple(removed))

    async def _read(self, families: Collection[AddressFamily]) -> _Known:
        """What the kernel has, with devices of at least these families."""
        if self._known is not None and set(families) <= set(self._known.devices):
            return self._known
        devices = await self.arm(families)
        addresses = await find_addresses(self._netlink, [device.index for device in devices.values()])
        routes, closings = await find_routes(self._netlink)
        return _Known(
            devices,
            frozenset(addresses),
            frozenset(routes),
            frozenset(closings),
            frozenset(await find_rules(self._netlink)),
            frozenset(await find_local_routes(self._netlink)),
            frozenset(await find_arrival_rules(self._netlink)),
            frozenset(await find_automatic_routes(self._netlink, addresses)),
            None,
        )

    def device_index(self, family: AddressFamily) -> int:
        """Interface index of a device that was last made or found. Raises KeyError when there is none."""
        return self._indexes[family]

    async def find(self) -> FoundCarriers:
        """What is there, whoever's settings made it."""
        devices = await find_devices(self._netlink)
        addresses = await find_addresses(self._netlink, [device.index for device in devices.values()])
        routes, _ = await find_routes(self._netlink)
        outer = {route.key: route for route in routes}
        carriers = {
            Carrier(
                local=rule.local,
                remote=rule.remote,
                outer_local=route.outer_local,
                outer_remote=route.outer_remote,
                control_only=bool(rule.mark),
            )
            for rule in await find_rules(self._netlink)
            if rule.for_carrier and (route := outer.get((rule.table, rule.remote))) is not None
        }
        admitted: set[Admitted] = set()
        for device in devices.values():
            admitted |= await self._ingress(device).find()
        return FoundCarriers(
            frozenset(device.name for device in devices.values()),
            frozenset(held.address for held in addresses if held.address != PLACEHOLDER),
            frozenset(carriers),
            frozenset(admitted),
        )

    async def clear(self) -> Changes:
        """Remove everything of ours, the devices last."""
        self._known = None
        devices = await find_devices(self._netlink)
        routes, closings = await find_routes(self._netlink)
        addresses = await find_addresses(self._netlink, [device.index for device in devices.values()])
        found: list[Removable] = [*await find_rules(self._netlink), *routes, *closings]
        found += [*await find_arrival_rules(self._netlink), *await find_local_routes(self._netlink), *addresses]
        removed: list[str] = []
        for surplus in found:
            await surplus.remove(self._netlink)
            removed.append(str(surplus))
        for device in devices.values():
            await remove_device(self._netlink, device)
            removed.append(f"device {device.name}")
        return Changes(removed=tuple(removed))

    async def dropped(self) -> dict[AddressFamily, int]:
        """Packets that came out of the carrier and were not admitted, since the devices were made."""
        devices = await find_devices(self._netlink)
        return {family: await self._ingress(device).dropped() for family, device in devices.items()}

    def _ingress(self, device: Device) -> Ingress:
        return Ingress(self._netlink, device.family, device.index, self._settings.admitted_mark)

    def _route(self, carrier: Carrier, index: int) -> TunnelRoute:
        table = self._settings.control_table if carrier.control_only else self._settings.table
        return TunnelRoute(table, carrier.remote, carrier.outer_local, carrier.outer_remote, index)

    def _local_route(self, address: IPAddress, device: Device, narrowed: Collection[IPAddress]) -> LocalRoute:
        table = self._settings.narrow_table if address in narrowed else LOCAL_TABLE
        return LocalRoute(address, table, device.index)

    def _arrivals(
        self, address: IPAddress, devices: Mapping[AddressFamily, Device], admitted: Iterable[Admitted]
    ) -> Iterator[ArrivalRule]:
        """What comes out of the carrier, and what this host sends to itself: that must not leave it."""
        table, priority = self._settings.narrow_table, self._settings.arrival_priority
        yield ArrivalRule(address, address, LOOPBACK, table, priority)
        for pair in admitted:
            if pair.local == address:
                yield ArrivalRule(pair.remote, address, devices[family_of(address)].name, table, priority)

    def _rules(self, carrier: Carrier) -> Iterator[Rule]:
        settings = self._settings
        local, remote = carrier.local, carrier.remote
        if carrier.control_only:
            yield Rule(local, remote, settings.control_table, settings.control_priority, settings.control_mark)
            return
        yield Rule(local, remote, settings.table, settings.data_priority)
        if remote != carrier.outer_remote:  # to a current address, what has no source yet leaves natively
            source = NO_SOURCE if local.version == 4 else local
            yield Rule(source, remote, settings.table, settings.unsourced_priority, unsourced=local.version == 6)


def _of_family(family: AddressFamily, admitted: Iterable[Admitted]) -> list[Admitted]:
    return [pair for pair in admitted if family_of(pair.local) == family]

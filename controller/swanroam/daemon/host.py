"""This host's kernel and charon, doing what the controller asks.

The order in which the kernel is changed is what keeps protected traffic from leaving in clear: guards come before
anything that needs them and go after everything that needed them. `apply` adds all wanted policies, then changes
addresses, routes and filters, and only then removes policies that are no longer wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack
from socket import AF_INET6, AddressFamily, if_nameindex
from types import TracebackType
from typing import Self

import structlog

from swanroam.config import Config, PeerSettings
from swanroam.daemon.clearing import clear_host
from swanroam.daemon.controller import HostError
from swanroam.daemon.definitions import CachedDefinitions
from swanroam.daemon.fallbacks import Fallbacks
from swanroam.daemon.leftovers import ends_of
from swanroam.daemon.migrations import Migrations
from swanroam.daemon.restoring import children_of
from swanroam.daemon.sealing import Sealing
from swanroam.daemon.translation import KernelState, carrier_settings
from swanroam.ike.associations import ChildSa, IkeSa, IkeState, list_ike_sas
from swanroam.ike.clones import is_of
from swanroam.ike.messages import IkeError
from swanroam.ike.migrate import AddressPair, Migrate, clear_clones
from swanroam.ike.orphans import find_orphans
from swanroam.ike.readback import read_back
from swanroam.ike.renegotiate import PeerReplacedError, Renegotiate
from swanroam.ike.vici import ViciClient
from swanroam.kernel.carrier import Admitted, CarrierPlane
from swanroam.kernel.inner import InnerPlane
from swanroam.kernel.rtnetlink import RouteSocket, RouteSocketError, family_of
from swanroam.kernel.xfrm.constants import Action
from swanroam.kernel.xfrm.errors import XfrmError
from swanroam.kernel.xfrm.guards import CARRIED_PRIORITY, carried_inner_elsewhere, carried_inner_out, prefix_guard
from swanroam.kernel.xfrm.locks import clear_locks, find_locks, remove_locks
from swanroam.kernel.xfrm.policies import apply_owned, clear_owned, effective, find_owned
from swanroam.kernel.xfrm.policy import Policy
from swanroam.kernel.xfrm.socket import XfrmSocket
from swanroam.protocol.events import (
    EstablishFilters,
    Event,
    FiltersEstablished,
    FiltersFailed,
    FiltersReleased,
    MigrateFilters,
    ReleaseFilters,
)
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import IPAddress

log = structlog.get_logger("swanroam")

_BEGINNING = (IkeState.CREATED, IkeState.CONNECTING)


class LocalHost:
    """Use as `async with LocalHost(...)`. Changes of the kernel come one at a time; charon's work goes side by side."""

    def __init__(self, config: Config, client: ViciClient, families: Collection[AddressFamily]) -> None:
        self._config = config
        self._families = families
        self._identities = [peer.identity for peer in config.peers]
        self._definitions = CachedDefinitions(config)
        self._client = client
        self._filters = Renegotiate(client, self._definitions.read)
        self._sealing = Sealing(config.addresses.guard_new)
        self.sealed = self._sealing.versions
        self.resolve = Fallbacks(self._definitions.read).resolve
        self._stack = AsyncExitStack()
        self._inherited = True
        self._releasing: set[tuple[str, IPAddress]] = set()
        self._clear: frozenset[Admitted] | None = None
        """What may come out of the carrier in clear, as last applied; None: only the kernel knows."""
        self.charon_changed: Callable[[], None] = lambda: None
        """Called after charon was made to change something of which it raises no event."""
        self._xfrm: XfrmSocket
        self._netlink: RouteSocket
        self._migration: Migrate
        self._migrations: Migrations
        self._plane: CarrierPlane
        self._inner: InnerPlane

    async def __aenter__(self) -> Self:
        """Opens the netlink sockets and makes the inner addresses, guarded.

        Raises HostError; then the kernel is as it was before.
        """
        config, control = self._config, self._config.control
        settings = carrier_settings(config)
        try:
            self._stack.push_async_callback(self._definitions.close)
            self._xfrm = await self._stack.enter_async_context(XfrmSocket())
            self._migration = Migrate(self._client, self._xfrm)
            self._migrations = Migrations(self._migration, control.child)
            netlink = self._netlink = await self._stack.enter_async_context(RouteSocket())
            self._plane = CarrierPlane(netlink, settings)
            self._inner = InnerPlane(netlink, settings)
            found = await find_owned(self._xfrm)
            self._inherited = bool(found)  # the guard of the prefix is the first to come and the last to go
            await apply_owned(self._xfrm, effective(found, prefix_guard(control.prefix)))
            await self._plane.arm(self._families)
            await self.serve(config.peers)
        except (XfrmError, RouteSocketError, HostError) as error:
            await self._stack.aclose()
            await self.abandon()
            raise HostError(str(error)) from error
        self._definitions.refresh()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def abandon(self) -> None:
        """The start has failed: takes away what it made. What was there of an earlier run stays for the next."""
        if not self._inherited:
            try:
                await clear_host(self._config)
            except HostError as error:
                log.warning("start_not_undone", error=str(error), remedy="swanroam cleanup")

    async def serve(self, peers: Iterable[PeerSettings]) -> None:
        """These are the peers from now on: their inner addresses have a route, and they alone. Raises HostError."""
        control, present = self._config.control, list(peers)
        try:
            await self._inner.apply(control.prefix, control.address, [peer.control_address for peer in present])
        except RouteSocketError as error:
            raise HostError(str(error)) from error
        self._identities = [peer.identity for peer in present]

    def reconfigure(self, config: Config) -> None:
        """Other settings from now on; the peers are told by `serve`."""
        self._config = config
        self._sealing.guard_new = config.addresses.guard_new
        self._definitions.refresh()

    async def dismiss(self, peer: PeerSettings) -> None:
        """Takes away what is kept for a peer that has gone. Its IKE_SAs are charon's, and protect what still runs."""
        self._migrations.forget(peer.identity)
        try:
            await clear_clones(self._xfrm, [peer.identity])
        except XfrmError as error:
            log.warning("peer_not_cleared", peer=peer.name, error=str(error), remedy="stop swanroam, swanroam cleanup")
        await self.unload_unused(peer)

    # --- the kernel -----------------------------------------------------------------------------------------------

    async def apply(self, wanted: KernelState) -> bool:
        """Makes the kernel as wanted; tells whether anything changed. Raises HostError."""
        try:
            clear = _clear(wanted.admitted)
            before = _clear((await self._plane.find()).admitted) if self._clear is None else self._clear
            same_carrier, self._clear = clear == before, None
            guarded = await self._guard(wanted, same_carrier=same_carrier)
            changes = await self._plane.apply(wanted.held, wanted.carriers, wanted.admitted, wanted.narrowed)
            settled = await self._settle(wanted)
            await self._unlock(wanted)
            self._clear = clear
        except (XfrmError, RouteSocketError, OSError) as error:  # OSError: nor can it be asked for its devices
            raise HostError(str(error)) from error
        for text in changes.added:
            log.debug("kernel_object_added", what=text)
        for text in changes.removed:
            log.debug("kernel_object_removed", what=text)
        return guarded or bool(changes) or settled

    async def _guard(self, wanted: KernelState, *, same_carrier: bool) -> bool:
        """What may no longer pass in clear inside the carrier goes first; then everything else that is wanted comes.

        Unless the carrier is the same as before, nothing may: it would be inside other outer packets now.
        """
        found = await find_owned(self._xfrm)
        stale = {policy for policy in found if _is_carried(policy)}
        if same_carrier:
            stale -= self._carried(wanted)
        blocks = {policy for policy in wanted.policies if policy.action is Action.BLOCK}
        uncarried = self._uncarried(wanted)
        changed = bool(stale) and await self._set(effective(found - stale, blocks), found)
        return await self._set(effective(found - stale, uncarried)) or changed

    async def _settle(self, wanted: KernelState) -> bool:
        """What is not wanted goes, bypasses among it; only then may packets be clear inside the carrier."""
        found = await find_owned(self._xfrm)
        carried = self._carried(wanted)
        uncarried = self._uncarried(wanted)
        changed = await self._set(effective(uncarried, found & carried), found)
        return (bool(carried - found) and await self._set(effective(uncarried, carried))) or changed

    async def _unlock(self, wanted: KernelState) -> None:
        """What moving sockets has left locked between addresses that are no longer in use."""
        stale = [lock for lock in await find_locks(self._xfrm) if Pair(lock.local, lock.remote) not in wanted.pairs]
        if stale:
            await remove_locks(self._xfrm, stale)

    async def _set(self, policies: set[Policy], found: set[Policy] | None = None) -> bool:
        """Makes these our policies; tells whether that changed anything. `found`, if known: what there is."""
        if policies == found:
            return False
        changes = await apply_owned(self._xfrm, policies)
        for policy in changes.added | changes.updated:
            log.debug("kernel_object_added", what=f"policy {policy}")
        for policy in changes.deleted:
            log.debug("kernel_object_removed", what=f"policy {policy}")
        return bool(changes)

    def _carried(self, wanted: KernelState) -> set[Policy]:
        """All policies that let packets be clear inside the carrier."""
        outgoing = (
            carried_inner_out(pair.local, pair.remote, self._plane.device_index(family_of(pair.local)))
            for pair in wanted.cleared
        )
        return {*outgoing, *(policy for policy in wanted.policies if _is_carried(policy))}

    def _uncarried(self, wanted: KernelState) -> set[Policy]:
        """All others: for IPv6 some that keep carried packets from leaving by any other device among them."""
        confined = [pair for pair in wanted.cleared if pair.local.version == 6]
        carrier = self._plane.device_index(AF_INET6) if confined else 0
        others = [index for index, _ in if_nameindex() if index != carrier] if confined else []
        elsewhere = (carried_inner_elsewhere(pair.local, pair.remote, index) for pair in confined for index in others)
        return {*elsewhere, *(policy for policy in wanted.policies if not _is_carried(policy))}

    def forget(self) -> None:
        """The next `apply` compares with what the kernel really has."""
        self._plane.forget()

    async def is_own(self, address: IPAddress) -> bool:
        """It is this host's, on whatever interface, or a broadcast address of its networks. Raises HostError."""
        try:
            return await self._netlink.is_own(address)
        except RouteSocketError as error:
            raise HostError(str(error)) from error

    async def clear(self) -> None:
        """Takes everything of ours out of the kernel, guards last. Raises HostError."""
        try:
            await self._inner.clear()
            await self._plane.clear()
            await clear_locks(self._xfrm)
            await clear_owned(self._xfrm)
        except (XfrmError, RouteSocketError) as error:
            raise HostError(str(error)) from error

    async def carrier_drops(self) -> dict[str, int]:
        """Packets that came out of each carrier device and were not admitted; empty when that can't be read."""
        try:
            return {family.name: count for family, count in (await self._plane.dropped()).items()}
        except RouteSocketError as error:
            log.warning("carrier_drops_not_read", error=str(error))
            return {}

    # --- charon ---------------------------------------------------------------------------------------------------

    async def read_back(self) -> tuple[Sequence[IkeSa], dict[int, list[str]]]:
        """charon's usable IKE_SAs, and what the kernel lacks of each with a peer of ours, by its identifier.

        Raises HostError, ViciError.
        """

        async def usable() -> Sequence[IkeSa]:
            return [ike_sa for ike_sa in await list_ike_sas(self._client, noblock=False) if ike_sa.is_usable]

        try:
            return await read_back(self._xfrm, usable, self._identities)
        except XfrmError as error:
            raise HostError(str(error)) from error

    async def establish(
        self, peer: PeerSettings, action: EstablishFilters, children: Collection[str], wanted: Callable[[], bool]
    ) -> Event:
        """Puts filters for a pair in place; the event tells how it went. Once not `wanted`, those of others stay."""
        pair, control = action.pair, self._config.control.child
        try:
            defined = (await self._definitions.read()).connection(peer.connection)
            wished = children_of(peer, children, control, defined)
            ike_sa = await self._filters.establish(peer.connection, peer.identity, pair.local, pair.remote, wished)
        except PeerReplacedError as error:
            log.warning("peer_ended_old_filters", peer=peer.name, detail=str(error))
        except IkeError as error:
            self._definitions.forget()  # the administrator may be mending them
            return FiltersFailed(pair, str(error))
        else:
            await self._supersede(peer, ike_sa, wanted)
            if problem := await self._lacking(peer, pair):
                return FiltersFailed(pair, problem)
        finally:
            self._definitions.refresh()
        return FiltersEstablished(pair)

    async def _lacking(self, peer: PeerSettings, pair: Pair) -> str:
        """What the kernel lacks of the filters for a pair; empty when it has all that charon says."""

        async def of_pair() -> Sequence[IkeSa]:
            found = await self._filters.find(peer.connection, peer.identity)
            return [ike_sa for ike_sa in found if ike_sa.connects(pair.local, pair.remote)]

        try:
            ike_sas, found = await read_back(self._xfrm, of_pair, [peer.identity])
        except (IkeError, XfrmError) as error:
            return str(error)
        if not ike_sas:
            return f"the new IKE_SA for {pair} has gone again; charon's log tells why"
        return "; ".join(problem for problems in found.values() for problem in problems)

    async def _supersede(self, peer: PeerSettings, ike_sa: IkeSa, wanted: Callable[[], bool]) -> None:
        """Ends what would fight with the new filters over one policy. On a dead old path it ends with its IKE_SA."""
        try:
            await self._filters.supersede(ike_sa, wanted)
        except IkeError as error:
            log.warning("old_control_child_not_ended", peer=peer.name, error=str(error))

    async def migrate(self, peer: PeerSettings, action: MigrateFilters, children: Collection[str]) -> Event | None:
        """Moves existing filters to a pair; the event tells how it went. None when another order came meanwhile."""
        try:
            return await self._migrations.move(peer, action, children)
        finally:
            self.charon_changed()

    async def restore(self, peer: PeerSettings, pair: Pair, children: Collection[str]) -> str:
        """Makes anew, for a pair, what a charon that died had with a peer. Returns why not; empty: it is there.

        Only what nobody else is making, and while something of the dead charon is left between the two.
        """
        try:
            ike_sas = await list_ike_sas(self._client, noblock=False)
            left = await find_orphans(self._client, self._xfrm)
        except (IkeError, XfrmError) as error:
            return str(error)
        if any(is_of(peer.connection, ike_sa.name) and ike_sa.state in _BEGINNING for ike_sa in ike_sas):
            return "charon is at it by itself"
        if ends_of(pair) not in left.values():
            return "nothing is left of what it had"
        action = EstablishFilters(pair, pair)
        event = await self.establish(peer, action, children, lambda: True)
        return event.reason if isinstance(event, FiltersFailed) else ""

    async def end_ike_sa(self, ike_sa: IkeSa) -> None:
        """Ends one of which the peer has nothing any more; it can't be asked, so this takes a while."""
        try:
            await self._filters.release(ike_sa.unique_id)
        except IkeError as error:
            log.warning("filters_not_released", address=str(ike_sa.local.host), error=str(error))

    async def end_child_sa(self, ike_sa: IkeSa, child: ChildSa) -> None:
        """Ends one that is there twice. A peer that has ended it as well is of one mind with us."""
        try:
            await self._filters.end_child(ike_sa, child)
        except IkeError as error:
            log.warning("double_child_sa_not_ended", ike_id=ike_sa.unique_id, error=str(error))

    async def unload_unused(self, peer: PeerSettings) -> None:
        """Unloads what was loaded for IKE_SAs that are no more: the peer may have ended them."""
        try:
            await self._filters.unload_unused(peer.connection)
        except IkeError as error:
            log.warning("connections_not_unloaded", peer=peer.name, error=str(error), remedy="swanctl --load-conns")

    async def release(self, peer: PeerSettings, action: ReleaseFilters, current: Pair | None) -> Event | None:
        """Ends every IKE_SA with the peer that has the address, and what was kept for it.

        None when something is left, or another call is at it: the machine asks again while it wants it. (To try until
        it works would end the IKE_SA of an address that has become current again meanwhile.)
        """
        order = peer.identity, action.address
        if order in self._releasing:
            return None
        self._releasing.add(order)
        try:
            for ike_sa in await self._filters.find(peer.connection, peer.identity):
                if action.address in (ike_sa.local.host, ike_sa.remote.host):
                    await self._filters.release(ike_sa.unique_id)
            await self._filters.unload_unused(peer.connection)
            if current is not None:  # whichever method is configured here: the peer may lead with migrate
                pair = AddressPair(current.local, current.remote)
                await self._migration.end_grace(peer.identity, action.address, pair)
        except (IkeError, XfrmError) as error:
            log.warning("filters_not_released", peer=peer.name, address=str(action.address), error=str(error))
            return None
        finally:
            self._releasing.discard(order)
        return FiltersReleased(action.address)


def _clear(admitted: Iterable[Admitted]) -> frozenset[Admitted]:
    return frozenset(pair for pair in admitted if pair.clear is not None)


def _is_carried(policy: Policy) -> bool:
    return policy.priority == CARRIED_PRIORITY

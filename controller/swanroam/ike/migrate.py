"""Moving the existing security filters to another address pair, keys kept, without a word of IKE.

charon is told by a kernel notice that its IKE_SA runs between other addresses now (`ring_doorbell`), and moves the
IKE_SA, SAs, selectors and policies of one CHILD_SA after the other, as it does for Mobile IPv6
(strongSwan src/libcharon/processing/jobs/migrate_job.c). Both hosts do this, each for itself; the controllers see to
the order. There is no event for it, so the result is read back until it is there.

What is still under way to the old address is kept acceptable for a grace period: on the host that moved by a copy of
each inbound SA with the old destination, on its peer by a wider source selector of the inbound SA itself. Both only
receive, so no key is ever used by two SAs that send.

What is kept is known by a label in the SA's selector, which the kernel does not look at.

Not behind NAT: charon loses the UDP ports. Not for CHILD_SAs that share a reqid with those of other peers. Only with a
CHILD_SA that protects every protocol: it is what protects the carrier, in which the packets of the old address are
clear afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from hashlib import sha256

from swanroam.ike.associations import ChildSa, IkeSa, list_ike_sas
from swanroam.ike.associations import Mode as IkeMode
from swanroam.ike.clones import is_of
from swanroam.ike.messages import IkeError
from swanroam.ike.selectors import ANY_PORT, IPAddress
from swanroam.ike.vici import ViciClient
from swanroam.kernel.xfrm.association import AssociationId, SecurityAssociation
from swanroam.kernel.xfrm.constants import Mode
from swanroam.kernel.xfrm.errors import XfrmExists, XfrmNotFound
from swanroam.kernel.xfrm.migrate import ring_doorbell
from swanroam.kernel.xfrm.selectors import Selector
from swanroam.kernel.xfrm.socket import XfrmSocket
from swanroam.kernel.xfrm.states import (
    add_state,
    delete_state,
    dump_states,
    get_state,
    replace_state,
    widen_source,
)

POLL = 0.02
"""Seconds between looks at what charon has done."""
_MODES = {IkeMode.TRANSPORT: Mode.TRANSPORT, IkeMode.TUNNEL: Mode.TUNNEL}


class MigrateError(IkeError):
    """Security filters could not be migrated; the message says what to do."""


class _Label(Enum):
    """What an SA with our label is. The value is the label's last bit, the others tell the peer."""

    CLONE = 0
    """A copy of charon's inbound SA for an address that this host has left; charon does not know it."""
    WIDENED = 1
    """charon's own inbound SA, which accepts more sources."""

    def number(self, identity: str) -> int:
        """Never 0, which is what charon's SAs have."""
        return int.from_bytes(sha256(identity.encode()).digest()[:4]) & 0x7FFFFFFE | 0x80000000 | self.value

    def put_on(self, association: SecurityAssociation, identity: str) -> SecurityAssociation:
        return replace(association, selector=replace(association.selector, user=self.number(identity)))


async def clear_clones(xfrm: XfrmSocket, identities: Iterable[str]) -> list[SecurityAssociation]:
    """Deletes all that is kept for addresses which this host has left; returns it. Raises XfrmError.

    SAs that were widened are charon's, which takes them away at the next rekey.
    """
    clones = await _labelled(xfrm, _Label.CLONE, identities)
    for association in clones:
        with suppress(XfrmNotFound):
            await delete_state(xfrm, association.id)
    return clones


async def _labelled(xfrm: XfrmSocket, label: _Label, identities: Iterable[str]) -> list[SecurityAssociation]:
    numbers = {label.number(identity) for identity in identities}
    return [association for association in await dump_states(xfrm) if association.selector.user in numbers]


def _protects_carrier(child: ChildSa) -> bool:
    """IP-in-IP between its addresses is inside it."""
    return child.mode is IkeMode.TRANSPORT and all(
        any(ts.protocol == 0 and ts.ports == ANY_PORT for ts in selectors)
        for selectors in (child.local_ts, child.remote_ts)
    )


class OvertakenError(MigrateError):
    """The filters were to go elsewhere meanwhile."""


@dataclass(frozen=True, slots=True)
class AddressPair:
    """The two ends of an IKE_SA, as seen from this host."""

    local: IPAddress
    remote: IPAddress

    def __str__(self) -> str:
        return f"{self.local} === {self.remote}"


class Migrate:
    """The filter method `migrate`. Every operation may be repeated; each looks at charon's present state first.

    `time_limit`: seconds in which charon must have followed. Raises MigrateError, ViciError, XfrmError.
    """

    def __init__(self, client: ViciClient, xfrm: XfrmSocket, *, time_limit: float = 5.0) -> None:
        self._client = client
        self._xfrm = xfrm
        self._time_limit = time_limit

    async def move(
        self,
        connection: str,
        identity: str,
        pair: AddressPair,
        *,
        data: Collection[str],
        control: Collection[str],
        wanted: Callable[[], bool],
    ) -> IkeSa:
        """Moves these CHILD_SAs of the peer's newest IKE_SA, and that IKE_SA, to the pair; returns it as it is then.

        `wanted` is asked before each CHILD_SA. Once begun, each is moved to the end, with what is kept of it. Raises
        OvertakenError when it says no.
        """
        ike_sa = await self._newest(connection, identity)
        present = [child for child in ike_sa.children if child.name in data]
        if present and not any(map(_protects_carrier, present)):
            raise MigrateError(
                f"no CHILD_SA of IKE_SA {ike_sa.name} protects every protocol between its addresses, so none would "
                "protect the carrier: use filters: renegotiate"
            )
        for name in (*data, *control):
            if not wanted():
                raise OvertakenError(f"not moved to {pair}: the addresses are others by now")
            ike_sa = await self._move_child(connection, identity, name, pair)
        await self._drop_clones(identity, pair.local, {child.spi_in for child in ike_sa.children})
        return ike_sa

    async def end_grace(self, identity: str, released: IPAddress, current: AddressPair) -> None:
        """Takes away what `move` kept for a released address, ours or the peer's."""
        await self._drop_clones(identity, released)
        narrow = Selector.between(current.remote, current.local)
        for association in await _labelled(self._xfrm, _Label.WIDENED, [identity]):
            if association.daddr != current.local:
                continue  # charon is just moving it
            with suppress(XfrmNotFound):  # rekeyed meanwhile
                await replace_state(
                    self._xfrm, association.id, lambda sa: replace(sa, saddr=current.remote, selector=narrow)
                )

    async def _drop_clones(self, identity: str, address: IPAddress, used: Collection[int | None] = ()) -> None:
        """Takes away what was kept for an address. `used`: SPIs of CHILD_SAs, some of which may yet come there.

        At an address that is the current one again they are of SAs that were rekeyed elsewhere meanwhile.
        """
        for association in await _labelled(self._xfrm, _Label.CLONE, [identity]):
            if association.daddr == address and association.id.spi not in used:
                with suppress(XfrmNotFound):
                    await delete_state(self._xfrm, association.id)

    async def _move_child(self, connection: str, identity: str, name: str, pair: AddressPair) -> IkeSa:
        ike_sa = await self._newest(connection, identity)
        child = ike_sa.child(name)
        if ike_sa.nat_local or ike_sa.nat_remote:
            raise MigrateError(f"IKE_SA {ike_sa.name} is behind NAT, where migration loses the ports: use renegotiate")
        if child is None or child.spi_in is None or child.mode not in _MODES:
            raise MigrateError(f"IKE_SA {ike_sa.name} has no CHILD_SA {name} that can be migrated; it may be rekeying")
        if await self._stands(ike_sa, child, pair):
            return ike_sa
        kept = await self._receiving(identity, child.spi_in, pair)
        receiving = kept.id
        mode = _MODES[child.mode]
        if receiving.daddr != pair.local:
            with suppress(XfrmNotFound):  # kept for this address when it was left: charon could not put the SA there
                await delete_state(self._xfrm, AssociationId(pair.local, child.spi_in))
        await ring_doorbell(self._xfrm, reqid=child.reqid, mode=mode, local=pair.local, remote=pair.remote)
        ike_sa = await self._wait(connection, identity, name, pair)
        if receiving.daddr != pair.local:
            # In tunnel mode, too: the template of charon's new policy compares the source of the SA only
            # (__xfrm4_state_addr_cmp, include/net/xfrm.h), and the peer answers by the old control CHILD_SA until it
            # has moved its own, which may be after yet another move of ours.
            with suppress(XfrmExists):  # an earlier try has put it there
                await add_state(self._xfrm, _Label.CLONE.put_on(kept, identity))
        elif mode is Mode.TRANSPORT:
            await replace_state(self._xfrm, receiving, lambda sa: _Label.WIDENED.put_on(widen_source(sa), identity))
        return ike_sa

    async def _receiving(self, identity: str, spi: int, pair: AddressPair) -> SecurityAssociation:
        """The SA that charon receives by now. The IKE_SA may be at the pair already, and this CHILD_SA not yet.

        What was kept for addresses that were left has the same SPI.
        """
        found = [association for association in await dump_states(self._xfrm) if association.id.spi == spi]
        of_charon = [one for one in found if one.selector.user != _Label.CLONE.number(identity)]
        elsewhere = [one for one in of_charon if one.id.daddr != pair.local]
        if not of_charon:
            raise MigrateError(f"the kernel has no SA with SPI {spi:#010x}, which charon says it has")
        return (elsewhere or of_charon)[0]

    async def _wait(self, connection: str, identity: str, name: str, pair: AddressPair) -> IkeSa:
        """Until charon and the kernel agree that the CHILD_SA is at the pair."""
        try:
            async with asyncio.timeout(self._time_limit):
                while True:
                    ike_sa = await self._newest(connection, identity)
                    child = ike_sa.child(name)
                    if child is not None and await self._stands(ike_sa, child, pair):
                        return ike_sa
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise MigrateError(
                f"charon did not follow to {pair} with CHILD_SA {name} within {self._time_limit:g} s: use filters: "
                "renegotiate; charon's log may tell why"
            ) from None

    async def _stands(self, ike_sa: IkeSa, child: ChildSa, pair: AddressPair) -> bool:
        if not ike_sa.connects(pair.local, pair.remote) or child.spi_in is None or child.spi_out is None:
            return False
        if child.mode is IkeMode.TRANSPORT and not all(ts.is_host(pair.local) for ts in child.local_ts):
            return False
        try:
            await get_state(self._xfrm, AssociationId(pair.local, child.spi_in))
            sending = await get_state(self._xfrm, AssociationId(pair.remote, child.spi_out))
        except XfrmNotFound:
            return False
        return sending.saddr == pair.local

    async def _newest(self, connection: str, identity: str) -> IkeSa:
        """The IKE_SA to be moved. A busy one is waited for, not left out."""
        usable = [
            ike_sa
            for ike_sa in await list_ike_sas(self._client, noblock=False)
            if ike_sa.is_usable and is_of(connection, ike_sa.name) and ike_sa.remote.identity == identity
        ]
        if not usable:
            raise MigrateError(
                f"there is no IKE_SA with {identity} to migrate: establish connection {connection} first"
            )
        return max(usable, key=lambda ike_sa: ike_sa.unique_id)

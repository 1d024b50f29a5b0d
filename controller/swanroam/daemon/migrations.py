"""Method migrate: one move of filters at a time for each peer, and the latest order counts."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog

from swanroam.config import PeerSettings
from swanroam.ike.messages import IkeError
from swanroam.ike.migrate import AddressPair, Migrate, MigrateError, OvertakenError
from swanroam.kernel.rtnetlink import RouteSocket, RouteSocketError
from swanroam.kernel.xfrm.errors import XfrmError
from swanroam.protocol.events import Event, FiltersEstablished, FiltersFailed, MigrateFilters

log = structlog.get_logger("swanroam")


class _Orders:
    """The calls for one peer."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.latest: MigrateFilters | None = None


class Migrations:
    """`control`: name of the control child."""

    def __init__(self, migrate: Migrate, control: str) -> None:
        self._migrate = migrate
        self._control = control
        self._orders: dict[str, _Orders] = {}

    def forget(self, identity: str) -> None:
        """The peer has gone."""
        self._orders.pop(identity, None)

    async def move(self, peer: PeerSettings, action: MigrateFilters, children: Collection[str]) -> Event | None:
        """Moves existing filters to a pair; the event tells how it went.

        None when another call for the peer came meanwhile: two at a time would pull charon hither and thither.
        """
        pair = AddressPair(action.pair.local, action.pair.remote)
        orders = self._orders.setdefault(peer.identity, _Orders())
        orders.latest = action
        try:
            async with orders.turn:
                if pair.local.version == 6:
                    await _require_source(pair)
                await self._migrate.move(
                    peer.connection,
                    peer.identity,
                    pair,
                    data=sorted(set(children) - {self._control}) if action.data else [],
                    control=[self._control] if action.control else [],
                    wanted=lambda: orders.latest is action,
                )
        except OvertakenError as error:
            log.debug("migration_overtaken", peer=peer.name, detail=str(error))
            return None
        except (IkeError, XfrmError, RouteSocketError) as error:
            return FiltersFailed(action.pair, str(error)) if orders.latest is action else None
        return FiltersEstablished(action.pair) if orders.latest is action else None


async def _require_source(pair: AddressPair) -> None:
    """For IPv6 the policy for carried packets has no device, so what has no source yet must not get an old one.

    Raises MigrateError, RouteSocketError.
    """
    async with RouteSocket() as netlink:
        source = await netlink.source_towards(pair.remote)
    if source is not None and source != pair.local:
        raise MigrateError(
            f"the routing gives packets to {pair.remote} the source {source} and not {pair.local}; new connections "
            "would leave in clear: make it prefer the new address, or use filters: renegotiate"
        )

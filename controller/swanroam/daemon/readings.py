"""Reads from the daemon's parts what its metrics are made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from swanroam.daemon.charon import CharonWatch
from swanroam.daemon.control_channel import ControlChannel
from swanroam.daemon.controller import Controller
from swanroam.daemon.metrics import Reading
from swanroam.daemon.reload import Reloading
from swanroam.daemon.status import Status
from swanroam.kernel.xfrm.stats import read_statistics


class Readings:
    def __init__(
        self,
        controller: Controller,
        charon: CharonWatch,
        channel: ControlChannel,
        status: Status,
        carrier_drops: Callable[[], Awaitable[dict[str, int]]],
        reloading: Reloading,
    ) -> None:
        self._controller = controller
        self._charon = charon
        self._channel = channel
        self._status = status
        self._carrier_drops = carrier_drops
        self._reloading = reloading

    async def take(self) -> Reading:
        """How things are now."""
        carrier_dropped = await self._carrier_drops()
        peers = tuple(self._controller.peers.values())
        attention = {peer.settings.name: bool(self._status.problem(peer)) for peer in peers}
        return Reading(
            counts=self._controller.counts,
            peers=peers,
            attention=attention,
            problems=len(self._status.problems()) + sum(attention.values()),
            carriers=self._controller.carriers,
            dropped=self._channel.dropped,
            unsent=self._channel.unsent,
            carrier_dropped=carrier_dropped,
            xfrm=xfrm_statistics(),
            charon_connected=self._charon.connected and not self._charon.trouble,
            kernel_applied=not self._controller.not_applied,
            journal_written=not self._controller.not_journalled,
            configuration_taken=not self._reloading.refused,
        )


def xfrm_statistics() -> dict[str, int]:
    """The kernel's counters; none where it has none, or no descriptor is left to read them."""
    try:
        return read_statistics()
    except OSError:
        return {}

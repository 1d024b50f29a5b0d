"""This host as the controller and the watch of charon use it: what they ask of kernel, charon and programs' sockets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from swanroam.config import PeerSettings
from swanroam.daemon.translation import KernelState
from swanroam.ike.associations import ChildSa, IkeSa
from swanroam.protocol.events import (
    EndSockets,
    EstablishFilters,
    Event,
    MigrateFilters,
    ReadUsage,
    ReleaseFilters,
    ResolveFallbacks,
)
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import IPAddress
from swanroam.protocol.transfer import TransferOrder


class Host(Protocol):
    """This host's kernel and charon, as the controller uses them."""

    async def apply(self, wanted: KernelState) -> bool:
        """Makes the kernel as wanted; tells whether anything changed. Raises HostError."""

    def sealed(self) -> frozenset[int]:
        """IP versions in which new addresses of this host are guarded before they are known."""

    def forget(self) -> None:
        """Somebody may have changed the kernel: the next `apply` has to look."""

    async def is_own(self, address: IPAddress) -> bool:
        """It is this host's, on whatever interface, or a broadcast address of its networks. Raises HostError."""

    async def establish(
        self, peer: PeerSettings, action: EstablishFilters, children: Collection[str], wanted: Callable[[], bool]
    ) -> Event:
        """Puts filters in place; the event tells how it went. Once `wanted` is false, those of other pairs stay."""

    async def migrate(self, peer: PeerSettings, action: MigrateFilters, children: Collection[str]) -> Event | None:
        """Moves existing filters to a pair; the event tells how it went. None: overtaken by another call."""

    async def release(self, peer: PeerSettings, action: ReleaseFilters, current: Pair | None) -> Event | None:
        """Terminates the IKE_SAs of an address; `current` is the pair that stays. None when some are left."""

    async def resolve(self, peer: PeerSettings, action: ResolveFallbacks) -> Event:
        """Finds out the addresses at which a peer may be."""


class Associations(Protocol):
    """charon's IKE_SAs with the peers, as who watches them uses them."""

    async def read_back(self) -> tuple[Sequence[IkeSa], dict[int, list[str]]]:
        """The usable ones, and what the kernel lacks of each with a peer of ours, by its identifier.

        Raises ViciError, HostError.
        """

    async def end_ike_sa(self, ike_sa: IkeSa) -> None:
        """Ends one of which the peer has nothing any more."""

    async def end_child_sa(self, ike_sa: IkeSa, child: ChildSa) -> None:
        """Ends one that is there twice."""

    async def unload_unused(self, peer: PeerSettings) -> None:
        """Unloads what was loaded for IKE_SAs that are no more."""

    async def restore(self, peer: PeerSettings, pair: Pair, children: Collection[str]) -> str:
        """Makes the filters for a pair. Returns why they are not there; empty: they are."""


class Sockets(Protocol):
    """The sockets of this host's programs, as the controller uses them."""

    async def usage(self, action: ReadUsage, others: Collection[IPAddress], *, own: bool) -> Event:
        """Counts the sockets between an address (ours if `own`, else the peer's) and the others."""

    async def end(self, action: EndSockets, others: Collection[IPAddress]) -> None:
        """Ends the sockets between an address of ours and the others, with a reset."""

    async def transfer(self, peer: PeerSettings, order: TransferOrder) -> Event | None:
        """Carries out a step of moving sockets; the event tells what came of it."""

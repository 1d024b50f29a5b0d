"""The controller's border to this host's kernel and charon, played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from swanroam.config import Config, PeerSettings, parse_config
from swanroam.daemon.controller import Controller, HostError
from swanroam.daemon.journal import Journal
from swanroam.daemon.peer import Peer
from swanroam.daemon.translation import KernelState
from swanroam.history.store import HistoryFile
from swanroam.ike.associations import ChildSa, IkeSa
from swanroam.protocol.events import (
    Association,
    AssociationsRead,
    EndSockets,
    EstablishFilters,
    Event,
    FallbacksResolved,
    FiltersEstablished,
    FiltersReleased,
    MessageReceived,
    MigrateFilters,
    ReadUsage,
    ReleaseFilters,
    ResolveFallbacks,
    UsageRead,
)
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import (
    HANDOVER_SIZE,
    INSTANCE_SIZE,
    NONCE_SIZE,
    Acknowledgment,
    AddressChange,
    IPAddress,
    Message,
    Method,
    Verdict,
)
from swanroam.protocol.transfer import (
    DatagramSocketsMoved,
    FindSockets,
    MoveDatagramSockets,
    SocketsFound,
    TransferOrder,
)
from unit import skipping_loop

ITS = "peer.example.org"
A, B, P, Q = (ip_address(text) for text in ("192.0.2.1", "192.0.2.2", "198.51.100.1", "198.51.100.2"))
"""Two addresses of ours, two of the peer."""


def configuration(directory: Path, peer: str = "", timing: str = "first_retransmit: 20ms") -> Config:
    return parse_config(
        f"""\
identity: mobile.example.org
state_directory: {directory}/state
runtime_directory: {directory}/run
timing: {{{timing}}}
defaults: {{grace: 0s}}
peers:
  - identity: {ITS}
    connection: server
    name: server
    {peer}
"""
    )


@dataclass
class FakeCharon:
    """What is read next, and what was asked for."""

    ike_sas: Sequence[IkeSa] = ()
    lacking: list[str] = field(default_factory=list)
    """What the kernel lacks of the first one."""
    ended: list[int] = field(default_factory=list)
    """Identifiers of IKE_SAs and CHILD_SAs."""
    unloaded: list[str] = field(default_factory=list)
    """Identities."""
    restored: list[Pair] = field(default_factory=list)

    async def read_back(self) -> tuple[Sequence[IkeSa], dict[int, list[str]]]:
        return self.ike_sas, {self.ike_sas[0].unique_id: self.lacking} if self.lacking else {}

    async def end_ike_sa(self, ike_sa: IkeSa) -> None:
        self.ended.append(ike_sa.unique_id)

    async def end_child_sa(self, ike_sa: IkeSa, child: ChildSa) -> None:
        self.ended.append(child.unique_id)

    async def unload_unused(self, peer: PeerSettings) -> None:
        await asyncio.sleep(0)  # others are not kept waiting for it
        self.unloaded.append(peer.identity)

    async def restore(self, peer: PeerSettings, pair: Pair, children: Collection[str]) -> str:
        self.restored.append(pair)
        return ""


class FakeHost:
    """Does at once what it is told, unless told to fail."""

    def __init__(self) -> None:
        self.applied: list[KernelState] = []
        self.log: list[str] = []
        self.failure: HostError | None = None
        self.sockets = 0
        self.sealed_versions = frozenset({4, 6})
        self.own: set[IPAddress] = set()
        """Addresses that the kernel has besides those that count."""
        self.names: tuple[IPAddress, ...] = ()
        """Where the peer may be."""

    @property
    def state(self) -> KernelState:
        return self.applied[-1]

    async def apply(self, wanted: KernelState) -> bool:
        if self.failure is not None:
            raise self.failure
        changed = not self.applied or self.applied[-1] != wanted
        self.applied.append(wanted)
        self.log.append("apply")
        return changed

    def sealed(self) -> frozenset[int]:
        return self.sealed_versions

    def forget(self) -> None:
        self.log.append("forget")

    async def is_own(self, address: IPAddress) -> bool:
        return address in self.own

    async def establish(
        self, peer: PeerSettings, action: EstablishFilters, children: Collection[str], wanted: Callable[[], bool]
    ) -> Event:
        self.log.append(f"establish {action.pair}")
        return FiltersEstablished(action.pair)

    async def resolve(self, peer: PeerSettings, action: ResolveFallbacks) -> Event:
        self.log.append(f"resolve IPv{action.version}")
        return FallbacksResolved(self.names)

    async def migrate(self, peer: PeerSettings, action: MigrateFilters, children: Collection[str]) -> Event:
        self.log.append(f"migrate {action.pair}")
        return FiltersEstablished(action.pair)

    async def release(self, peer: PeerSettings, action: ReleaseFilters, current: Pair | None) -> Event | None:
        self.log.append(f"release {action.address}")
        return FiltersReleased(action.address)

    async def usage(self, action: ReadUsage, others: Collection[IPAddress], *, own: bool) -> Event:
        self.log.append(f"usage {action.address}")
        return UsageRead(action.address, self.sockets)

    async def end(self, action: EndSockets, others: Collection[IPAddress]) -> None:
        self.log.append(f"end {action.address}")

    async def transfer(self, peer: PeerSettings, order: TransferOrder) -> Event | None:
        self.log.append(f"transfer {type(order).__name__}")
        if isinstance(order, MoveDatagramSockets):
            return DatagramSocketsMoved(order.old, order.new)
        return SocketsFound(order.old, order.new, (), ()) if isinstance(order, FindSockets) else None


class Stage:
    """A controller on a fake host with one peer, and what it has sent."""

    def __init__(self, config: Config, host: FakeHost) -> None:
        config.state_directory.mkdir(exist_ok=True)
        self.host = host
        self.sent: list[Message] = []
        self.journal = Journal(config.state_directory / "journal.json", boot_id="this boot")
        self.history = HistoryFile(config.state_directory / "history.jsonl", boot="this boot")
        self.controller = Controller(config, host, host, self.journal, self._send, self.history.write)
        self.peer = self.controller.peers[ITS]
        self._news = asyncio.Event()

    def _send(self, to: IPv6Address, message: Message) -> None:
        self.host.log.append(f"send {type(message).__name__}")
        self.sent.append(message)

    def submit(self, event: Event, peer: Peer | None = None) -> None:
        self.controller.submit(peer or self.peer, event)

    def associated(self, *pairs: tuple[IPAddress, IPAddress], peer: Peer | None = None) -> None:
        """charon has complete IKE_SAs for these pairs."""
        self.submit(
            AssociationsRead(
                tuple(
                    Association(Pair(local, remote), number, control=True, complete=True)
                    for number, (local, remote) in enumerate(pairs, 1)
                )
            ),
            peer,
        )

    def acknowledge(
        self, verdict: Verdict = Verdict.ACCEPTED, reason: str = "", last_sequence: int | None = None
    ) -> None:
        """The peer's answer to the last address change sent; it has accepted that or `last_sequence`."""
        change = next(message for message in reversed(self.sent) if isinstance(message, AddressChange))
        self.submit(
            MessageReceived(
                Acknowledgment(
                    sequence=change.sequence,
                    handover=change.handover,
                    nonce=change.nonce,
                    verdict=verdict,
                    challenge=None,
                    grace_ms=0,
                    last_sequence=change.sequence if last_sequence is None else last_sequence,
                    reason=reason,
                    instance=bytes(INSTANCE_SIZE),
                )
            )
        )

    def change(self, sequence: int, current: IPAddress, *deprecated: IPAddress, peer: Peer | None = None) -> None:
        """The peer's address change."""
        self.submit(
            MessageReceived(
                AddressChange(
                    sequence=sequence,
                    handover=bytes(HANDOVER_SIZE),
                    nonce=bytes(NONCE_SIZE),
                    current=current,
                    deprecated=deprecated,
                    method=Method.RENEGOTIATE,
                    instance=bytes(INSTANCE_SIZE),
                )
            ),
            peer,
        )

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the controller's work has made it true."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)


def on_stage(
    directory: Path,
    story: Callable[[Stage], Awaitable[None]],
    *,
    peer: str = "",
    host: FakeHost | None = None,
    timing: str = "first_retransmit: 20ms",
) -> None:
    """Run the controller beside the story, on a clock that skips all waiting; what ends it is raised."""

    async def run() -> None:
        stage = Stage(configuration(directory, peer, timing), host or FakeHost())
        running = asyncio.create_task(stage.controller.run())
        telling = asyncio.create_task(_as_coroutine(story(stage)))
        done, _ = await asyncio.wait({running, telling}, return_when=asyncio.FIRST_COMPLETED)
        for task in (running, telling):
            task.cancel()
        await asyncio.gather(running, telling, return_exceptions=True)
        for task in done:
            task.result()

    skipping_loop.run(run())


async def _as_coroutine(work: Awaitable[None]) -> None:
    await work

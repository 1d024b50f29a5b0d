"""What several checks look at, read once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swanroam.config import Config, PeerSettings
from swanroam.doctor.programs import holder_of, peer_of_socket
from swanroam.ike.associations import IkeSa, list_ike_sas
from swanroam.ike.definitions import ConnectionDefinition, DefinitionError, Definitions, read_definitions
from swanroam.ike.messages import ViciError
from swanroam.ike.vici import ViciClient
from swanroam.kernel.privileges import Capability, effective
from swanroam.kernel.rtnetlink import RouteSocket, RouteSocketError, WayOut
from swanroam.protocol.host_state import Pair


@dataclass(frozen=True, slots=True)
class Api:
    """What the daemon's API said. `status` is its document; without one, `refusal` says why."""

    status: dict[str, Any] | None = None
    refusal: str = ""
    forbidden: bool = False
    """The refusal is for want of privileges."""


@dataclass(frozen=True, slots=True)
class CharonAnswer:
    """What charon says of itself."""

    pid: int | None
    version: str
    plugins: frozenset[str]
    loaded: frozenset[str]
    """Names of the connections that it has."""


@dataclass(frozen=True, slots=True)
class Way:
    """Between this host and a peer, now."""

    peer: PeerSettings
    pair: Pair
    route: WayOut | None
    """None: there is none."""


@dataclass(frozen=True, slots=True)
class View:
    """`charon` and `definitions` are None when they could not be read; then `..._trouble` says why."""

    config: Config
    config_file: Path
    privileged: bool
    """CAP_NET_ADMIN is in force."""
    api: Api = Api()
    daemon_pid: int | None = None
    """Who holds the daemon's lock; None also when the process or the lock is hidden from us."""
    charon: CharonAnswer | None = None
    charon_trouble: str = ""
    definitions: Definitions | None = None
    definitions_trouble: str = ""
    ike_sas: tuple[IkeSa, ...] = ()
    """All that are established, of peers of ours."""
    ways: tuple[Way, ...] = ()

    @property
    def running(self) -> bool:
        """Whether a daemon runs, as far as that can be seen."""
        return self.daemon_pid is not None or self.api.status is not None

    def connection(self, peer: PeerSettings) -> ConnectionDefinition | None:
        """The peer's connection as it is configured; None where that can't be read or there is none."""
        return None if self.definitions is None else self.definitions.get(peer.connection)

    def newest(self, peer: PeerSettings) -> IkeSa | None:
        """The peer's IKE_SA that was established last."""
        of_peer = [ike_sa for ike_sa in self.ike_sas if ike_sa.remote.identity == peer.identity]
        return max(of_peer, key=lambda ike_sa: ike_sa.unique_id, default=None)


async def look(config: Config, config_file: Path, api: Api) -> View:
    """Reads everything; what can't be read is left out, and why is noted."""
    definitions, definitions_trouble = await _definitions(config)
    charon, ike_sas, charon_trouble = await _charon(config)
    of_peers = {peer.identity for peer in config.peers}
    usable = tuple(ike_sa for ike_sa in ike_sas if ike_sa.is_usable and ike_sa.remote.identity in of_peers)
    return View(
        config,
        config_file,
        Capability.NET_ADMIN in effective(),
        api,
        holder_of(config.runtime_directory / "lock"),
        charon,
        charon_trouble,
        definitions,
        definitions_trouble,
        usable,
        await _ways(config, usable),
    )


async def _definitions(config: Config) -> tuple[Definitions | None, str]:
    try:
        return await read_definitions(swanctl=config.swanctl, file=config.swanctl_file), ""
    except DefinitionError as error:
        return None, str(error)


async def _charon(config: Config) -> tuple[CharonAnswer | None, tuple[IkeSa, ...], str]:
    try:
        async with ViciClient(config.vici_socket) as client:
            version = await client.request("version")
            stats = await client.request("stats")
            plugins = stats.get("plugins", [])
            loaded = (await client.request("get-conns")).get("conns", [])
            ike_sas = await list_ike_sas(client)
    except ViciError as error:
        return None, (), str(error)
    answer = CharonAnswer(
        peer_of_socket(config.vici_socket), str(version.get("version", "")), _names(plugins), _names(loaded)
    )
    return answer, ike_sas, ""


def _names(value: object) -> frozenset[str]:
    return frozenset(map(str, value)) if isinstance(value, list) else frozenset()


async def _ways(config: Config, ike_sas: tuple[IkeSa, ...]) -> tuple[Way, ...]:
    """Of the newest IKE_SA with each peer."""
    found: list[Way] = []
    view = View(config, Path(), privileged=False, ike_sas=ike_sas)
    async with RouteSocket() as netlink:
        for peer in config.peers:
            ike_sa = view.newest(peer)
            if ike_sa is None or ike_sa.local.host is None or ike_sa.remote.host is None:
                continue
            try:
                route = await netlink.path_to(ike_sa.remote.host, ike_sa.local.host)
            except RouteSocketError:
                route = None
            found.append(Way(peer, Pair(ike_sa.local.host, ike_sa.remote.host), route))
    return tuple(found)

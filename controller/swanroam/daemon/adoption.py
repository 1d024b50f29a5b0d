"""Makes another configuration the one at work: first all that can fail, then the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

from swanroam.config import Config
from swanroam.daemon import logs
from swanroam.daemon.addresses import AddressFollower
from swanroam.daemon.controller import HostError
from swanroam.daemon.host import LocalHost
from swanroam.daemon.journal import JournalError
from swanroam.daemon.membership import Membership, NotNowError
from swanroam.daemon.metrics import Reading
from swanroam.daemon.metrics_server import MetricsError, MetricsServer
from swanroam.daemon.reload import Ground, RefusedError
from swanroam.daemon.requirements import connection_problems, lacking, migration_problem
from swanroam.daemon.transport import LocalSockets
from swanroam.ike.definitions import DefinitionError, read_definitions
from swanroam.kernel.privileges import permitted


class Adoption:
    """`metrics` is the server of the configuration at work, if it has one. See `close`."""

    def __init__(
        self,
        host: LocalHost,
        sockets: LocalSockets,
        follower: AddressFollower,
        membership: Membership,
        read_metrics: Callable[[], Awaitable[Reading]],
    ) -> None:
        self._host = host
        self._sockets = sockets
        self._follower = follower
        self._membership = membership
        self._metrics = MetricsServer(read_metrics)

    async def open(self, config: Config) -> None:
        """At the start. Raises MetricsError."""
        await self._metrics.listen(config.metrics.listen)

    async def close(self) -> None:
        await self._metrics.listen(None)

    async def adopt(self, old: Config, new: Config) -> None:
        """Raises RefusedError; then everything is as it was."""
        await _check(new)
        async with self._membership.turn:
            await self._exchange(old, new)
        self._follower.reconfigure(new.addresses)

    async def _exchange(self, old: Config, new: Config) -> None:
        try:
            await self._metrics.listen(new.metrics.listen)
            prepared = await self._membership.prepare(new)
        except (MetricsError, NotNowError, HostError, JournalError) as error:
            with suppress(MetricsError):  # somebody has taken it meanwhile
                await self._metrics.listen(old.metrics.listen)
            raise RefusedError(Ground.HOST, (str(error),)) from error
        logs.configure(new.log.format, new.log.level)
        self._host.reconfigure(new)
        self._sockets.reconfigure(new.sockets)
        await self._membership.commit(prepared)


async def _check(config: Config) -> None:
    """What `swanroam run` would refuse to start with. Raises RefusedError."""
    if problem := lacking(config, permitted()):
        raise RefusedError(Ground.RESTART, (f"{problem}; needs a restart",))
    if problem := await migration_problem(config):
        raise RefusedError(Ground.HOST, (problem,))
    try:
        definitions = await read_definitions(swanctl=config.swanctl, file=config.swanctl_file)
    except DefinitionError as error:
        raise RefusedError(Ground.FILE, (str(error),)) from error
    if problems := connection_problems(config, definitions):
        raise RefusedError(Ground.FILE, tuple(problems))

"""The administrator's connections, at hand when a handover needs them.

To read them, swanctl has to be run, which takes longer than all the rest of a handover. So they are read when the
daemon starts, and again after each use, in the background.
"""

from __future__ import annotations

import asyncio

import structlog

from swanroam.config import Config
from swanroam.ike.definitions import DefinitionError, Definitions, read_definitions

log = structlog.get_logger("swanroam")


class CachedDefinitions:
    """What swanctl would load into charon, as of the last reading."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._known: Definitions | None = None
        self._refreshing: asyncio.Task[None] | None = None

    async def read(self) -> Definitions:
        """The connections. Raises DefinitionError when they were never read and can't be now."""
        if self._known is None:
            self._known = await read_definitions(swanctl=self._config.swanctl, file=self._config.swanctl_file)
        return self._known

    def refresh(self) -> None:
        """Reads them again in the background; what can't be read leaves the old ones in force."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.get_running_loop().create_task(self._read_again())

    def forget(self) -> None:
        """The next `read` asks swanctl."""
        self._known = None

    async def close(self) -> None:
        """Ends the reading that may be under way."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)

    async def _read_again(self) -> None:
        try:
            self._known = await read_definitions(swanctl=self._config.swanctl, file=self._config.swanctl_file)
        except DefinitionError as error:
            log.warning("connections_not_read", error=str(error))

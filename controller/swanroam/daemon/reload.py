"""Reading the configuration file again while the daemon runs: on SIGHUP, and when `swanroam reload` asks for it.

A file is taken over whole or not at all. What is wrong with one that is refused goes into the log, to who has asked,
and to `status`, until a file is taken over or this one says again what is at work.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from swanroam.config import Config, ConfigError, load_config
from swanroam.daemon import service_manager
from swanroam.daemon.api import RequestError
from swanroam.daemon.configuration_changes import changes, need_restart
from swanroam.daemon.counts import Counts, ReloadResult
from swanroam.daemon.status_document import FileDocument

log = structlog.get_logger("swanroam")


class Ground(enum.Enum):
    """On what a file is refused."""

    FILE = "file"  # it is wrong, or names what swanctl does not have
    RESTART = "restart"  # it changes what a running daemon can't change
    HOST = "host"  # this host can't do it now


class RefusedError(Exception):
    """A configuration can't be taken over. One line for each reason."""

    def __init__(self, ground: Ground, lines: tuple[str, ...]) -> None:
        super().__init__("; ".join(lines))
        self.ground = ground
        self.lines = lines


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a reload."""

    result: ReloadResult
    lines: tuple[str, ...]
    """What has changed, or why nothing has."""
    ground: Ground | None = None


class Reloading:
    """`adopt` makes another configuration the one at work, or raises RefusedError and changes nothing."""

    def __init__(
        self, file: Path, config: Config, counts: Counts, adopt: Callable[[Config, Config], Awaitable[None]]
    ) -> None:
        self.file = file.absolute()
        self._config = config
        self._counts = counts
        self._adopt = adopt
        self._turn = asyncio.Lock()
        self.refused: tuple[str, ...] = ()
        """What was wrong with the file when it was read last; empty: it was taken over."""
        self._signalled = asyncio.Event()
        self._looked_at: object = None
        """By what the file is known again that was looked at last."""
        self._current = True
        """It says what is at work."""
        self._wrong: tuple[str, ...] = ()
        """What is wrong with it."""

    def signal(self) -> None:
        """SIGHUP has come."""
        self._signalled.set()

    async def run(self) -> None:
        """Reads the file again at each signal, until cancelled."""
        while True:
            await self._signalled.wait()
            self._signalled.clear()
            try:
                await self.reload()
            except Exception:
                log.exception("reload_failed")

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """API: reads the file again. Raises RequestError when that is not the file that is meant."""
        meant = request.get("file")
        if meant is not None and not _same(Path(str(meant)), self.file):
            raise RequestError(f"this daemon reads {self.file}, and not {meant}: name that file with --config")
        outcome = await self.reload()
        return {
            "file": str(self.file),
            "result": outcome.result.value,
            "ground": outcome.ground.value if outcome.ground is not None else None,
            "lines": list(outcome.lines),
        }

    async def reload(self) -> Outcome:
        """Reads the file and takes it over, if that is possible."""
        async with self._turn:
            service_manager.tell(service_manager.reloading(asyncio.get_running_loop().time()))
            try:
                outcome = await self._reload()
            finally:
                failed = f"{self.file} was refused at the last reload" if self.refused else ""
                service_manager.tell(f"{service_manager.READY}\n{service_manager.status(failed)}")
        self._counts.reloads[outcome.result] += 1
        return outcome

    async def _reload(self) -> Outcome:
        old = self._config
        self._looked_at = None
        try:
            new = await self._load()
            if lines := need_restart(old, new):
                raise RefusedError(Ground.RESTART, tuple(lines))
            lines = changes(old, new)
            if lines:
                await self._adopt(old, new)
        except RefusedError as error:
            self.refused = error.lines
            log.error("configuration_refused", file=str(self.file), problems=error.lines, remedy=REMEDIES[error.ground])
            return Outcome(ReloadResult.REFUSED, error.lines, error.ground)
        self._config = new
        self.refused = ()
        log.info("configuration_reloaded", file=str(self.file), changes=lines)
        return Outcome(ReloadResult.APPLIED if lines else ReloadResult.UNCHANGED, tuple(lines))

    async def _load(self) -> Config:
        """Not on the loop: a thousand peers take a second. Raises RefusedError."""
        try:
            return await asyncio.to_thread(load_config, self.file)
        except ConfigError as error:
            raise RefusedError(Ground.FILE, tuple(str(error).splitlines())) from error

    async def document(self) -> FileDocument:
        """For `status`: whether the file on disk says what is at work."""
        if not self._turn.locked():
            await self._look()
        return {
            "file": str(self.file),
            "current": self._current,
            "wrong": list(self._wrong),
            "refused": list(self.refused),
        }

    async def _look(self) -> None:
        """The file is only read when it is another than before."""
        try:
            found = self.file.stat()
            known: tuple[int | None, ...] = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
        except OSError as error:
            known = (error.errno,)
        if known == self._looked_at:
            return
        config, wrong = self._config, tuple[str, ...]()
        try:
            current = await self._load() == config
        except RefusedError as error:
            current, wrong = False, error.lines
        if config is self._config:  # else a reload came between
            self._looked_at, self._current, self._wrong = known, current, wrong
            if current:
                self.refused = ()


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


REMEDIES = {
    Ground.FILE: "the configuration before is still at work; mend the file, then: swanroam reload",
    Ground.RESTART: "the configuration before is still at work; systemctl restart swanroam, or take the change back",
    Ground.HOST: "the configuration before is still at work; then: swanroam reload",
}
"""For the log, and for who has asked."""

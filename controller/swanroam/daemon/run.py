"""Puts the daemon together and runs it until it is told to stop.

At the end, when nothing of a handover is left, everything goes; otherwise what connections still need stays in the
kernel, and the next start takes it over from the journal.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import grp
import os
import signal
from collections.abc import Collection, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from socket import AddressFamily
from typing import Any

import structlog

from swanroam import __version__
from swanroam.config import Config
from swanroam.daemon import service_manager
from swanroam.daemon.addresses import AddressFollower
from swanroam.daemon.adoption import Adoption
from swanroam.daemon.api import Api, Handler
from swanroam.daemon.charon import CharonWatch
from swanroam.daemon.control_channel import ControlChannel
from swanroam.daemon.controller import VERIFY, Controller, HostError
from swanroam.daemon.host import LocalHost
from swanroam.daemon.journal import Journal
from swanroam.daemon.logs import loop_failure
from swanroam.daemon.membership import Membership
from swanroam.daemon.readings import Readings
from swanroam.daemon.reception import Reception
from swanroam.daemon.reload import Reloading
from swanroam.daemon.socket_owners import SocketOwners
from swanroam.daemon.socket_report import SocketReport
from swanroam.daemon.status import Status
from swanroam.daemon.transport import LocalSockets
from swanroam.daemon.watchdog import Watchdog
from swanroam.history.handovers import DAEMON_STARTED, DAEMON_STOPPED
from swanroam.history.store import HistoryFile
from swanroam.ike.vici import ViciClient
from swanroam.kernel.address_watch import AddressWatchError
from swanroam.protocol.messages import IPAddress
from swanroam.protocol.transfer import TransferExpired

log = structlog.get_logger("swanroam")


class AlreadyRunningError(Exception):
    """Another daemon has the runtime directory."""


class DirectoryError(Exception):
    """A directory of the daemon's can't be made or written; the message says which."""


def journal_path(config: Config) -> Path:
    """Where the journal is."""
    return config.state_directory / "journal.json"


def history_path(config: Config) -> Path:
    """Where the history is."""
    return config.state_directory / "history.jsonl"


def api_path(config: Config) -> Path:
    """Where the local API listens."""
    return config.runtime_directory / "api.sock"


async def run(config: Config, file: Path, families: Collection[AddressFamily]) -> None:
    """Runs until SIGTERM or SIGINT, and reads the configuration `file` again at SIGHUP.

    Raises AlreadyRunningError, DirectoryError, JournalError, ControlChannelError, MetricsError and HostError when it
    can't start; the kernel is then as it was before. Raises HostError and AddressWatchError when something it needs
    breaks away underneath; what connections need then stays in the kernel.
    """
    asyncio.get_running_loop().set_exception_handler(loop_failure)
    async with AsyncExitStack() as stack:
        stack.enter_context(single_instance(config))
        client = await stack.enter_async_context(ViciClient(config.vici_socket))
        host = LocalHost(config, client, families)
        daemon = _Daemon(config, file, client, host)
        await stack.enter_async_context(host)
        try:
            await daemon.open()
        except BaseException:
            await host.abandon()
            raise
        try:
            await daemon.work()
        finally:
            await daemon.close()
        await daemon.leave()


@contextmanager
def single_instance(config: Config) -> Iterator[None]:
    """Makes the directories and locks the runtime one. Raises AlreadyRunningError, DirectoryError."""
    group = api_group(config)
    for directory, mode in ((config.runtime_directory, 0o750), (config.state_directory, 0o700)):
        try:
            _make_directory(directory, mode)
        except OSError as error:
            raise DirectoryError(
                f"cannot make the directory {directory}: {error.strerror}: {_remedy(error)}"
            ) from error
    try:
        if config.api_group is not None and config.runtime_directory.stat().st_gid != group:
            os.chown(config.runtime_directory, -1, group)
    except OSError as error:
        remedy = "make the user that swanroam runs as its owner and a member of that group, or leave out api_group"
        raise DirectoryError(
            f"cannot give {config.runtime_directory} to the group {config.api_group}: {error.strerror}: "
            f"{remedy if isinstance(error, PermissionError) else _remedy(error)}"
        ) from error
    path = config.runtime_directory / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)  # whatever the umask
    except OSError as error:
        raise DirectoryError(f"cannot write {path}: {error.strerror}: {_remedy(error)}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise AlreadyRunningError(f"another swanroam holds {path}: stop it first, or set runtime_directory") from None
    finally:
        os.close(descriptor)


def api_group(config: Config) -> int:
    """The id of the group that may use the API; -1 for the daemon's own. Raises DirectoryError."""
    if config.api_group is None:
        return -1
    try:
        return grp.getgrnam(config.api_group).gr_gid
    except KeyError:
        raise DirectoryError(
            f"there is no group {config.api_group}: groupadd --system {config.api_group}, or mend api_group"
        ) from None


def _make_directory(directory: Path, mode: int) -> None:
    """One that is there already keeps its mode: whoever made it has chosen it. Raises OSError."""
    try:
        directory.mkdir(mode=mode, parents=True)
    except FileExistsError:
        if not directory.is_dir():
            raise
    else:
        directory.chmod(mode)  # whatever the umask


def _remedy(error: OSError) -> str:
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return "run as its owner or root, or set runtime_directory and state_directory to what this user may write"
        case errno.EROFS:
            return "mount it writable, or set runtime_directory and state_directory to elsewhere"
        case errno.ENOTDIR | errno.EEXIST:
            return "a file is where a directory must be: remove it, or set runtime_directory and state_directory"
        case errno.ENOSPC | errno.EDQUOT:
            return "make room there"
        case _:
            return "check the file system, or set runtime_directory and state_directory to elsewhere"


def _only_expected(group: BaseExceptionGroup[BaseException]) -> Exception | None:
    """The first exception of a group in which nothing is but what has a message for the operator."""
    expected, others = group.split((HostError, AddressWatchError))
    if others is not None or expected is None:
        return None
    first: BaseException = expected
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first if isinstance(first, Exception) else None


class _Daemon:
    """The parts, joined."""

    def __init__(self, config: Config, file: Path, client: ViciClient, host: LocalHost) -> None:
        self._config = config
        self._host = host
        self._stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        control = config.control
        self._channel = ControlChannel(
            control.address,
            control.port,
            control.mark,
            admit=lambda sender: self._reception.admit(sender),
            deliver=lambda sender, message: self._reception.deliver(sender, message),
        )
        self._sockets = LocalSockets(config.sockets, self._interface_of, self._transfer_expired)
        self._history = HistoryFile(history_path(config))
        self._controller = Controller(
            config, host, self._sockets, Journal(journal_path(config)), self._channel.send, self._record
        )
        self._watch = CharonWatch(client, self._controller, host)
        by_inner = {peer.settings.control_address: peer for peer in self._controller.peers.values()}
        self._reception = Reception(by_inner, self._watch.owner, self._watch.look, self._controller.receive)
        host.charon_changed = self._watch.look
        self._follower = AddressFollower(config.addresses, self._controller)
        self._reloading = Reloading(file, config, self._controller.counts, self._adopt)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reloading.signal)
        status = Status(
            self._controller,
            self._watch,
            self._follower,
            self._channel,
            host.carrier_drops,
            SocketOwners(self._sockets.candidates).of,
            self._reloading,
            self._history,
        )
        readings = Readings(self._controller, self._watch, self._channel, status, host.carrier_drops, self._reloading)
        self._membership = Membership(self._controller, host, self._peers_changed, self._peer_gone)
        self._adoption = Adoption(host, self._sockets, self._follower, self._membership, readings.take)
        self._watchdog = Watchdog(lambda: self._controller.turned, VERIFY)
        sockets = SocketReport(self._controller, self._sockets.candidates)
        handlers: dict[str, Handler] = {
            "status": status.answer,
            "sockets": sockets.answer,
            "move": self._follower.order,
            "reload": self._reloading.answer,
        }
        self._api = Api(api_path(config), handlers, api_group(config))

    async def open(self) -> None:
        """Raises ControlChannelError, DirectoryError, MetricsError."""
        self._channel.open()
        await self._sockets.open()
        try:
            await self._api.open()
        except OSError as error:
            path = api_path(self._config)
            raise DirectoryError(
                f"cannot make the socket {path}: {error}: set runtime_directory to elsewhere"
            ) from error
        await self._adoption.open(self._config)

    async def close(self) -> None:
        await self._adoption.close()
        await self._sockets.close()
        await self._api.close()
        self._channel.close()

    async def work(self) -> None:
        """Until a signal says stop. Raises HostError, AddressWatchError."""
        try:
            async with asyncio.TaskGroup() as tasks:
                parts = (
                    self._controller.run(),
                    self._watch.run(),
                    self._follower.run(),
                    self._membership.run(),
                    self._reloading.run(),
                    self._watchdog.run(),
                )
                running = [tasks.create_task(part) for part in parts]
                self._record(DAEMON_STARTED, {"detail": f"swanroam {__version__}"}, self._now())
                log.info("started", version=__version__, identity=self._config.identity, peers=len(self._config.peers))
                service_manager.tell(service_manager.READY)
                await self._stop.wait()
                service_manager.tell(service_manager.STOPPING)
                for task in running:
                    task.cancel()
        except BaseExceptionGroup as group:
            if (error := _only_expected(group)) is not None:
                raise error from group
            raise

    async def leave(self) -> None:
        """What stays behind, and what does not."""
        quiesced = await self._controller.quiesced()
        what_stays = "" if quiesced else "what connections need stays in the kernel"
        self._record(DAEMON_STOPPED, {"detail": what_stays}, self._now())
        if quiesced:
            await self._host.clear()
            log.info("stopped", kernel="nothing of ours is left")
        else:
            log.warning(
                "stopped",
                kernel="carrier, guards and old addresses stay: connections need them. "
                "`swanroam run` takes them over, `swanroam cleanup` ends them",
            )

    def _record(self, kind: str, fields: Mapping[str, Any], monotonic: float, age: float = 0.0) -> None:
        """Into the history; what can't be written is said once."""
        before = self._history.trouble
        self._history.write(kind, fields, monotonic, age)
        if self._history.trouble and not before:
            log.warning("history_not_written", error=self._history.trouble)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _interface_of(self, address: IPAddress) -> int:
        return self._follower.interface_of(address)

    def _transfer_expired(self, identity: str, event: TransferExpired) -> None:
        if (peer := self._controller.peers.get(identity)) is not None:
            self._controller.submit(peer, event)

    async def _adopt(self, old: Config, new: Config) -> None:
        await self._adoption.adopt(old, new)

    def _peers_changed(self) -> None:
        self._reception.serve(self._controller.peers.values())
        self._watch.look()

    def _peer_gone(self, identity: str) -> None:
        self._watch.forget(identity)
        self._follower.forget(identity)

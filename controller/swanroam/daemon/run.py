"""Puts the daemon together and runs it until it is told to stop.

At the end, when nothing of a handover is left, everything goes; otherwise what connections still need stays in the
kernel, and the next start takes it over from the journal.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import Collection, Iterator
from contextlib import AsyncExitStack, contextmanager
from ipaddress import IPv6Address
from pathlib import Path
from socket import AddressFamily

import structlog

from swanroam import __version__
from swanroam.config import Config
from swanroam.daemon.addresses import AddressFollower
from swanroam.daemon.api import Api
from swanroam.daemon.charon import CharonWatch
from swanroam.daemon.control_channel import ControlChannel
from swanroam.daemon.controller import Controller
from swanroam.daemon.host import LocalHost
from swanroam.daemon.journal import Journal
from swanroam.daemon.status import Status
from swanroam.ike.vici import ViciClient
from swanroam.protocol.events import MessageReceived
from swanroam.protocol.messages import Message

log = structlog.get_logger("swanroam")


class AlreadyRunningError(Exception):
    """Another daemon has the runtime directory."""


class DirectoryError(Exception):
    """A directory of the daemon's can't be made or written; the message says which."""


def journal_path(config: Config) -> Path:
    """Where the journal is."""
    return config.state_directory / "journal.json"


def api_path(config: Config) -> Path:
    """Where the local API listens."""
    return config.runtime_directory / "api.sock"


async def run(config: Config, families: Collection[AddressFamily]) -> None:
    """Runs until SIGTERM or SIGINT.

    Raises AlreadyRunningError, DirectoryError, JournalError, ControlChannelError, HostError, and what the kernel
    modules raise when something they need breaks away underneath.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(single_instance(config))
        client = await stack.enter_async_context(ViciClient(config.vici_socket))
        host = await stack.enter_async_context(LocalHost(config, client, families))
        daemon = _Daemon(config, client, host)
        await daemon.work()
        await daemon.leave()


@contextmanager
def single_instance(config: Config) -> Iterator[None]:
    """Makes the directories and locks the runtime one. Raises AlreadyRunningError, DirectoryError."""
    for directory in (config.runtime_directory, config.state_directory):
        try:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        except OSError as error:
            raise DirectoryError(f"cannot make the directory {directory}: {error.strerror}") from error
    path = config.runtime_directory / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DirectoryError(f"cannot write {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise AlreadyRunningError(f"another swanroam holds {path}: stop it first, or set runtime_directory") from None
    finally:
        os.close(descriptor)


class _Daemon:
    """The parts, joined."""

    def __init__(self, config: Config, client: ViciClient, host: LocalHost) -> None:
        self._config = config
        self._host = host
        control = config.control
        self._channel = ControlChannel(control.address, control.port, control.mark, self._received)
        self._controller = Controller(config, host, Journal(journal_path(config)), self._channel.send)
        self._by_inner = {peer.settings.control_address: peer for peer in self._controller.peers.values()}
        self._watch = CharonWatch(client, self._controller)
        self._follower = AddressFollower(config.addresses, self._controller)
        status = Status(self._controller, self._watch, self._follower, self._channel)
        self._api = Api(api_path(config), {"status": status.answer, "move": self._follower.order})

    async def work(self) -> None:
        """Until a signal says stop."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        self._channel.open()
        try:
            await self._api.open()
            async with asyncio.TaskGroup() as tasks:
                parts = (self._controller.run(), self._watch.run(), self._follower.run())
                running = [tasks.create_task(part) for part in parts]
                log.info("started", version=__version__, identity=self._config.identity, peers=len(self._by_inner))
                await stop.wait()
                for task in running:
                    task.cancel()
        finally:
            await self._api.close()
            self._channel.close()

    async def leave(self) -> None:
        """What stays behind, and what does not."""
        if self._controller.quiesced():
            await self._host.clear()
            log.info("stopped", kernel="nothing of ours is left")
        else:
            log.warning(
                "stopped",
                kernel="carrier, guards and old addresses stay: connections need them. "
                "`swanroam run` takes them over, `swanroam cleanup` ends them",
            )

    def _received(self, sender: IPv6Address, message: Message) -> None:
        peer = self._by_inner.get(sender)
        if peer is None:
            self._channel.dropped["unknown_sender"] += 1
        elif self._watch.owner(sender) != peer.settings.identity:
            # The CHILD_SA may be so new that charon's event is still on its way; the message will be repeated.
            self._channel.dropped["unproven_sender"] += 1
            self._watch.look()
        else:
            peer.log.debug("message_received", message=type(message).__name__, sequence=message.sequence)
            self._controller.submit(peer, MessageReceived(message))

"""A configured peer: its settings, its machine, and what the daemon knows of it besides."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import replace

import structlog

from swanroam.config import Config, PeerSettings
from swanroam.daemon.machine_settings import machine_settings
from swanroam.daemon.recorder import Recorder, Write
from swanroam.daemon.reports import Reports
from swanroam.daemon.translation import ANY_TRAFFIC, ProtectedTraffic
from swanroam.ike.associations import Mode
from swanroam.protocol.events import Action, Event, Report, TimerExpired
from swanroam.protocol.handover import Handover
from swanroam.protocol.peer import PeerMachine
from swanroam.protocol.reconfiguration import Reconfiguration

log = structlog.get_logger("swanroam")


class Peer:
    """`instance`: identifies this run of the controller. `write`: into the history."""

    def __init__(self, settings: PeerSettings, config: Config, instance: bytes, write: Write) -> None:
        self.settings = settings
        self.machine = PeerMachine(machine_settings(settings, config, instance), secrets.token_bytes, random.random)
        self.protected: frozenset[ProtectedTraffic] = ANY_TRAFFIC
        self.children: dict[str, Mode] = {config.control.child: Mode.TUNNEL}
        """The CHILD_SAs that every IKE_SA with it must have, and in which mode: all that are or were installed."""
        self.log = log.bind(peer=settings.name)
        tally = self.machine.transfers.tally
        self.recorder = Recorder(settings.name, settings.identity, tally, write)
        self.reports = Reports(self.log, tally, self.recorder)
        self.leaving = False
        """It is not configured any more, and goes as soon as nothing of a handover is left."""
        self.pending = 0
        """Messages that wait to be handled."""
        self.standing: object = None
        """What was journalled and applied for it last."""
        self.contradiction = ""
        """What the kernel lacks of what charon says it has; empty while they agree."""
        self._reconfiguration = Reconfiguration(self.machine)

    def feed(self, event: Event, now: float) -> list[Action]:
        """Feeds its machine, and gives it the settings that have waited for what has ended with that."""
        actions = self.machine.feed(event, now)
        return actions + self.machine.feed(TimerExpired(), now) if self._reconfiguration.advance(now) else actions

    def reconfigure(self, settings: PeerSettings, config: Config, now: float) -> None:
        """Other settings from now on; a part of them may have to wait, see `Reconfiguration`."""
        self.leaving = False
        if settings.children != self.settings.children:  # charon is read again, and tells which there are
            self.children = {config.control.child: Mode.TUNNEL}
            self.protected = ANY_TRAFFIC
        self.settings = settings
        self.log = self.reports.log = log.bind(peer=settings.name)  # its level may be another one
        self._reconfiguration.order(machine_settings(settings, config, self.machine.settings.mobile.instance), now)

    def depart(self, now: float) -> None:
        """It is not configured any more: it may not move from now on, and nothing else changes while it is there."""
        self.leaving = True
        present = self.machine.settings
        self._reconfiguration.order(replace(present, policy=replace(present.policy, may_move=False)), now)

    @property
    def waiting(self) -> bool:
        """A part of its settings waits for the end of a handover."""
        return self._reconfiguration.postponed

    @property
    def history(self) -> Sequence[Handover]:
        """Finished handovers."""
        return self.reports.history

    @property
    def trouble(self) -> Report | None:
        """The last thing that went wrong with this peer and was not mended since."""
        return self.reports.trouble

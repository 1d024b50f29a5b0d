"""Other settings for a machine that is at work.

Most are taken over at once. What a move of ours under way is done by (whether this host may move, and the method) stays
as it is until nothing of that move is left; whether sockets move stays as it is while some are being moved.
"""

from __future__ import annotations

from dataclasses import replace

from swanroam.protocol.peer import PeerMachine
from swanroam.protocol.settings import PeerSettings


class Reconfiguration:
    """Of one machine. `advance` is to be called after each event that the machine was fed."""

    def __init__(self, machine: PeerMachine) -> None:
        self._machine = machine
        self._ordered: PeerSettings | None = None

    @property
    def postponed(self) -> bool:
        """A part of the settings waits for something to end."""
        return self._ordered is not None

    def order(self, settings: PeerSettings, now: float) -> None:
        """These settings from now on. What is still waiting of earlier ones is forgotten."""
        self._ordered = settings
        self.advance(now)

    def advance(self, now: float) -> bool:
        """Takes over what waits, if that is possible now. Then the machine has to be fed another event."""
        if self._ordered is None:
            return False
        before, possible = self._machine.settings, self._possible(self._ordered)
        if possible == self._ordered:
            self._ordered = None
        if possible != before:
            _take_over(self._machine, possible, now)
        return possible != before

    def _possible(self, ordered: PeerSettings) -> PeerSettings:
        machine = self._machine
        present = machine.settings
        mobile = ordered.mobile
        if machine.mobile.handover is not None or (machine.own is not None and machine.own.deprecated):
            mobile = replace(mobile, active=present.mobile.active, method=present.mobile.method)
        transport = present.transport if machine.transfers.busy else ordered.transport
        return replace(ordered, mobile=mobile, transport=transport)


def _take_over(machine: PeerMachine, settings: PeerSettings, now: float) -> None:
    machine.settings = settings
    machine.mobile.reconfigure(settings.mobile)
    machine.correspondent.reconfigure(settings.policy, grace=settings.mobile.grace)
    mobile = settings.mobile
    machine.filter_moves.reconfigure(mobile.method, mobile.first_retransmit, mobile.ceiling)
    machine.transfers.reconfigure(settings, now)

"""Drives one PeerMachine by hand: as the daemon does, with a clock that the test turns."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from typing import TypeVar

from swanroam.protocol.authorisation import Policy
from swanroam.protocol.events import (
    Action,
    AddressesRead,
    Association,
    AssociationsRead,
    Event,
    Fact,
    MessageReceived,
    ReadUsage,
    Report,
    Send,
    StateApplied,
    TimerExpired,
    UsageRead,
)
from swanroam.protocol.host_state import HostState, Pair
from swanroam.protocol.messages import (
    HANDOVER_SIZE,
    INSTANCE_SIZE,
    NONCE_SIZE,
    Acknowledgment,
    AddressChange,
    IPAddress,
    Message,
    Method,
    PathResponse,
    TransferReply,
    TransferRequest,
    TransferStage,
    Verdict,
)
from swanroam.protocol.peer import PeerMachine
from swanroam.protocol.settings import MobileSettings, PeerSettings
from swanroam.protocol.transfer import DatagramSocketsMoved, FindSockets, Key, MoveDatagramSockets, SocketsFound

A, B, C, D = (ip_address(f"192.0.2.{number}") for number in (1, 2, 3, 4))
"""Addresses of the mobile host."""
P, Q = ip_address("198.51.100.1"), ip_address("198.51.100.2")
"""Addresses of the correspondent host."""

SETTINGS = PeerSettings(
    mobile=MobileSettings(
        active=True,
        method=Method.RENEGOTIATE,
        first_retransmit=0.1,
        ceiling=5.0,
        give_up=30.0,
        refresh=60.0,
        grace=10.0,
        end_after=None,
        instance=b"\xe0" * INSTANCE_SIZE,
    ),
    policy=Policy(may_move=True, allowed=()),
    transport=True,
    stopped_share=0.1,
    forget_after=600.0,
)
STATIONARY = replace(SETTINGS, mobile=replace(SETTINGS.mobile, active=False))
"""Of a host that does not move itself, and so registers with nobody."""

_Found = TypeVar("_Found")


class Driver:
    """A machine, its clock, and what its host was made to look like."""

    def __init__(self, settings: PeerSettings = SETTINGS, *, now: float = 100.0) -> None:
        self.now = now
        self.settings = settings
        self._tokens = itertools.count(1)
        self.movable: tuple[Key, ...] = ()
        self.machine = self._new_machine()
        self.applied = HostState()
        self._ike_ids: dict[Pair, int] = {}

    def feed(self, event: Event) -> list[Action]:
        """Whoever looks for sockets is told at once that there are `movable` ones, and that the peer has none alone."""
        actions = self.machine.feed(event, self.now)
        for action in actions:
            match action:
                case FindSockets(old, new):
                    actions += self.machine.feed(SocketsFound(old, new, self.movable, ()), self.now)
                case MoveDatagramSockets(old, new):
                    actions += self.machine.feed(DatagramSocketsMoved(old, new), self.now)
                case Send(TransferRequest(stage=TransferStage.FINISH) as farewell):
                    reply = TransferReply(
                        farewell.sequence, farewell.handover, farewell.transfer, farewell.stage, farewell.connections
                    )
                    actions += self.machine.feed(MessageReceived(reply), self.now)
        if self.machine.wanted() != self.applied:
            self.applied = self.machine.wanted()
            actions += self.machine.feed(StateApplied(), self.now)
        return actions

    def receive(self, message: Message) -> list[Action]:
        return self.feed(MessageReceived(message))

    def associate(self, *pairs: Pair, control: bool = True, complete: bool = True) -> list[Action]:
        """charon has these IKE_SAs, and no others."""
        self._ike_ids = {pair: self._ike_ids.get(pair) or next(self._tokens) for pair in pairs}
        return self.feed(
            AssociationsRead(
                tuple(Association(pair, ike_id, control, complete) for pair, ike_id in self._ike_ids.items())
            )
        )

    def addresses(self, *usable: IPAddress) -> list[Action]:
        """The host has these addresses; the first is preferred."""
        return self.feed(AddressesRead(usable[0] if usable else None, frozenset(usable)))

    def count(self, sockets: dict[IPAddress, int], seconds: float) -> list[Action]:
        """Lets time pass; whoever asks for sockets is told these numbers."""
        return self._pass(seconds, sockets)

    def wait(self, seconds: float) -> list[Action]:
        """Lets time pass; nobody answers anything."""
        return self._pass(seconds, None)

    def restart(self, *, journal: bool = True) -> Driver:
        """The controller starts anew on the same host. Kernel and charon are as they were; it has read neither yet."""
        successor = Driver(self.settings, now=self.now + 1)
        successor._tokens = itertools.count(next(self._tokens) + 1000)
        successor.machine = successor._new_machine()
        successor.applied, successor._ike_ids = self.applied, dict(self._ike_ids)
        if journal:
            stored = json.dumps(self.machine.snapshot())
            successor.machine.restore(json.loads(stored), successor.now)
            assert json.dumps(successor.machine.snapshot()) == stored
        return successor

    def _new_machine(self) -> PeerMachine:
        return PeerMachine(self.settings, lambda size: next(self._tokens).to_bytes(size, "big"), lambda: 0.0)

    def _pass(self, seconds: float, sockets: dict[IPAddress, int] | None) -> list[Action]:
        end = self.now + seconds + 1e-6
        actions: list[Action] = []
        while (deadline := self.machine.deadline()) is not None and deadline <= end:
            assert deadline > self.now, "a deadline that has passed is a busy loop"
            self.now = deadline
            new = self.feed(TimerExpired())
            while sockets is not None and (asked := found(new, ReadUsage)):
                actions += new
                new = [
                    action
                    for question in asked
                    for action in self.feed(UsageRead(question.address, sockets.get(question.address, 0)))
                ]
            actions += new
        self.now = end
        return actions


def found(actions: Iterable[Action], kind: type[_Found]) -> list[_Found]:
    """The actions of a kind."""
    return [action for action in actions if isinstance(action, kind)]


def sent(actions: Iterable[Action], kind: type[_Found]) -> list[_Found]:
    """The messages of a kind that were sent."""
    return [action.message for action in actions if isinstance(action, Send) and isinstance(action.message, kind)]


def only(items: list[_Found]) -> _Found:
    assert len(items) == 1, items
    return items[0]


def facts(actions: Iterable[Action]) -> list[Fact]:
    return [action.fact for action in actions if isinstance(action, Report)]


def reports(actions: Iterable[Action], fact: Fact) -> list[Report]:
    return [action for action in actions if isinstance(action, Report) and action.fact is fact]


# --- messages of the other side ---------------------------------------------------------------------------------------


def change(
    sequence: int, current: IPAddress, *deprecated: IPAddress, nonce: int = 0, instance: int = 9
) -> AddressChange:
    return AddressChange(
        sequence=sequence,
        handover=sequence.to_bytes(HANDOVER_SIZE, "big"),
        nonce=(nonce or sequence).to_bytes(NONCE_SIZE, "big"),
        current=current,
        deprecated=deprecated,
        method=Method.RENEGOTIATE,
        instance=bytes([instance]) * INSTANCE_SIZE,
    )


def answer(
    to: AddressChange,
    verdict: Verdict = Verdict.ACCEPTED,
    *,
    challenge: bytes | None = None,
    last_sequence: int | None = None,
    grace: float = 0.0,
    reason: str = "",
) -> Acknowledgment:
    return Acknowledgment(
        sequence=to.sequence,
        handover=to.handover,
        nonce=to.nonce,
        verdict=verdict,
        challenge=challenge,
        grace_ms=round(grace * 1000),
        last_sequence=to.sequence if last_sequence is None else last_sequence,
        reason=reason,
        instance=bytes([9]) * INSTANCE_SIZE,
    )


def path_response(to: Acknowledgment) -> PathResponse:
    assert to.challenge is not None
    return PathResponse(to.sequence, to.handover, to.challenge)

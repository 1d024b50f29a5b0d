"""The exchange by which the peer learns where this host is: numbers, retransmissions, proof, refresh.

One exchange is outstanding at a time, about the newest sequence. Answers to anything older are ignored.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection

from swanroam.protocol.binding import Binding
from swanroam.protocol.disclosure import Disclosure
from swanroam.protocol.events import Association
from swanroam.protocol.messages import (
    MAX_SEQUENCE,
    NONCE_SIZE,
    Acknowledgment,
    AddressChange,
    IPAddress,
    PathResponse,
    Verdict,
)
from swanroam.protocol.retransmission import Retransmission
from swanroam.protocol.settings import MobileSettings
from swanroam.protocol.snapshot import Snapshot

QUICK_TRIES = 4
"""Transmissions with growing pauses, to a silent peer after the path has changed, or of one path response."""
PAUSE = 1.0
"""Seconds to wait when the peer asks for patience."""


class Answer(enum.Enum):
    """What an acknowledgment came to."""

    IGNORED = enum.auto()  # of an overtaken change, or forged by somebody who never saw the change: RFC 4555 §3.5
    POSTPONED = enum.auto()  # the same will be asked again
    ACCEPTED = enum.auto()
    REFUSED = enum.auto()


class Announcer:
    """What the peer is told of our binding, and what it is known to have made of it."""

    def __init__(self, settings: MobileSettings, token: Callable[[int], bytes], jitter: Callable[[], float]) -> None:
        self.settings = settings
        self.disclosure = Disclosure()
        self.sequence = 0
        self.announced: Binding | None = None
        """What the peer is told at this sequence; see Disclosure."""
        self.accepted: IPAddress | None = None
        """The current address that the peer accepted last: the way back."""
        self.certain: IPAddress | None = None
        """Where the peer takes us to be. None when it may have accepted something else, and its answer was lost."""
        self.silent = False
        self.unheard_since: float | None = None
        """When the first message was sent that the peer has not answered in any way."""
        self.peer_grace = 0.0
        self._proven = False
        self._token = token
        self._acknowledged = 0
        self._stale_answers = 0
        self._nonce = token(NONCE_SIZE)
        self._challenge: bytes | None = None
        self._control: frozenset[int] = frozenset()
        self._exchange = Retransmission(settings.first_retransmit, settings.ceiling, jitter)
        self._refresh_due: float | None = None

    @property
    def acknowledged(self) -> bool:
        """The peer knows our binding."""
        return self._acknowledged == self.sequence

    @property
    def settled(self) -> bool:
        """And our current address is proven to it."""
        return self.acknowledged and self._proven

    @property
    def transmissions(self) -> int:
        """How often what is outstanding was sent."""
        return self._exchange.transmissions

    def reconfigure(self, settings: MobileSettings) -> None:
        """Other settings. What is outstanding goes on, with the new pauses."""
        self.settings = settings
        self._exchange.reconfigure(settings.first_retransmit, settings.ceiling)

    def restore(self, snapshot: Snapshot) -> None:
        """Takes over what an earlier run knew."""
        self.sequence = snapshot.sequence
        self.accepted = self.certain = snapshot.accepted
        if snapshot.own is not None:
            self.disclosure.accepted(snapshot.disclosed)
            self.announced = self.disclosure.announcement(snapshot.own)

    def forget(self) -> None:
        """The peer is gone: whatever it knew of us counts for nothing."""
        self._proven = self.silent = False
        self.accepted = self.certain = self.unheard_since = self._challenge = self._refresh_due = None
        self._acknowledged = 0
        self._exchange.stop()
        self.disclosure.clear()

    def announce(self, binding: Binding, now: float, *, above: int = 0, moved: bool = False) -> None:
        """A new sequence, higher than `above`. Of a move, an earlier proof and silence say nothing."""
        self.sequence = max(self.sequence, above) + 1
        self.announced = self.disclosure.announcement(binding)
        self.disclosure.told(self.announced)
        self._nonce = self._token(NONCE_SIZE)
        self._challenge = None
        self._refresh_due = None
        self._exchange.begin(now)
        if moved:
            self._proven = self.silent = False
            self.unheard_since = None

    def outdated(self, binding: Binding) -> bool:
        """The peer was told something else: the binding changed, or an old address got or lost its IKE_SA."""
        return self.announced != self.disclosure.announcement(binding)

    def hasten(self, now: float) -> None:
        """The path to the peer is another one."""
        self._exchange.hasten(now)
        self.unheard_since = None

    def peer_started(self, now: float, *, again: bool) -> None:
        """It can be asked now; what one before it has acknowledged it may have forgotten."""
        if not self.acknowledged:
            self._exchange.hasten(now)
        elif again:
            self._exchange.begin(now)

    def refused(self, now: float) -> None:
        """There is nothing else to propose: the same again after a while."""
        self._exchange.postpone(now + self.settings.refresh)

    def associations_read(self, associations: Collection[Association], now: float) -> None:
        control = frozenset(association.ike_id for association in associations if association.control)
        if control - self._control:
            self.unheard_since = None
        if control and not self._control and self._exchange.began is not None:
            self._exchange.begin(now)  # till now nothing could be sent, so nobody was silent
        elif control - self._control:
            self._exchange.hasten(now)  # a new way to the peer
        self._control = control
        self.disclosure.associations_read(association.pair.local for association in associations)

    def answered(self, message: Acknowledgment, binding: Binding, now: float) -> Answer:
        if message.sequence != self.sequence or message.nonce != self._nonce or self.announced is None:
            return Answer.IGNORED
        self.silent = False
        self.unheard_since = None
        if message.verdict is Verdict.STALE and message.last_sequence < MAX_SEQUENCE // 2:
            self.announce(binding, now, above=message.last_sequence)
            self._stale_answers += 1
            if self._stale_answers > 1:
                self._exchange.postpone(now + PAUSE)  # once is enough, unless it makes the numbers up
            return Answer.POSTPONED
        if message.verdict is Verdict.RATE_LIMITED:
            self._exchange.postpone(now + PAUSE)
            return Answer.POSTPONED
        if message.verdict is not Verdict.ACCEPTED:
            return Answer.REFUSED
        self._stale_answers = 0
        self._acknowledged = self.sequence
        self.accepted = self.certain = self.announced.current
        self.disclosure.accepted(self.announced.addresses)
        self.peer_grace = message.grace_ms / 1000
        if message.challenge is None:
            self._exchange.stop()
            self._challenge = None
            self._proven = True
            self._refresh_due = now + self.settings.refresh
        elif message.challenge != self._challenge:
            self._challenge = message.challenge
            self._proven = False
            self._exchange.begin(now)
        return Answer.ACCEPTED

    def due(self, now: float) -> bool:
        """Something is to be sent."""
        if self._refresh_due is not None and now >= self._refresh_due:
            self._refresh_due = None
            self._exchange.begin(now)
        if not self.acknowledged and self._exchange.began is None:
            self._exchange.begin(now)
        return self._exchange.is_due(now)

    def unanswered(self, now: float) -> float | None:
        """For how many seconds, once that is too long; afterwards the peer is silent."""
        began = self._exchange.began
        if self.silent or began is None or now - began < self.settings.give_up:
            return None
        self.silent = True
        return now - began

    def transmit(self, handover: bytes, now: float) -> AddressChange | PathResponse:
        """What is due, as sent."""
        assert self.announced is not None
        message: AddressChange | PathResponse
        if self._challenge is not None:
            message = PathResponse(self.sequence, handover, self._challenge)
        else:
            message = AddressChange(
                sequence=self.sequence,
                handover=handover,
                nonce=self._nonce,
                current=self.announced.current,
                deprecated=self.announced.deprecated,
                method=self.settings.method,
                instance=self.settings.instance,
                software=self.settings.software,
            )
            if message.current != self.certain:
                self.certain = None
        self._exchange.sent(now)
        if self.unheard_since is None:
            self.unheard_since = now
        if self._exchange.attempts >= QUICK_TRIES:
            # The acknowledgment of our response may be lost, or the challenge be an old one: ask anew.
            self._challenge = None
            if self.silent:
                self._exchange.postpone(now + self.settings.refresh)
        return message

    def deadlines(self) -> list[float]:
        """Times at which `due` may change."""
        return [time for time in (self._refresh_due, self._exchange.due) if time is not None]

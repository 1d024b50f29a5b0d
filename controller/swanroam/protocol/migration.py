"""Method migrate: how two hosts move the filters that they have, so that they agree again as soon as can be.

Theory of operation
===================

Migration keeps keys and SAs, so while one host has moved its SAs and the other has not, neither understands the other.
The host that moved *leads*; its peer *follows*:

    leader                                           follower
    FILTERS REQUEST {move} ──────────────────────►   moves the data CHILD_SAs to the announced addresses
    moves data and control CHILD_SAs   ◄────────── FILTERS REPLY {move}   (still by the old control CHILD_SA)
    FILTERS REQUEST {finish} ────────────────────►   moves the control CHILD_SA
                                       ◄────────── FILTERS REPLY {finish} (by the new one)

What stays on an old address travels through the carrier all the while, and there is one rule (it was broken once, and
42 segments left in clear): as long as bare IP-in-IP may pass on this host, the packet inside must be ESP; only when
IP-in-IP must itself be inside ESP may the packet inside be clear. `Crossing` says where on this way a host is.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from swanroam.protocol.events import Action, Association, MigrateFilters, Send
from swanroam.protocol.host_state import Crossing, Pair
from swanroam.protocol.messages import FiltersReply, FiltersRequest, Stage
from swanroam.protocol.retransmission import Retransmission


class _Phase(enum.Enum):
    IDLE = enum.auto()
    ASKING = enum.auto()  # leader: the follower is to move
    MOVING = enum.auto()  # this host's CHILD_SAs are being moved
    MOVED = enum.auto()  # leader: the follower is to finish. Follower: waits for that
    FINISHING = enum.auto()  # follower: the control CHILD_SA is being moved
    DONE = enum.auto()


@dataclass(slots=True)
class Leader:
    """The role of the host that moved."""

    exchange: Retransmission
    pair: Pair | None = None
    _phase: _Phase = _Phase.IDLE

    @property
    def finished(self) -> bool:
        return self._phase is _Phase.DONE

    @property
    def busy(self) -> bool:
        return self._phase not in (_Phase.IDLE, _Phase.DONE)

    def crossing(self, pair: Pair) -> Crossing:
        if self.pair != pair or self._phase not in (_Phase.MOVED, _Phase.DONE):
            return Crossing.NONE
        return Crossing.DONE

    def begin(self, pair: Pair, now: float) -> None:
        """Leads the peer to the pair; from where that has come to, when it was begun before."""
        if self.pair != pair or self._phase is not _Phase.MOVED:
            self.pair = pair
            self._phase = _Phase.ASKING
        self.exchange.begin(now)

    def reset(self) -> None:
        self.pair = None
        self._phase = _Phase.IDLE
        self.exchange.stop()

    def restore(self, pair: Pair, crossing: Crossing, now: float) -> None:
        """Takes over what an earlier run had reached."""
        if crossing is Crossing.DONE:
            self.pair = pair
            self._phase = _Phase.MOVED
            self.exchange.begin(now)

    def transmit(self, sequence: int, handover: bytes, now: float) -> list[Action]:
        """The request that is due, if any."""
        if self._phase not in (_Phase.ASKING, _Phase.MOVED) or not self.exchange.is_due(now):
            return []
        self.exchange.sent(now)
        stage = Stage.MOVE if self._phase is _Phase.ASKING else Stage.FINISH
        return [Send(FiltersRequest(sequence, handover, stage), self.exchange.transmissions)]

    def replied(self, message: FiltersReply) -> tuple[list[Action], str]:
        """Actions, and why it failed (empty if not)."""
        expected = {Stage.MOVE: _Phase.ASKING, Stage.FINISH: _Phase.MOVED}[message.stage]
        if self.pair is None or self._phase is not expected:
            return [], ""
        self.exchange.stop()
        if message.reason:
            pair = self.pair
            if message.stage is Stage.MOVE:
                self.reset()
            return [], f"{pair}: the peer could not move its filters: {message.reason}"
        if message.stage is Stage.MOVE:
            self._phase = _Phase.MOVING
            return [MigrateFilters(self.pair, data=True, control=True)], ""
        self._phase = _Phase.DONE
        return [], ""

    def overtaken(self, pair: Pair | None, anew: Pair | None) -> bool:
        """By another pair, or by new filters that one of the hosts has made for this one."""
        return self.pair is not None and (self.pair != pair or (self.busy and self.pair == anew))

    def established(self, pair: Pair, now: float) -> bool:
        """This host's CHILD_SAs are moved; tells whether that was ours to know."""
        if self._phase is not _Phase.MOVING or pair != self.pair:
            return False
        self._phase = _Phase.MOVED
        self.exchange.begin(now)
        return True

    def failed(self, pair: Pair) -> None:
        if self._phase is _Phase.MOVING and pair == self.pair:
            self.reset()


@dataclass(slots=True)
class Follower:
    """The role of its peer."""

    pair: Pair | None = None
    _phase: _Phase = _Phase.IDLE
    _request: FiltersRequest | None = None
    _leader_moved: bool = False
    """The leader has moved its data CHILD_SAs, so it can read what comes by ours."""

    def crossing(self, pair: Pair) -> Crossing:
        if self.pair != pair or self._phase not in (_Phase.MOVED, _Phase.FINISHING, _Phase.DONE):
            return Crossing.NONE
        return Crossing.DONE if self._leader_moved else Crossing.ACCEPTING

    def reset(self) -> None:
        self.pair = self._request = None
        self._phase = _Phase.IDLE
        self._leader_moved = False

    def restore(self, pair: Pair, crossing: Crossing) -> None:
        """Takes over what an earlier run had reached. Whether it had finished shows when the leader asks again."""
        if crossing is not Crossing.NONE:
            self.pair, self._phase = pair, _Phase.MOVED
            self._leader_moved = crossing is Crossing.DONE

    def requested(self, message: FiltersRequest, pair: Pair) -> list[Action]:
        """What to do for a request about the present addresses."""
        if self.pair != pair:
            self.reset()
            self.pair = pair
        reached = {
            Stage.MOVE: (_Phase.MOVED, _Phase.FINISHING, _Phase.DONE),
            Stage.FINISH: (_Phase.DONE,),
        }[message.stage]
        if self._phase in reached:
            return [_reply(message)]
        if message.stage is Stage.MOVE and self._phase is _Phase.IDLE:
            self._phase, self._request = _Phase.MOVING, message
            return [MigrateFilters(pair, data=True, control=False)]
        if message.stage is Stage.FINISH and self._phase is _Phase.MOVED:
            self._phase, self._request = _Phase.FINISHING, message
            self._leader_moved = True
            return [MigrateFilters(pair, data=False, control=True)]
        if message.stage is Stage.FINISH and self._phase is _Phase.IDLE:
            return [_reply(message, "nothing was moved here; begin again")]
        return []  # under way

    def waiting_for(self, pair: Pair) -> bool:
        """A request for this pair is being carried out."""
        return pair == self.pair and self._request is not None

    def established(self, pair: Pair) -> list[Action]:
        if pair != self.pair or self._request is None:
            return []
        following = {_Phase.MOVING: _Phase.MOVED, _Phase.FINISHING: _Phase.DONE}
        request, self._request = self._request, None
        self._phase = following.get(self._phase, self._phase)
        return [_reply(request)]

    def failed(self, pair: Pair, reason: str) -> list[Action]:
        if pair != self.pair or self._request is None:
            return []
        before = {_Phase.MOVING: _Phase.IDLE, _Phase.FINISHING: _Phase.MOVED}
        request, self._request = self._request, None
        self._phase = before.get(self._phase, self._phase)
        return [_reply(request, reason)]


def _reply(request: FiltersRequest, reason: str = "") -> Send:
    return Send(FiltersReply(request.sequence, request.handover, request.stage, reason))


def made_anew(
    before: Collection[Association], after: Collection[Association], known: Pair | None = None
) -> Pair | None:
    """The pair of an IKE_SA that was made beside all that there were, so it has not been migrated there.

    `known`: the last one, which counts as long as it is there.
    """
    had, has = ({association.pair for association in associations} for associations in (before, after))
    if had and had < has:
        return max(has - had)
    return known if known in has else None

"""The half of the machine that knows the peer's binding: the role of the correspondent host.

Theory of operation
===================

An address change message carries the peer's whole binding, so there is nothing to accumulate: a message with a higher
sequence than the last, from the identity that owns the addresses, replaces what was known; one with the same sequence
and content is answered again; a lower one is answered "stale" and changes nothing (RFC 6275 §9.5.1).

A new current address is *announced* until the peer has sent our challenge back, then *proven*. Data goes to the last
proven address all the while; only control datagrams go to the announced one, and of them no more than `credit` allows.
When no path response comes within PROOF_TIME, the binding *falls back*: the last proven address is current again, and
control datagrams go there as well (RFC 9000 §9.3.2). The peer's next retransmission begins all that anew. An address
that was never proven is *doubtful*: it keeps no other peer from having it.

Addresses that left the binding stay guarded (`lingering`) as long as sockets of this host are connected to them: the
kernel would retransmit their data to the released address without any policy, in clear. So do those that never were in
it, when their IKE_SA has gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

from swanroam.protocol.authorisation import Ground, Policy, Refusal, Surroundings, authorise
from swanroam.protocol.binding import Binding
from swanroam.protocol.bucket import Bucket
from swanroam.protocol.credit import Credit
from swanroam.protocol.events import Action, Association, Fact, ReadUsage, ReleaseFilters, Report, Send
from swanroam.protocol.handover import Cause, Handover, Result, Step
from swanroam.protocol.host_state import Pair, pairs_between
from swanroam.protocol.messages import (
    NONCE_SIZE,
    Acknowledgment,
    AddressChange,
    IPAddress,
    Message,
    PathResponse,
    Verdict,
)
from swanroam.protocol.snapshot import Snapshot

PROOF_TIME = 10.0
"""Seconds that a challenge is good for; then the last proven address is current again."""
MAX_CHANGES = 3.0
"""New sequences a second that one identity may bring (RFC 6275 §12, MAX_UPDATE_RATE), with a burst of ten."""
BURST = 10.0
MAX_LINGERING = 64
"""Released addresses that one identity may have guarded here, before it may change its address again."""
LINGER_LEAST = 1.0
"""Seconds for which a released address stays guarded at least: a UDP socket that is not connected, and so is not seen
to use it, goes on sending there until it hears the peer from elsewhere."""
LINGER_INTERVAL = 2.0
"""Seconds between two counts of the sockets that are connected to a released address."""
STRAY_PATIENCE = 5.0
"""Seconds after which an IKE_SA with a released address is terminated from our side: the peer's delete may be lost."""


@dataclass(slots=True)
class _Lingering:
    due: float
    stray_due: float
    counting: bool = False
    terminated: bool = False


class Correspondent:
    """The peer's binding, as far as it is authorised and proven."""

    def __init__(
        self,
        policy: Policy,
        token: Callable[[int], bytes],
        *,
        grace: float,
        instance: bytes,
        software: str | None = None,
    ) -> None:
        self.policy = policy
        self.binding: Binding | None = None
        self.proven: IPAddress | None = None
        """The last address that the peer has proven."""
        self.last_sequence = 0
        self.handover: Handover | None = None
        self.refusals: Counter[Ground] = Counter()
        """Address changes that were not honoured."""
        self.peer_instance = b""
        self.credit = Credit()
        self.fallen_back = False
        """The binding is not the one that the peer announced last."""
        self._doubtful: set[IPAddress] = set()
        self._last: AddressChange | None = None
        self._token = token
        self._grace_ms = round(grace * 1000)
        self._instance = instance
        self._software = software
        self._challenge: bytes | None = None
        self._challenge_ends = 0.0
        self._bucket = Bucket(BURST, MAX_CHANGES)
        self._lingering: dict[IPAddress, _Lingering] = {}
        self._seen: frozenset[IPAddress] = frozenset()
        """Its addresses in charon."""

    def reconfigure(self, policy: Policy, *, grace: float) -> None:
        """What the peer may from now on. What was granted before stays."""
        self.policy = policy
        self._grace_ms = round(grace * 1000)

    @property
    def lingering(self) -> tuple[IPAddress, ...]:
        """Released addresses that stay guarded."""
        return tuple(self._lingering)

    @property
    def unproven(self) -> IPAddress | None:
        """The current address, while it is not proven."""
        return self.binding.current if self.binding is not None and self.proven != self.binding.current else None

    @property
    def claimed(self) -> frozenset[IPAddress]:
        """Addresses that nobody else may have."""
        return frozenset(self.binding.addresses if self.binding is not None else ()) - self._doubtful

    @property
    def answerable(self) -> bool:
        """What the peer asks about its last announcement can be done: it is in force, and proven."""
        return self.binding is not None and self.unproven is None and not self.fallen_back

    @property
    def unannounced(self) -> tuple[IPAddress, ...]:
        """Where charon has it, or had it in the last run, and it has not said so itself."""
        if self.binding is None:
            return ()
        return tuple(sorted(self._seen.difference(self._lingering, self.binding.addresses), key=str))

    def associated(self, own: IPAddress, associations: Collection[Association]) -> list[Pair]:
        """Pairs that charon has an IKE_SA for; those of the last run, until charon is read. `own`: our address."""
        return [known.pair for known in associations] or pairs_between([own], self.unannounced)

    def restore(self, snapshot: Snapshot, now: float) -> None:
        """Takes over what an earlier run knew."""
        self.last_sequence = snapshot.last_sequence
        self.binding = snapshot.peer
        self.proven = snapshot.proven
        self._seen = frozenset(snapshot.unannounced)
        if (current := self.unproven) is not None:
            self._doubtful.add(current)
        self._renew_challenge(now)
        for address in snapshot.lingering:
            self.linger(address, now)

    def linger(self, address: IPAddress, now: float) -> None:
        """It is the peer's no more: it stays guarded while sockets of this host use it."""
        self._lingering.setdefault(address, _Lingering(now + LINGER_LEAST, now + STRAY_PATIENCE))

    def forget(self, now: float) -> None:
        """The peer is gone."""
        for address in self.binding.addresses if self.binding is not None else ():
            self.linger(address, now)
        self.binding = self.proven = self.handover = self._last = self._challenge = None
        self.fallen_back = False
        self._doubtful.clear()

    # --- what came in -----------------------------------------------------------------------------------------

    def changed(
        self,
        message: AddressChange,
        associations: Collection[Association],
        surroundings: Surroundings,
        now: float,
    ) -> list[Action]:
        known = self._last
        repeated = known is not None and message.sequence == known.sequence and _same(message, known)
        if repeated and not self.fallen_back:
            self._last = message  # its nonce may be that of a new run
            self._renew_challenge(now)
            return [self._acknowledge(message, Verdict.ACCEPTED)]
        associated = {association.pair.remote for association in associations}
        refusal = self._limits(message, now, repeated=repeated)
        refusal = refusal or authorise(message, self.policy, surroundings, self.binding, associated)
        if refusal is not None:
            return self._refuse(message, refusal)
        return self._accept(message, associated, now)

    def heard(self, message: Message) -> None:
        """A message of the peer: it is worth an answer, wherever that goes."""
        if (current := self.unproven) is not None:
            self.credit.receive(message, current.version)

    def affords(self, message: Message) -> bool:
        """The message may be sent to where the peer says that it is. If so, it counts as sent."""
        current = self.unproven
        return current is None or self.credit.spend(message, current.version)

    def path_response(self, message: PathResponse, surroundings: Surroundings, now: float) -> list[Action]:
        if self._last is None or self.binding is None or message.sequence != self._last.sequence or self.fallen_back:
            return [Report(Fact.UNEXPECTED_MESSAGE, "a path response for an overtaken change")]
        if self._challenge is None and self.proven == self.binding.current:
            return [self._acknowledge(self._last, Verdict.ACCEPTED)]  # our acknowledgment of it was lost
        if self._challenge is None or message.challenge != self._challenge or now >= self._challenge_ends:
            return [Report(Fact.PATH_NOT_PROVEN, "a path response that answers no challenge of ours", self.handover)]
        if self.binding.current in surroundings.registered:  # another peer was faster to prove it
            refusal = Refusal(Verdict.IN_USE, Ground.ANOTHER_PEERS, f"{self.binding.current} belongs to another peer")
            return [*self._refuse(self._last, refusal), *self._fall_back()]
        self._challenge = None
        self.proven = self.binding.current
        self._doubtful.discard(self.proven)
        return [
            self._acknowledge(self._last, Verdict.ACCEPTED),
            *self._step(Step.PROVEN, now),
            Report(Fact.PATH_PROVEN, str(self.proven), self.handover),
        ]

    def transported(self, now: float) -> list[Action]:
        """The peer has gone over all sockets."""
        return self._step(Step.TRANSPORT, now)

    def usage_read(self, address: IPAddress, sockets: int, now: float) -> list[Action]:
        entry = self._lingering.get(address)
        if entry is None or not entry.counting:
            return []
        entry.counting = False
        if sockets == 0 and entry.terminated:
            del self._lingering[address]
            return [Report(Fact.ADDRESS_RELEASED, str(address))]
        entry.due = now + LINGER_INTERVAL
        return []

    def expire(self, now: float) -> list[Action]:
        """The time for a proof may be over. To be called before anything else that happens."""
        if self._challenge is None or now < self._challenge_ends:
            return []
        return self._fall_back()

    # --- what is missing --------------------------------------------------------------------------------------

    def advance(self, associations: Collection[Association], own_current: IPAddress, now: float) -> list[Action]:
        """What to do next, given what is known now."""
        actions: list[Action] = []
        remotes = {association.pair.remote for association in associations}
        for address in self.unannounced:
            if address not in remotes:
                self.linger(address, now)  # there may be sockets already
        self._seen = frozenset(remotes)
        if self.binding is not None:
            pair = Pair(own_current, self.binding.current)
            if self.proven == self.binding.current and any(
                association.pair == pair and association.complete for association in associations
            ):
                actions += self._step(Step.FILTERS, now)
                actions += self._finish(now)
        for address, entry in self._lingering.items():
            if address not in remotes:
                entry.terminated = True
            elif not entry.terminated and now >= entry.stray_due:
                entry.stray_due = now + STRAY_PATIENCE
                actions.append(ReleaseFilters(address))
            if now >= entry.due and not entry.counting:
                entry.counting = True
                actions.append(ReadUsage(address))
        return actions

    def deadlines(self) -> list[float]:
        """Times at which `advance` may have something to do."""
        times = [entry.due for entry in self._lingering.values() if not entry.counting]
        times += [entry.stray_due for entry in self._lingering.values() if not entry.terminated]
        if self._challenge is not None:
            times.append(self._challenge_ends)
        return times

    # --- inside -----------------------------------------------------------------------------------------------

    def _fall_back(self) -> list[Action]:
        assert self.binding is not None
        self._challenge = None
        failed, proven = self.binding.current, self.proven
        if proven is None:
            detail = f"no path response from {failed}; no other address is proven, so data goes nowhere"
            return [Report(Fact.PATH_NOT_PROVEN, detail, self.handover)]
        kept = [address for address in self.binding.deprecated if address != proven]
        if failed not in self._doubtful:
            kept.append(failed)  # an old address of the peer, to which it has not come back
        self.binding = Binding(proven, tuple(kept))
        self.fallen_back = True
        self._doubtful.intersection_update(kept)
        actions: list[Action] = []
        if self.handover is not None:
            detail = f"no path response; back at {proven}"
            actions.append(Report(Fact.HANDOVER_FINISHED, handover=self.handover.ended(Result.UNPROVEN, detail)))
            self.handover = None
        return [*actions, Report(Fact.PATH_NOT_PROVEN, f"no path response from {failed}; back at {proven}")]

    def _accept(self, message: AddressChange, associated: Collection[IPAddress], now: float) -> list[Action]:
        actions: list[Action] = []
        before = self.binding
        after = Binding(message.current, message.deprecated)
        self.last_sequence = message.sequence
        self._last = message
        self.peer_instance = message.instance
        self.binding = after
        if before is None:  # IKE itself has been through these addresses (RFC 7296 §2.6)
            newest_first = (after.current, *reversed(after.deprecated))
            self.proven = next((address for address in newest_first if address in associated), None)
        if self.proven not in after.addresses:
            self.proven = None  # released before the new one was proven: nothing may be sent there any more
        if before is None or before.current != after.current:
            if before is not None:
                if self.handover is not None:
                    overtaken = self.handover.ended(Result.OVERTAKEN, f"by a move to {after.current}")
                    actions.append(Report(Fact.HANDOVER_FINISHED, handover=overtaken))
                self.handover = Handover(
                    message.handover, before.current, after.current, message.sequence, now, cause=Cause.PEER
                )
                actions.append(
                    Report(Fact.HANDOVER_STARTED, f"peer {before.current} -> {after.current}", self.handover)
                )
            self._challenge = None
            self.credit.begin()
            if after.current not in (self.proven, *(before.addresses if before is not None else ())):
                self._doubtful.add(after.current)
        self.fallen_back = False
        self._doubtful.intersection_update(after.addresses)
        for address in after.addresses:
            self._lingering.pop(address, None)
        self._renew_challenge(now)
        actions += [self._acknowledge(message, Verdict.ACCEPTED)]
        actions += self._step(Step.ACKNOWLEDGED, now)
        actions.append(Report(Fact.CHANGE_ACCEPTED, _describe(after), self.handover))
        return actions

    def _limits(self, message: AddressChange, now: float, *, repeated: bool) -> Refusal | None:
        """What does not depend on the addresses that it names. `repeated`: it is the last one, which fell back."""
        if message.sequence <= self.last_sequence and not repeated:
            reason = f"sequence {message.sequence}, have {self.last_sequence}"
            return Refusal(Verdict.STALE, Ground.STALE, reason)
        if not self._bucket.take(now):
            reason = "more changes than the limit of 3 a second"
            return Refusal(Verdict.RATE_LIMITED, Ground.RATE_LIMITED, reason)
        moves = self.binding is not None and message.current != self.binding.current
        if moves and len(self._lingering) >= MAX_LINGERING:
            reason = f"sockets here still use {len(self._lingering)} addresses that you have left"
            return Refusal(Verdict.RATE_LIMITED, Ground.TOO_MANY, reason)
        return None

    def _refuse(self, message: AddressChange, refusal: Refusal) -> list[Action]:
        self.refusals[refusal.ground] += 1
        fact = Fact.CHANGE_STALE if refusal.ground is Ground.STALE else Fact.CHANGE_REFUSED
        return [
            self._acknowledge(message, refusal.verdict, refusal.reason),
            Report(fact, refusal.reason, reason=refusal.ground.value),
        ]

    def _renew_challenge(self, now: float) -> None:
        if self.binding is not None and self.proven != self.binding.current and self._challenge is None:
            self._challenge = self._token(NONCE_SIZE)
            self._challenge_ends = now + PROOF_TIME

    def _acknowledge(self, message: AddressChange, verdict: Verdict, reason: str = "") -> Send:
        challenge = self._challenge if verdict is Verdict.ACCEPTED else None
        return Send(
            Acknowledgment(
                sequence=message.sequence,
                handover=message.handover,
                nonce=message.nonce,
                verdict=verdict,
                challenge=challenge,
                grace_ms=self._grace_ms,
                last_sequence=self.last_sequence,
                reason=reason,
                instance=self._instance,
                software=self._software,
            )
        )

    def _finish(self, now: float) -> list[Action]:
        if self.handover is None or self.binding is None or self.binding.deprecated:
            return []
        actions = self._step(Step.RELEASED, now)
        actions.append(Report(Fact.HANDOVER_FINISHED, handover=self.handover.ended(Result.DONE)))
        self.handover = None
        return actions

    def _step(self, step: Step, now: float) -> list[Action]:
        if self.handover is None or self.handover.reached(step):
            return []
        self.handover = self.handover.with_step(step, now)
        return [Report(Fact.HANDOVER_STEP, step.value, self.handover)]


def _same(one: AddressChange, other: AddressChange) -> bool:
    return one.current == other.current and set(one.deprecated) == set(other.deprecated)


def _describe(binding: Binding) -> str:
    if not binding.deprecated:
        return f"at {binding.current}"
    return f"at {binding.current}, carrying {', '.join(map(str, binding.deprecated))}"

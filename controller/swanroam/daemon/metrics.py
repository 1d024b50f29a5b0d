"""The metrics: which there are, and how each is read from the daemon.

Names and units: https://prometheus.io/docs/practices/naming/. A label has few values: members of enumerations, message
types, names of errors, the kernel's counters, names of configured peers. No address, no port, and nothing that a peer
says is one. `docs/metrics.md` has the table of `METRICS`.
"""

from __future__ import annotations

import enum
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from swanroam import __version__
from swanroam.daemon.counts import Counts, Histogram, ReloadResult, Role, message_type
from swanroam.daemon.peer import Peer
from swanroam.daemon.peer_state import PeerState, peer_state
from swanroam.protocol.authorisation import Ground
from swanroam.protocol.events import Fact
from swanroam.protocol.handover import Result, Step
from swanroam.protocol.messages import Message, Obstacle

STEPS = tuple(Step)
UNFINISHED = (Result.RUNNING, Result.CARRYING)
MESSAGES = tuple(message_type(kind) for kind in Message.__args__)


class Kind(enum.Enum):
    """As Prometheus calls them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the metrics are made of, at one moment."""

    counts: Counts
    peers: tuple[Peer, ...]
    attention: Mapping[str, bool]
    """By the peer's name: `status` shows a problem of it."""
    problems: int
    """All that `status` shows."""
    carriers: int
    dropped: Mapping[str, int]
    """Datagrams on the control channel, by reason."""
    unsent: Mapping[str, int]
    """The same, by error name."""
    carrier_dropped: Mapping[str, int]
    """Packets, by IP version."""
    xfrm: Mapping[str, int]
    """The kernel's counters; empty where it has none."""
    charon_connected: bool
    kernel_applied: bool
    journal_written: bool
    configuration_taken: bool
    """The file was taken over when it was read last."""


Samples = Iterable[tuple[tuple[str, ...], float | Histogram]]


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric."""

    name: str
    """As it is exposed; a counter's ends in _total."""
    kind: Kind
    help: str
    read: Callable[[Reading], Samples]
    labels: tuple[str, ...] = ()
    values: str = ""
    """The values of its labels, for people, where the help does not say them."""


def _alone(read: Callable[[Reading], float]) -> Callable[[Reading], Samples]:
    """A metric without labels."""
    return lambda reading: [((), float(read(reading)))]


def _by_name(read: Callable[[Reading], Mapping[str, int]]) -> Callable[[Reading], Samples]:
    return lambda reading: [((name,), float(count)) for name, count in sorted(read(reading).items())]


def _messages(read: Callable[[Counts], Mapping[str, int]]) -> Callable[[Reading], Samples]:
    return lambda reading: [((kind,), float(read(reading.counts).get(kind, 0))) for kind in MESSAGES]


def _handovers(reading: Reading) -> Samples:
    ended = [result for result in Result if result not in UNFINISHED]
    return [
        ((role.value, result.value), float(reading.counts.handovers[role, result])) for role in Role for result in ended
    ]


def _unfinished(reading: Reading) -> Samples:
    found: Counter[tuple[Role, Result]] = Counter()
    for peer in reading.peers:
        for role, half in ((Role.MOBILE, peer.machine.mobile), (Role.CORRESPONDENT, peer.machine.correspondent)):
            if half.handover is not None:
                found[role, Result.CARRYING if half.handover.result is Result.CARRYING else Result.RUNNING] += 1
    return [((role.value, result.value), float(found[role, result])) for role in Role for result in UNFINISHED]


def _steps(reading: Reading) -> Samples:
    steps = reading.counts.steps
    return [((role.value, step.value), steps.get((role, step), Histogram())) for role in Role for step in STEPS]


def _kept(reading: Reading) -> Samples:
    found: Counter[Obstacle] = Counter()
    for peer in reading.peers:
        if not (all_kept := peer.machine.transfers.tally.kept):
            continue
        own, its = peer.machine.own, peer.machine.peer
        old = {*(own.deprecated if own is not None else ()), *(its.deprecated if its is not None else ())}
        for (pair, _), kept in all_kept.items():
            if pair.local in old or pair.remote in old:
                found[kept.obstacle] += 1
    reasons = [obstacle for obstacle in Obstacle if obstacle is not Obstacle.NONE]
    return [((obstacle.name.lower(),), float(found[obstacle])) for obstacle in reasons]


def _refused(reading: Reading) -> Samples:
    found = reading.counts.refused.copy()
    for peer in reading.peers:
        found.update(peer.machine.correspondent.refusals)
    return [((ground.value,), float(found[ground])) for ground in Ground]


def _states(reading: Reading) -> Samples:
    found = Counter(peer_state(peer.machine) for peer in reading.peers)
    return [((state.value,), float(found[state])) for state in PeerState]


_ROLE = "`role`: `mobile` (this host's address changes), `correspondent` (the peer's)"

METRICS: tuple[Definition, ...] = (
    Definition(
        "swanroam_build_info",
        Kind.GAUGE,
        "Version of swanroam and of the Python that it runs on; always 1.",
        lambda reading: [((__version__, platform.python_version()), 1.0)],
        ("version", "python_version"),
    ),
    Definition(
        "swanroam_problems",
        Kind.GAUGE,
        "Lines with which `swanroam status` asks for attention; 0: all is fine.",
        _alone(lambda reading: reading.problems),
    ),
    Definition(
        "swanroam_peers",
        Kind.GAUGE,
        "Peers by state. Those that are no more configured count until they have gone.",
        _states,
        ("state",),
        ", ".join(f"`{state.value}`" for state in PeerState),
    ),
    Definition(
        "swanroam_peer_attention",
        Kind.GAUGE,
        "1: `swanroam status` shows a problem of this peer. 0: none.",
        lambda reading: [((name,), float(attention)) for name, attention in reading.attention.items()],
        ("peer",),
        "its `name` in the configuration",
    ),
    Definition(
        "swanroam_handovers_total",
        Kind.COUNTER,
        "Handovers that have ended, by how.",
        _handovers,
        ("role", "result"),
        f"{_ROLE}; `result`: `done`, `overtaken` (another move came first), `refused`, `unanswered`, `unproven`",
    ),
    Definition(
        "swanroam_handovers_unfinished",
        Kind.GAUGE,
        "Handovers that have begun and not ended.",
        _unfinished,
        ("role", "result"),
        f"{_ROLE}; `result`: `running`, `carrying` (done but for sockets that keep the old address)",
    ),
    Definition(
        "swanroam_handover_step_seconds",
        Kind.HISTOGRAM,
        "Time from the start of a handover until a step was done, on this host.",
        _steps,
        ("role", "step"),
        f"{_ROLE}; `step`: {', '.join(f'`{step.value}`' for step in STEPS)}",
    ),
    Definition(
        "swanroam_sockets_moved_total",
        Kind.COUNTER,
        "Sockets of this host that were moved to a new address pair; one that moves twice counts twice.",
        _alone(
            lambda reading: (
                reading.counts.sockets_moved + sum(peer.machine.transfers.tally.moved_ever for peer in reading.peers)
            )
        ),
    ),
    Definition(
        "swanroam_sockets_lost_total",
        Kind.COUNTER,
        "Connections that ended because a socket could not be put together again at any address. Must stay 0.",
        _alone(
            lambda reading: (
                reading.counts.sockets_lost + sum(peer.machine.transfers.tally.lost_ever for peer in reading.peers)
            )
        ),
    ),
    Definition(
        "swanroam_sockets_kept",
        Kind.GAUGE,
        "Sockets that stay on an old address, by why, as when they were last looked at. At most 8192 a peer.",
        _kept,
        ("reason",),
        "see [sockets.md](sockets.md)",
    ),
    Definition(
        "swanroam_carriers",
        Kind.GAUGE,
        "Address pairs whose packets travel in a carrier at present.",
        _alone(lambda reading: reading.carriers),
    ),
    Definition(
        "swanroam_carrier_dropped_packets_total",
        Kind.COUNTER,
        "Packets that came out of a carrier and were not admitted. Begins anew when the kernel's filter is made anew.",
        _by_name(lambda reading: reading.carrier_dropped),
        ("family",),
        "`AF_INET`, `AF_INET6`",
    ),
    Definition(
        "swanroam_xfrm_errors_total",
        Kind.COUNTER,
        "Packets that IPsec in the kernel has dropped, in the network namespace of the daemon, whoever's they were. "
        "`XfrmOutPolBlock` and `XfrmInPolBlock` are what block policies have stopped: swanroam's guards and locks, and "
        "those of others, because the kernel does not count for each policy. Absent without CONFIG_XFRM_STATISTICS.",
        _by_name(lambda reading: reading.xfrm),
        ("counter",),
        "lines of /proc/net/xfrm_stat",
    ),
    Definition(
        "swanroam_messages_sent_total",
        Kind.COUNTER,
        "Messages sent on the control channel, retransmissions among them.",
        _messages(lambda counts: counts.sent),
        ("type",),
        ", ".join(f"`{kind}`" for kind in MESSAGES),
    ),
    Definition(
        "swanroam_messages_retransmitted_total",
        Kind.COUNTER,
        "Those of them that were sent again, because no answer had come.",
        _messages(lambda counts: counts.retransmitted),
        ("type",),
        "as above",
    ),
    Definition(
        "swanroam_messages_received_total",
        Kind.COUNTER,
        "Messages of peers that were taken.",
        _messages(lambda counts: counts.received),
        ("type",),
        "as above",
    ),
    Definition(
        "swanroam_datagrams_dropped_total",
        Kind.COUNTER,
        "Datagrams on the control channel that were not taken. Only reasons that there were.",
        _by_name(lambda reading: reading.dropped),
        ("reason",),
        "`wrong_port`, `unknown_sender`, `unproven_sender`, `too_many`, `queue_full`, and those of "
        "[protocol.md](protocol.md)",
    ),
    Definition(
        "swanroam_datagrams_unsent_total",
        Kind.COUNTER,
        "Datagrams that the kernel did not take: no SA, no route, full queue. Only errors that there were.",
        _by_name(lambda reading: reading.unsent),
        ("error",),
        "names of errno(3)",
    ),
    Definition(
        "swanroam_address_changes_refused_total",
        Kind.COUNTER,
        "Address changes of peers that were not honoured.",
        _refused,
        ("reason",),
        "[reasons of refusals](operations.md#reasons-of-refusals)",
    ),
    Definition(
        "swanroam_events_total",
        Kind.COUNTER,
        "What the handover protocol has reported, by log event; lines that the log has left out count as well.",
        lambda reading: [((fact.value,), float(reading.counts.facts[fact])) for fact in Fact],
        ("event",),
        "[log events](operations.md#log-events)",
    ),
    Definition(
        "swanroam_charon_connected",
        Kind.GAUGE,
        "1: charon answers on its VICI socket.",
        _alone(lambda reading: reading.charon_connected),
    ),
    Definition(
        "swanroam_kernel_state_applied",
        Kind.GAUGE,
        "1: the kernel has what it should. 0: it has refused something, which is tried again.",
        _alone(lambda reading: reading.kernel_applied),
    ),
    Definition(
        "swanroam_kernel_mended_total",
        Kind.COUNTER,
        "How often something of swanroam's in the kernel had been changed or removed by somebody else.",
        _alone(lambda reading: reading.counts.mended),
    ),
    Definition(
        "swanroam_journal_written",
        Kind.GAUGE,
        "1: the journal on disk is complete.",
        _alone(lambda reading: reading.journal_written),
    ),
    Definition(
        "swanroam_config_reloads_total",
        Kind.COUNTER,
        "How often the configuration file was read again, by what came of it.",
        lambda reading: [((result.value,), float(reading.counts.reloads[result])) for result in ReloadResult],
        ("result",),
        ", ".join(f"`{result.value}`" for result in ReloadResult),
    ),
    Definition(
        "swanroam_config_last_reload_successful",
        Kind.GAUGE,
        "0: the file was refused when it was read last, and an older configuration is at work.",
        _alone(lambda reading: reading.configuration_taken),
    ),
)

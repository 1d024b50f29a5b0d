"""Tables from results: the same for the terminal and for a page. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.figures import median, ratio, slope
from bench.results import Machine, MoveSample, Results, SocketsSample, ThroughputSample

NONE = "–"
MOBIKE = "mobike + virtual ip"
PLAIN = "plain transport"
REFERENCES = (MOBIKE, PLAIN)
STEPS = ("deprecated", "acknowledged", "proven", "filters", "transport", "grace", "released")
MANY = 100
"""Connections from which on the cost of one more is reckoned: below, a move's own cost hides it."""


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, what it shows and how, columns, rows."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        """For a terminal: columns below each other, numbers to the right."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[index]) for line in lines) for index in range(len(self.columns))]
        shown = [
            "  ".join(
                cell.ljust(width) if index == 0 else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.title, *([self.note] if self.note else []), "", *(f"  {line}" for line in shown)])

    def markdown(self) -> str:
        """For a page."""
        lines = [self.columns, ("---", *("---:" for _ in self.columns[1:])), *self.rows]
        body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
        return "\n".join([f"### {self.title}", "", *([self.note, ""] if self.note else []), *body])


def tables(results: Results) -> list[Table]:
    """Everything that was measured."""
    made = [machine_table(results.machine, results.outside)]
    for rtt, move in sorted({(s.rtt_ms, s.move) for s in results.moves}, key=lambda key: (-key[0], key[1] != "soft")):
        chosen = [sample for sample in results.moves if (sample.rtt_ms, sample.move) == (rtt, move)]
        made += [silence_table(chosen, rtt, move, results.settings.overlap), steps_table(chosen, rtt, move)]
    if results.clear:
        made.append(clear_table(results))
    if results.sockets:
        made += [sockets_table(results.sockets), slope_table(results.sockets)]
    for rtt in sorted({sample.rtt_ms for sample in results.throughput}, reverse=True):
        made.append(throughput_table([sample for sample in results.throughput if sample.rtt_ms == rtt], rtt))
    return made


def _contenders(samples: Iterable[MoveSample | SocketsSample | ThroughputSample]) -> list[str]:
    """Names in the order in which they were measured."""
    return list(dict.fromkeys(sample.contender for sample in samples))


def number(value: float | None) -> str:
    """With three digits that matter, or as an integer."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def times(value: float | None) -> str:
    """A ratio: 0.35x."""
    return NONE if value is None else f"{value:.2f}x" if value < 100 else f"{value:,.0f}x"


def spread(values: Sequence[float]) -> str:
    """Median and, in brackets, the worst: 471 (512)."""
    return f"{median(values):,.0f} ({max(values):,.0f})" if values else NONE


def machine_table(inside: Machine, outside: Machine | None) -> Table:
    """What elementary things cost, in the kernel of the run and outside it."""
    if outside is None:
        note = f"kernel {inside.kernel}, {inside.processors} processor(s), not emulated"
        rows = tuple((name, f"{cost:,.2f}") for name, cost in inside.costs.items())
        return Table("The machine", note, ("costs, µs", "here"), rows)
    note = (
        f"The kernel of this run ({inside.kernel}, {inside.processors} processor) is EMULATED on another one "
        f"({outside.kernel}, {outside.processors} processors). Programs run at full speed in it; system calls, new "
        "processes and packets do not. The last column is the share of emulation; every time below contains it. "
        "Compare ratios."
    )
    names = list(dict.fromkeys((*inside.costs, *outside.costs)))
    rows = tuple(
        (
            name,
            number(inside.costs.get(name)),
            number(outside.costs.get(name)),
            times(ratio(inside.costs.get(name), outside.costs.get(name))),
        )
        for name in names
    )
    return Table("The machine", note, ("costs, µs", "emulated", "native", "emulated / native"), rows)


def worst_tcp(sample: MoveSample) -> float:
    return max(sample.tcp_up_ms, sample.tcp_down_ms)


def worst_udp(sample: MoveSample) -> float:
    return max(sample.udp_up_ms, sample.udp_down_ms)


def silence_table(samples: Sequence[MoveSample], rtt: int, move: str, overlap: float) -> Table:
    """Of one kind of move at one delay."""
    first = samples[0]
    count = max(sum(sample.contender == name for sample in samples) for name in _contenders(samples))
    about = (
        f"{median([s.addressless_ms for s in samples]):,.0f} ms without any address, which are part of every figure"
        if move == "hard"
        else f"the new address comes {overlap:g} s before the old one goes"
    )
    note = (
        f"Longest time without a message at the receiver, ms: median (worst) of {count}; {about}. In the second before "
        f"the move the longest was {median([s.floor_tcp_ms for s in samples]):,.0f} (TCP). Up: mobile host to "
        "correspondent. Ratios: medians of the worse direction."
    )
    own = {name: [s for s in samples if s.contender == name] for name in _contenders(samples)}

    def against(pick: Callable[[MoveSample], float], name: str, reference: str) -> str:
        if reference not in own or name == reference:
            return NONE
        return times(ratio(median([pick(s) for s in own[name]]), median([pick(s) for s in own[reference]])))

    rows = tuple(
        (
            name,
            spread([s.tcp_up_ms for s in mine]),
            spread([s.tcp_down_ms for s in mine]),
            *(against(worst_tcp, name, reference) for reference in REFERENCES),
            spread([s.udp_up_ms for s in mine]),
            spread([s.udp_down_ms for s in mine]),
            *(against(worst_udp, name, reference) for reference in REFERENCES),
            spread([s.udp_lost_up for s in mine]),
            spread([s.udp_lost_down for s in mine]),
            number(median([s.udp_lost_addressless for s in mine])) if move == "hard" else NONE,
            number(median([s.reconnects for s in mine])),
        )
        for name, mine in own.items()
    )
    columns = (
        "contender", "TCP up", "TCP down", "/ mobike", "/ plain", "UDP up", "UDP down", "/ mobike", "/ plain",
        "UDP lost up", "lost down", "of both without address", "reconnects",
    )  # fmt: skip
    return Table(f"Silence in a {move} move, {rtt} ms round trip", note, columns, rows if first else ())


def steps_table(samples: Sequence[MoveSample], rtt: int, move: str) -> Table:
    """When each step was done, and when SAs and policies stood at the new address."""
    rows = []
    for name in _contenders(samples):
        mine = [sample for sample in samples if sample.contender == name]
        for host, records in (("mobile", [s.steps for s in mine]), ("correspondent", [s.peer_steps for s in mine])):
            if any(records):
                cells = (spread([record[step] for record in records if step in record]) for step in STEPS)
                rows.append((f"{name}, {host}", *cells, NONE))
        rows.append((f"{name}, both hosts", *(NONE for _ in STEPS), spread([s.settled_ms for s in mine])))
    note = (
        "ms: median (worst). Steps: after the start of the handover on that host. Settled: from the arrival of the new "
        "address until SAs and policies (and sockets, where they move) stand there on both hosts; charon's by its log. "
        "Grace is set to 1 s; released comes when the programs have closed their sockets."
    )
    return Table(f"Steps of a {move} move, {rtt} ms round trip", note, ("", *STEPS, "settled"), tuple(rows))


def clear_table(results: Results) -> Table:
    """What was not protected."""
    rows = tuple((s.contender, s.move, f"{s.clear:,}", f"{s.packets:,}") for s in results.clear)
    note = "Packets between the two hosts, counted on the router during a move of its own, which was not timed."
    return Table("In clear", note, ("contender", "move", "in clear", "of"), rows)


def sockets_table(samples: Sequence[SocketsSample]) -> Table:
    """One row for each contender and number of connections."""
    rows = tuple(
        (
            sample.contender,
            f"{sample.opened:,}",
            number(sample.handover_ms),
            number(sample.answered_ms),
            number(sample.silence_ms),
            f"{sample.lost:,}",
            f"{sample.reopened:,}",
            number(sample.status_ms),
            NONE if sample.listed is None else f"{sample.listed:,}",
        )
        for sample in samples
    )
    note = (
        "A move at once (no gap, no overlap), ms, one each. Settled: as above. All answered: from the arrival of the "
        "new address until every connection has answered a request made right after it, reopened where the application "
        "reconnects. Silence: of one connection more, which ticks. Status: how long `swanroam status` takes then, and "
        "the sockets that it lists on the carrier."
    )
    columns = (
        "contender", "connections", "settled", "all answered", "silence", "lost", "reopened", "status", "listed",
    )  # fmt: skip
    return Table("Many connections", note, columns, rows)


def slope_table(samples: Sequence[SocketsSample]) -> Table:
    """What one connection more costs."""
    found = {}
    for name in _contenders(samples):
        many = [sample for sample in samples if sample.contender == name and sample.opened >= MANY]
        found[name] = [
            slope([(sample.opened, pick(sample)) for sample in many])
            for pick in (lambda s: s.handover_ms, lambda s: s.answered_ms, lambda s: s.silence_ms)
        ]
    rows = tuple(
        (
            name,
            *(NONE if value is None else f"{value * 1000:,.0f}" for value in values),
            *(
                NONE if name == reference or reference not in found else times(ratio(values[1], found[reference][1]))
                for reference in REFERENCES
            ),
        )
        for name, values in found.items()
    )
    note = f"µs for each connection more: slope of the straight line through the rows above from {MANY} connections on."
    columns = ("contender", "settled", "all answered", "silence", "all answered / mobike", "/ plain")
    return Table("Cost of a connection", note, columns, rows)


def throughput_table(samples: Sequence[ThroughputSample], rtt: int) -> Table:
    """After the move against plain transport mode before it."""
    plain = {way: median(rates) for s in samples if s.contender == PLAIN for way, rates in s.before.items()}
    rows = tuple(
        (
            sample.contender,
            way,
            number(median(sample.before[way]) / 1e6),
            number(median(sample.after[way]) / 1e6),
            times(ratio(median(sample.after[way]), median(sample.before[way]))),
            times(ratio(median(sample.after[way]), plain.get(way))),
        )
        for sample in samples
        for way in sample.before
    )
    note = "MB/s of one connection, median of three windows; plain transport after the move: a new connection."
    columns = ("contender", "direction", "before", "after", "after / before", "after / plain before")
    return Table(f"Throughput, {rtt} ms round trip", note, columns, rows)


def remarks(results: Results) -> list[str]:
    """What the tables do not say."""
    said = [f"Not run: {reason}" for reason in results.not_run]
    return said + [f"FAILED: {reason}" for reason in results.failed]


def terminal(results: Results) -> str:
    """Everything for the one who waits for it."""
    return "\n\n".join([*(table.text() for table in tables(results)), *remarks(results)])


def markdown(results: Results) -> str:
    """Everything for a page."""
    said = "\n".join(f"- {remark}" for remark in remarks(results))
    return "\n\n".join([*(table.markdown() for table in tables(results)), *([said] if said else [])]) + "\n"

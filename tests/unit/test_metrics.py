"""The metrics: what they count, how they are named, and that dashboard, rules and documentation know them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from swanroam.config import Config
from swanroam.daemon import readings as readings_module
from swanroam.daemon.addresses import AddressFollower
from swanroam.daemon.charon import CharonWatch
from swanroam.daemon.control_channel import ControlChannel
from swanroam.daemon.counts import BUCKETS, Counts, Histogram
from swanroam.daemon.exposition import Exposition, families
from swanroam.daemon.metrics import MESSAGES, METRICS, Kind, Reading
from swanroam.daemon.readings import Readings
from swanroam.daemon.reload import Reloading
from swanroam.daemon.status import Status
from swanroam.ike.vici import ViciClient
from swanroam.protocol.authorisation import Ground
from swanroam.protocol.events import AddressesRead, Send
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import Obstacle, Transport
from swanroam.protocol.transfer import Kept, Key, Tally
from unit.fake_host import A, B, FakeCharon, FakeHost, P, Q, Stage, on_stage

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "packaging" / "prometheus" / "swanroam.rules.yml"
DASHBOARD = ROOT / "packaging" / "grafana" / "swanroam.json"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
XFRM = {"XfrmOutPolBlock": 7, "XfrmInNoStates": 0}


class Scraped:
    """The metrics of a stage, as Prometheus would read them."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(readings_module, "read_statistics", lambda: XFRM)
        self.controller = stage.controller
        config = stage.controller.config
        self.charon = CharonWatch(ViciClient(config.vici_socket), stage.controller, FakeCharon())
        control = config.control
        self.channel = ControlChannel(control.address, control.port, 0, lambda sender: "", lambda sender, message: "")
        follower = AddressFollower(config.addresses, stage.controller)
        self.reloading = Reloading(Path("/nowhere"), config, stage.controller.counts, _nothing_adopted)
        status = Status(
            stage.controller, self.charon, follower, self.channel, _dropped, _no_owners, self.reloading, stage.history
        )
        self._readings = Readings(stage.controller, self.charon, self.channel, status, _dropped, self.reloading)

    async def reading(self) -> Reading:
        return await self._readings.take()

    async def samples(self) -> dict[tuple[str, frozenset[str]], float]:
        """By name and label values."""
        found = families(await self.reading())
        page, content_type = Exposition(lambda: found).page(OPENMETRICS)
        assert content_type.startswith("application/openmetrics-text")
        return {
            (sample.name, frozenset(sample.labels.values())): sample.value
            for family in parse_openmetrics(page.decode())
            for sample in family.samples
        }


def of(*values: str) -> frozenset[str]:
    """The labels of a sample."""
    return frozenset(values)


async def _nothing_adopted(old: Config, new: Config) -> None:
    pass


async def _no_owners(old: Pair, new: Pair) -> dict[Key, tuple[str, ...]]:
    return {}


async def _dropped() -> dict[str, int]:
    return {"AF_INET": 3}


async def moved(stage: Stage) -> None:
    """From A to B, all the way."""
    stage.associated((A, P))
    stage.submit(AddressesRead(A, frozenset({A})))
    await stage.until(lambda: stage.sent)
    stage.acknowledge()
    await stage.until(lambda: stage.peer.machine.managed)
    stage.submit(AddressesRead(B, frozenset({B})))
    await stage.until(lambda: stage.sent[-1].sequence > 1)
    stage.acknowledge()
    await stage.until(lambda: f"establish {Pair(B, P)}" in stage.host.log)
    stage.associated((A, P), (B, P))
    await stage.until(lambda: f"release {A}" in stage.host.log)
    stage.associated((B, P))
    await stage.until(lambda: stage.host.state.held == {B})
    stage.acknowledge()
    await stage.until(lambda: stage.peer.history)


@pytest.fixture
def scraping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def scrape(story: Callable[[Stage, Scraped], Awaitable[None]], host: FakeHost | None = None) -> None:
        async def run(stage: Stage) -> None:
            await story(stage, Scraped(stage, monkeypatch))

        on_stage(tmp_path, run, host=host)

    return scrape


def test_a_handover_is_counted_with_its_steps_and_messages(scraping: Callable[..., None]) -> None:
    async def story(stage: Stage, scraped: Scraped) -> None:
        before = await scraped.samples()
        await moved(stage)
        after = await scraped.samples()

        done = ("swanroam_handovers_total", of("mobile", "done"))
        assert (before[done], after[done]) == (0, 1)
        assert after["swanroam_handovers_total", of("correspondent", "done")] == 0
        for step in ("deprecated", "proven", "filters", "released"):
            assert after["swanroam_handover_step_seconds_count", of("mobile", step)] == 1, step
            assert after["swanroam_handover_step_seconds_bucket", of("mobile", step, "+Inf")] == 1
        released = stage.peer.history[-1].step_seconds["released"]
        assert after["swanroam_handover_step_seconds_sum", of("mobile", "released")] == pytest.approx(released)
        assert after["swanroam_messages_sent_total", of("address_change")] == sum(
            type(message).__name__ == "AddressChange" for message in stage.sent
        )
        assert after["swanroam_messages_received_total", of("acknowledgment")] == 0  # the stage's come another way
        assert after["swanroam_events_total", of("handover_finished")] == 1
        assert after["swanroam_peers", of("ready")] == 1
        assert after["swanroam_peers", of("moving")] == 0

    scraping(story)


def test_while_it_goes_on_a_handover_and_its_carrier_are_seen(scraping: Callable[..., None]) -> None:
    host = FakeHost()
    host.sockets = 1

    async def story(stage: Stage, scraped: Scraped) -> None:
        stage.associated((A, P))
        stage.submit(AddressesRead(A, frozenset({A})))
        await stage.until(lambda: stage.sent)
        stage.acknowledge()
        await stage.until(lambda: stage.peer.machine.managed)
        stage.submit(AddressesRead(B, frozenset({B})))
        await stage.until(lambda: stage.sent[-1].sequence > 1)
        stage.acknowledge()
        stage.associated((A, P), (B, P))
        running = await scraped.samples()
        assert running["swanroam_handovers_unfinished", of("mobile", "running")] == 1

        await stage.until(lambda: stage.peer.machine.mobile.waiting)
        stage.peer.machine.transfers.tally.keep(Pair(A, P), [Kept(Key(Transport.TCP, 1, 2), Obstacle.BOUND)])
        stage.peer.machine.transfers.tally.keep(Pair(Q, P), [Kept(Key(Transport.TCP, 1, 2), Obstacle.BOUND)])
        found = await scraped.samples()
        assert found["swanroam_handovers_unfinished", of("mobile", "carrying")] == 1
        assert found["swanroam_carriers", of()] == 1
        assert found["swanroam_sockets_kept", of("bound")] == 1
        assert found["swanroam_peers", of("moving")] == 1

    scraping(story, host)


def test_the_peers_handover_is_the_correspondents(scraping: Callable[..., None]) -> None:
    async def story(stage: Stage, scraped: Scraped) -> None:
        stage.associated((A, P))
        stage.change(1, P)
        await stage.until(lambda: stage.peer.machine.managed)
        stage.associated((A, P), (A, Q))
        stage.change(2, Q, P)
        await stage.until(lambda: stage.peer.machine.correspondent.handover)
        found = await scraped.samples()

        assert found["swanroam_handovers_unfinished", of("correspondent", "running")] == 1
        assert found["swanroam_handover_step_seconds_count", of("correspondent", "acknowledged")] == 1
        assert found["swanroam_peers", of("peer_moving")] == 1

    scraping(story)


def test_refusals_retransmissions_and_what_was_dropped_are_counted(scraping: Callable[..., None]) -> None:
    async def story(stage: Stage, scraped: Scraped) -> None:
        stage.associated((A, P))
        stage.submit(AddressesRead(A, frozenset({A})))
        await stage.until(lambda: len(stage.sent) > 2)  # nobody answers
        stage.change(1, A)
        await stage.until(lambda: stage.peer.machine.correspondent.refusals)
        scraped.channel.dropped["too_many"] += 4
        scraped.channel.unsent["ENETUNREACH"] += 2
        found = await scraped.samples()

        sent = sum(type(message).__name__ == "AddressChange" for message in stage.sent)
        assert found["swanroam_messages_sent_total", of("address_change")] == sent
        assert found["swanroam_messages_retransmitted_total", of("address_change")] == sent - 1
        refused = sum(found["swanroam_address_changes_refused_total", of(ground.value)] for ground in Ground)
        assert refused == 1
        assert found["swanroam_datagrams_dropped_total", of("too_many")] == 4
        assert found["swanroam_datagrams_unsent_total", of("ENETUNREACH")] == 2
        assert found["swanroam_carrier_dropped_packets_total", of("AF_INET")] == 3
        assert found["swanroam_xfrm_errors_total", of("XfrmOutPolBlock")] == 7

    scraping(story)


def test_a_refresh_is_no_retransmission(scraping: Callable[..., None]) -> None:
    async def story(stage: Stage, scraped: Scraped) -> None:
        stage.associated((A, P))
        stage.submit(AddressesRead(A, frozenset({A})))
        await stage.until(lambda: stage.sent)
        stage.acknowledge()
        await stage.until(lambda: stage.peer.machine.mobile.settled)
        before = await scraped.samples()
        known = len(stage.sent)
        await asyncio.sleep(stage.controller.config.timing.refresh)
        await stage.until(lambda: len(stage.sent) > known)
        stage.acknowledge()
        after = await scraped.samples()

        sent = ("swanroam_messages_sent_total", of("address_change"))
        again = ("swanroam_messages_retransmitted_total", of("address_change"))
        assert after[sent] > before[sent]
        assert after[again] == before[again]

    scraping(story)


def test_trouble_is_seen(scraping: Callable[..., None]) -> None:
    async def story(stage: Stage, scraped: Scraped) -> None:
        stage.associated((A, P))
        await stage.until(lambda: stage.sent)
        fine = await scraped.samples()
        assert fine["swanroam_problems", of()] == 0
        assert fine["swanroam_peer_attention", of("server")] == 0
        assert fine["swanroam_config_last_reload_successful", of()] == 1

        stage.peer.contradiction = "CHILD_SA data has no SA in the kernel"
        stage.controller.not_applied = "no memory"
        stage.controller.not_journalled = "no room"
        scraped.charon.trouble = "charon is gone"
        scraped.reloading.refused = ("line 7",)
        found = await scraped.samples()
        assert found["swanroam_problems", of()] == 5
        assert found["swanroam_peer_attention", of("server")] == 1
        assert found["swanroam_kernel_state_applied", of()] == 0
        assert found["swanroam_journal_written", of()] == 0
        assert found["swanroam_charon_connected", of()] == 0
        assert found["swanroam_config_last_reload_successful", of()] == 0

    scraping(story)


def test_a_kernel_without_counters_has_no_metric_of_them(
    scraping: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(stage: Stage, scraped: Scraped) -> None:
        def missing() -> dict[str, int]:
            raise FileNotFoundError

        monkeypatch.setattr(readings_module, "read_statistics", missing)
        assert not [name for name, _ in await scraped.samples() if name.startswith("swanroam_xfrm")]

    scraping(story)


def test_sockets_that_moved_or_were_lost_stay_counted_when_their_peer_has_gone(scraping: Callable[..., None]) -> None:
    async def story(stage: Stage, scraped: Scraped) -> None:
        key = Key(Transport.TCP, 1, 2)
        tally = stage.peer.machine.transfers.tally
        tally.move(Pair(A, P), [key])
        tally.moved = 0  # a round to another pair
        tally.move(Pair(B, P), [key])
        for _ in range(2):  # told twice
            tally.keep(Pair(A, P), [Kept(Key(Transport.TCP, 3, 4), Obstacle.LOST)])
        for _ in range(2):
            found = await scraped.samples()
            assert found["swanroam_sockets_moved_total", of()] == 2
            assert found["swanroam_sockets_lost_total", of()] == 1
            if stage.controller.peers:
                stage.controller.leave(stage.peer)

    scraping(story)


def test_a_duration_is_counted_in_the_class_whose_limit_it_does_not_exceed() -> None:
    histogram = Histogram()
    for seconds in (0.0, 0.005, 0.0051, 300.0, 301.0):
        histogram.observe(seconds)

    assert histogram.counts[0] == 2
    assert histogram.counts[1] == 1
    assert histogram.counts[-2:] == [1, 1]
    assert len(histogram.counts) == len(BUCKETS) + 1


def test_messages_have_the_names_of_the_documentation() -> None:
    assert MESSAGES == (
        "address_change",
        "acknowledgment",
        "path_response",
        "filters_request",
        "filters_reply",
        "transfer_request",
        "transfer_reply",
    )
    counts = Counts()
    for attempt in (1, 2, 3):
        counts.message_sent(Send(_AddressChange(), attempt))  # type: ignore[arg-type]
    assert (counts.sent.total(), counts.retransmitted.total()) == (3, 2)


class _AddressChange:
    pass


# --- names, labels, documents -----------------------------------------------------------------------------------------


def test_names_follow_the_convention() -> None:
    """https://prometheus.io/docs/practices/naming/"""
    for definition in METRICS:
        assert re.fullmatch(r"swanroam_[a-z_]+", definition.name)
        assert definition.name.endswith("_total") == (definition.kind is Kind.COUNTER), definition.name
        assert definition.help.endswith("."), definition.name
        assert not re.search(r"_(ms|milliseconds|minutes|kb|percent)(_|$)", definition.name)
        if definition.kind is Kind.HISTOGRAM:
            assert definition.name.endswith("_seconds")
    names = [definition.name for definition in METRICS]
    assert len(set(names)) == len(names)


def test_both_formats_can_be_read_and_have_every_metric(scraping: Callable[..., None]) -> None:
    async def story(stage: Stage, scraped: Scraped) -> None:
        await moved(stage)
        scraped.channel.dropped["too_many"] += 1
        scraped.channel.unsent["EPERM"] += 1
        found = families(await scraped.reading())
        for accept, parse in ((OPENMETRICS, parse_openmetrics), ("", parse_text)):
            page = Exposition(lambda: found).page(accept)[0].decode()
            names = {family.name for family in parse(page) if family.samples}
            assert {definition.name.removesuffix("_total") for definition in METRICS} <= names
            assert {"process_cpu_seconds", "process_open_fds", "process_resident_memory_bytes"} <= names

    scraping(story)


def test_the_number_of_series_does_not_grow_with_peers_but_for_one_each(scraping: Callable[..., None]) -> None:
    async def story(stage: Stage, scraped: Scraped) -> None:
        before = set(await scraped.samples())
        await moved(stage)
        after = set(await scraped.samples())

        assert after == before
        assert len(before) < 500
        assert [labels for name, labels in before if "server" in labels] == [of("server")]

    scraping(story)


EXPOSED = {
    *(definition.name for definition in METRICS),
    *(
        f"{metric.name}{end}"
        for metric in METRICS
        if metric.kind is Kind.HISTOGRAM
        for end in ("_bucket", "_sum", "_count")
    ),
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "up",
}


def used(expression: str) -> set[str]:
    """Names of metrics in a PromQL expression."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', "", expression)
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", "", bare)
    return set(re.findall(r"\b(?:swanroam|process)_\w+|\bup\b", bare))


def labels_used(expression: str) -> set[tuple[str, str, str]]:
    """Metric, label and value of what an expression selects by one value."""
    return {
        (name, label, value)
        for name, selectors in re.findall(r"\b(swanroam_\w+)\{([^}]*)\}", expression)
        for label, operator, values in re.findall(r'(\w+)(=~?|!~?=?)"([^"]*)"', selectors)
        if label not in ("job", "instance")
        for value in values.split("|")
        if "(" not in value and "$" not in value
    }


def expressions() -> list[tuple[str, str]]:
    """Of rules and dashboard, with where they stand."""
    rules: dict[str, Any] = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    found = [(rule["alert"], rule["expr"]) for group in rules["groups"] for rule in group["rules"]]
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    found += [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", ())]
    return found


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_dashboard_and_rules_use_metrics_and_labels_that_there_are(where: str, expression: str) -> None:
    assert used(expression), where
    assert used(expression) <= EXPOSED, where
    by_name = {definition.name: definition for definition in METRICS}
    for name, label, value in labels_used(expression):
        definition = by_name[re.sub(r"_(bucket|sum|count)$", "", name)]
        assert label in definition.labels, (where, name, label)
        if definition.name not in ("swanroam_xfrm_errors_total", "swanroam_datagrams_dropped_total"):
            known = f"{definition.values} {' '.join(ground.value for ground in Ground)}"
            assert value in known, (where, name, value)


def test_every_metric_is_on_the_dashboard() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    shown = {
        name for panel in dashboard["panels"] for target in panel.get("targets", ()) for name in used(target["expr"])
    }

    assert {metric.name for metric in METRICS} <= {re.sub(r"_bucket$", "", name) for name in shown}


def test_panels_of_the_dashboard_are_told_apart_explained_and_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = set[tuple[int, int]]()
    for panel in panels:
        place = panel["gridPos"]
        mine = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not mine & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= mine
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_every_alert_says_what_it_is_and_what_to_do() -> None:
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert "$labels.instance" in rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_tally_counts_what_moved_also_when_a_round_begins_anew() -> None:
    tally = Tally()
    tally.move(Pair(A, P), [Key(Transport.TCP, 1, 2), Key(Transport.TCP, 3, 4)])
    tally.moved = 0
    tally.move(Pair(B, P), [Key(Transport.TCP, 1, 2)])

    assert (tally.moved, tally.moved_ever, tally.lost_ever) == (1, 3, 0)

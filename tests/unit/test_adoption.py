"""Another configuration is taken over whole, or everything stays as it was."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from swanroam.config import Config, parse_config
from swanroam.daemon import adoption as adoption_module
from swanroam.daemon.adoption import Adoption
from swanroam.daemon.controller import HostError
from swanroam.daemon.counts import Counts
from swanroam.daemon.membership import NotNowError
from swanroam.daemon.metrics import Reading
from swanroam.daemon.reload import Ground, RefusedError
from swanroam.ike.definitions import DefinitionError
from swanroam.kernel.privileges import Capability
from unit.test_metrics_server import free, get

PEER = "identity: m\npeers: [{identity: s, connection: s}]\n"


class Parts:
    """All that the adoption works on: notes what is done to it, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.failure: Exception | None = None
        self.turn = asyncio.Lock()

    def reconfigure(self, settings: object) -> None:
        self.log.append(f"reconfigure {type(settings).__name__}")

    async def prepare(self, config: Config) -> str:
        assert self.turn.locked()
        if self.failure is not None:
            raise self.failure
        self.log.append("prepare")
        return "prepared"

    async def commit(self, prepared: str) -> None:
        assert self.turn.locked()
        self.log.append(f"commit {prepared}")


async def read() -> Reading:
    return Reading(Counts(), (), {}, 0, 0, Counter(), Counter(), {}, {}, True, True, True, True)


@pytest.fixture(autouse=True)
def fitting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host on which nothing is wrong."""

    async def nothing(*arguments: object, **keywords: object) -> str:
        return ""

    monkeypatch.setattr(adoption_module.logs, "configure", lambda log_format, level: None)
    monkeypatch.setattr(adoption_module, "permitted", lambda: frozenset(Capability))
    monkeypatch.setattr(adoption_module, "read_definitions", nothing)
    monkeypatch.setattr(adoption_module, "migration_problem", nothing)
    monkeypatch.setattr(adoption_module, "connection_problems", lambda config, definitions: [])


def adopted(parts: Parts, old: str, new: str) -> tuple[RefusedError | None, list[bool]]:
    """Why it was refused, and at which of the two addresses there are metrics afterwards."""
    configs = parse_config(PEER + old), parse_config(PEER + new)

    async def run() -> tuple[RefusedError | None, list[bool]]:
        adoption = Adoption(parts, parts, parts, parts, read)  # type: ignore[arg-type] # as much of each as it uses
        await adoption.open(configs[0])
        refusal = None
        try:
            await adoption.adopt(*configs)
        except RefusedError as error:
            refusal = error
        served = []
        for config in configs:
            try:
                served.append((await asyncio.to_thread(get, config.metrics.listen)).status == 200)  # type: ignore[arg-type]
            except (ConnectionRefusedError, AttributeError):
                served.append(False)
        await adoption.close()
        return refusal, served

    return asyncio.run(run())


def listen() -> str:
    return f"metrics: {{listen: {free()}}}\n"


def test_everything_that_can_fail_comes_first() -> None:
    parts = Parts()

    assert adopted(parts, listen(), listen()) == (None, [False, True])
    assert parts.log == [
        "prepare",
        "reconfigure Config",
        "reconfigure SocketSettings",
        "commit prepared",
        "reconfigure AddressSettings",
    ]


@pytest.mark.parametrize("failure", [NotNowError("not now"), HostError("no memory")])
def test_what_cannot_be_prepared_leaves_everything_as_it_was(failure: Exception) -> None:
    parts = Parts()
    parts.failure = failure
    refusal, served = adopted(parts, listen(), listen())

    assert refusal is not None
    assert (refusal.ground, refusal.lines) == (Ground.HOST, (str(failure),))
    assert served == [True, False]
    assert parts.log == []


def test_a_port_that_cannot_be_had_leaves_the_metrics_where_they_were() -> None:
    parts = Parts()
    refusal, served = adopted(parts, listen(), "metrics: {listen: 192.0.2.1:9510}\n")

    assert refusal is not None
    assert "this host does not have that address" in refusal.lines[0]
    assert served[0]
    assert parts.log == []


@pytest.mark.parametrize("what", ["privileges", "kernel", "swanctl", "connection"])
def test_what_the_daemon_would_not_start_with_is_not_taken_over(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    async def failing(*arguments: object, **keywords: object) -> str:
        if what == "swanctl":
            raise DefinitionError("swanctl can't be run")
        return "the kernel lacks XFRM_MSG_MIGRATE; or set filters: renegotiate"

    expected = {
        "privileges": (Ground.RESTART, "needs a restart"),
        "kernel": (Ground.HOST, "or set filters: renegotiate"),
        "swanctl": (Ground.FILE, "swanctl can't be run"),
        "connection": (Ground.FILE, "there is no connection s"),
    }
    match what:
        case "privileges":
            monkeypatch.setattr(adoption_module, "permitted", lambda: frozenset({Capability.NET_ADMIN}))
        case "kernel":
            monkeypatch.setattr(adoption_module, "migration_problem", failing)
        case "swanctl":
            monkeypatch.setattr(adoption_module, "read_definitions", failing)
        case "connection":
            problems = ["peer s: there is no connection s"]
            monkeypatch.setattr(adoption_module, "connection_problems", lambda config, definitions: problems)
    parts = Parts()
    refusal, _ = adopted(parts, "", "")

    assert refusal is not None
    ground, said = expected[what]
    assert refusal.ground is ground
    assert said in refusal.lines[0]
    assert parts.log == []

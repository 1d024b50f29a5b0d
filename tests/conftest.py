"""Fixtures of all tests. The lab itself is in tests/lab."""

import gc
import os
from collections.abc import Callable, Iterator

import hypothesis
import pytest
import structlog

from lab.addressing import Family
from lab.topology import Lab
from lab.zygote import Zygote

# Generated input: enough to notice what has just been broken; `make thorough` looks further. A failure prints how to
# repeat it. No deadlines: how fast a test is depends on the machine.
hypothesis.settings.register_profile("quick", max_examples=20, deadline=None, print_blob=True)
hypothesis.settings.register_profile("thorough", max_examples=5000, deadline=None, print_blob=True)
# While a defence is switched off, only whether a test fails counts: no search for the smallest example, none kept.
hypothesis.settings.register_profile(
    "mutated",
    hypothesis.settings.get_profile("quick"),
    max_examples=40,
    derandomize=True,
    database=None,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)
hypothesis.settings.load_profile(os.environ.get("SWANROAM_EXAMPLES", "quick"))

pytest_plugins = ["mutations.plugin"]


def pytest_collection_finish() -> None:
    """What has been imported and collected stays: no garbage collection needs to look at it again."""
    gc.collect()
    gc.freeze()


LABS = pytest.StashKey[list[Lab]]()
FAILED = pytest.StashKey[bool]()


@pytest.fixture(autouse=True)
def _own_log_output() -> Iterator[None]:
    """A test that runs a command line sets up logging for its own standard error, which ends with the test."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def run_seed() -> int:
    """The seed of this run: SWANROAM_SEED, or a new one."""
    return int(os.environ.get("SWANROAM_SEED") or int.from_bytes(os.urandom(4)))


@pytest.fixture
def seed(run_seed: int, request: pytest.FixtureRequest) -> int:
    """For a test's random choices. A failing test shows it; SWANROAM_SEED=… repeats them."""
    print(f"{request.node.nodeid}: SWANROAM_SEED={run_seed}")
    return run_seed


@pytest.fixture(params=[Family.IPV4, Family.IPV6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> Family:
    """Which addresses IPsec and traffic use; a test that asks for it runs with both."""
    chosen: Family = request.param
    return chosen


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """What starts swanroam, imported once for all tests."""
    process = Zygote()
    yield process
    process.close()


@pytest.fixture
def make_lab(request: pytest.FixtureRequest, seed: int, zygote: Zygote) -> Iterator[Callable[..., Lab]]:
    """Makes labs with any of `Lab`'s options; they go away after the test. Their charons are not started."""
    labs: list[Lab] = []
    request.node.stash[LABS] = labs

    def make(**options: object) -> Lab:
        lab = Lab(**{"seed": seed, "zygote": zygote, **options})
        labs.append(lab)
        return lab

    yield make
    for lab in labs:
        if request.node.stash.get(FAILED, False) and not lab.closed:
            lab.save_artifacts(request.node.name)
        lab.close()


@pytest.fixture
def lab(make_lab: Callable[..., Lab], family: Family) -> Lab:
    """One mobile host, one correspondent, charons up, CHILD_SAs established; for both address families."""
    made = make_lab(family=family)
    made.start()
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:  # the report passes through
    report = yield
    if report.failed:
        item.stash[FAILED] = True
        for lab in item.stash.get(LABS, []):
            if not lab.closed:
                report.sections.append(("how things stood in the lab", lab.dump()))
    return report

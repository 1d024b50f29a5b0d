"""pytest plugin of the launcher: this process's share of the test files, and a record of the results.

`SWANROAM_SHARD=2/3` keeps the second third of the files (whole files, balanced by number of tests; every
shard computes the same division). `SWANROAM_SUMMARY=FILE` receives the counts as JSON when the session ends; `both`
are those passed that run on this machine's kernel and in the lab.
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

_outcomes: Counter[str] = Counter()


def divide(sizes: dict[str, int], shards: int) -> list[list[str]]:
    """Files over shards: the largest file goes first to the shard with the least work so far."""
    shares: list[list[str]] = [[] for _ in range(shards)]
    load = [0] * shards
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        lightest = load.index(min(load))
        shares[lightest].append(name)
        load[lightest] += sizes[name]
    return shares


@pytest.hookimpl(trylast=True)  # after -m and -k have made their selection
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    shard = os.environ.get("SWANROAM_SHARD")
    if not shard:
        return
    _deselect(config, items, [item for item in items if item.get_closest_marker("guest") and not _in_a_guest()])
    index, total = (int(part) for part in shard.split("/"))
    mine = set(divide(Counter(str(item.path) for item in items), total)[index - 1])
    _deselect(config, items, [item for item in items if str(item.path) not in mine])


def _in_a_guest() -> bool:
    """Whether the kernel is there for this run alone."""
    return os.environ.get("SWANROAM_LAB_KERNEL") == "guest"


def _deselect(config: pytest.Config, items: list[pytest.Item], others: list[pytest.Item]) -> None:
    if others:
        items[:] = [item for item in items if item not in others]
        config.hook.pytest_deselected(items=others)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        xfail = hasattr(report, "wasxfail")
        _outcomes["xfailed" if xfail and report.skipped else report.outcome] += 1
        _outcomes["both"] += report.passed and "both" in report.keywords
    elif report.failed:
        _outcomes["error"] += 1
    elif report.skipped:
        _outcomes["skipped"] += 1


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _outcomes["error"] += 1
    elif report.skipped:
        _outcomes["skipped"] += 1


def pytest_sessionfinish() -> None:
    summary = os.environ.get("SWANROAM_SUMMARY")
    if summary:
        Path(summary).write_text(json.dumps(_outcomes), encoding="utf-8")

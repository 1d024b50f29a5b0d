"""pytest plugin of the launcher: this process's share of the tests, and a record of the results.

Several processes run the same tests: `SWANROAM_CLAIMS=DIRECTORY` is one that they share, in which each claims a test
before it runs it. So none waits for another, however long single tests take. `SWANROAM_SUMMARY=FILE` receives the
counts as JSON when the session ends; `both` are those passed that run on this machine's kernel and in the lab.
"""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path

import pytest

_outcomes: Counter[str] = Counter()


class Claims:
    """Tests of which this process is the one that runs them, in a directory that all processes see."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def take(self, test: str) -> bool:
        """Whether nobody had claimed this test. Making a directory is atomic, in a guest's hostfs as well."""
        try:
            (self._directory / hashlib.sha256(test.encode()).hexdigest()).mkdir()
        except FileExistsError:
            return False
        return True


@pytest.hookimpl(trylast=True)  # after -m and -k have made their selection
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not os.environ.get("SWANROAM_CLAIMS"):
        return
    _deselect(config, items, [item for item in items if item.get_closest_marker("guest") and not _in_a_guest()])
    # Long ones first, so that all end at about the same time: a scenario takes many times as long as a kernel test.
    items.sort(key=lambda item: "scenarios" not in item.path.parts)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """pytest's own loop (_pytest/main.py), with a claim before each test."""
    directory = os.environ.get("SWANROAM_CLAIMS")
    if not directory or session.config.option.collectonly:
        return None
    if session.testsfailed and not session.config.option.continue_on_collection_errors:
        return None  # pytest's own says so
    claims = Claims(Path(directory))
    mine = (item for item in session.items if claims.take(item.nodeid))
    item = next(mine, None)
    while item is not None:
        # What fixtures live on depends on the test that comes next.
        following = next(mine, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following
    return True


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
    if summary and "PYTEST_XDIST_WORKER" not in os.environ:  # whoever shares out the tests hears of all of them
        Path(summary).write_text(json.dumps(_outcomes), encoding="utf-8")

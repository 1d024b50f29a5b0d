"""pytest plugin of all tests: throws the switch of mutations, and records how each test ended.

`SWANROAM_OUTCOMES=FILE` receives the outcomes when the session ends; see `mutations.results`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mutations import switch
from mutations.patches import MutationError
from mutations.results import Outcome, Results

OUTCOMES = pytest.StashKey[Results]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = Results()
    try:
        switch.throw()
    except (LookupError, MutationError) as error:
        raise pytest.UsageError(str(error)) from error


def pytest_report_header() -> str | None:
    mutation = switch.wanted()
    return mutation and f"mutation: {mutation.name}: {mutation.what}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:  # the report passes through
    report = yield
    if report.when == "call" or not report.passed:
        outcome = Outcome.PASSED if report.passed else Outcome.SKIPPED
        if report.failed:
            assert call.excinfo is not None
            outcome = Outcome.FAILED if _is_assertion(call.excinfo.value) else Outcome.BROKEN
        outcomes = item.config.stash[OUTCOMES].tests
        name = item.nodeid.partition("[")[0]
        outcomes[name] = min(outcome, outcomes.get(name, outcome), key=list(Outcome).index)
    return report


def _is_assertion(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_assertion, error.exceptions))
    if isinstance(error, pytest.fail.Exception):  # of pytest.raises as well
        return "pytest-timeout" not in str(error)
    return isinstance(error, AssertionError)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if path := os.environ.get("SWANROAM_OUTCOMES"):
        session.config.stash[OUTCOMES].write(Path(path))

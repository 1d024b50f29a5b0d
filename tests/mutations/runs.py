"""Runs tests, once without and once with each mutation.

    python -m mutations.runs native FILE [NAME…]    mutations that tests on this machine's kernel notice; of these names
    python -m mutations.runs lab [NAME…]            the others; inside the lab

FILE, in the lab that of SWANROAM_OUTCOMES, receives the results. Importing pytest, hypothesis, swanroam and what it
needs takes longer than most tests do: it happens once, and each run is a child of this process. A mutation is noticed
when at least one of its tests fails by an assertion. Tests that can't be collected, end by another error or do not run
at all are no proof.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import tempfile
import time
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from mutations.nodes import ROOT, needs_lab
from mutations.registry import Mutation
from mutations.requirements import MUTATIONS, REQUIREMENTS
from mutations.results import Outcome, Results, read
from mutations.switch import VARIABLE

# The warning is about plugins of pytest's that are imported already, none of which has assertions to be rewritten.
UNWARNED = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
ARGUMENTS = (*UNWARNED, "-p", "no:cacheprovider", "-q", "--color=no", "--tb=short", "--timeout=300")
IMPORTED = ("hypothesis.stateful", "pyroute2", "structlog", "vici", "yaml")
EXAMPLES = "mutated"
"""Profile of hypothesis, see tests/conftest.py."""


class NoProofError(Exception):
    """No proof; the message says why."""


def import_everything() -> None:
    """What each run would import by itself."""
    for name in IMPORTED:
        importlib.import_module(name)
    package = importlib.import_module("swanroam")
    for module in pkgutil.walk_packages(package.__path__, "swanroam."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def run(tests: Collection[str], mutation: str = "") -> Results:
    """Run the tests in a child; what fails without a mutation is printed. Raises NoProofError when one did not run."""
    with tempfile.TemporaryDirectory(prefix="swanroam-mutations-") as directory:
        outcomes, output = Path(directory, "outcomes.json"), Path(directory, "output")
        pid = os.fork()
        if pid == 0:
            _child(sorted(tests), mutation, outcomes, output)
        _, status = os.waitpid(pid, 0)
        said = output.read_text(encoding="utf-8", errors="replace")
        code = os.waitstatus_to_exitcode(status)
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            raise NoProofError(f"pytest ended with {code}:\n{said}")
        results = read(outcomes)
        if missing := set(tests) - set(results.tests):
            raise NoProofError(f"{', '.join(sorted(missing))} did not run:\n{said}")
        if broken := sorted(name for name, outcome in results.tests.items() if outcome is Outcome.SKIPPED):
            raise NoProofError(f"{', '.join(broken)} was skipped:\n{said}")
        if not mutation and code:
            print(said, flush=True)
        return results


def _child(tests: Sequence[str], mutation: str, outcomes: Path, output: Path) -> None:
    status = 70  # EX_SOFTWARE: what Python would report as a traceback
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.environ |= {VARIABLE: mutation, "SWANROAM_OUTCOMES": str(outcomes), "SWANROAM_EXAMPLES": EXAMPLES}
        status = pytest.main([*ARGUMENTS, *tests])
    except BaseException:  # noqa: BLE001 - the border of the process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def noticed(mutation: Mutation) -> list[str]:
    """The tests that notice it. Raises NoProofError when there is none."""
    results = run(mutation.tests, mutation.name)
    failed = [test for test in mutation.tests if results.tests[test] is Outcome.FAILED]
    if not failed:
        how = ", ".join(f"{test} {outcome}" for test, outcome in results.tests.items())
        raise NoProofError(f"no test fails by an assertion: {how}")
    return failed


def main(argv: Sequence[str]) -> int:
    """Exit status 0: every test passes and every mutation was noticed; 1: not so; 2: what is that?"""
    where, *names = argv
    in_lab = where == "lab"
    file = os.environ["SWANROAM_OUTCOMES"] if in_lab else names.pop(0)
    if unknown := set(names) - set(MUTATIONS):
        print(f"there is no mutation {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    chosen = [MUTATIONS[name] for name in names or MUTATIONS if any(map(needs_lab, MUTATIONS[name].tests)) is in_lab]
    tests = {test for mutation in chosen for test in mutation.tests}
    if not in_lab and not names:
        tests |= {test for requirement in REQUIREMENTS for test in requirement.tests if not needs_lab(test)}
    os.chdir(ROOT)
    began = time.monotonic()
    import_everything()
    results, failures = Results(), 0
    try:
        results.update(run(tests))
    except NoProofError as error:
        print(error)
        return 1
    if bad := [test for test, outcome in results.tests.items() if outcome is not Outcome.PASSED]:
        results.write(Path(file))
        print(f"without any mutation {', '.join(bad)} did not pass")
        return 1
    print(f"{len(tests)} tests pass ({time.monotonic() - began:.0f} s)", flush=True)
    for mutation in chosen:
        began_one = time.monotonic()
        results.noticed[mutation.name] = []
        try:
            results.noticed[mutation.name] = noticed(mutation)
            said = f"noticed by {', '.join(test.partition('::')[2] for test in results.noticed[mutation.name])}"
        except NoProofError as error:
            failures += 1
            said = f"NOT NOTICED: {error}"
        print(f"{mutation.name}: {said} ({time.monotonic() - began_one:.1f} s)", flush=True)
    results.write(Path(file))
    print(f"mutations: {len(chosen) - failures} of {len(chosen)} noticed ({time.monotonic() - began:.0f} s)")
    return 1 if failures or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

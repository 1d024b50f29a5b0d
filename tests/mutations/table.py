"""docs/requirements.md, made of the list and of the results.

    python -m mutations.table [FILE…]    puts results of runs over those that are kept, and writes the table

A FILE is what `mutations.runs` or the pytest plugin left; one that is not there was not run this time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from mutations.nodes import ROOT
from mutations.registry import Mutation, Requirement, State
from mutations.requirements import MUTATIONS, REQUIREMENTS
from mutations.results import KEPT, Results, read

TABLE = ROOT / "docs" / "requirements.md"

HEAD = """\
# Requirements

What an attacker must not achieve, which tests show that he does not, and how they ended last. This page is made by the
tests (`make requirements`); don't edit it. The list itself is in `tests/mutations/requirements/`.

A test that cannot fail shows nothing. So for each defence there are *mutations*: swanroam is run with the defence
switched off, and at least one of the tests beside it has to fail by an assertion. `make mutations` does that for all
that this machine's kernel is enough for, `make mutations-lab` for the others, in the lab. One by hand:

    SWANROAM_MUTATION=foreign-address-is-owned make unit

*Not met* and *partly met* are said where that is so; the remark says what is missing.

"""


def render(results: Results) -> str:
    """The page."""
    states = ", ".join(
        f"{sum(requirement.state is state for requirement in REQUIREMENTS)} {state.value}" for state in State
    )
    unnoticed = [name for name in MUTATIONS if not results.noticed.get(name)]
    untested = sum(not requirement.tests for requirement in REQUIREMENTS)
    noticed = f"{len(MUTATIONS) - len(unnoticed)} of {len(MUTATIONS)} mutations noticed"
    summary = f"{len(REQUIREMENTS)} requirements: {states}; {untested} without a test; {noticed}.\n\n"
    rows = [
        "| | requirement | defence (`controller/swanroam/`) | tests, last result | switched off: noticed by a test? |",
        "|---|---|---|---|---|",
        *(_row(requirement, results) for requirement in REQUIREMENTS),
    ]
    return HEAD + summary + "\n".join(rows) + "\n"


def _row(requirement: Requirement, results: Results) -> str:
    what = f"**{requirement.title}**, {requirement.state.value}. {requirement.text} ({requirement.sources})"
    if requirement.remark:
        what += f"<br>*{requirement.remark}*"
    where = ", ".join(f"`{path}`" for path in requirement.where) or "none"
    mutations = [_mutation(mutation, results) for mutation in requirement.mutations]
    cells = [requirement.name, what, where, _tests(requirement.tests, results), "<br>".join(mutations) or "no mutation"]
    return "| " + " | ".join(cells) + " |"


def _tests(tests: Iterable[str], results: Results) -> str:
    """Grouped by file and outcome."""

    def key(test: str) -> tuple[str, str]:
        return test.partition("::")[0].removeprefix("tests/"), results.tests.get(test, "not run")

    groups = groupby(sorted(tests, key=key), key)
    return (
        "<br>".join(
            f"{file} **{outcome}**: {', '.join(f'`{name}`' for _, _, name in (test.partition('::') for test in group))}"
            for (file, outcome), group in groups
        )
        or "**no test**"
    )


def _mutation(mutation: Mutation, results: Results) -> str:
    failed = results.noticed.get(mutation.name)
    answer = "not run" if failed is None else f"yes ({len(failed)})" if failed else "**no**"
    return f"`{mutation.name}` ({mutation.what}): {answer}"


def main(paths: Sequence[str]) -> int:
    results = read(KEPT) if KEPT.exists() else Results()
    for path in map(Path, paths):
        if path.exists():
            results.update(read(path))
        else:
            print(f"{path.name}: not run, earlier results stay")
    results.restrict(
        (test for requirement in REQUIREMENTS for test in requirement.tests),
        (name for name in MUTATIONS),
    )
    results.write(KEPT)
    TABLE.write_text(render(results), encoding="utf-8")
    print(f"written: {TABLE.relative_to(ROOT)}, {KEPT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

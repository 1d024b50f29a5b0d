"""The switch: the environment variable SWANROAM_MUTATION names the mutation with which swanroam runs.

For the test suite alone. Programs that tests start, daemons and movers among them, are Python processes with the same
environment: PYTHONPATH begins with `mutations/site` while the switch is thrown, and Python imports the module
`sitecustomize` that it finds there before the program (docs.python.org, module `site`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mutations.registry import Mutation
from mutations.requirements import MUTATIONS

VARIABLE = "SWANROAM_MUTATION"
_TESTS = Path(__file__).resolve().parents[1]
PATHS = tuple(map(str, (_TESTS / "mutations" / "site", _TESTS, _TESTS.parent / "controller")))
"""What PYTHONPATH begins with for programs that are started."""


def wanted() -> Mutation | None:
    """The mutation that the environment names. Raises LookupError when there is none of that name."""
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    if name not in MUTATIONS:
        raise LookupError(f"{VARIABLE}={name}: there is no mutation of that name")
    return MUTATIONS[name]


def throw() -> None:
    """Apply what is wanted to this process and to those that it starts. Raises LookupError, MutationError."""
    mutation = wanted()
    if mutation is not None:
        mutation.apply()
        if PATHS[0] not in sys.path:
            sys.path.insert(0, PATHS[0])  # some tests hand on this
        others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in PATHS]
        os.environ["PYTHONPATH"] = os.pathsep.join([*PATHS, *others])

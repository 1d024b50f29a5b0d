"""Runs swanctl where AppArmor's profile for it does not let it do what it is run for here.

The distributions' profile for /usr/sbin/swanctl has one socket that it may connect to: charon's. Kernels in which
AppArmor watches sockets in the file system (all of Ubuntu's; Linux 6.17 and later, unless the policy is pinned to less)
refuse it the one of `swanroam.ike.definitions`. Who is not confined may say what a program that it starts is to be
(aa_change_onexec(2)); who is confined may not, and then nothing changes. All else that confines the daemon, the unit's
sandbox, confines the program.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

ON_EXEC = Path("/proc/self/attr/apparmor/exec")
"""Where a process says it of the next program that it becomes."""
_SAY_AND_BECOME = '{ echo "exec unconfined" >"$0"; } 2>/dev/null; exec "$@"'


def outside_profile(program: str, arguments: Sequence[str], on_exec: Path = ON_EXEC) -> list[str]:
    """The command that runs it without a profile of its own; where there is no AppArmor, or no such program, itself."""
    if shutil.which(program) is None or not on_exec.exists():
        return [program, *arguments]
    return ["/bin/sh", "-c", _SAY_AND_BECOME, str(on_exec), program, *arguments]

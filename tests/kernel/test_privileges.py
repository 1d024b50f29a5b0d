"""What the daemon does with the capabilities that its service gives it, and who can look into its memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swanroam.kernel.privileges import Capability

pytestmark = pytest.mark.kernel

PATHS = f"PYTHONPATH={os.pathsep.join(sys.path)}"
"""A program that is started finds swanroam, and is what this process is made to be (see `mutations.switch`)."""
ALL = ",".join(f"+{capability.name.lower()}" for capability in Capability)
AS_SERVICE = (
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
    f"--inh-caps=-all,{ALL}", f"--ambient-caps=-all,{ALL}", f"--bounding-set=-all,{ALL}", "--no-new-privs",
)  # fmt: skip
"""As the unit: another user, and these capabilities only."""

LAY_ASIDE = """
import json, subprocess
from swanroam.kernel.privileges import Capability, effective, handed_on, lay_aside, permitted

def child():
    lines = subprocess.run(["grep", "CapEff", "/proc/self/status"], capture_output=True, text=True).stdout
    return int(lines.split()[1], 16)

lay_aside(frozenset(Capability) - {Capability.NET_ADMIN})
seen = {"effective": sorted(effective()), "permitted": sorted(permitted()), "started": child()}
with handed_on():
    seen["handed on"] = child()
seen["started later"] = child()
print(json.dumps(seen))
"""
GIVE_UP = """
import json, subprocess
from swanroam.kernel.privileges import Capability, effective, give_up_all_but, handed_on, permitted

give_up_all_but({Capability.SYS_PTRACE})
with handed_on():
    lines = subprocess.run(["grep", "CapPrm", "/proc/self/status"], capture_output=True, text=True).stdout
print(json.dumps({"permitted": sorted(permitted()), "handed on": int(lines.split()[1], 16)}))
"""
ABORT = """
import os, resource, sys
from swanroam.kernel.privileges import forbid_dumping

resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
os.chdir(sys.argv[1])
if sys.argv[2] == "forbidden":
    forbid_dumping()
os.abort()
"""


def run(program: str, *wrapper: str) -> dict[str, object]:
    done = subprocess.run(
        ["env", PATHS, *wrapper, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_what_is_laid_aside_is_out_of_force_and_can_still_be_handed_on() -> None:
    everything = sum(1 << capability for capability in Capability)

    assert run(LAY_ASIDE, *AS_SERVICE) == {
        "effective": [Capability.NET_ADMIN],
        "permitted": sorted(Capability),
        "started": 0,
        "handed on": everything,
        "started later": 0,
    }


def test_a_superuser_lays_aside_as_well() -> None:
    seen = run(LAY_ASIDE)

    assert seen["effective"] == [Capability.NET_ADMIN]
    assert seen["permitted"] == sorted(Capability)


def test_what_is_given_up_is_gone_for_everything_that_is_started() -> None:
    assert run(GIVE_UP, *AS_SERVICE) == {"permitted": [Capability.SYS_PTRACE], "handed on": 0}


@pytest.mark.parametrize("dumping", ["allowed", "forbidden"])
def test_no_core_is_written_where_dumping_is_forbidden(tmp_path: Path, dumping: str) -> None:
    """With all limits lifted before. The kernel itself says whether it has written one (wait(2), WCOREDUMP)."""
    argv = ["env", PATHS, sys.executable, "-c", ABORT, str(tmp_path), dumping]
    process = subprocess.Popen(argv)

    _, status = os.waitpid(process.pid, 0)
    process.returncode = 0

    assert os.WIFSIGNALED(status)
    assert os.WCOREDUMP(status) == (dumping == "allowed")

"""The Compose demo from start to end, with a real engine, real charons and real ESP. `make test-docker`."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".test-results" / "compose.txt"

Story = dict[str, str]


@pytest.fixture(scope="module")
def story() -> Story:
    """What was printed, by section; a section's last line may be the status of its last command."""
    done = subprocess.run([ROOT / "tests/compose/run"], stdout=subprocess.PIPE, text=True, check=False)
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(done.stdout, encoding="utf-8")
    assert done.returncode == 0, f"it did not come to its end; see {KEPT}"
    sections: Story = {}
    name = ""
    for line in done.stdout.splitlines():
        if line.startswith("== status "):
            sections[f"{name} status"] = line.removeprefix("== status ")
        elif line.startswith("== "):
            name = line.removeprefix("== ")
            sections[name] = ""
        elif name:
            sections[name] += line + "\n"
    return sections


def test_all_come_up_and_are_healthy(story: Story) -> None:
    assert story["up status"] == "0", story["up"]
    states = {
        line.split()[0]: line.split()[1:] for line in story["up"].splitlines() if re.match(r"[a-z-]+ (run|ex)", line)
    }
    assert states.pop("kernel-check") == ["exited"]
    assert states.pop("server") == ["running"]
    assert set(states) == {"router", "mobile", "correspondent", "client"}
    assert all(state == ["running", "healthy"] for state in states.values())


def test_nothing_is_privileged_and_programs_have_no_capability(story: Story) -> None:
    lines = dict(line.split(" ", 1) for line in story["capabilities"].splitlines())
    assert set(lines) == {"router", "mobile", "correspondent", "client", "server"}
    assert all("privileged=false" in line and "drop=[ALL]" in line for line in lines.values())
    assert "add=[] " in lines["client"]
    assert "add=[] " in lines["server"]
    assert not re.search("SYS_ADMIN|SYS_MODULE", story["capabilities"])


@pytest.mark.parametrize(
    ("move", "old", "new"), [("hard", "10.53.1.2", "10.53.2.2"), ("soft", "10.53.2.2", "10.53.1.2")]
)
def test_the_stream_survives_a_move_and_is_told_of_in_words(story: Story, move: str, old: str, new: str) -> None:
    said = story[move]
    assert story[f"{move} status"] == "0", said
    steps = re.findall(r"^ +\d+\.\d{3}  (.*)$", said, re.MULTILINE)
    assert len(steps) == 7
    assert steps[0] == f"{old} lives on in the carrier: its packets travel inside packets from {new}"
    assert steps[-1].startswith(f"nothing uses {old} any more")
    for host in ("mobile", "correspondent"):
        (first, last) = re.findall(rf"^  {host} +ESTAB +(.*)$", said, re.MULTILINE)
        assert old in first
        assert new in last
    assert re.search(r"^  \d+ more lines since, each one right", said, re.MULTILINE)
    assert f"The connection survived, runs at {new}, and nothing left unprotected." in said


def test_the_router_saw_esp_and_the_carrier_and_nothing_in_clear(story: Story) -> None:
    seen = {name: int(count) for count, name in re.findall(r"^ +(\d+)  ([A-Zi][^\n]*)$", story["hard"], re.MULTILINE)}
    assert seen["in clear"] == 0
    assert seen["ESP, native"] > 10
    assert seen["ESP inside IP-in-IP, the carrier"] > 0
    assert seen["IKE, charon negotiating"] > 0


def test_both_hosts_are_fine_afterwards(story: Story) -> None:
    assert story["view status"] == "0"
    assert story["view"].startswith("all is fine")
    assert "correspondent running healthy" in story["view"]
    assert "Traceback" not in story["logs"]


def test_it_stops_in_order_and_leaves_nothing(story: Story) -> None:
    ended = dict(re.findall(r"^([a-z-]+) exited exit (\d+)$", story["down"], re.MULTILINE))
    assert {name: ended[name] for name in ("mobile", "correspondent", "router")} == dict.fromkeys(
        ("mobile", "correspondent", "router"), "0"
    )
    assert story["down status"] == "0"
    assert story["left"].strip() == ""


def test_a_kernel_without_esp_is_refused_with_what_helps() -> None:
    refusal = ROOT / "build/compose/refusal.txt"
    if not refusal.exists() or "exit 1" not in refusal.read_text(encoding="utf-8"):
        pytest.skip("this machine's kernel has all that the demo needs")
    text = refusal.read_text(encoding="utf-8")
    assert re.search(r"^  - ESP \(modules esp4", text, re.MULTILINE)
    assert "modprobe -a esp4" in text
    assert "make demo" in text

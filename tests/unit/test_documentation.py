"""What the documentation shows is what the program does."""

import re
from collections import defaultdict
from ipaddress import IPv6Network, ip_address
from pathlib import Path

import pytest

from documentation.commands import blocks
from swanroam.cli.exits import Exit
from swanroam.cli.main import _parser
from swanroam.config import load_config
from swanroam.config.model import DEFAULT_PREFIX
from swanroam.inner_address import inner_address
from swanroam.protocol.codec import (
    Field,
    MessageProblem,
    MessageType,
    decode,
    encode,
)
from swanroam.protocol.events import Fact
from swanroam.protocol.messages import (
    Acknowledgment,
    AddressChange,
    Method,
    Obstacle,
    Verdict,
)
from swanroam.protocol.phase import Phase

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
SOCKETS = (ROOT / "docs" / "sockets.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("strongswan-conf/*.md"), *ROOT.glob("docker/*.md")]
)

HANDOVER = bytes.fromhex("a0a1a2a3a4a5a6a7")
NONCE = bytes(range(0x10, 0x20))
EXAMPLES = (
    AddressChange(
        sequence=7,
        handover=HANDOVER,
        nonce=NONCE,
        current=ip_address("10.2.2.2"),
        deprecated=(ip_address("10.1.1.2"),),
        method=Method.RENEGOTIATE,
        instance=bytes(range(0xC0, 0xC8)),
    ),
    Acknowledgment(
        sequence=7,
        handover=HANDOVER,
        nonce=NONCE,
        verdict=Verdict.ACCEPTED,
        challenge=bytes(range(0x50, 0x60)),
        grace_ms=10_000,
        last_sequence=7,
        reason="",
        instance=bytes(range(0xD0, 0xD8)),
    ),
)


def documented_datagrams() -> list[bytes]:
    """The hex blocks of docs/protocol.md; a comment stands two blanks or more after the bytes."""
    return [
        bytes.fromhex("".join(re.match(r"((?:[0-9a-f]{2} {0,2})+)(?= |$)", line)[1] for line in block.splitlines()))  # type: ignore[index]
        for block in re.findall(r"```hex\n(.*?)```", PROTOCOL, re.DOTALL)
    ]


def test_worked_example_is_what_the_codec_reads_and_writes() -> None:
    datagrams = documented_datagrams()
    assert [decode(datagram) for datagram in datagrams] == list(EXAMPLES)
    assert [encode(message) for message in EXAMPLES] == datagrams


def test_documented_inner_address_is_the_one_of_its_identity() -> None:
    (address,) = re.findall(r"For `mobile\.example\.org` that is `([0-9a-f:]+)`", PROTOCOL)
    assert ip_address(address) == inner_address("mobile.example.org", DEFAULT_PREFIX)
    assert str(DEFAULT_PREFIX) in PROTOCOL
    assert IPv6Network("fd53:7761:6e72::/48") == DEFAULT_PREFIX


@pytest.mark.parametrize("field", Field, ids=lambda field: field.name)
def test_every_field_is_documented_with_its_number(field: Field) -> None:
    assert f"| 0x{field:02X} | {field.name.lower().replace('_', ' ')} |" in PROTOCOL


@pytest.mark.parametrize("kind", MessageType, ids=lambda kind: kind.name)
def test_every_message_is_documented_with_its_number(kind: MessageType) -> None:
    assert f"| {kind.value} | {kind.name.lower().replace('_', ' ')} |" in PROTOCOL


@pytest.mark.parametrize("verdict", Verdict, ids=lambda verdict: verdict.name)
def test_every_verdict_is_documented_with_its_number(verdict: Verdict) -> None:
    assert f"| {verdict.value} | {verdict.name.lower().replace('_', ' ')} |" in PROTOCOL


@pytest.mark.parametrize("problem", MessageProblem, ids=lambda problem: problem.name)
def test_every_reason_to_drop_a_datagram_is_documented(problem: MessageProblem) -> None:
    assert f"`{problem.value}`" in PROTOCOL


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.name)
def test_every_phase_of_a_leader_is_documented(phase: Phase) -> None:
    assert f"| {phase.name.lower().replace('_', ' ')} |" in PROTOCOL


@pytest.mark.parametrize("obstacle", Obstacle, ids=lambda obstacle: obstacle.name)
def test_every_obstacle_is_documented_with_its_number(obstacle: Obstacle) -> None:
    assert f"| {obstacle.value} {obstacle.name.lower().replace('_', ' ')} |" in PROTOCOL


@pytest.mark.parametrize("fact", Fact, ids=lambda fact: fact.name)
def test_every_log_event_of_the_protocol_is_explained(fact: Fact) -> None:
    assert f"| `{fact.value}` |" in OPERATIONS


def logged_events() -> set[str]:
    """Names of the events that the program's own modules log."""
    sources = (ROOT / "controller" / "swanroam").rglob("*.py")
    pattern = re.compile(r"\blog\.(?:info|warning|error|exception)\(\s*\"([a-z_]+)\"")
    return {event for path in sources for event in pattern.findall(path.read_text(encoding="utf-8"))}


def test_every_other_log_event_above_debug_is_explained() -> None:
    assert "started" in logged_events()
    assert [event for event in sorted(logged_events()) if f"| `{event}` |" not in OPERATIONS] == []


def test_every_symptom_has_its_reason_and_what_to_type() -> None:
    section = OPERATIONS[OPERATIONS.index("## Troubleshooting by symptom") : OPERATIONS.index("## Log events")]
    symptoms = section.split("\n### ")[1:]
    assert len(symptoms) > 10
    for symptom in symptoms:
        title, _, text = symptom.partition("\n")
        assert text.index("**Why.**") < text.index("**Type"), title
        assert list(blocks(text[text.index("**Type") :])), title


@pytest.mark.parametrize("status", Exit, ids=lambda status: status.name)
def test_every_exit_status_is_documented(status: Exit) -> None:
    assert f"| {status.value} |" in README


def test_every_command_is_documented_and_every_documented_command_exists(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(["--help"])
    commands = set(re.findall(r"^    ([a-z-]+)(?: {2,}|$)", capsys.readouterr().out, re.MULTILINE))
    assert {"run", "status", "move", "check-config"} <= commands
    assert [command for command in sorted(commands) if f"swanroam {command}" not in README] == []
    for path in DOCUMENTS:
        shown = set(re.findall(r"`swanroam ([a-z-]+)", path.read_text(encoding="utf-8")))
        assert shown - commands - {"swanroam"} == set(), path.name


@pytest.mark.parametrize("number", range(2))
def test_minimal_configuration_in_the_readme_is_right(number: int, tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    (tmp_path / "swanroam.yaml").write_text(blocks[number], encoding="utf-8")
    assert len(load_config(tmp_path / "swanroam.yaml").peers) == 1


def test_links_between_documents_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def anchors(path: Path) -> set[str]:
    """What headings of a document can be reached by, as forges make it of them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_to_a_part_of_a_document_lead_there() -> None:
    for path in DOCUMENTS:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", path.read_text(encoding="utf-8")):
            document = path.parent / target if target else path
            if document.suffix == ".md":
                assert anchor in anchors(document), f"{path.name}: {target}#{anchor}"


def test_every_test_that_the_table_of_sockets_names_is_there_and_runs_in_the_guest_where_it_says_so() -> None:
    named = set(re.findall(r"(†?)(?: \(edge\))? `(test_\w+)`", SOCKETS))
    assert len(named) > 50
    decorators = defaultdict[str, list[str]](list)
    for path in (ROOT / "tests" / "kernel").glob("test_*.py"):
        for part in path.read_text(encoding="utf-8").split("\n\n\n"):  # one definition each, as ruff formats them
            if head := re.search(r"^(?:async )?def (test_\w+)\(", part, re.MULTILINE):
                decorators[head[1]].append(part[: head.start()])
    for dagger, name in sorted(named):
        found = decorators[name]
        assert found, name
        assert not dagger or any("pytest.mark.both" in lines for lines in found), name

"""The kernel's state of one host as text, without key material: as it is (`raw`), and comparable (`take`)."""

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.namespace import Namespace

SECTIONS = {
    "links": "ip -d link show",
    "addresses": "ip addr show",
    "rules": "ip rule show; ip -6 rule show",
    "routes": "ip route show table all",
    "traffic control": "tc qdisc show; tc qdisc show | while read -r _ kind _ _ device _; do"
    ' if [ "$kind" = clsact ]; then tc filter show dev "$device" ingress;'
    ' tc filter show dev "$device" egress; fi; done',
    "policies": "ip -d xfrm policy show nosock",
    "states": "ip -d xfrm state show",
}

_KEY = re.compile(r"^(\s*(?:auth-trunc|auth|enc|aead|comp)\s+\S+\s+)\S+", re.MULTILINE)
_KEY_BYTES = re.compile(r"0x[0-9a-f]{32,}")

# What differs from one look to the next without a difference in what the host does.
_VOLATILE = (
    re.compile(r"\s*anti-replay.*|\s*last used .*|\s*oseq .*|\s*seq-hi .*|\s*replay_window .*"),
    re.compile(r"^\s*lifetime (config|current):.*"),
    re.compile(r"^\s*limit: .*|^\s*expire (add|use): .*|^\s*\d+\(bytes\), .*|^\s*add \d{4}-.*"),
    re.compile(r"^\s*stats:.*|^\s*replay-window .*replay .*failed .*"),
    re.compile(r"^\s*valid_lft .*|^\s*Sent .*|^\s*Action statistics:.*|^\s*backlog .*|^\s*link/.*"),
)
_SUBSTITUTIONS = (
    (re.compile(r"(?<= )installed \d+ sec( used \d+ sec)?"), ""),
    (re.compile(r" (expires|age) \S+"), ""),
    (re.compile(r" (qlen|numtxqueues|numrxqueues|gso_max_size|gso_max_segs|tso_max_size|tso_max_segs) \d+"), ""),
    (re.compile(r" used \d+"), ""),
    (re.compile(r" index \d+"), ""),
    (re.compile(r"seq 0x[0-9a-f]+ ?"), ""),
    (re.compile(r"\b(spi|flag-spi|reqid) \S+"), r"\1 *"),
    (re.compile(r"^\d+: (?=\S+: <)"), ""),  # the index of an interface
    (re.compile(r"^(default via .*) metric \d+"), r"\1"),  # lower with each move of the lab
)


def redact(text: str) -> str:
    """Key material replaced. `ip xfrm state` prints keys to root; a test's report must not have them."""
    return _KEY_BYTES.sub("<key>", _KEY.sub(r"\1<key>", text))


def raw(namespace: "Namespace") -> str:
    """Everything, keys redacted."""
    script = "\n".join(f"echo '--- {name}'\n{command}" for name, command in SECTIONS.items())
    return redact(namespace.run(["sh", "-c", script], check=False).stdout)


def _entries(text: str) -> dict[str, list[str]]:
    """Entries (a line with its indented ones) of each section."""
    sections: dict[str, list[str]] = {}
    entries: list[str] = []
    for line in text.splitlines():
        if line.startswith("--- "):
            entries = sections.setdefault(line.removeprefix("--- "), [])
        elif entries and line[:1].isspace():
            entries[-1] += f"\n{line}"
        elif line.strip():
            entries.append(line)
    return sections


def normalise(text: str) -> str:
    """Text of `raw` without what changes by itself; the entries of each section in alphabetical order."""
    lines = []
    for line in text.splitlines():
        if not line.strip() or any(pattern.match(line) for pattern in _VOLATILE):
            continue
        shown = line
        for pattern, replacement in _SUBSTITUTIONS:
            shown = pattern.sub(replacement, shown)
        lines.append(shown.rstrip())
    sections = _entries("\n".join(lines))
    return "\n".join("\n".join([f"--- {title}", *sorted(entries)]) for title, entries in sections.items())


def take(namespace: "Namespace") -> str:
    """State of a host that equals an earlier one when nothing was left over in between."""
    return normalise(raw(namespace))


def difference(before: str, after: str) -> str:
    """The entries that one snapshot has more (+) and less (-) than another; empty when they are equal."""
    had, has = _entries(before), _entries(after)
    changes = []
    for section in {**had, **has}:
        old, new = Counter(had.get(section, [])), Counter(has.get(section, []))
        changes += [f"- {section}: {entry}" for entry in (old - new).elements()]
        changes += [f"+ {section}: {entry}" for entry in (new - old).elements()]
    return "\n".join(changes)

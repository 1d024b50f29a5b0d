"""The kernel's state of one host as text, without key material: as it is (`raw`), and comparable (`take`)."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.namespace import Namespace

SECTIONS = {
    "links": "ip -d link show",
    "addresses": "ip addr show",
    "rules": "ip rule show; ip -6 rule show",
    "routes": "ip route show table all; ip -6 route show table all",
    "traffic control": "tc qdisc show; for device in $(ls /sys/class/net); do"
    " tc filter show dev $device ingress; tc filter show dev $device egress; done",
    "policies": "ip -d xfrm policy show",
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
)
_SPI = re.compile(r"\bspi (0x[0-9a-f]{8})(?:\(\d+\))?|(?<=flag-spi )(0x[0-9a-f]{8})")
_REQID = re.compile(r"\breqid (\d+)(?:\(0x[0-9a-f]+\))?")


def redact(text: str) -> str:
    """Key material replaced. `ip xfrm state` prints keys to root; a test's report must not have them."""
    return _KEY_BYTES.sub("<key>", _KEY.sub(r"\1<key>", text))


def raw(namespace: "Namespace") -> str:
    """Everything, keys redacted."""
    script = "\n".join(f"echo '--- {name}'\n{command}" for name, command in SECTIONS.items())
    return redact(namespace.run(["sh", "-c", script], check=False).stdout)


def normalise(text: str) -> str:
    """Text of `raw` without what changes by itself; SPIs and reqids numbered in order of appearance."""
    lines = []
    for line in text.splitlines():
        if any(pattern.match(line) for pattern in _VOLATILE):
            continue
        shown = line
        for pattern, replacement in _SUBSTITUTIONS:
            shown = pattern.sub(replacement, shown)
        lines.append(shown.rstrip())
    joined = "\n".join(line for line in lines if line.strip())
    for pattern, word in ((_SPI, "spi"), (_REQID, "reqid")):
        joined = _numbered(joined, pattern, word)
    return joined


def _numbered(text: str, pattern: re.Pattern[str], word: str) -> str:
    seen: dict[str, int] = {}

    def replace(match: re.Match[str]) -> str:
        value = match[1] or match[match.lastindex or 1]
        return match[0].replace(match[0], f"{word} #{seen.setdefault(value, len(seen) + 1)}")

    return pattern.sub(replace, text)


def take(namespace: "Namespace") -> str:
    """State of a host that equals an earlier one when nothing was left over in between."""
    return normalise(raw(namespace))


def difference(before: str, after: str) -> str:
    """What one snapshot has more and less than another, line by line; empty when they are equal."""
    had, has = before.splitlines(), after.splitlines()
    gone = [f"- {line}" for line in had if line not in has]
    new = [f"+ {line}" for line in has if line not in had]
    return "\n".join(gone + new)

"""The keys that are in use in the lab, and where they can be found although they should be nowhere."""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lab.host import Host
from lab.ike_config import SECRETS

_STATE_KEY = re.compile(r"^\s+(?:aead|enc|auth|auth-trunc) \S+ 0x([0-9a-f]+)", re.MULTILINE)
_SECRET = re.compile(r"secret = 0x([0-9a-f]+)")
PART = 16
"""Bytes at the beginning of a key by which it is known. What an AEAD's key ends with, the salt, is not among them."""


@dataclass(slots=True)
class Keys:
    """Collected over a scenario, because SAs come and go."""

    found: set[bytes] = field(default_factory=set)

    def collect(self, hosts: Iterable[Host]) -> None:
        """Those of the SAs that the kernels have now, and the pre-shared keys of the hosts."""
        for host in hosts:
            states = _STATE_KEY.findall(host.ip("xfrm state"))
            secrets = _SECRET.findall((host.charon.swanctl_directory / SECRETS).read_text(encoding="utf-8"))
            assert states, f"{host.name} has no SA"
            assert secrets, f"{host.name} has no pre-shared key"
            self.found |= {bytes.fromhex(key)[:PART] for key in states + secrets}
        assert all(len(key) == PART for key in self.found)

    def seen_in(self, data: bytes) -> bool:
        """Whether one of them is there: raw, in hexadecimal, in base64, or as Python or JSON prints bytes."""
        lower = data.lower()
        return any(
            key in data
            or key.hex().encode() in lower
            or key.hex(":").encode() in lower
            or key.hex(" ").encode() in lower
            or repr(key)[2:-1].encode() in data
            or json.dumps(repr(key)[2:-1])[1:-1].encode() in data
            or ", ".join(map(str, key)).encode() in data
            or any(text in data for text in _base64(key))
            for key in self.found
        )


def _base64(key: bytes) -> Iterator[bytes]:
    """What a key becomes wherever it stands in what is encoded; in both alphabets."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + key)
        # Characters at both ends hold bits of the neighbours as well.
        inner = encoded[-(-before * 8 // 6) : (before + len(key)) * 8 // 6]
        yield inner
        yield inner.translate(bytes.maketrans(b"+/", b"-_"))


def files_with(keys: Keys, directory: Path) -> list[str]:
    """Files below a directory in which a key stands; the one in which it must stand is left out."""
    paths = [path for path in directory.rglob("*") if path.is_file() and path.name != SECRETS]
    assert paths
    return [str(path.relative_to(directory)) for path in sorted(paths) if keys.seen_in(path.read_bytes())]


def processes_with(keys: Keys, pids: Iterable[int]) -> list[str]:
    """Processes that show a key in their arguments, their names or their environment."""
    found = []
    for pid in pids:
        for name in ("cmdline", "environ", "comm"):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                if keys.seen_in(Path(f"/proc/{pid}/{name}").read_bytes()):
                    found.append(f"{pid}/{name}")
    return found

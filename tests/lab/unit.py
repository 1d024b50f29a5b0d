"""A systemd unit's settings, read from its file, and what a process gets from them."""

import configparser
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "systemd" / "swanroam.service"


@dataclass(frozen=True, slots=True)
class Service:
    """What a process gets from the unit."""

    user: int
    group: int
    groups: tuple[int, ...]
    """All of the user's."""
    capabilities: frozenset[str]
    """As setpriv(1) calls them: net_admin."""
    umask: str

    def wrap(self, argv: list[str]) -> list[str]:
        """A command that runs another as the unit would."""
        only = ",".join(["-all", *(f"+{name}" for name in sorted(self.capabilities))])
        change = [f"--reuid={self.user}", f"--regid={self.group}", f"--groups={','.join(map(str, self.groups))}"]
        limits = [f"--inh-caps={only}", f"--ambient-caps={only}", f"--bounding-set={only}", "--no-new-privs"]
        return ["sh", "-c", f'cd /; umask {self.umask}; exec "$@"', "sh", "setpriv", *change, *limits, *argv]


def unit(path: Path = UNIT) -> dict[str, str]:
    """The options of a unit's section Service; of one that is there several times the last."""
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # names as they are written
    parser.read_string(path.read_text(encoding="utf-8"))
    return dict(parser["Service"])


def service_of(options: dict[str, str], user: int, group: int, groups: tuple[int, ...]) -> Service:
    """What the unit with these options gives a process, its user and groups by their numbers."""
    names = options["AmbientCapabilities"].split()
    assert set(names) == set(options["CapabilityBoundingSet"].split())
    capabilities = frozenset(name.removeprefix("CAP_").lower() for name in names)
    return Service(user, group, groups, capabilities, options["UMask"])

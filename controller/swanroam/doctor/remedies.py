"""Commands that mend, for this configuration: what a shell takes as it stands."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from swanroam.config import Config
from swanroam.doctor.view import View

SWANCTL_DIRECTORY = Path("/etc/swanctl")
DROP_IN = "zz-swanroam.conf"
"""Read after all others, so that what stands there counts: swanctl merges sections of the same name."""
_UNIT_DIRECTORIES = tuple(
    map(Path, ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"))
)
_DEFAULT_SOCKET = Config.__dataclass_fields__["vici_socket"].default


def swanctl(config: Config, *words: str) -> str:
    """A command of swanctl's to the charon of this configuration."""
    uri = [] if config.vici_socket == _DEFAULT_SOCKET else ["--uri", f"unix://{config.vici_socket}"]
    return shlex.join([config.swanctl, *words, *uri])


def load_connections(config: Config) -> str:
    """Makes charon read the connections again."""
    file = [] if config.swanctl_file is None else ["--file", str(config.swanctl_file)]
    return swanctl(config, "--load-conns", *file)


def initiate(config: Config, connection: str, child: str) -> str:
    """Establishes a CHILD_SA."""
    return swanctl(config, "--initiate", "--ike", connection, "--child", child)


def renew(config: Config, connection: str, child: str, unique_id: int) -> str:
    """Ends a CHILD_SA and establishes it again."""
    return f"{swanctl(config, '--terminate', '--child-id', str(unique_id))} && {initiate(config, connection, child)}"


def set_in_connection(config: Config, connection: str, option: str, value: str) -> str:
    """Sets an option of a connection, whatever other files say, and loads it."""
    text = f"connections {{\\n  {connection} {{\\n    {option} = {value}\\n  }}\\n}}\\n"
    return f"printf '{text}' >> {shlex.quote(str(_last_file(config)))} && {load_connections(config)}"


def write_control_children(view: View) -> str:
    """Gives every connection the control child that it needs, and loads them."""
    check = f"{swanroam('check-config', view.config_file)} --swanctl"
    return f"{check} >> {shlex.quote(str(_last_file(view.config)))} && {load_connections(view.config)}"


def swanroam(command: str, config_file: Path) -> str:
    """A command of ours for the configuration file that is being examined."""
    default = config_file == Path("/etc/swanroam/swanroam.yaml")
    return shlex.join(["swanroam", command, *([] if default else ["--config", str(config_file)])])


def charon_drop_in(settings: Path, name: str, text: str) -> str:
    """Writes a drop-in beside strongswan.conf; charon reads it when it is started again."""
    directory = settings.parent / "strongswan.d"
    lines = text.replace("\n", "\\n")
    return f"printf '{lines}' > {shlex.quote(str(directory / name))} && systemctl restart {charon_unit()}"


def charon_unit() -> str:
    """The unit that charon runs in; it depends on the package."""
    for unit in ("strongswan", "strongswan-starter"):
        if any((directory / f"{unit}.service").exists() for directory in _UNIT_DIRECTORIES):
            return unit
    return "strongswan"


def _last_file(config: Config) -> Path:
    """Where an addition to the connections goes."""
    if config.swanctl_file is not None:
        return config.swanctl_file
    directory = Path(os.environ.get("SWANCTL_DIR", SWANCTL_DIRECTORY))
    parts = directory / "conf.d"
    return parts / DROP_IN if parts.is_dir() else directory / "swanctl.conf"

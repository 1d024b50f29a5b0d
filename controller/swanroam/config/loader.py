"""From a path to a `Config`: read, compose, read by the schema, check, build."""

from __future__ import annotations

from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from swanroam.config.checks import check, control_prefix
from swanroam.config.document import compose
from swanroam.config.model import (
    DEFAULT_RUNTIME_DIRECTORY,
    AddressSettings,
    CarrierSettings,
    Config,
    ControlSettings,
    LogSettings,
    MetricsSettings,
    PeerSettings,
    SocketSettings,
    TimingSettings,
)
from swanroam.config.problems import WHOLE_FILE, ConfigError, Place, Problem, Problems
from swanroam.config.schema import SCHEMA
from swanroam.config.section import Values
from swanroam.inner_address import inner_address

DEFAULT_PATH = Path("/etc/swanroam/swanroam.yaml")


def load_config(path: Path | str = DEFAULT_PATH) -> Config:
    """Read the configuration file. Raises ConfigError with every problem that it has."""
    return parse_config(_text(path), path)


def runtime_directory(path: Path | str = DEFAULT_PATH) -> Path:
    """Where the daemon of this file is to be found, also when something else in the file is wrong by now.

    Raises ConfigError when it can't be read.
    """
    problems = Problems()
    root = compose(_text(path), problems)
    values = SCHEMA.read(root, "", problems) if root is not None else None
    directory = values.values.get("runtime_directory") if isinstance(values, Values) else None
    return directory if isinstance(directory, Path) else DEFAULT_RUNTIME_DIRECTORY


def _text(path: Path | str) -> str:
    """What the file says. Raises ConfigError."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(path, (Problem(WHOLE_FILE, "", _unreadable(error)),)) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", errors="replace")
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        message = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ConfigError(path, (Problem(place, "", message),)) from error


def parse_config(text: str, file: Path | str = DEFAULT_PATH) -> Config:
    """The configuration in `text`. `file` is only named in messages. Raises ConfigError as `load_config` does."""
    problems = Problems()
    root = compose(text, problems)
    values = SCHEMA.read(root, "", problems) if root is not None else None
    if isinstance(values, Values):
        check(values, problems)
        if not problems.found:
            return _build(values)
    raise ConfigError(file, tuple(problems.found))


def _unreadable(error: OSError) -> str:
    match error:
        case FileNotFoundError():
            remedy = "create it, or name another with --config"
        case PermissionError():
            remedy = "run as root, or make it readable for the user that swanroam runs as"
        case IsADirectoryError():
            remedy = "name the file in it"
        case _:
            remedy = "check the file system that it is on"
    return f"cannot be read: {error.strerror or error}; {remedy}"


def _build(root: Values) -> Config:
    """Dataclasses from values that are known to be good; the defaults are those of the dataclasses."""
    prefix = control_prefix(root)
    identity: Any = root.values["identity"]
    sections = {"control", "carrier", "addresses", "sockets", "timing", "log", "metrics", "defaults", "peers"}
    plain: dict[str, Any] = {key: value for key, value in root.values.items() if key not in sections}
    control: dict[str, Any] = {"address": inner_address(identity, prefix), **root.section("control").values}
    addresses: dict[str, Any] = dict(root.section("addresses").values)
    if "interfaces" in addresses:
        addresses.setdefault("ignore_interfaces", ())
    return Config(
        **plain,
        control=ControlSettings(**control),
        carrier=CarrierSettings(**_keywords(root, "carrier")),
        addresses=AddressSettings(**addresses),
        sockets=SocketSettings(**_keywords(root, "sockets")),
        timing=TimingSettings(**_keywords(root, "timing")),
        log=LogSettings(**_keywords(root, "log")),
        metrics=MetricsSettings(**_keywords(root, "metrics")),
        peers=tuple(_build_peer(root, peer) for peer in root.sections("peers")),
    )


def _build_peer(root: Values, peer: Values) -> PeerSettings:
    identity: Any = peer.values["identity"]
    address: IPv6Address = inner_address(identity, control_prefix(root))
    keywords: dict[str, Any] = {
        "name": identity,
        "control_address": address,
        **root.section("defaults").values,
        **peer.values,
    }
    return PeerSettings(**keywords)


def _keywords(root: Values, key: str) -> dict[str, Any]:
    # Any: the schema has checked each value against the type that the dataclass declares
    return dict(root.section(key).values)

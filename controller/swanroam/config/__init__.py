"""The configuration file: what may stand in it, its defaults, and what is wrong with it.

`load_config` is the only way in, for the daemon and for `swanroam check-config` alike. It reads one YAML file,
reports every problem at once with file, line, column and what to write instead, and returns frozen dataclasses.
Nothing here knows the kernel, charon or the daemon.

  model.py      the dataclasses that the rest of the controller sees, with all defaults
  document.py   YAML text -> nodes with their places; refuses what makes YAML ambiguous
  kinds.py      how one value is read: durations, addresses, globs, choices
  section.py    how a mapping is read: known keys, required keys, suggestions
  schema.py     which keys there are, and their kinds
  meanings.py   what each key means, for the reference and for editors
  checks.py     what no single value can tell: duplicates, overlaps, contradictions
  loader.py     the steps from path to `Config`
"""

from swanroam.config.kinds import host, render_duration
from swanroam.config.loader import DEFAULT_PATH, load_config, parse_config, runtime_directory
from swanroam.config.model import (
    AddressSettings,
    CarrierSettings,
    Config,
    ControlSettings,
    Endpoint,
    FilterMethod,
    GuardNew,
    LogFormat,
    LogLevel,
    LogSettings,
    MetricsSettings,
    Moves,
    PeerSettings,
    SocketSettings,
    TimingSettings,
    TransportMethod,
)
from swanroam.config.problems import ConfigError, Problem

__all__ = [
    "DEFAULT_PATH",
    "AddressSettings",
    "CarrierSettings",
    "Config",
    "ConfigError",
    "ControlSettings",
    "Endpoint",
    "FilterMethod",
    "GuardNew",
    "LogFormat",
    "LogLevel",
    "LogSettings",
    "MetricsSettings",
    "Moves",
    "PeerSettings",
    "Problem",
    "SocketSettings",
    "TimingSettings",
    "TransportMethod",
    "host",
    "load_config",
    "parse_config",
    "render_duration",
    "runtime_directory",
]

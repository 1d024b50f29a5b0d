"""`swanroam check-config`: reads the file as the daemon would, and says what charon must have for it."""

from __future__ import annotations

import argparse

from swanroam.cli.exits import Exit
from swanroam.config import Config, PeerSettings, load_config


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = commands.add_parser("check-config", help="check the configuration file", description=__doc__)
    parser.add_argument("--swanctl", action="store_true", help="print nothing but the control children, for swanctl")
    parser.add_argument("--quiet", action="store_true", help="say nothing when the file is right")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 when the file is right; all its errors otherwise."""
    config = load_config(arguments.config)
    if arguments.swanctl:
        print("".join(control_child(config, peer) for peer in config.peers))
    elif not arguments.quiet:
        print(f"{arguments.config}: right; {len(config.peers)} peer{'s' if len(config.peers) != 1 else ''}")
        print("The connections in swanctl.conf need this control child each:")
        for peer in config.peers:
            print(control_child(config, peer))
    return Exit.OK


def control_child(config: Config, peer: PeerSettings) -> str:
    """What a swanctl connection needs for the control channel; swanctl merges it with the connection's own section."""
    start = "        start_action = start\n" if peer.moves.we_may else ""
    return f"""
connections {{
  {peer.connection} {{
    children {{
      {config.control.child} {{
        mode = tunnel
        local_ts = {config.control.address}/128
        remote_ts = {peer.control_address}/128
        set_mark_out = {config.control.mark:#x}
{start}      }}
    }}
  }}
}}"""

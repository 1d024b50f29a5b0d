"""`python -P -m swanroam.transport --fd N`: the mover, for the daemon at the other end of the socket that is N."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys

from swanroam.kernel.xfrm.errors import XfrmError
from swanroam.transport import keeper, privileges


def main() -> int:
    """The exit status: 0 after an orderly end, whatever became of single transfers."""
    parser = argparse.ArgumentParser(prog="swanroam.transport", description="Started by the swanroam daemon.")
    parser.add_argument("--fd", type=int, required=True, help="descriptor of a connected stream socket of AF_UNIX")
    channel = socket.socket(fileno=parser.parse_args().fd)
    # A service manager that ends the daemon signals its whole group. The mover ends when the daemon has, and not
    # before everything that it holds is let go.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        privileges.be_spared_and_named("swanroam-mover")
        privileges.drop()
        asyncio.run(keeper.serve(channel))
    except (privileges.PrivilegeError, XfrmError, OSError) as error:
        print(f"swanroam's mover: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

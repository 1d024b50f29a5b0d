"""`python -P -m swanroam.transport --fd N`: the nursery of movers, for the daemon at the other end of socket N."""

from __future__ import annotations

import argparse
import socket

from swanroam.transport import nursery


def main() -> None:
    """Until the daemon is gone."""
    parser = argparse.ArgumentParser(prog="swanroam.transport", description="Started by the swanroam daemon.")
    parser.add_argument("--fd", type=int, required=True, help="descriptor of a connected stream socket of AF_UNIX")
    nursery.serve(socket.socket(fileno=parser.parse_args().fd))


if __name__ == "__main__":
    main()

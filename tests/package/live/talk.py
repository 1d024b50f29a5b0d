"""One TCP connection with a number each way every tenth of a second, each of which must be the one that follows.

`talk.py listen ADDRESS`, `talk.py connect ADDRESS FILE`; the latter keeps in FILE how far they are, and there is an end
to it, with its reason, as soon as something is wrong. For the release's Python, so with its standard library alone.
"""

import itertools
import socket
import sys
import time
from pathlib import Path

PORT = 7000


def say(report: Path, text: str) -> None:
    """At one time: who reads meanwhile gets what was there before."""
    new = report.with_suffix(".new")
    new.write_text(f"{text}\n", encoding="utf-8")
    new.rename(report)


def exchange(sock: socket.socket, report: Path | None) -> None:
    lines = sock.makefile("r")
    for number in itertools.count():
        if report is not None:
            sock.sendall(b"%d\n" % number)
        received = lines.readline()
        if received != f"{number}\n":
            raise ValueError(f"after {number} numbers came {received!r}")
        if report is not None:
            say(report, str(number))
            time.sleep(0.1)
        else:
            sock.sendall(received.encode())


def main() -> None:
    match sys.argv[1:]:
        case ["listen", address]:
            with socket.create_server((address, PORT)) as server:
                exchange(server.accept()[0], None)
        case ["connect", address, report]:
            try:
                exchange(socket.create_connection((address, PORT)), Path(report))
            except (OSError, ValueError) as error:
                say(Path(report), f"ended: {error}")


main()

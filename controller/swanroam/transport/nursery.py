"""Where movers come from: a small process that the daemon starts with itself, and that forks one when it is asked to.

A fork takes milliseconds, a new interpreter with all that the mover needs takes a fifth of a second, and several on a
slow machine: time in which connections take the longer way. The nursery holds nothing and stops nobody.

A request is a byte with the descriptor of the mover's channel (SCM_RIGHTS, unix(7)).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import traceback

from swanroam.kernel.xfrm.errors import XfrmError
from swanroam.transport import keeper, privileges, tracer

REQUEST = b"m"


def ask(nursery: socket.socket) -> socket.socket:
    """A channel to a new mover. Raises OSError when the nursery is not there."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            socket.send_fds(nursery, [REQUEST], [theirs.fileno()])
        except OSError:
            ours.close()
            raise
    return ours


def serve(requests: socket.socket) -> None:
    """Forks movers until the daemon at the other end is gone."""
    # A service manager that ends the daemon signals its whole group. A mover ends when the daemon has, and not
    # before everything that it holds is let go. SIGABRT is what systemd's watchdog sends to all of a daemon that hangs.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGABRT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    privileges.be_spared_and_named("swanroam-nurse")
    daemon, nursery = os.getppid(), os.getpid()
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, len(REQUEST), 1)
        if not message:
            return
        if os.fork() == 0:
            requests.close()
            _be_a_mover(socket.socket(fileno=descriptors[0]), frozenset({daemon, nursery}))
        os.close(descriptors[0])


def _be_a_mover(channel: socket.socket, forbidden: frozenset[int]) -> None:
    """Does not return."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        privileges.be_spared_and_named("swanroam-mover")
        owners_tracer = tracer.start()
        privileges.drop()
        asyncio.run(keeper.serve(channel, owners_tracer, forbidden))
        status = 0
    except (privileges.PrivilegeError, XfrmError, OSError) as error:
        print(f"swanroam's mover: {error}", file=sys.stderr, flush=True)
    except BaseException:  # noqa: BLE001 - the border of the process
        traceback.print_exc()
    finally:
        os._exit(status)

"""Owners of sockets that are special: each is stopped and runs on, or is left alone, with the reason."""

import sys

import pytest

from kernel.mover_hosts import NEW, PATIENCE, Mover, Pair, Program, entries, hand_over, until
from swanroam.transport import nursery
from swanroam.transport.orders import Place, Reason

pytestmark = pytest.mark.kernel

CONNECT = "s = socket.create_connection(('10.0.0.2', 7000))"
ECHO = "s.sendall(b'a line'); print(s.recv(6, socket.MSG_WAITALL), flush=True)"


def owner(hosts: Pair, program: str, *before: str) -> tuple[Program, int]:
    """A program on the mobile host, with a server for it on the other; and the port that it tells."""
    hosts.peer.python("echo").line()
    started = hosts.mobile.start(*before, sys.executable, "-c", f"import ctypes, os, socket, sys, threading\n{program}")
    return started, int(started.line())


@pytest.mark.both
@pytest.mark.parametrize("apart", [False, True])
def test_an_owner_that_waits_in_the_kernel_and_cannot_be_interrupted_is_left_alone(*, apart: bool) -> None:
    """The parent of a vfork, which is in state D until its child has ended; as with a dead NFS server.

    `apart`: the peer's socket may be at the new addresses from before, which so stay locked.
    """
    program = (
        f"{CONNECT}; print(s.getsockname()[1], flush=True); libc = ctypes.CDLL(None)\n"
        "number = {'x86_64': 56, 'aarch64': 220}[os.uname().machine]\n"
        "sys.stdin.readline()\n"
        "if libc.syscall(number, 0x4000 | 17, 0, 0, 0, 0) == 0:\n"  # CLONE_VFORK | SIGCHLD, in memory of its own
        "    s.close(); print('child', flush=True); sys.stdin.readline(); os._exit(0)\n"
        f"os.wait(); {ECHO}; sys.stdin.read()"
    )
    with Pair() as hosts:
        parent, port = owner(hosts, program)
        mobile, peer = hosts.movers()
        here, there = entries(port)
        mobile.inspect(here)
        if apart:
            mobile.stop(first := mobile.next_transfer(), here, hold_seconds=PATIENCE)
            mobile.go(first, keep_locks=(0,))
        assert parent.ask("") == "child"
        assert parent.state() == "D"
        assert mobile.stop(mobile.next_transfer(), here, hold_seconds=PATIENCE).refusals[0].reason is Reason.NOT_STOPPED
        assert hosts.mobile.locks() == (1 if apart else 0)
        assert parent.ask("") == "b'a line'"
        hosts.steer(NEW)
        hand_over(mobile, peer, here, there)
        assert mobile.where(here[0]) is Place.NEW


def test_a_socket_that_only_one_thread_has_is_left_alone() -> None:
    """Its descriptors are its own (unshare(CLONE_FILES)), and no process is known to have the socket."""
    program = (
        "def work():\n"
        "    os.unshare(os.CLONE_FILES) if hasattr(os, 'unshare') else ctypes.CDLL(None).unshare(0x400)\n"
        f"    {CONNECT}; print(s.getsockname()[1], flush=True); sys.stdin.readline(); {ECHO}\n"
        "threading.Thread(target=work).start()"
    )
    with Pair() as hosts:
        thread, port = owner(hosts, program)
        mobile = hosts.mobile.mover()
        here, _ = entries(port)
        assert mobile.inspect(here).refusals[0].reason is Reason.NO_OWNER
        assert mobile.stop(mobile.next_transfer(), here).refusals[0].reason is Reason.NO_OWNER
        assert thread.ask("") == "b'a line'"


def test_a_thread_with_descriptors_of_its_own_is_stopped_with_its_process() -> None:
    program = (
        f"{CONNECT}\n"
        "def work():\n"
        "    ctypes.CDLL(None).unshare(0x400); print(s.getsockname()[1], flush=True)\n"
        "    while sys.stdin.readline():\n"
        f"        {ECHO}\n"
        "threading.Thread(target=work).start()"
    )
    with Pair() as hosts:
        thread, port = owner(hosts, program)
        mobile, peer = hosts.movers()
        here, there = entries(port)
        hosts.steer(NEW)
        hand_over(mobile, peer, here, there)
        assert thread.ask("") == "b'a line'"
        assert mobile.where(here[0]) is Place.NEW


@pytest.mark.both
def test_an_owner_in_a_user_namespace_of_its_own_moves() -> None:
    program = f"{CONNECT}; print(s.getsockname()[1], flush=True); sys.stdin.readline(); {ECHO}; sys.stdin.read()"
    with Pair() as hosts:
        there_is, port = owner(hosts, program, "unshare", "--user", "--map-root-user")
        mobile, peer = hosts.movers()
        here, there = entries(port)
        hosts.steer(NEW)
        hand_over(mobile, peer, here, there)
        assert there_is.ask("") == "b'a line'"
        assert mobile.where(here[0]) is Place.NEW


def test_an_owner_over_whom_the_mover_has_no_rights_is_left_alone() -> None:
    """The mover is in a user namespace; the owner is in the one above, out of its reach, though in the same network."""
    program = f"{CONNECT}; print(s.getsockname()[1], flush=True); sys.stdin.readline(); {ECHO}; sys.stdin.read()"
    with Pair() as hosts:
        started, port = owner(hosts, program)
        here, _ = entries(port)
        requests = hosts.mobile.nursery_program(
            "unshare", "--user", "--map-root-user", sys.executable, "-P", "-m", "swanroam.transport"
        )
        with Mover(nursery.ask(requests)) as confined:
            assert confined.inspect(here).refusals[0].reason in (Reason.NO_OWNER, Reason.PERMISSION)
        assert started.ask("") == "b'a line'"


WAITING = {
    "epoll_wait": "libc.epoll_wait(epoll.fileno(), buffer, 1, -1)",
    "recv with a time limit": "libc.recv(s.fileno(), buffer, 100, 0)",
    "recv": "libc.recv(s.fileno(), buffer, 100, 0)",
    "poll": "libc.poll(buffer, 1, -1)",
    "select": "libc.select(s.fileno() + 1, bits, None, None, None)",
}
"""By the C library: Python itself would call again after EINTR, and hide it."""


@pytest.mark.both
def test_what_a_program_notices_that_waits_while_its_connection_moves() -> None:
    """EINTR from calls that signal(7) names as never restarted after a stop; nothing from others."""
    with Pair() as hosts:
        echo = hosts.peer.python("echo")
        assert echo.line() == "up"
        mobile, peer = hosts.movers()
        programs = {}
        for name, call in WAITING.items():
            started = hosts.mobile.start(
                sys.executable,
                "-c",
                "import ctypes, errno, select, socket, struct\n"
                f"{CONNECT}; libc = ctypes.CDLL(None, use_errno=True); epoll = select.epoll(); epoll.register(s, 1)\n"
                f"if 'limit' in {name!r}:\n"
                "    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 90, 0))\n"
                "buffer = ctypes.create_string_buffer(struct.pack('ihh', s.fileno(), 1, 0), 128)\n"
                "bits = ctypes.create_string_buffer((1 << s.fileno()).to_bytes(128, 'little'), 128)\n"
                "print(s.getsockname()[1], flush=True)\n"
                f"result = {call}; number = ctypes.get_errno()\n"
                "print(errno.errorcode.get(number, number) if result < 0 else result, flush=True)",
            )
            programs[name] = started, int(started.line())
        for started, _ in programs.values():
            until(lambda started=started: started.state() == "S")
        here, there = entries(*(port for _, port in programs.values()))
        hosts.steer(NEW)
        hand_over(mobile, peer, here, there)
        echo.process.kill()  # whoever still waits learns of that
        noticed = {name: started.line() for name, (started, _) in programs.items()}
    assert noticed == {
        "epoll_wait": "EINTR",
        "recv with a time limit": "EINTR",
        "recv": "0",
        "poll": "1",
        "select": "1",
    }

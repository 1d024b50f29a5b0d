"""The mover on the running kernel: who is stopped and how, limits, refusals, what remains when the daemon is gone."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kernel.mover_hosts import NEW, OLD, PATIENCE, Mover, Pair, entries, hand_over, settle, until
from swanroam.kernel.sock_diag import SocketProtocol
from swanroam.transport import nursery
from swanroam.transport.orders import (
    Exclusions,
    Expired,
    Failed,
    Go,
    Inspect,
    Inspected,
    Place,
    Quit,
    Reason,
    Rebuild,
    Rebuilt,
    Stop,
    Stopped,
    Unlock,
)

pytestmark = pytest.mark.kernel


def test_inspecting_changes_nothing_and_tells_owners_and_places() -> None:
    with Pair() as hosts:
        client, (port,) = hosts.client("poll")
        (here, absent), _ = entries(port, 9)
        found = hosts.mobile.mover().inspect([here, absent])
        assert found.found == {0: Place.OLD, 1: Place.NONE}
        assert {index: refusal.reason for index, refusal in found.refusals.items()} == {1: Reason.NOT_FOUND}
        assert found.owners == {0: (f"python/{client.pid}",)}
        assert hosts.mobile.locks() == 0
        client.goes_on()
        client.end()


def test_what_is_excluded_by_name_or_port_stays() -> None:
    with Pair() as hosts:
        client, (port,) = hosts.client("idle")
        (here,), _ = entries(port)
        mover = hosts.mobile.mover()
        for exclusions in (
            Exclusions(processes=("ssh*", "pyth*")),
            Exclusions(ports=(port,)),
            Exclusions(ports=(7000,)),
        ):
            assert mover.inspect([here], exclusions=exclusions).refusals[0].reason is Reason.EXCLUDED
            mover.send(Stop(transfer := mover.next_transfer(), (here,), exclusions=exclusions))
            assert mover.receive(Stopped).refusals[0].reason is Reason.EXCLUDED
            assert client.state() != "t"
            mover.go(transfer)
        assert not mover.inspect([here], exclusions=Exclusions(("ssh*",), (22,))).refusals
        client.end()


def test_a_transfer_of_which_nothing_is_left_to_stop_ends_by_its_limit_too() -> None:
    """Or the daemon would take it for going on for ever, and the mover with it."""
    with Pair() as hosts:
        (absent,), _ = entries(9)
        mover = hosts.mobile.mover()
        stopped = mover.stop(1, [absent], hold_seconds=0.1)
        assert not stopped.numbers
        assert {index: refusal.reason for index, refusal in stopped.refusals.items()} == {0: Reason.NOT_FOUND}
        assert mover.receive(Expired, timeout=2.0) == Expired(1, ())


@pytest.mark.both
def test_owners_are_held_from_stop_to_go_and_locks_remain_only_where_the_socket_was() -> None:
    with Pair() as hosts:
        client, ports = hosts.client("threads")
        mobile, peer = hosts.movers()
        (here,), (there,) = entries(*ports)
        hosts.steer(NEW)
        theirs = mobile.stop(1, [here], hold_seconds=PATIENCE)
        assert client.state() == "t"
        assert hosts.mobile.locks() == 2
        ours = peer.stop(1, [there], hold_seconds=PATIENCE)
        assert peer.rebuild(1, dict(theirs.numbers)).done == (0,)
        assert mobile.rebuild(1, dict(ours.numbers)).done == (0,)
        assert client.state() == "t"
        assert hosts.mobile.locks() == 1
        assert not peer.go(1).refusals
        assert not mobile.go(1).refusals
        until(lambda: client.state() != "t")
        client.goes_on()
        assert hosts.mobile.locks() == 1
        mobile.send(Unlock((here,)))
        until(lambda: hosts.mobile.locks() == 0)
        client.end()
        assert hosts.resets() == 0


def test_what_has_no_number_of_the_peer_is_let_go_unchanged_and_the_rest_moves() -> None:
    with Pair() as hosts:
        client, ports = hosts.client("blocking", 3)
        mobile, peer = hosts.movers()
        here, there = entries(*ports)
        hosts.steer(NEW)
        theirs = mobile.stop(1, here, hold_seconds=PATIENCE)
        ours = peer.stop(1, there, hold_seconds=PATIENCE)
        numbers = {index: number for index, number in theirs.numbers.items() if index != 1}
        answer = peer.rebuild(1, numbers)
        assert answer.done == (0, 2)
        assert answer.refusals[1].reason is Reason.NO_NUMBER
        del ours.numbers[1]  # type: ignore[attr-defined]
        assert mobile.rebuild(1, dict(ours.numbers)).done == (0, 2)
        assert not peer.go(1).refusals
        assert not mobile.go(1).refusals
        client.goes_on()
        assert [mobile.where(entry) for entry in here] == [Place.NEW, Place.OLD, Place.NEW]
        client.end()
        assert hosts.resets() == 0


def test_a_connection_goes_back_when_the_peer_could_not_follow() -> None:
    with Pair() as hosts:
        client, ports = hosts.client("epoll-level")
        mobile, peer = hosts.movers()
        (here,), (there,) = entries(*ports)
        hosts.steer(NEW)
        theirs = mobile.stop(1, [here], hold_seconds=PATIENCE)
        ours = peer.stop(1, [there], hold_seconds=PATIENCE)
        assert peer.rebuild(1, dict(theirs.numbers)).done == (0,)
        assert mobile.rebuild(1, dict(ours.numbers)).done == (0,)
        hosts.steer(OLD)
        assert not peer.go(1, back=(0,)).refusals
        assert not mobile.go(1, back=(0,)).refusals
        client.goes_on()
        assert mobile.where(here) is peer.where(there) is Place.OLD
        client.end()
        assert hosts.resets() == 0


def test_a_wrong_number_of_the_peer_is_refused_before_the_socket_is_touched() -> None:
    with Pair() as hosts:
        client, ports = hosts.client("poll")
        mobile = hosts.mobile.mover()
        (here,), _ = entries(*ports)
        hosts.steer(NEW)
        mobile.stop(1, [here], hold_seconds=PATIENCE)
        refusal = mobile.rebuild(1, {0: 12345}).refusals[0]
        assert refusal.reason is Reason.CHANGED
        assert "the two hosts disagree" in refusal.detail
        assert not mobile.go(1, back=(0,)).refusals
        client.goes_on()
        client.end()
        assert hosts.resets() == 0


@pytest.mark.parametrize("rebuilt", [False, True], ids=["stopped", "rebuilt"])
def test_held_for_too_long_everything_is_let_go_where_it_stands_and_can_be_settled(rebuilt: bool) -> None:
    with Pair() as hosts:
        client, ports = hosts.client("threads")
        mobile, peer = hosts.movers()
        (here,), (there,) = entries(*ports)
        hosts.steer(NEW)
        theirs = mobile.stop(1, [here], hold_seconds=PATIENCE)
        ours = peer.stop(1, [there], hold_seconds=1.0)
        if rebuilt:
            peer.rebuild(1, dict(theirs.numbers))
        assert peer.receive(Expired) == Expired(1, (0,) if rebuilt else ())
        assert hosts.peer.locks() == 1  # where it does not stand
        assert isinstance(peer.ask(Go(1), Failed), Failed)

        # The mobile host hears nothing of it, and goes back.
        mobile.rebuild(1, dict(ours.numbers))
        hosts.steer(OLD)
        assert not mobile.go(1, back=(0,), keep_locks=(0,)).refusals
        assert settle(mobile, peer, here, there) is Place.OLD
        client.goes_on()
        client.end()
        assert hosts.resets() == 0


def test_what_had_no_number_stays_locked_at_the_new_addresses_when_the_time_is_over() -> None:
    """The peer's may be there."""
    with Pair() as hosts:
        client, ports = hosts.client("threads")
        mobile = hosts.mobile.mover()
        (here,), _ = entries(*ports)
        mobile.stop(1, [here], hold_seconds=1.0)
        assert mobile.rebuild(1, {}).refusals[0].reason is Reason.NO_NUMBER
        assert mobile.receive(Expired) == Expired(1, ())
        assert hosts.mobile.locks() == 1
        client.goes_on()
        client.end()


def test_what_was_locked_before_at_the_new_addresses_is_so_after_an_attempt_in_vain() -> None:
    """An earlier transfer was cut short, and the peer's may be there."""
    with Pair() as hosts:
        client, ports = hosts.client("threads")
        mobile = hosts.mobile.mover()
        (here,), _ = entries(*ports)
        hosts.steer(NEW)
        mobile.stop(1, [here], hold_seconds=PATIENCE)
        mobile.go(1, keep_locks=(0,))
        mobile.stop(2, [here], hold_seconds=PATIENCE)
        assert mobile.rebuild(2, {0: 12345}).refusals[0].reason is Reason.CHANGED
        mobile.go(2)
        assert hosts.mobile.locks() == 1
        client.goes_on()
        client.end()


@pytest.mark.parametrize("end", ["close", "quit"])
@pytest.mark.parametrize("step", ["inspected", "stopped", "rebuilt", "gone"])
def test_the_daemon_goes_at_every_step(step: str, end: str) -> None:
    with Pair() as hosts:
        client, ports = hosts.client("select")
        mobile, peer = hosts.movers()
        (here,), (there,) = entries(*ports)
        hosts.steer(NEW)
        mobile.inspect([here])
        if step != "inspected":
            theirs = mobile.stop(1, [here], hold_seconds=PATIENCE)
            ours = peer.stop(1, [there], hold_seconds=PATIENCE)
            if step != "stopped":
                peer.rebuild(1, dict(theirs.numbers))
                mobile.rebuild(1, dict(ours.numbers))
                if step != "rebuilt":
                    mobile.go(1)
        if end == "quit":
            mobile.send(Quit())
        else:
            mobile.channel.shutdown(socket.SHUT_WR)  # as when the daemon dies
        mobile.wait_ended()
        until(lambda: client.state() != "t")
        if step != "inspected":
            assert not peer.go(1, keep_locks=(0,)).refusals
        hosts.steer(OLD)
        place = settle(hosts.mobile.mover(), peer, here, there)
        assert place is (Place.NEW if step in ("rebuilt", "gone") else Place.OLD)
        client.goes_on()
        client.end()
        assert hosts.resets() == 0


@pytest.mark.both
def test_a_program_that_is_stopped_by_its_terminal_stays_so_and_its_connection_moves() -> None:
    with Pair() as hosts:
        client, ports = hosts.client("poll")
        client.process.send_signal(signal.SIGSTOP)  # as SIGTSTP, which needs a terminal
        until(lambda: client.state() == "T")
        mobile, peer = hosts.movers()
        here, there = entries(*ports)
        hosts.steer(NEW)
        hand_over(mobile, peer, here, there)
        until(lambda: client.state() == "T")
        client.process.send_signal(signal.SIGCONT)
        client.goes_on()
        assert mobile.where(here[0]) is Place.NEW
        client.end()


def test_signals_that_come_while_the_owner_is_held_are_delivered_afterwards() -> None:
    with Pair() as hosts:
        client, ports = hosts.client("threads")
        mobile = hosts.mobile.mover()
        here, _ = entries(*ports)
        assert not mobile.stop(1, here, hold_seconds=PATIENCE).refusals
        client.process.send_signal(signal.SIGSTOP)
        assert client.state() == "t"
        mobile.go(1)
        until(lambda: client.state() == "T")
        client.process.send_signal(signal.SIGCONT)
        client.goes_on()
        client.end()


def test_a_traced_owner_is_left_alone() -> None:
    with Pair() as hosts:
        client, ports = hosts.client("poll")
        here, _ = entries(*ports)
        tracer = subprocess.Popen(["strace", "-f", "-o", "/dev/null", "-p", str(client.pid)], stderr=subprocess.PIPE)
        try:
            assert tracer.stderr is not None
            assert b"attached" in tracer.stderr.readline()
            mover = hosts.mobile.mover()
            assert mover.inspect(here).refusals[0].reason is Reason.TRACED
            assert mover.stop(1, here).refusals[0].reason is Reason.TRACED
            assert hosts.mobile.locks() == 0
        finally:
            tracer.terminate()
            tracer.communicate()
        client.goes_on()
        client.end()


@pytest.mark.both
def test_an_owner_with_io_uring_is_left_alone() -> None:
    program = (
        "import ctypes, socket, sys; libc = ctypes.CDLL(None, use_errno=True);"
        "assert libc.syscall(425, 4, (ctypes.c_uint32 * 30)()) >= 0, ctypes.get_errno();"
        "s = socket.create_connection(('10.0.0.2', 7000)); print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    with Pair() as hosts:
        hosts.peer.python("echo").line()
        owner = hosts.mobile.start(sys.executable, "-c", program)
        here, _ = entries(int(owner.line()))
        assert hosts.mobile.mover().inspect(here).refusals[0].reason is Reason.IO_URING


def test_the_daemon_is_never_stopped() -> None:
    program = (
        "import socket, subprocess, sys; s = socket.create_connection(('10.0.0.2', 7000));"
        "print(s.getsockname()[1], flush=True);"
        "m = subprocess.Popen([sys.executable, '-P', '-m', 'swanroam.transport', '--fd', sys.argv[1]],"
        " pass_fds=[int(sys.argv[1])]); sys.stdin.read()"
    )
    with Pair() as hosts:
        hosts.peer.python("echo").line()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            daemon = hosts.mobile.start(sys.executable, "-c", program, str(theirs.fileno()), pass_fds=[theirs.fileno()])
            here, _ = entries(int(daemon.line()))
            with Mover(nursery.ask(ours)) as mover:
                stopped = mover.stop(1, here)
            assert stopped.refusals[0].reason is Reason.OWN
            assert daemon.state() == "S"


@pytest.mark.parametrize("bound", ["10.0.0.1", "0.0.0.0"])
def test_connected_udp_sockets_move_and_keep_what_they_have_received(bound: str) -> None:
    program = (
        "import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM); s.bind((sys.argv[1], 0));"
        "s.connect(('10.0.0.2', 7000)); print(s.getsockname()[1], flush=True);"
        "[print(*s.recvfrom(100), s.getsockname()[0], s.send(b'answer'), flush=True) for line in sys.stdin]"
    )
    with Pair() as hosts:
        client = hosts.mobile.start(sys.executable, "-c", program, bound)
        port = int(client.line())
        server = hosts.peer.start(
            sys.executable,
            "-c",
            "import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('10.0.0.2', 7000));"
            "print('up', flush=True);"
            "[(s.sendto(b'to ' + line.encode(), (line.strip(), int(sys.argv[1]))), print('sent', flush=True))"
            " if line != 'read\\n' else print(s.recvfrom(100)[1][0], flush=True) for line in sys.stdin]",
            str(port),
        )
        assert server.line() == "up"
        assert server.ask("10.0.0.1") == "sent"
        (here,), _ = entries(port, protocol=SocketProtocol.UDP)
        mover = hosts.mobile.mover()
        hosts.steer(NEW)
        assert mover.inspect([here]).found == {0: Place.OLD}
        stopped = mover.stop(1, [here])
        assert (dict(stopped.numbers), dict(stopped.refusals)) == ({}, {})
        assert hosts.mobile.locks() == 0
        assert mover.rebuild(1, {}).done == (0,)
        assert not mover.go(1).refusals
        assert mover.where(here) is Place.NEW
        assert client.ask("") == "b'to 10.0.0.1\\n' ('10.0.0.2', 7000) 10.0.0.3 6"
        assert server.ask("read") == "10.0.0.3"
        assert server.ask("10.0.0.3") == "sent"
        assert client.ask("").startswith("b'to 10.0.0.3\\n'")


def test_udp_without_a_connection_needs_nothing() -> None:
    program = (
        "import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 5000));"
        "print('up', flush=True); sys.stdin.read()"
    )
    with Pair() as hosts:
        assert hosts.mobile.start(sys.executable, "-c", program).line() == "up"
        here, _ = entries(5000, protocol=SocketProtocol.UDP)
        found = hosts.mobile.mover().inspect(here)
        assert found.found == {0: Place.WILDCARD}
        assert found.refusals[0].reason is Reason.WILDCARD


def test_orders_for_several_transfers_are_carried_out_beside_each_other() -> None:
    with Pair() as hosts:
        client, ports = hosts.client("blocking", 2)
        mobile, peer = hosts.movers()
        here, there = entries(*ports)
        hosts.steer(NEW)
        # Both have the same owner, which runs again when both have ended.
        for transfer in (0, 1):
            mobile.send(Stop(transfer, (here[transfer],), hold_seconds=PATIENCE))
            peer.send(Stop(transfer, (there[transfer],), hold_seconds=PATIENCE))
        theirs = {answer.transfer: answer.numbers for answer in (mobile.receive(Stopped), mobile.receive(Stopped))}
        ours = {answer.transfer: answer.numbers for answer in (peer.receive(Stopped), peer.receive(Stopped))}
        for transfer in (0, 1):
            assert peer.rebuild(transfer, dict(theirs[transfer])).done == (0,)
            assert mobile.rebuild(transfer, dict(ours[transfer])).done == (0,)
            assert not peer.go(transfer).refusals
            assert not mobile.go(transfer).refusals
            if transfer == 0:
                assert client.state() == "t"
        client.goes_on()
        client.end()


def test_bad_orders_are_answered_and_do_no_harm() -> None:
    with Pair() as hosts:
        mover = hosts.mobile.mover()
        for line in (b"not JSON\n", b"{}\n", b'{"is":"Stop"}\n', b'{"is":"Gone","transfer":1,"refusals":{}}\n'):
            mover.channel.sendall(line)
            assert mover.receive(Failed).transfer == 0
        assert "there is no transfer 7" in mover.ask(Rebuild(7), Failed).text
        assert mover.ask(Inspect(5, ()), Inspected).transfer == 5
        mover.send(Stop(1, ()), Stop(1, ()))
        assert mover.receive(Stopped).numbers == {}
        assert "under way already" in mover.receive(Failed).text


def test_the_mover_and_its_tracer_keep_few_rights() -> None:
    with Pair() as hosts:
        mover = hosts.mobile.mover()
        mover.inspect([])
        keeper = only_child_of(hosts.mobile.nursery_pid)
        for pid, name, few in (
            (keeper, "swanroam-mover", (2, 10, 12, 13, 19)),
            (only_child_of(keeper), "swanroam-tracer", (19,)),
        ):
            status = Path(f"/proc/{pid}/status").read_text()
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            for which in ("CapEff", "CapPrm"):
                assert int(fields[which], 16) == sum(1 << number for number in few)
            for which in ("CapInh", "CapBnd", "CapAmb"):
                assert int(fields[which], 16) == 0
            assert fields["NoNewPrivs"] == "1"
            assert fields["Name"] == name[:15]
            for number in (signal.SIGTERM, signal.SIGABRT):  # systemctl stop, and the watchdog
                os.kill(pid, number)
        mover.inspect([])


@pytest.mark.both
@pytest.mark.parametrize("dies", ["keeper", "tracer", "keeper while the worker hangs"])
def test_nobody_is_left_when_one_of_the_mover_s_processes_is_killed(dies: str) -> None:
    with Pair() as hosts:
        client, ports = hosts.client("poll")
        here, _ = entries(*ports)
        mover = hosts.mobile.mover()
        assert not mover.stop(1, here, hold_seconds=PATIENCE).refusals
        keeper = only_child_of(hosts.mobile.nursery_pid)
        family = [keeper, *children_of(keeper)]
        assert len(family) == 3
        tracer = next(pid for pid in family if name_of(pid) == "swanroam-tracer")
        (worker,) = set(family) - {keeper, tracer}
        assert client.state() == "t"
        if "hangs" in dies:
            os.kill(worker, signal.SIGSTOP)
        os.kill(tracer if dies == "tracer" else keeper, signal.SIGKILL)
        if dies == "tracer":
            assert mover.receive(Expired) == Expired(1, ())
        mover.wait_ended()
        until(lambda: client.state() != "t")
        if "hangs" in dies:
            os.kill(worker, signal.SIGCONT)
        until(lambda: not any(map(is_alive, family)))
        mover.channel.close()
        with hosts.mobile.mover() as next_one:
            next_one.send(Unlock(tuple(here)))
            client.goes_on()
            client.end()
        assert hosts.resets() == 0


def children_of(pid: int) -> list[int]:
    return [int(line) for line in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True).stdout.split()]


def only_child_of(pid: int) -> int:
    (child,) = children_of(pid)
    return child


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")


def is_alive(pid: int) -> bool:
    """A zombie is not: its parent is about to ask for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_hundreds_of_connections_of_one_program_move_together() -> None:
    with Pair() as hosts:
        number = 500
        client, ports = hosts.client("blocking", number)
        mobile, peer = hosts.movers()
        here, there = entries(*ports)
        hosts.steer(NEW)
        mobile.inspect(here)
        began = time.monotonic()
        mobile.send(Stop(1, tuple(here), hold_seconds=PATIENCE))
        ours, theirs = peer.stop(1, there, hold_seconds=PATIENCE), mobile.receive(Stopped)
        mobile.send(Rebuild(1, ours.numbers))
        assert len(peer.rebuild(1, dict(theirs.numbers)).done) == number
        assert len(mobile.receive(Rebuilt).done) == number
        assert not peer.go(1).refusals
        assert not mobile.go(1).refusals
        print(f"{1e6 * (time.monotonic() - began) / number:.0f} µs for each of {number} connections, both hosts")
        client.goes_on()
        client.end()
        assert hosts.resets() == 0


def test_processes_that_are_forked_all_the_time_are_all_stopped() -> None:
    program = (
        "import os, socket, time; s = socket.create_connection(('10.0.0.2', 7000));"
        "print(s.getsockname()[1], flush=True); end = time.monotonic() + 30\n"
        "def breed():\n"
        "    while time.monotonic() < end:\n"
        "        if os.fork() == 0: time.sleep(0.05); os._exit(0)\n"
        "        try: os.waitpid(-1, os.WNOHANG)\n"
        "        except ChildProcessError: pass\n"
        "        time.sleep(0.004)\n"
        "breed()"
    )
    with Pair() as hosts:
        hosts.peer.python("echo").line()
        parent = hosts.mobile.start(sys.executable, "-c", program)
        here, _ = entries(int(parent.line()))
        mover = hosts.mobile.mover()
        mover.inspect(here)
        assert not mover.stop(1, here, hold_seconds=PATIENCE).refusals
        assert set(states_of_group(parent.pid)) <= {"t", "Z"}
        assert not mover.go(1).refusals
        until(lambda: "t" not in states_of_group(parent.pid))


def states_of_group(leader: int) -> list[str]:
    """States of the processes of a session, as in /proc/PID/stat."""
    states = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader:
            states.append(fields[0])
    return states

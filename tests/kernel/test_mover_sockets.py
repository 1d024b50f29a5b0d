"""Kinds of sockets through the mover: each moves, or is left as it was, with the reason."""

import sys

import pytest

from kernel.mover_hosts import (
    NEW,
    NEW6,
    OLD,
    OLD6,
    PATIENCE,
    PEER,
    PEER6,
    Pair,
    Program,
    accepted,
    entries,
    entries6,
    hand_over,
    until,
)
from swanroam.transport.orders import End, Ended, Place, Reason

pytestmark = pytest.mark.kernel

TALK = (
    "print(s.getsockname()[1], flush=True)\n"
    "for line in sys.stdin:\n"
    "    try: print(eval(line), flush=True)\n"
    "    except OSError as error: print(type(error).__name__, flush=True)\n"
)
"""A program that does with its socket `s` what it is told, and tells the outcome."""


def talkers(hosts: Pair, *, setup: str = "", server_setup: str = "") -> tuple[Program, Program, int]:
    """A client on the mobile host, the server on its peer, and the client's port."""
    server = hosts.peer.start(
        sys.executable,
        "-c",
        "import socket, struct, sys; l = socket.create_server(('10.0.0.2', 7000));"
        f"{server_setup}\nprint('up', flush=True); s = l.accept()[0]\n" + TALK,
    )
    assert server.line() == "up"
    client = hosts.mobile.start(
        sys.executable,
        "-c",
        f"import socket, struct, sys; s = socket.socket()\n{setup}\ns.connect(('10.0.0.2', 7000))\n" + TALK,
    )
    port = int(client.line())
    assert int(server.line()) == 7000
    return client, server, port


def assert_they_talk(client: Program, server: Program) -> None:
    for one, other in ((client, server), (server, client)):
        assert one.ask("s.send(b'a line')") == "6"
        assert other.ask("s.recv(6, socket.MSG_WAITALL)") == "b'a line'"


@pytest.mark.parametrize(
    "dual_stack", [pytest.param(False, id="ipv6", marks=pytest.mark.both), pytest.param(True, id="dual-stack")]
)
def test_ipv6_and_dual_stack_sockets_move_and_move_back(dual_stack: bool) -> None:
    with Pair() as hosts:
        old, new = (OLD, NEW) if dual_stack else (OLD6, NEW6)
        hosts.steer(old)
        client, ports = hosts.client("poll", server=f"::ffff:{PEER}" if dual_stack else str(PEER6))
        mobile, peer = hosts.movers()
        here, there = entries(*ports) if dual_stack else entries6(*ports)
        hosts.steer(new)
        hand_over(mobile, peer, here, there)
        client.goes_on()
        assert mobile.where(here[0]) is peer.where(there[0]) is Place.NEW
        hosts.steer(old)
        hand_over(mobile, peer, [here[0].reversed], [there[0].reversed])
        client.goes_on()
        assert mobile.where(here[0]) is peer.where(there[0]) is Place.OLD
        client.end()
        assert hosts.resets() == 0


def test_connections_accepted_by_servers_that_share_a_port_move_and_both_go_on_accepting() -> None:
    with Pair() as hosts:
        servers = [hosts.mobile.python("echo") for _ in range(2)]  # both with SO_REUSEPORT
        assert [server.line() for server in servers] == ["up", "up"]
        client, ports = hosts.clients_of(str(OLD), count=16)
        mobile, peer = hosts.movers()
        here, there = accepted(*ports)
        assert {owner for owners in mobile.inspect(here).owners.values() for owner in owners} == {
            f"python/{server.pid}" for server in servers
        }
        hosts.steer(NEW)
        hand_over(mobile, peer, here, there)
        client.goes_on()
        assert {mobile.where(entry) for entry in here} == {Place.NEW}
        another, new_ports = hosts.clients_of(str(NEW), count=16)
        another.goes_on()
        arrived = [entry.reversed for entry in accepted(*new_ports)[0]]
        late = hosts.mobile.mover()  # the other one may have ended meanwhile
        assert len({owner for owners in late.inspect(arrived).owners.values() for owner in owners}) == 2
        client.end()
        another.end()
        assert hosts.resets() == 0


@pytest.mark.both
def test_a_connection_accepted_by_a_listener_on_the_old_address_moves_once_and_is_put_back_the_second_time() -> None:
    with Pair() as hosts:
        assert hosts.mobile.python("echo", str(OLD)).line() == "up"
        client, ports = hosts.clients_of(str(OLD))
        mobile, peer = hosts.movers()
        (here,), (there,) = accepted(*ports)
        hosts.steer(NEW)
        hand_over(mobile, peer, [here], [there])
        client.goes_on()
        assert mobile.where(here) is peer.where(there) is Place.NEW

        theirs = mobile.stop(7, [here.reversed], hold_seconds=PATIENCE)
        ours = peer.stop(7, [there.reversed], hold_seconds=PATIENCE)
        assert theirs.numbers.keys() == ours.numbers.keys() == {0}
        hosts.steer(OLD)
        refusal = mobile.rebuild(7, dict(ours.numbers)).refusals[0]
        assert refusal.reason is Reason.BOUND
        assert "bound it to the old address" in refusal.detail
        assert not peer.go(7, back=(0,)).refusals
        assert not mobile.go(7, back=(0,)).refusals
        client.goes_on()
        assert mobile.where(here) is peer.where(there) is Place.NEW
        client.end()
        assert hosts.resets() == 0


@pytest.mark.parametrize("seconds", [0, 5])
def test_lingering_is_as_the_program_has_set_it(seconds: int) -> None:
    with Pair() as hosts:
        linger = f"s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, {seconds}))"
        client, server, port = talkers(hosts, setup=linger)
        hosts.steer(NEW)
        hand_over(*hosts.movers(), *entries(port))
        assert client.ask("struct.unpack('ii', s.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))") == (
            f"(1, {seconds})"
        )
        assert_they_talk(client, server)
        assert client.ask("s.close()") == "None"
        # With no time to linger, closing is a reset, moved or not.
        assert server.ask("s.recv(1)") == ("b''" if seconds else "ConnectionResetError")


def test_a_connection_in_which_urgent_data_waits_is_left_alone_until_it_is_read() -> None:
    with Pair() as hosts:
        client, server, port = talkers(hosts)
        mobile, peer = hosts.movers()
        here, there = entries(port)
        assert server.ask("s.send(b'urgent!', socket.MSG_OOB)") == "7"
        assert client.ask("s.recv(1, socket.MSG_PEEK)") == "b'u'"  # it has come
        refusal = mobile.stop(mobile.next_transfer(), here).refusals[0]
        assert refusal.reason is Reason.PASSING
        assert "urgent data" in refusal.detail
        assert client.ask("s.recv(1, socket.MSG_OOB)") == "b'!'"
        assert client.ask("s.recv(100)") == "b'urgent'"
        assert_they_talk(client, server)
        hosts.steer(NEW)
        hand_over(mobile, peer, here, there)
        assert_they_talk(client, server)


@pytest.mark.both
def test_a_signed_connection_moves_with_its_keys() -> None:
    with Pair() as hosts:

        def key(sock: str, address: object) -> str:
            """struct tcp_md5sig (linux/tcp.h)."""
            return (
                f"{sock}.setsockopt(6, 14, struct.pack('=H2x4s120xBBHI80s', socket.AF_INET,"
                f" socket.inet_aton('{address}'), 0, 0, 6, 0, b'secret'))"
            )

        client, server, port = talkers(hosts, setup=key("s", PEER), server_setup=key("l", OLD))
        mobile, peer = hosts.movers()
        here, there = entries(port)
        hosts.steer(NEW)
        hand_over(mobile, peer, here, there)
        assert_they_talk(client, server)
        assert mobile.where(here[0]) is Place.NEW
        hosts.steer(OLD)
        hand_over(mobile, peer, [here[0].reversed], [there[0].reversed])
        assert_they_talk(client, server)


@pytest.mark.lab  # which kernel has TLS is known only there
def test_a_connection_with_tls_in_the_kernel_is_left_alone() -> None:
    with Pair() as hosts:
        client, server, port = talkers(hosts)
        mobile = hosts.mobile.mover()
        here, _ = entries(port)
        assert client.ask("s.setsockopt(6, 31, b'tls')") == "None"  # TCP_ULP
        for refusal in (mobile.inspect(here).refusals[0], mobile.stop(1, here).refusals[0]):
            assert refusal.reason is Reason.UNMOVABLE
            assert "tls" in refusal.detail
        assert_they_talk(client, server)


def test_a_socket_that_is_on_its_way_to_another_process_is_left_alone() -> None:
    program = (
        "import array, socket, sys; a, b = socket.socketpair(); s = socket.create_connection(('10.0.0.2', 7000))\n"
        "def give(): socket.send_fds(a, [b'x'], [s.fileno()]); s.close()\n"
        "def take():\n"
        "    global s\n"
        "    s = socket.socket(fileno=socket.recv_fds(b, 1, 1)[1][0])\n" + TALK
    )
    with Pair() as hosts:
        hosts.peer.python("echo").line()
        client = hosts.mobile.start(sys.executable, "-c", program)
        here, there = entries(int(client.line()))
        mobile, peer = hosts.movers()
        assert client.ask("give()") == "None"
        assert mobile.inspect(here).refusals[0].reason is Reason.NO_OWNER
        assert mobile.stop(mobile.next_transfer(), here).refusals[0].reason is Reason.NO_OWNER
        assert client.ask("take()") == "None"
        hosts.steer(NEW)
        hand_over(mobile, peer, here, there)
        assert client.ask("s.send(b'again')") == "5"
        assert client.ask("s.recv(5, socket.MSG_WAITALL)") == "b'again'"
        assert client.ask("s.getsockname()[0]") == f"{NEW}"


def test_what_is_no_connection_of_the_pair_is_not_found() -> None:
    with Pair() as hosts:
        assert hosts.mobile.python("echo").line() == "up"  # listens, is not connected
        here, _there = accepted(9)
        assert hosts.mobile.mover().inspect(here).refusals[0].reason is Reason.NOT_FOUND


def test_a_connection_that_its_program_has_closed_while_data_was_under_way_is_left_alone() -> None:
    with Pair() as hosts:
        client, server, port = talkers(hosts)
        mobile = hosts.mobile.mover()
        here, _ = entries(port)
        assert client.ask("s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)") == "None"
        sent = int(client.ask("s.send(bytes(1 << 24), socket.MSG_DONTWAIT)"))  # more than the server takes unread
        assert client.ask("s.close()") == "None"
        refusal = mobile.inspect(here).refusals[0]
        assert (refusal.reason, refusal.detail) == (Reason.NO_OWNER, "FIN_WAIT1")
        assert mobile.stop(1, here).refusals[0].reason is Reason.NO_OWNER
        assert server.ask(f"len(s.recv({sent}, socket.MSG_WAITALL))") == str(sent)
        assert server.ask("s.recv(1)") == "b''"


@pytest.mark.both
@pytest.mark.parametrize("waiting", [False, True], ids=["idle", "waiting in recv"])
def test_a_connection_can_be_ended_with_a_reset_where_the_kernel_itself_does_not_do_it(*, waiting: bool) -> None:
    with Pair() as hosts:
        client, server, port = talkers(hosts)
        here, _ = entries(port)
        if waiting:
            client.say("s.recv(9)")
            until(lambda: client.state() == "S")
        answer = hosts.mobile.mover().ask(End(1, tuple(here)), Ended)
        assert not answer.refusals
        if waiting:
            assert client.line() in ("b''", "BrokenPipeError", "ConnectionResetError", "ConnectionAbortedError")
        else:
            assert client.ask("s.send(b'x')") in ("BrokenPipeError", "ConnectionResetError", "ConnectionAbortedError")
        assert server.ask("s.recv(9)") in ("ConnectionResetError", "b''")
        assert hosts.mobile.mover().inspect(here).refusals[0].reason is Reason.NOT_FOUND


def test_what_is_not_there_is_ended_without_a_word() -> None:
    with Pair() as hosts:
        here, _ = entries(9)
        assert not hosts.mobile.mover().ask(End(1, tuple(here)), Ended).refusals

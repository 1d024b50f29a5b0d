"""Packaged, unmodified programs with a user in front of them: each lives through five moves in a row.

A shell over OpenSSH, a Redis transaction, HTTP over one kept connection, a WebSocket. Something goes on in each of them
all the time, and what it says shows that it is still the same session.
"""

import itertools

import pytest

from lab.addressing import Family
from lab.capture import UNPROTECTED
from lab.services import Services
from lab.sessions import Beat, Session
from lab.topology import Lab
from scenarios.five_moves import FiveMoves
from scenarios.scenario import start

pytestmark = [pytest.mark.lab, pytest.mark.long]

only_ipv4 = pytest.mark.parametrize("family", [Family.IPV4], ids=["ipv4"])


def test_a_shell_over_ssh(lab: Lab) -> None:
    """With a terminal. The shell's process, a variable in it and a counter are asked for all the time."""
    story = start(lab, captured=UNPROTECTED)
    with Services(lab.directory) as services:
        sshd = services.sshd(lab.correspondent)
        ssh = Session(lab.mobile, [*sshd.ssh, "-tt", str(lab.correspondent.address)])
        secret = f"{lab.random.getrandbits(64):x}"
        shell = ssh.ask(f"kept={secret}; asked=0; echo shell is $$ on $(tty)", r"shell is (\d+) on /dev/pts/\d+")[1]

        def ask() -> None:
            asked = ssh.ask(
                'echo "shell $$ kept $kept asked $((++asked)) end"', r"shell (\d+) kept (\w*) asked (\d+) end"
            )
            answers.append((asked[1], asked[2], int(asked[3])))

        answers: list[tuple[str, str, int]] = []
        ask()
        beat = Beat(ask)
        FiveMoves(story, sshd.port).run(beat.check)
        print(f"ssh: {beat.stop()}")

        assert answers == [(shell, secret, number) for number in range(1, len(answers) + 1)]
        assert ssh.end("exit 7") == 7
    story.finish()


@only_ipv4
def test_a_redis_transaction(lab: Lab) -> None:
    """MULTI before the moves, commands during them, EXEC after them: a new connection would have no transaction."""
    story = start(lab, captured=UNPROTECTED)
    with Services(lab.directory) as services:
        redis = services.redis(lab.correspondent)
        client = Session(lab.mobile, ["redis-cli", "-h", str(lab.correspondent.address)])
        number = client.ask("CLIENT ID", r"^(\d+)$")[1]
        client.ask("MULTI", "^OK$")

        beat = Beat(lambda: client.ask("INCR counter", "^QUEUED$"))
        FiveMoves(story, redis.port).run(beat.check)
        result = beat.stop()
        print(f"redis-cli: {result}")

        client.ask("CLIENT ID", "^QUEUED$")
        client.say("EXEC")
        for expected in (*range(1, result.count + 1), number):
            assert client.wait_line(r"^(\S.*)$")[1] == str(expected)
        assert client.end() == 0
    story.finish()


@only_ipv4
def test_requests_over_one_kept_http_connection(lab: Lab) -> None:
    """curl asks five times a second. It says itself that it connected once, and so does nginx."""
    story = start(lab, captured=UNPROTECTED)
    with Services(lab.directory) as services:
        nginx = services.nginx(lab.correspondent)
        (nginx.files / "page").write_text("a page\n", encoding="ascii")
        url = nginx.url(lab.correspondent.address, "page?[1-100000]")
        says = r"%{stderr}%{http_code} %{num_connects} %{local_port} %{time_total}\n"
        curl = Session(lab.mobile, ["curl", "-sS", "--rate", "300/m", "-w", says, "-o", "/dev/null", url])
        first = curl.wait_line(r"^200 1 \d+ ")
        port = first[0].split()[2]

        FiveMoves(story, nginx.port).run(lambda: curl.wait_line(f"^200 0 {port} "))
        curl.terminate()

        answers = [line.split() for _, line in curl.lines[:-1]]  # the last may be half a line
        assert [answer[:3] for answer in answers[1:]] == [["200", "0", port]] * (len(answers) - 1)
        seen = nginx.requests()
        assert len({connection for connection, _, _ in seen}) == 1, seen
        assert [(number, status) for _, number, status in seen] == [(n, 200) for n in range(1, len(seen) + 1)]
        assert len(seen) >= len(answers)
        longest = max(float(answer[3]) for answer in answers)
        print(f"curl, keep-alive: {len(answers)} requests, longest {longest * 1000:.0f} ms")
    story.finish()


@only_ipv4
def test_a_websocket(lab: Lab) -> None:
    """The server sends ten ticks a second, the client asks for echoes: no tick is missing, none comes twice."""
    story = start(lab, captured=UNPROTECTED)
    with Services(lab.directory) as services:
        server = services.websocket(lab.correspondent)
        client = Session(lab.mobile, ["wsdump", "--raw", f"ws://{lab.correspondent.address}:{server.port}/"])
        client.wait_line("^tick 1$")

        beat = Beat(lambda: client.ask("hello", "^echo hello$"))
        FiveMoves(story, server.port).run(beat.check)
        print(f"wsdump: {beat.stop()}")
        client.wait_line("^tick ")
        assert client.end() == 0

        ticks = [(at, line) for at, line in client.lines if line.startswith("tick ")]
        assert [line for _, line in ticks] == [f"tick {number}" for number in range(1, len(ticks) + 1)]
        gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(ticks)]
        print(f"{len(ticks)} ticks, longest time between two {max(gaps) * 1000:.0f} ms")
    story.finish()

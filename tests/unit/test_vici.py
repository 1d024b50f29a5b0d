"""The VICI client against a scripted server: what charon may do to a client, in which order, and when it breaks off."""

import asyncio
import struct
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swanroam.ike.messages import (
    MAX_PACKET,
    ViciCommandFailedError,
    ViciError,
    ViciProtocolError,
    ViciTimeoutError,
    ViciUnavailableError,
    ViciUnsupportedError,
    decode,
    encode,
)
from swanroam.ike.vici import ViciClient, ViciConnected, ViciDisconnected, ViciEvent
from unit.vici_server import (
    CMD_REQUEST,
    CONFIRM,
    EVENT,
    EVENT_REGISTER,
    EVENT_UNREGISTER,
    UNKNOWN_COMMAND,
    UNKNOWN_EVENT,
    Peer,
    Script,
    Server,
    event,
    framed,
    response,
    serving,
)

SOON = 0.05
"""A client's time limit in the tests that let it run out."""


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vici"


@asynccontextmanager
async def client_of(path: Path, *scripts: Script, timeout: float = 10) -> AsyncIterator[tuple[ViciClient, Server]]:
    async with serving(path, *scripts) as server, ViciClient(path, timeout=timeout) as client:
        yield client, server
        await client.aclose()


def test_answer_comes_back_as_nested_text(path: Path) -> None:
    async def script(peer: Peer) -> None:
        message = decode(await peer.expect(CMD_REQUEST, "load-conn"))
        assert message == {"home": {"version": "2", "local_addrs": ["192.0.2.1"], "mobike": "no", "certs": ["\\xff0"]}}
        await peer.send(response(success="yes", conns=["a", "b"], deep={"er": {"x": "1"}}))
        await peer.until_closed()

    async def scenario() -> None:
        async with client_of(path, script) as (client, _):
            answer = await client.request(
                "load-conn",
                {"home": {"version": 2, "local_addrs": ["192.0.2.1"], "mobike": False, "certs": [b"\xff0"]}},
            )
        assert answer == {"success": "yes", "conns": ["a", "b"], "deep": {"er": {"x": "1"}}}

    run(scenario())


def test_refusal_names_command_and_reason_and_keeps_the_connection(path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.serve("terminate", response(success="no", errmsg="no matching SAs to terminate found"))
        await peer.serve("version", response(daemon="charon"))
        await peer.until_closed()

    async def scenario() -> None:
        async with client_of(path, script) as (client, server):
            with pytest.raises(ViciCommandFailedError, match="terminate: no matching SAs") as caught:
                await client.request("terminate", {"ike-id": 7})
            assert caught.value.errmsg == "no matching SAs to terminate found"
            assert await client.request("version") == {"daemon": "charon"}
            assert server.accepted == 1

    run(scenario())


def test_unknown_command_is_reported_as_such(path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.serve("frobnicate", UNKNOWN_COMMAND)
        await peer.until_closed()

    async def scenario() -> None:
        async with client_of(path, script) as (client, _):
            with pytest.raises(ViciUnsupportedError, match="frobnicate"):
                await client.request("frobnicate")

    run(scenario())


def test_stream_collects_its_events_and_drops_those_after_the_answer(path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(EVENT_REGISTER, "list-sa")
        await peer.send(CONFIRM)
        await peer.expect(CMD_REQUEST, "list-sas")
        await peer.send(event("list-sa", one={"uniqueid": "1"}), event("list-sa", two={"uniqueid": "2"}), response())
        await peer.expect(EVENT_UNREGISTER, "list-sa")
        await peer.send(event("list-sa", late={}), CONFIRM)
        await peer.serve("version", response(daemon="charon"))
        await peer.until_closed()

    async def scenario() -> None:
        async with client_of(path, script) as (client, _):
            assert await client.stream("list-sas", "list-sa") == [
                {"one": {"uniqueid": "1"}},
                {"two": {"uniqueid": "2"}},
            ]
            assert await client.request("version") == {"daemon": "charon"}

    run(scenario())


def test_failed_stream_hands_over_what_it_had_reported(path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(EVENT_REGISTER, "control-log")
        await peer.send(CONFIRM)
        await peer.expect(CMD_REQUEST, "initiate")
        await peer.send(
            event("control-log", msg="received AUTHENTICATION_FAILED"), response(success="no", errmsg="failed")
        )
        await peer.expect(EVENT_UNREGISTER, "control-log")
        await peer.send(CONFIRM)
        await peer.until_closed()

    async def scenario() -> None:
        async with client_of(path, script) as (client, _):
            with pytest.raises(ViciCommandFailedError) as caught:
                await client.stream("initiate", "control-log", {"child": "data"})
            assert caught.value.events == ({"msg": "received AUTHENTICATION_FAILED"},)

    run(scenario())


def test_commands_of_several_tasks_go_one_after_the_other(path: Path) -> None:
    async def script(peer: Peer) -> None:
        for number in range(5):
            assert decode(await peer.expect(CMD_REQUEST, "version")) == {"n": str(number)}
            await peer.send(response(n=number))
        await peer.until_closed()

    async def scenario() -> None:
        async with client_of(path, script) as (client, _):
            answers = await asyncio.gather(*(client.request("version", {"n": n}) for n in range(5)))
        assert answers == [{"n": str(n)} for n in range(5)]

    run(scenario())


@pytest.mark.parametrize(
    "sent", [b"", b"\x00\x00", response(late="yes")[:-3]], ids=["nothing", "half length", "half packet"]
)
def test_time_limit_closes_the_connection_so_that_a_late_answer_meets_nobody(path: Path, sent: bytes) -> None:
    async def stalling(peer: Peer) -> None:
        await peer.serve("list-sas", sent)
        await peer.until_closed()

    async def healthy(peer: Peer) -> None:
        await peer.serve("version", response(daemon="charon"))
        await peer.until_closed()

    async def scenario() -> None:
        async with client_of(path, stalling, healthy, timeout=SOON) as (client, server):
            with pytest.raises(ViciTimeoutError, match="list-sas"):
                await client.request("list-sas")
            assert await client.request("version") == {"daemon": "charon"}
            assert server.accepted == 2

    run(scenario())


def test_cancellation_in_mid_command_closes_the_connection(path: Path) -> None:
    async def scenario() -> None:
        asked = asyncio.Event()

        async def stalling(peer: Peer) -> None:
            await peer.expect(CMD_REQUEST, "initiate")
            asked.set()
            await peer.until_closed()

        async def healthy(peer: Peer) -> None:
            await peer.serve("version", response(daemon="charon"))
            await peer.until_closed()

        async with client_of(path, stalling, healthy) as (client, server):
            task = asyncio.create_task(client.request("initiate"))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await client.request("version") == {"daemon": "charon"}
            assert server.accepted == 2

    run(scenario())


def test_request_on_a_connection_that_charon_had_closed_is_sent_again(path: Path) -> None:
    async def first(peer: Peer) -> None:
        await peer.serve("version", response(n="1"))

    async def second(peer: Peer) -> None:
        await peer.serve("version", response(n="2"))
        await peer.until_closed()

    async def scenario() -> None:
        async with client_of(path, first, second) as (client, server):
            assert await client.request("version") == {"n": "1"}
            await server.finished()  # the first script has ended, its connection is closed
            assert await client.request("version") == {"n": "2"}

    run(scenario())


def test_command_that_was_read_is_never_sent_again(path: Path) -> None:
    async def dying(peer: Peer) -> None:
        await peer.expect(CMD_REQUEST, "initiate")

    async def scenario() -> None:
        async with client_of(path, dying) as (client, server):
            with pytest.raises(ViciUnavailableError, match="closed"):
                await client.request("initiate")
            assert server.accepted == 1

    run(scenario())


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (struct.pack("!I", MAX_PACKET + 1), "limit"),
        (struct.pack("!I", 0), "limit"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "limit"),
        (framed(bytes([EVENT])), "malformed"),
        (framed(bytes([1, 3, 3, 107, 101, 121, 0, 9, 111])), "malformed VICI message"),
        (framed(bytes([1, 1, 1, 97])), "malformed VICI message"),
        (framed(bytes([1, 2])), "malformed VICI message"),
        (framed(bytes([1, 3, 1, 0xFF, 0, 0])), "malformed VICI message"),
        (event("list-sa"), "expected type 1"),
    ],
    ids=[
        "oversized",
        "empty",
        "not vici",
        "no name",
        "short value",
        "open section",
        "end of none",
        "not text",
        "event",
    ],
)
def test_what_is_not_an_answer_is_an_error_and_ends_the_connection(path: Path, sent: bytes, said: str) -> None:
    async def broken(peer: Peer) -> None:
        await peer.serve("version", sent)
        await peer.until_closed()

    async def healthy(peer: Peer) -> None:
        await peer.serve("version", response(daemon="charon"))
        await peer.until_closed()

    async def scenario() -> None:
        async with client_of(path, broken, healthy) as (client, _):
            with pytest.raises(ViciProtocolError, match=said):
                await client.request("version")
            assert await client.request("version") == {"daemon": "charon"}

    run(scenario())


def test_oversized_request_is_refused_before_it_is_sent(path: Path) -> None:
    async def scenario() -> None:
        async with ViciClient(path) as client:
            with pytest.raises(ViciProtocolError, match="over charon's limit"):
                await client.request("load-conn", {f"certs{n}": b"x" * 60000 for n in range(10)})
            with pytest.raises(ViciProtocolError, match="limit is 65535"):
                await client.request("load-conn", {"cert": b"x" * 65536})
            with pytest.raises(ViciProtocolError, match="longer than 255"):
                await client.request("load-conn", {"n" * 256: "x"})

    run(scenario())


def test_missing_socket_tells_the_remedy(path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(ViciUnavailableError, match=f"{path} does not exist: start strongSwan"):
            await ViciClient(path).request("version")
        server = Server(path)
        await server.start()
        await server.stop()
        path.touch()
        with pytest.raises(ViciUnavailableError, match="nobody listens"):
            await ViciClient(path).request("version")

    run(scenario())


def test_events_begin_with_connected_and_keep_those_that_came_during_registration(path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(EVENT_REGISTER, "ike-updown")
        await peer.send(CONFIRM, event("ike-updown", up="yes"))
        await peer.expect(EVENT_REGISTER, "alert")
        await peer.send(UNKNOWN_EVENT)
        await peer.expect(EVENT_REGISTER, "ike-update")
        await peer.send(event("ike-updown", up="no"), CONFIRM, event("ike-update", home={}))
        await peer.until_closed()

    async def scenario() -> None:
        names = ["ike-updown", "alert", "ike-update"]
        async with client_of(path, script) as (client, _), aclosing(client.events(names)) as events:
            seen = [await anext(events) for _ in range(4)]
        assert seen == [
            ViciConnected(unknown=("alert",)),
            ViciEvent("ike-updown", {"up": "yes"}),
            ViciEvent("ike-updown", {"up": "no"}),
            ViciEvent("ike-update", {"home": {}}),
        ]

    run(scenario())


def test_events_survive_a_restart_of_the_daemon_and_say_once_why_there_are_none(path: Path) -> None:
    async def dying(peer: Peer) -> None:
        await peer.expect(EVENT_REGISTER, "ike-updown")
        await peer.send(CONFIRM, event("ike-updown", n="1"))

    async def reborn(peer: Peer) -> None:
        await peer.expect(EVENT_REGISTER, "ike-updown")
        await peer.send(CONFIRM, event("ike-updown", n="2"))
        await peer.until_closed()

    async def scenario() -> None:
        client = ViciClient(path)
        async with aclosing(client.events(["ike-updown"])) as events:
            first = await anext(events)
            assert isinstance(first, ViciDisconnected)
            assert "does not exist" in first.reason
            async with serving(path, dying):
                assert await anext(events) == ViciConnected()
                assert await anext(events) == ViciEvent("ike-updown", {"n": "1"})
                lost = await anext(events)
                assert isinstance(lost, ViciDisconnected)
                assert "closed" in lost.reason
            async with serving(path, reborn) as server:
                items = [await anext(events), await anext(events)]
                if isinstance(items[0], ViciDisconnected):  # an attempt fell between the two servers
                    items = [items[1], await anext(events)]
                assert items == [ViciConnected(), ViciEvent("ike-updown", {"n": "2"})]
                await events.aclose()
                await server.finished()

    run(scenario())


def test_garbage_among_events_leads_to_a_new_connection(path: Path) -> None:
    async def garbled(peer: Peer) -> None:
        await peer.expect(EVENT_REGISTER, "ike-updown")
        await peer.send(CONFIRM, response())
        await peer.until_closed()

    async def healthy(peer: Peer) -> None:
        await peer.expect(EVENT_REGISTER, "ike-updown")
        await peer.send(CONFIRM)
        await peer.until_closed()

    async def scenario() -> None:
        async with client_of(path, garbled, healthy) as (client, _), aclosing(client.events(["ike-updown"])) as events:
            assert await anext(events) == ViciConnected()
            lost = await anext(events)
            assert isinstance(lost, ViciDisconnected)
            assert "packet of type 1" in lost.reason
            assert await anext(events) == ViciConnected()

    run(scenario())


names = st.text(min_size=1, max_size=20)
messages = st.recursive(
    st.dictionaries(names, st.text(max_size=50) | st.lists(st.text(max_size=20), max_size=3), max_size=4),
    lambda inner: st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(messages)
def test_messages_survive_the_wire(message: dict[str, Any]) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=300))
def test_no_bytes_make_the_decoder_raise_anything_but_its_own_error(payload: bytes) -> None:
    try:
        decode(payload)
    except ViciError as error:
        assert isinstance(error, ViciProtocolError)  # noqa: PT017  # most payloads raise, some do not

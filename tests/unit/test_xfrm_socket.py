"""Requests, answers and their mishaps, with a kernel that the test plays."""

import asyncio
import errno
import os
import struct
from collections import deque
from collections.abc import Callable

import pytest

from swanroam.kernel.xfrm import constants as c
from swanroam.kernel.xfrm.codec import Message, decode_messages
from swanroam.kernel.xfrm.constants import Group, MessageType
from swanroam.kernel.xfrm.errors import XfrmError, XfrmExists, XfrmNotFound, XfrmOverrun, XfrmUnsupported
from swanroam.kernel.xfrm.events import Overrun, PoliciesFlushed, Unrecognised
from swanroam.kernel.xfrm.monitor import XfrmMonitor
from swanroam.kernel.xfrm.socket import Request, XfrmSocket

ADD = Request(MessageType.NEWPOLICY, bytes(168), "add policy", "out block a -> b")
LIST = Request(MessageType.GETPOLICY, b"", "list policies")
Answer = bytes | OSError
PORT = 4711
"""The socket's netlink address, by which the kernel answers."""


class FakeNetlink:
    """A socket on which the kernel is `answer`: called with every message sent, it returns datagrams or errors."""

    def __init__(self, answer: Callable[[Message], list[Answer]]) -> None:
        self._answer = answer
        self._inbox: deque[tuple[Answer, int]] = deque()
        self._event = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK)  # readable while something is in the inbox
        self.sends: list[list[Message]] = []
        self.options: list[tuple[int, int]] = []

    def push(self, item: Answer, sender: int = 0) -> None:
        self._inbox.append((item, sender))
        os.eventfd_write(self._event, 1)

    def send(self, data: bytes) -> None:
        messages = list(decode_messages(data))
        self.sends.append(messages)
        for message in messages:
            for item in self._answer(message):
                self.push(item)

    def recvmsg_into(self, buffers: list[bytearray]) -> tuple[int, list[object], int, tuple[int, int]]:
        if not self._inbox:
            raise BlockingIOError
        os.eventfd_read(self._event)
        item, sender = self._inbox.popleft()
        if isinstance(item, OSError):
            raise item
        buffers[0][: len(item)] = item
        return len(item), [], 0, (sender, 0)

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert level == c.SOL_NETLINK
        self.options.append((option, value))

    def getsockname(self) -> tuple[int, int]:
        return PORT, 0

    def fileno(self) -> int:
        return self._event

    def close(self) -> None:
        if self._event >= 0:
            os.close(self._event)
        self._event = -1


def acknowledgment(request: Message, number: int = 0, text: str = "") -> bytes:
    payload = struct.pack("=iIHHII", -number, 16, request.type, request.flags, request.sequence, 0)
    flags = c.NLM_F_CAPPED
    if text:
        octets = text.encode() + b"\0"
        payload += struct.pack("=HH", 4 + len(octets), c.NLMSGERR_ATTR_MSG) + octets + bytes(-len(octets) % 4)
        flags |= c.NLM_F_ACK_TLVS
    return Message(c.NLMSG_ERROR, flags, request.sequence, payload, PORT).encode()


def reply(request: Message, body: bytes, flags: int = c.NLM_F_MULTI) -> bytes:
    return Message(MessageType.NEWPOLICY, flags, request.sequence, body, PORT).encode()


def done(request: Message, status: int = 0) -> bytes:
    return Message(c.NLMSG_DONE, c.NLM_F_MULTI, request.sequence, struct.pack("=i", status), PORT).encode()


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Message], list[Answer]]], FakeNetlink]:
    def install(answer: Callable[[Message], list[Answer]]) -> FakeNetlink:
        fake = FakeNetlink(answer)
        for module in ("socket", "monitor"):
            monkeypatch.setattr(f"swanroam.kernel.xfrm.{module}.open_netlink_socket", lambda _: fake)
        return fake

    return install


def run(body: Callable[[XfrmSocket], object]) -> None:
    async def main() -> None:
        async with XfrmSocket() as xfrm:
            await body(xfrm)

    asyncio.run(main())


def test_acknowledged_request_succeeds(play) -> None:
    fake = play(lambda request: [acknowledgment(request)])
    run(lambda xfrm: xfrm.execute(ADD))
    assert [message.flags for (message,) in fake.sends] == [c.NLM_F_REQUEST | c.NLM_F_ACK]


def test_refusal_tells_operation_object_and_the_kernels_words(play) -> None:
    play(lambda request: [acknowledgment(request, errno.EEXIST, "Policy exists")])

    async def body(xfrm: XfrmSocket) -> None:
        with pytest.raises(XfrmExists) as caught:
            await xfrm.execute(ADD)
        assert str(caught.value) == "cannot add policy (out block a -> b): File exists: Policy exists [EEXIST]"
        assert (caught.value.errno, caught.value.text) == (errno.EEXIST, "Policy exists")

    run(body)


@pytest.mark.parametrize(
    ("operation", "remedy"),
    [
        ("migrate", "CONFIG_XFRM_MIGRATE=y"),
        ("add SA", "modprobe esp4 esp6"),
        ("open NETLINK_XFRM", "modprobe xfrm_user"),
    ],
)
def test_missing_kernel_feature_comes_with_its_remedy(operation: str, remedy: str) -> None:
    assert remedy in str(XfrmUnsupported(errno.ENOPROTOOPT, operation))


def test_error_that_echoes_the_request_still_gives_its_text(play) -> None:
    """A kernel without NETLINK_CAP_ACK puts the request in front of the explanation."""

    def answer(request: Message) -> list[Answer]:
        octets = request.encode()
        text = b"no\0"
        payload = struct.pack("=i", -errno.EINVAL) + octets + struct.pack("=HH", 4 + len(text), 1) + text + b"\0"
        return [Message(c.NLMSG_ERROR, c.NLM_F_ACK_TLVS, request.sequence, payload, PORT).encode()]

    play(answer)

    async def body(xfrm: XfrmSocket) -> None:
        with pytest.raises(XfrmError, match=r"Invalid argument: no \[EINVAL\]"):
            await xfrm.execute(ADD)

    run(body)


def test_batch_is_one_send_with_a_result_each(play) -> None:
    fake = play(lambda request: [acknowledgment(request, errno.ENOENT if request.sequence == 2 else 0)])

    async def body(xfrm: XfrmSocket) -> None:
        results = await xfrm.batch([ADD] * 3)
        assert [type(result) for result in results] == [type(None), XfrmNotFound, type(None)]
        assert await xfrm.batch([]) == []

    run(body)
    assert len(fake.sends) == 1


def test_large_batch_is_split_below_the_send_buffer(play) -> None:
    fake = play(lambda request: [acknowledgment(request)])

    async def body(xfrm: XfrmSocket) -> None:
        assert await xfrm.batch([ADD] * 2000) == [None] * 2000

    run(body)
    assert sum(len(messages) for messages in fake.sends) == 2000
    assert max(sum(len(message.encode()) for message in messages) for messages in fake.sends) < 100_000


def test_dump_collects_all_parts(play) -> None:
    fake = play(lambda request: [reply(request, b"one") + reply(request, b"two"), done(request)])

    async def body(xfrm: XfrmSocket) -> None:
        assert [message.payload for message in await xfrm.dump(LIST)] == [b"one", b"two"]

    run(body)
    assert fake.sends[0][0].flags == c.NLM_F_REQUEST | c.NLM_F_DUMP


def test_interrupted_dump_is_repeated(play) -> None:
    def answer(request: Message) -> list[Answer]:
        torn = c.NLM_F_DUMP_INTR if request.sequence < 3 else 0
        return [reply(request, b"%d" % request.sequence, c.NLM_F_MULTI | torn), done(request)]

    fake = play(answer)

    async def body(xfrm: XfrmSocket) -> None:
        assert [message.payload for message in await xfrm.dump(LIST)] == [b"3"]

    run(body)
    assert len(fake.sends) == 3


def test_dump_that_is_always_interrupted_fails(play) -> None:
    play(lambda request: [reply(request, b"", c.NLM_F_DUMP_INTR), done(request)])

    async def body(xfrm: XfrmSocket) -> None:
        with pytest.raises(XfrmError, match="changes faster"):
            await xfrm.dump(LIST)

    run(body)


def test_dump_that_fails_underway_is_an_error(play) -> None:
    play(lambda request: [reply(request, b"one"), done(request, -errno.EMSGSIZE)])

    async def body(xfrm: XfrmSocket) -> None:
        with pytest.raises(XfrmError, match="EMSGSIZE"):
            await xfrm.dump(LIST)

    run(body)


def test_dumps_of_one_socket_wait_for_each_other(play) -> None:
    requests: list[Message] = []
    fake = play(lambda request: requests.append(request) or [])

    async def body(xfrm: XfrmSocket) -> None:
        first, second = asyncio.create_task(xfrm.dump(LIST)), asyncio.create_task(xfrm.dump(LIST))
        await asyncio.sleep(0)
        assert len(requests) == 1
        first.cancel()  # the kernel still answers the first; the second must not be sent into its answer
        await asyncio.wait([first])
        assert len(requests) == 1
        fake.push(done(requests[0]))
        while len(requests) < 2:
            await asyncio.sleep(0)
        fake.push(reply(requests[1], b"second") + done(requests[1]))
        assert [message.payload for message in await second] == [b"second"]

    run(body)


def test_lost_answers_fail_everything_under_way(play) -> None:
    play(lambda request: [OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))] if request.sequence == 1 else [])

    async def body(xfrm: XfrmSocket) -> None:
        results = await xfrm.batch([ADD, ADD])
        assert [type(result) for result in results] == [XfrmOverrun, XfrmOverrun]

    run(body)


def test_garbage_instead_of_an_answer_is_an_error(play) -> None:
    play(lambda request: [b"\1\2\3"])

    async def body(xfrm: XfrmSocket) -> None:
        with pytest.raises(XfrmError, match="nlmsghdr"):
            await xfrm.execute(ADD)

    run(body)


def test_answers_of_other_processes_and_to_nobody_are_ignored(play) -> None:
    def answer(request: Message) -> list[Answer]:
        fake.push(acknowledgment(request, errno.EPERM), sender=1234)
        fake.push(Message(MessageType.NEWSA, 0, request.sequence, b"another's", 1234).encode())
        return [acknowledgment(Message(request.type, 0, 999, b""), errno.EPERM), acknowledgment(request)]

    fake = play(answer)
    run(lambda xfrm: xfrm.execute(ADD))


def test_notices_of_the_own_request_are_part_of_the_answer(play) -> None:
    def answer(request: Message) -> list[Answer]:
        strange = Message(MessageType.DELSA, 0, request.sequence, b"another's", 1234).encode()
        notice = Message(MessageType.DELSA, 0, request.sequence, b"own", PORT).encode()
        return [strange, notice, acknowledgment(request)]

    fake = play(answer)

    async def body(xfrm: XfrmSocket) -> None:
        assert [message.payload for message in await xfrm.ask(ADD, notices=Group.SA)] == [b"own"]

    run(body)
    assert fake.options == [(c.NETLINK_ADD_MEMBERSHIP, Group.SA), (c.NETLINK_DROP_MEMBERSHIP, Group.SA)]


def test_a_group_that_cannot_be_joined_is_an_error_like_any_other_and_nothing_is_asked(
    play, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = play(lambda request: [acknowledgment(request)])

    def refuse(level: int, option: int, value: int) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(fake, "setsockopt", refuse)

    async def body(xfrm: XfrmSocket) -> None:
        with pytest.raises(XfrmError, match=r"cannot add policy .*ENOMEM"):
            await xfrm.ask(ADD, notices=Group.SA)

    run(body)
    assert fake.sends == []


def test_closing_fails_what_is_under_way(play) -> None:
    play(lambda request: [])

    async def body(xfrm: XfrmSocket) -> None:
        task = asyncio.create_task(xfrm.execute(ADD))
        await asyncio.sleep(0)
        xfrm.close()
        with pytest.raises(XfrmError, match="socket was closed"):
            await task
        xfrm.close()

    run(body)


def test_socket_is_used_inside_its_context_only(play) -> None:
    play(lambda request: [])

    async def main() -> None:
        xfrm = XfrmSocket()
        with pytest.raises(RuntimeError, match="async with"):
            await xfrm.execute(ADD)
        xfrm.close()

    asyncio.run(main())


def flush_event() -> bytes:
    return Message(MessageType.FLUSHPOLICY, 0, 0, b"").encode()


def test_monitor_reports_an_overrun_and_goes_on(play) -> None:
    fake = play(lambda request: [])

    async def main() -> None:
        async with XfrmMonitor({Group.POLICY}) as monitor:
            fake.push(flush_event())
            fake.push(OSError(errno.ENOBUFS, "overrun"))
            fake.push(flush_event())  # was in the buffer when it ran over
            events = [type(await anext(monitor)) for _ in range(2)]
            fake.push(flush_event() + flush_event())
            events += [type(await anext(monitor)) for _ in range(2)]
        assert events == [PoliciesFlushed, Overrun, PoliciesFlushed, PoliciesFlushed]

    asyncio.run(main())


def test_monitor_goes_on_after_garbage(play) -> None:
    fake = play(lambda request: [])

    async def main() -> None:
        async with XfrmMonitor({Group.POLICY}) as monitor:
            fake.push(b"\1\2\3")
            fake.push(flush_event())
            assert [type(await anext(monitor)) for _ in range(2)] == [Unrecognised, PoliciesFlushed]

    asyncio.run(main())


def test_monitor_waits_for_events_and_ends_when_closed(play) -> None:
    fake = play(lambda request: [])

    async def main() -> None:
        monitor = XfrmMonitor({Group.POLICY})

        async def collect() -> list[object]:
            return [event async for event in monitor]

        task = asyncio.create_task(collect())
        await asyncio.sleep(0)
        fake.push(flush_event())
        for _ in range(5):
            await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="two consumers"):
            await anext(monitor)
        monitor.close()
        assert [type(event) for event in await task] == [PoliciesFlushed]
        monitor.close()

    asyncio.run(main())


def test_cancelled_monitor_can_be_read_again(play) -> None:
    fake = play(lambda request: [])

    async def main() -> None:
        async with XfrmMonitor({Group.POLICY}) as monitor:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await anext(monitor)
            fake.push(flush_event())
            assert isinstance(await anext(monitor), PoliciesFlushed)

    asyncio.run(main())

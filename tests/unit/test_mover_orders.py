"""What daemon and mover say to each other survives the line that it is written on; nothing else is taken for it."""

import json
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swanroam.kernel.sock_diag import SocketProtocol
from swanroam.transport.orders import (
    Answer,
    End,
    Ended,
    Entry,
    Exclusions,
    Expired,
    Failed,
    Go,
    Gone,
    Inspect,
    Inspected,
    Order,
    OrderError,
    Place,
    Quit,
    Reason,
    Rebuild,
    Rebuilt,
    Refusal,
    Stop,
    Stopped,
    Unlock,
    decode,
    encode,
)

numbers = st.integers(0, 2**32 - 1)
ports = st.integers(0, 65535)
indices = st.integers(0, 9999)
addresses = st.ip_addresses()
entries = st.builds(
    Entry, st.sampled_from(SocketProtocol), addresses, ports, addresses, ports, addresses, addresses, st.integers(0, 99)
)
some_entries = st.lists(entries, max_size=3).map(tuple)
some_indices = st.lists(indices, max_size=3).map(tuple)
refusals = st.dictionaries(indices, st.builds(Refusal, st.sampled_from(Reason), st.text()), max_size=3)
exclusions = st.builds(Exclusions, st.lists(st.text(), max_size=2).map(tuple), st.lists(ports, max_size=2).map(tuple))
messages = st.one_of(
    st.builds(Inspect, numbers, some_entries, exclusions),
    st.builds(Stop, numbers, some_entries, st.floats(0, 100), numbers, numbers, exclusions),
    st.builds(Rebuild, numbers, st.dictionaries(indices, numbers, max_size=3)),
    st.builds(Go, numbers, some_indices, some_indices),
    st.builds(Unlock, some_entries),
    st.builds(End, numbers, some_entries),
    st.just(Quit()),
    st.builds(
        Inspected,
        numbers,
        refusals,
        st.dictionaries(indices, st.lists(st.text(), max_size=2).map(tuple), max_size=2),
        st.dictionaries(indices, st.sampled_from(Place), max_size=3),
    ),
    st.builds(Stopped, numbers, st.dictionaries(indices, numbers, max_size=3), refusals),
    st.builds(Rebuilt, numbers, some_indices, refusals),
    st.builds(Gone, numbers, refusals),
    st.builds(Ended, numbers, refusals),
    st.builds(Expired, numbers, some_indices),
    st.builds(Failed, numbers, st.text()),
)


@given(messages)
def test_a_message_is_one_line_and_comes_out_as_it_went_in(message: Order | Answer) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == message


def test_fields_that_have_a_usual_value_may_be_left_out() -> None:
    assert decode(b'{"is": "Stop", "transfer": 1, "entries": []}\n') == Stop(1, ())
    assert decode(b'{"is": "Rebuild", "transfer": 1}') == Rebuild(1)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff",
        b"[]",
        b"7",
        b"{}",
        b'{"is": "Entry"}',
        b'{"is": "Stop"}',
        b'{"is": "Stop", "transfer": "1", "entries": []}',
        b'{"is": "Stop", "transfer": true, "entries": []}',
        b'{"is": "Stop", "transfer": 1, "entries": [1]}',
        b'{"is": "Stop", "transfer": 1, "entries": [], "more": 1}',
        b'{"is": "Rebuild", "transfer": 1, "numbers": {"x": 1}}',
        b'{"is": "Gone", "transfer": 1, "refusals": {"1": {"reason": "WHY"}}}',
        b'{"is": ["Quit"]}',
    ],
)
def test_what_is_no_message_is_an_error_that_shows_it(line: bytes) -> None:
    with pytest.raises(OrderError, match="not an order or an answer"):
        decode(line)


@given(messages, st.data())
def test_a_damaged_line_is_an_error_or_another_message(message: Order | Answer, data: st.DataObject) -> None:
    document = json.loads(encode(message))
    key = data.draw(st.sampled_from(sorted(document)))
    document[key] = data.draw(st.one_of(st.none(), st.integers(), st.text(max_size=5), st.lists(st.integers())))
    try:
        decoded = decode(json.dumps(document).encode())
    except OrderError:
        return
    assert decode(encode(decoded)) == decoded


def test_the_way_back_swaps_old_and_new() -> None:
    old, new, peer = (ip_address(f"10.0.0.{number}") for number in (1, 3, 2))
    entry = Entry(SocketProtocol.TCP, old, 5, peer, 6, new, peer, interface=4)
    assert entry.reversed == Entry(SocketProtocol.TCP, new, 5, peer, 6, old, peer)
    assert entry.reversed.reversed == Entry(SocketProtocol.TCP, old, 5, peer, 6, new, peer)

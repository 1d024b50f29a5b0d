"""docs/vectors: what the codec and the machines do is what somebody else's implementation is told to do."""

from __future__ import annotations

import ast
import dataclasses
import json
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any

import pytest

from documentation import wire
from documentation.pages import ROOT
from swanroam.inner_address import inner_address
from swanroam.protocol.codec import Field, MessageError, MessageProblem, MessageType, decode, encode
from swanroam.protocol.events import Action, Send
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import (
    Acknowledgment,
    AddressChange,
    Connection,
    Message,
    Obstacle,
    PathResponse,
    TransferRequest,
)
from unit.driver import SETTINGS, STATIONARY, Driver

VECTORS = ROOT / "docs" / "vectors"
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
NAMES = {"grace_ms": "grace", "old": ("old sender", "old receiver"), "new": ("new sender", "new receiver")}
"""Attributes that the document calls otherwise."""


def read(name: str) -> dict[str, dict[str, Any]]:
    vectors = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    assert len({vector["name"] for vector in vectors}) == len(vectors)
    return {vector["name"]: vector for vector in vectors}


MESSAGES, REFUSED, EXCHANGES = read("messages"), read("refused"), read("exchanges")


def in_words(message: Message) -> dict[str, Any]:
    """A message of the codec, in the form of the vectors."""
    kind = "".join(f" {sign.lower()}" if sign.isupper() else sign for sign in type(message).__name__).strip()
    found: dict[str, Any] = {"type": kind}
    for field in dataclasses.fields(message):
        value = getattr(message, field.name)
        name = NAMES.get(field.name, field.name.replace("_", " "))
        if field.name == "stage" and "transfer" in kind:
            name = "transfer stage"
        if isinstance(name, tuple):
            found |= {end: str(address) for end, address in zip(name, value, strict=True)}
        elif value is not None:
            found[name] = plain(value)
    return found


def plain(value: object) -> object:
    match value:
        case bytes():
            return value.hex()
        case IPv4Address() | IPv6Address():
            return str(value)
        case tuple():
            return [plain(item) for item in value]
        case Connection():
            return [value.transport, value.port, value.remote_port, value.obstacle, value.number]
    return value


def both(datagram: bytes) -> dict[str, Any] | None:
    """What codec and second reader, which must agree, make of a datagram; None: it is dropped."""
    try:
        first: dict[str, Any] | None = in_words(decode(datagram))
    except MessageError:
        first = None
    try:
        second: dict[str, Any] | None = wire.read(datagram)
    except wire.DroppedError:
        second = None
    assert first == second, datagram.hex()
    return first


@pytest.mark.parametrize("name", MESSAGES)
def test_a_vector_is_read_as_it_says_and_written_where_it_is_the_canonical_form(name: str) -> None:
    vector = MESSAGES[name]
    datagram = bytes.fromhex(vector["hex"])
    assert both(datagram) == vector["message"]
    assert (encode(decode(datagram)) == datagram) is vector.get("canonical", True)


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_vector_is_counted_where_it_says(name: str) -> None:
    vector = REFUSED[name]
    datagram = bytes.fromhex(vector["hex"])
    assert both(datagram) is None
    with pytest.raises(MessageError) as caught:
        decode(datagram)
    assert caught.value.problem.value == vector["counter"]


def test_there_is_a_vector_for_everything() -> None:
    """Every message, field, value of an enumeration that a message can have once, and reason to drop."""
    shown = [decode(bytes.fromhex(vector["hex"])) for vector in MESSAGES.values()]
    assert {in_words(message)["type"] for message in shown} == {
        kind.name.lower().replace("_", " ") for kind in MessageType
    }
    fields = {name for message in shown for name in in_words(message)} - {"type"}
    assert fields == {field.name.lower().replace("_", " ") for field in Field}
    assert {vector["counter"] for vector in REFUSED.values()} == {problem.value for problem in MessageProblem}
    assert {message.stage for message in shown if isinstance(message, TransferRequest)} == {1, 2, 3, 4}


def test_the_second_reader_knows_the_fields_of_the_document_and_nothing_of_the_program() -> None:
    source = Path(wire.__file__).read_text(encoding="utf-8")
    roots = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert roots == {"__future__", "collections", "ipaddress", "struct", "typing", "unicodedata"}
    assert {int(field): name for field, name in wire.FIELDS.items()} == {
        field.value: field.name.lower().replace("_", " ") for field in Field
    }


@pytest.mark.parametrize("name", MESSAGES)
def test_both_readers_agree_about_every_damage_of_one_octet(name: str) -> None:
    datagram = bytes.fromhex(MESSAGES[name]["hex"])
    verdicts = set()
    for at in range(min(len(datagram), 120)):
        verdicts.add(both(datagram[:at]) is None)
        for octet in (datagram[at] ^ 1, datagram[at] ^ 0x80):
            verdicts.add(both(datagram[:at] + bytes([octet]) + datagram[at + 1 :]) is None)
    assert verdicts == {True, False}


def test_obstacles_that_no_version_has_are_failures() -> None:
    assert [Obstacle(number) for number in (14, 15, 255)] == [Obstacle.OVERTAKEN, Obstacle.FAILED, Obstacle.FAILED]
    assert in_words(decode(bytes.fromhex(MESSAGES["unknown-obstacle"]["hex"])))["connections"][0][3] == 10


@pytest.mark.parametrize("name", [name for name, vector in MESSAGES.items() if vector.get("canonical", True)])
def test_fields_are_sent_in_the_order_of_the_documents_table(name: str) -> None:
    datagram = bytes.fromhex(MESSAGES[name]["hex"])
    message, wanted = wire.MESSAGES[datagram[3]]
    sent = list(dict.fromkeys(wire.FIELDS[number] for number, _ in wire.split(datagram[4:])))
    assert sent == [field for field in (text.rstrip("*?") for text in wanted) if field in sent]
    columns = ", ".join(wanted).replace("?", " (optional)")
    assert f"| {datagram[3]} | {message} | {columns} |" in PROTOCOL


def test_inner_addresses() -> None:
    vectors = json.loads((VECTORS / "inner-addresses.json").read_text(encoding="utf-8"))
    assert len(vectors) > 5
    for vector in vectors:
        assert str(inner_address(vector["identity"], IPv6Network(vector["prefix"]))) == vector["address"]


# --- exchanges ------------------------------------------------------------------------------------------


class Played:
    """A machine whose random numbers are the vector's."""

    def __init__(self, vector: dict[str, Any]) -> None:
        moves = vector["part"] == "mobile"
        settings = SETTINGS if moves else STATIONARY
        instance = bytes.fromhex(vector["instance"])
        settings = dataclasses.replace(settings, mobile=dataclasses.replace(settings.mobile, instance=instance))
        self.drawn = iter(vector["drawn"])
        self.host = Driver(settings, now=1000.0)
        self.host.machine = type(self.host.machine)(settings, self._draw, lambda: 0.0)
        self.began = self.host.now
        self.sent: list[tuple[float, str]] = []

    def _draw(self, size: int) -> bytes:
        octets = bytes.fromhex(next(self.drawn))
        assert len(octets) == size
        return octets

    def wait(self, until: float) -> None:
        while (deadline := self.host.machine.deadline()) is not None and deadline <= self.began + until:
            before = self.host.now
            self.note(self.host.wait(max(deadline - before, 0.0)))

    def note(self, actions: list[Action]) -> None:
        at = round(self.host.now - self.began, 3)
        self.sent += [(at, encode(action.message).hex()) for action in actions if isinstance(action, Send)]


def pairs(step: dict[str, Any]) -> list[Pair]:
    return [Pair(ip_address(own), ip_address(peer)) for own, peer in step["associations"]]


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_host_sends_what_the_exchange_says(name: str) -> None:
    played = Played(EXCHANGES[name])
    for step in EXCHANGES[name]["steps"]:
        played.wait(step["at"])
        played.host.now = played.began + step["at"]
        if "addresses" in step:
            played.note(played.host.addresses(*map(ip_address, step["addresses"])))
        if "associations" in step:
            played.note(played.host.associate(*pairs(step)))
        if "receives" in step:
            played.note(played.host.receive(decode(bytes.fromhex(step["receives"]))))
        found = [list(entry) for entry in played.sent]
        assert found == step["sends"], step["meaning"]
        played.sent.clear()


def test_exchanges_show_both_parts_and_every_message_of_an_address_change() -> None:
    assert {vector["part"] for vector in EXCHANGES.values()} == {"mobile", "correspondent"}
    octets = [
        text
        for vector in EXCHANGES.values()
        for step in vector["steps"]
        for text in (step.get("receives"), *(entry[1] for entry in step["sends"]))
        if text
    ]
    shown = {type(decode(bytes.fromhex(text))) for text in octets}
    assert shown >= {AddressChange, Acknowledgment, PathResponse}

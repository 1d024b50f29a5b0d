"""Octets against the readers of what the kernel sends over NETLINK_XFRM: a value, or XfrmDecodeError and nothing else.

The first octet of an input chooses the reader. What can be read must be written so that it reads the same again.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from fuzz.mutation import damaged
from swanroam.kernel.xfrm import migrate, policy
from swanroam.kernel.xfrm.algorithms import AeadAlgorithm, Algorithm, KeyMaterial, TruncatedAuthentication
from swanroam.kernel.xfrm.association import (
    USERSA_INFO,
    Encapsulation,
    SecurityAssociation,
    StateStatistics,
)
from swanroam.kernel.xfrm.codec import Attribute, Message, decode_attributes, decode_messages
from swanroam.kernel.xfrm.constants import AttributeType, Direction, MessageType
from swanroam.kernel.xfrm.errors import XfrmDecodeError
from swanroam.kernel.xfrm.events import USER_ACQUIRE, USER_EXPIRE, USER_MAPPING, USER_POLEXPIRE, decode_event
from swanroam.kernel.xfrm.lifetimes import LifetimeLimits, LifetimeUsage, Mark
from swanroam.kernel.xfrm.migrate import KeyManagerAddress, Migration
from swanroam.kernel.xfrm.policy import USERPOLICY_ID, USERPOLICY_INFO, Policy, Template
from swanroam.kernel.xfrm.replay import EsnReplayState, ReplayState
from swanroam.kernel.xfrm.selectors import Selector

_VALUES: tuple[Any, ...] = (
    SecurityAssociation,
    Policy,
    Selector,
    Template,
    Algorithm,
    TruncatedAuthentication,
    AeadAlgorithm,
    ReplayState,
    EsnReplayState,
    Encapsulation,
    Mark,
    LifetimeLimits,
    LifetimeUsage,
    KeyManagerAddress,
    StateStatistics,
)
_LISTS: tuple[Callable[[bytes], object], ...] = (
    lambda data: list(decode_attributes(data)),
    lambda data: list(decode_messages(data)),
    migrate.decode_migrations,
    policy.decode_templates,
)
_EVENT_KINDS = (*MessageType, 0, 0xFFFF)
_ME, _PEER, _ME6, _PEER6 = (ip_address(text) for text in ("10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"))


def _seeds() -> dict[int, list[bytes]]:
    """Valid octets for each reader, by its number."""
    selectors = [Selector.between(_ME, _PEER, protocol=6, destination_port=80), Selector.between(_ME6, _PEER6)]
    key = KeyMaterial(bytes(range(20)))
    aead = AeadAlgorithm("rfc4106(gcm(aes))", 160, 128, key)
    hmac = TruncatedAuthentication("hmac(sha256)", 160, 128, key)
    esn = EsnReplayState(1, 2, 3, 4, 32, (0xFFFFFFFF,))
    plain = SecurityAssociation(selectors[0], _ME, _PEER, 0xC0DE, reqid=3, mark=Mark(5, 0xFF), aead=aead)
    association = replace(
        plain,
        encapsulation=Encapsulation(2, 4500, 4500),
        replay_esn=esn,
        replay=ReplayState(1, 2, 3),
        output_mark=Mark(1, 2),
    )
    other = SecurityAssociation(
        selectors[1], _ME6, _PEER6, 1, truncated_authentication=hmac, encryption=Algorithm("cbc(aes)", 160, key)
    )
    policies = [Policy(each, Direction.OUT, priority=7, templates=(Template(3),) * 2) for each in selectors]
    moved = Migration(_ME, _PEER, _ME, _PEER, 3).encode()
    values: dict[Any, list[bytes]] = {
        SecurityAssociation: [plain.encode(), association.encode(), other.encode()],
        Policy: [each.encode() for each in policies],
        Selector: [each.encode() for each in selectors],
        Template: [Template(3).encode()],
        Algorithm: [Algorithm("cbc(aes)", 160, key).encode()],
        TruncatedAuthentication: [hmac.encode()],
        AeadAlgorithm: [aead.encode()],
        EsnReplayState: [esn.encode()],
        KeyManagerAddress: [KeyManagerAddress(_ME, _PEER).encode()],
    }
    found = {number: values.get(kind, [bytes(64), bytes(12), bytes(24)]) for number, kind in enumerate(_VALUES)}
    attributes = b"".join(
        Attribute(kind, payload).encode()
        for kind, payload in (
            (AttributeType.MIGRATE, moved),
            (AttributeType.KMADDRESS, KeyManagerAddress(_ME, _PEER).encode()),
            (AttributeType.ENCAP, Encapsulation(2, 4500, 4500).encode()),
            (AttributeType.SA, plain.encode()[: USERSA_INFO.size]),
            (AttributeType.POLICY, policies[0].encode()[: USERPOLICY_INFO.size]),
        )
    )
    message = Message(MessageType.NEWSA, 0, 1, plain.encode()).encode()
    for number, seeds in enumerate(([attributes], [message * 2], [moved * 2], [Template(3).encode() * 3])):
        found[len(_VALUES) + number] = seeds
    bodies = [*values[SecurityAssociation], *values[Policy], attributes]
    heads = (USERPOLICY_ID, USER_ACQUIRE, USER_EXPIRE, USER_MAPPING, USER_POLEXPIRE)
    events = [*bodies, *(bytes(head.size) + attributes for head in heads)]
    for number in range(len(_EVENT_KINDS)):
        found[len(_VALUES) + len(_LISTS) + number] = events
    return found


class Codecs:
    """See Target."""

    name = "codecs"

    def __init__(self) -> None:
        self._seeds = _seeds()
        self._all = [seed for seeds in self._seeds.values() for seed in seeds]

    def generate(self, choose: random.Random) -> bytes:
        number = choose.choice((0, 0, 1, 1, choose.randrange(len(self._seeds))))
        data = choose.choice(self._seeds[number])
        match choose.randrange(5):
            case 0:
                data = choose.randbytes(choose.randrange(320))
            case 1:
                data += self._attributes(choose)
            case 2:
                data = damaged(data + self._attributes(choose), choose, self._all)
            case _:
                data = damaged(data, choose, self._all)
        return bytes([number]) + data

    def check(self, data: bytes) -> int:
        number, octets = (data[0] % len(self._seeds), data[1:]) if data else (0, b"")
        if number < len(_VALUES):
            kind = _VALUES[number]
            try:
                found = kind.decode(octets)
            except XfrmDecodeError:
                return 1
            repr(found)
            if isinstance(found, SecurityAssociation):
                found = replace(found, last_used=0)  # is read, and never written
            assert kind.decode(found.encode()) == found
        elif number < len(_VALUES) + len(_LISTS):
            with suppress(XfrmDecodeError):
                repr(_LISTS[number - len(_VALUES)](octets))
        else:
            kind = _EVENT_KINDS[number - len(_VALUES) - len(_LISTS)]
            repr(decode_event(Message(kind, 0, 0, octets)))
        return 1

    @staticmethod
    def _attributes(choose: random.Random) -> bytes:
        """Any attributes, of known kinds most of the time, with lengths that may be wrong."""
        octets = b""
        for _ in range(choose.choice((1, 1, 2, 5))):
            payload = choose.randbytes(choose.choice((0, 1, 2, 4, 8, 12, 16, 24, 32, 68, 72, 76, 168, 224)))
            kind = choose.choice((*AttributeType, choose.randrange(0x10000)))
            length = len(payload) + 4 if choose.random() < 0.9 else choose.randrange(0x10000)
            octets += struct.pack("=HH", length, kind) + payload + bytes(-len(payload) % 4)
        return octets

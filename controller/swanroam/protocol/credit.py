"""How much may be sent to an address before it is proven: three times what came from who claims it (RFC 9000 §8).

Nobody must be able to have this host send much more to a third party than he sends himself. Whole packets are counted:
the datagrams as they are encoded, with what the control CHILD_SA and the carrier put around them, at least (of what has
come) and at most (of what leaves). Where a packet came from is not seen here: what counts is what the identity sends.
"""

from __future__ import annotations

from swanroam.protocol.codec import encode
from swanroam.protocol.messages import Message

FACTOR = 3
LEAST_AROUND = {4: 94, 6: 114}
"""Bytes around a datagram, by the version of the outer addresses: IP (20 or 40), ESP in tunnel mode (8, and 8 of IV,
2 of trailer and 8 of ICV with AES-GCM), inner IPv6 (40), UDP (8)."""
MOST_AROUND = {4: 161, 6: 201}
"""The same with IP-in-IP of the carrier (20 or 40), and 16 of IV, 15 of padding and 32 of ICV."""


class Credit:
    """Of one address that is not proven."""

    def __init__(self) -> None:
        self.held_back = 0
        """Datagrams that were not sent for want of credit, to all addresses so far."""
        self._bytes = 0

    def begin(self) -> None:
        """Another address: what was there for the last does not count."""
        self._bytes = 0

    def receive(self, message: Message, version: int) -> None:
        self._bytes += FACTOR * (len(encode(message)) + LEAST_AROUND[version])

    def spend(self, message: Message, version: int) -> bool:
        """Whether the message may be sent; then it counts as sent. What may not will be repeated by who wants it."""
        size = len(encode(message)) + MOST_AROUND[version]
        if size > self._bytes:
            self.held_back += 1
            return False
        self._bytes -= size
        return True

"""How valid octets are damaged: what a fuzzer without knowledge of the format does."""

from __future__ import annotations

import random
from collections.abc import Sequence

INTERESTING = (0, 1, 2, 3, 4, 7, 8, 16, 20, 32, 64, 127, 128, 200, 254, 255)
"""Values at the borders of lengths and types."""


def damaged(data: bytes, choose: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Some octets are changed, lost, doubled, moved, or come from another input."""
    octets = bytearray(data)
    for _ in range(choose.choice((1, 1, 1, 2, 3, 6))):
        at = choose.randrange(len(octets) + 1)
        size = choose.choice((1, 1, 2, 4, 8, 40))
        match choose.randrange(9):
            case 0 if at < len(octets):
                octets[at] = choose.choice(INTERESTING)
            case 1 if at < len(octets):
                octets[at] ^= 1 << choose.randrange(8)
            case 2 if at < len(octets):
                octets[at] = choose.randrange(256)
            case 3:
                del octets[at : at + size]
            case 4:
                octets[at:at] = choose.randbytes(size)
            case 5:
                octets[at:at] = octets[at : at + size] * choose.choice((1, 2, 9))
            case 6:
                del octets[at:]
            case 7 if others:
                other = choose.choice(others)
                begin = choose.randrange(len(other) + 1)
                octets[at : at + size] = other[begin : begin + size]
            case _:
                octets[at:at] = bytes(size)
    return bytes(octets)

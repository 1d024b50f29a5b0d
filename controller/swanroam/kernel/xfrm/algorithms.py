"""Algorithms of an SA with their keys.

A key enters this process only because the kernel hands it out with the SA (GETSA) and wants it back for a clone
(NEWSA). It is kept in `KeyMaterial`, which has no printed form and cannot be pickled.
Source: struct xfrm_algo, xfrm_algo_auth, xfrm_algo_aead (include/uapi/linux/xfrm.h).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final, NoReturn, Self

from swanroam.kernel.xfrm.codec import Layout
from swanroam.kernel.xfrm.errors import XfrmDecodeError

ALGO: Final = Layout("xfrm_algo", alg_name="64s", alg_key_len="I")
ALGO_AUTH: Final = Layout("xfrm_algo_auth", alg_name="64s", alg_key_len="I", alg_trunc_len="I")
ALGO_AEAD: Final = Layout("xfrm_algo_aead", alg_name="64s", alg_key_len="I", alg_icv_len="I")


class KeyMaterial:
    """Octets of a key. Compared in constant time; `reveal` is the only way to them."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        self._octets = bytes(octets)

    def reveal(self) -> bytes:
        return self._octets

    @property
    def is_blank(self) -> bool:
        """All zero: what a kernel in confidentiality lockdown shows instead of a key (xfrm_redact)."""
        return not any(self._octets)

    def __len__(self) -> int:
        return len(self._octets)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyMaterial) and hmac.compare_digest(self._octets, other._octets)

    def __hash__(self) -> int:
        return hash((KeyMaterial, self._octets))

    def __repr__(self) -> str:
        return "<key redacted>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("key material is not written anywhere")


def _encode_name(name: str) -> bytes:
    octets = name.encode("ascii")
    if len(octets) > 63:
        raise ValueError(f"algorithm name {name!r} is longer than 63 characters")
    return octets


def _decode_name(structure: str, octets: bytes) -> str:
    name = octets.split(b"\0", 1)[0]
    if len(name) == len(octets) or not name.isascii():
        raise XfrmDecodeError(structure, "the algorithm's name is not a terminated ASCII string")
    return name.decode("ascii")


def _decode_key(layout: Layout, data: bytes, bits: int) -> KeyMaterial:
    octets = (bits + 7) // 8
    if len(data) != layout.size + octets:
        raise XfrmDecodeError(layout.name, f"{len(data) - layout.size} octets of key where {octets} are announced")
    return KeyMaterial(data[layout.size :])


@dataclass(frozen=True, slots=True)
class Algorithm:
    """Cipher, compression, or authentication of default truncation: `cbc(aes)`, `deflate`, `hmac(sha256)`."""

    name: str
    key_bits: int
    key: KeyMaterial

    def encode(self) -> bytes:
        return ALGO.pack(alg_name=_encode_name(self.name), alg_key_len=self.key_bits) + self.key.reveal()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        field = ALGO.unpack(data)
        name = _decode_name(ALGO.name, field["alg_name"])
        return cls(name, field["alg_key_len"], _decode_key(ALGO, data, field["alg_key_len"]))


@dataclass(frozen=True, slots=True)
class TruncatedAuthentication:
    """Authentication with the length of the ICV on the wire, in bits."""

    name: str
    key_bits: int
    truncation_bits: int
    key: KeyMaterial

    def encode(self) -> bytes:
        return (
            ALGO_AUTH.pack(
                alg_name=_encode_name(self.name), alg_key_len=self.key_bits, alg_trunc_len=self.truncation_bits
            )
            + self.key.reveal()
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        field = ALGO_AUTH.unpack(data)
        name = _decode_name(ALGO_AUTH.name, field["alg_name"])
        key = _decode_key(ALGO_AUTH, data, field["alg_key_len"])
        return cls(name, field["alg_key_len"], field["alg_trunc_len"], key)


@dataclass(frozen=True, slots=True)
class AeadAlgorithm:
    """Combined mode: `rfc4106(gcm(aes))`; the key ends with the salt (RFC 4106 section 8.1). ICV length in bits."""

    name: str
    key_bits: int
    icv_bits: int
    key: KeyMaterial

    def encode(self) -> bytes:
        return (
            ALGO_AEAD.pack(alg_name=_encode_name(self.name), alg_key_len=self.key_bits, alg_icv_len=self.icv_bits)
            + self.key.reveal()
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        field = ALGO_AEAD.unpack(data)
        name = _decode_name(ALGO_AEAD.name, field["alg_name"])
        key = _decode_key(ALGO_AEAD, data, field["alg_key_len"])
        return cls(name, field["alg_key_len"], field["alg_icv_len"], key)

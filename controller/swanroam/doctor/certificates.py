"""From when to when an X.509 certificate is valid: nothing else of it is read. Source: RFC 5280 section 4.1, X.690."""

from __future__ import annotations

import base64
import binascii
import calendar
import re
from dataclasses import dataclass
from typing import Final

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18


class CertificateError(Exception):
    """It can't be read."""


@dataclass(frozen=True, slots=True)
class Validity:
    """Seconds since 1970, both."""

    start: int
    end: int


def validity(content: bytes) -> Validity:
    """Of a certificate in DER or PEM. Raises CertificateError."""
    try:
        if (pem := _PEM.search(content)) is not None:
            content = base64.b64decode(pem.group(1))
        certificate, _ = _element(content, _SEQUENCE)
        rest, _ = _element(certificate, _SEQUENCE)
        if rest[0] == _VERSION:
            _, rest = _element(rest, _VERSION)
        for _ in ("serialNumber", "signature", "issuer"):
            _, rest = _element(rest)
        span, _ = _element(rest, _SEQUENCE)
        start, rest = _time(span)
        end, _ = _time(rest)
    except (IndexError, ValueError, binascii.Error) as error:
        raise CertificateError(f"a certificate cannot be read: {error}") from error
    return Validity(start, end)


def _element(data: bytes, tag: int | None = None) -> tuple[bytes, bytes]:
    """The contents of the first element, and what stands behind it. Raises ValueError, IndexError."""
    if tag is not None and data[0] != tag:
        raise ValueError(f"an element is of type {data[0]:#x} and should be of {tag:#x}")
    length, start = data[1], 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(data[2 : 2 + size]), 2 + size
    if start + length > len(data):
        raise ValueError("it ends too early")
    return data[start : start + length], data[start + length :]


def _time(data: bytes) -> tuple[int, bytes]:
    kind = data[0]
    content, rest = _element(data)
    text = content.decode("ascii")
    if kind == _UTC_TIME:  # two digits of the year, 50 is 1950
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    elif kind != _GENERALIZED_TIME:
        raise ValueError(f"a time is of type {kind:#x}")
    if not re.fullmatch(r"\d{14}Z", text):
        raise ValueError(f"{text!r} is no time")
    parts = [int(part) for part in (text[:4], *(text[at : at + 2] for at in range(4, 14, 2)))]
    return calendar.timegm((*parts, 0, 0, 0)), rest

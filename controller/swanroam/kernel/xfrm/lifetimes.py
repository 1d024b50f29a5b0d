"""Lifetimes and marks, common to policies and SAs.

Source: struct xfrm_lifetime_cfg, xfrm_lifetime_cur, xfrm_mark (include/uapi/linux/xfrm.h); RFC 4301 section 4.4.2.1.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Final, Self

from swanroam.kernel.xfrm.codec import Layout
from swanroam.kernel.xfrm.constants import XFRM_INF

LIFETIME_CFG: Final = Layout(
    "xfrm_lifetime_cfg",
    soft_byte_limit="Q",
    hard_byte_limit="Q",
    soft_packet_limit="Q",
    hard_packet_limit="Q",
    soft_add_expires_seconds="Q",
    hard_add_expires_seconds="Q",
    soft_use_expires_seconds="Q",
    hard_use_expires_seconds="Q",
)
LIFETIME_CUR: Final = Layout("xfrm_lifetime_cur", bytes="Q", packets="Q", add_time="Q", use_time="Q")
MARK: Final = Layout("xfrm_mark", v="I", m="I")


@dataclass(frozen=True, slots=True)
class LifetimeLimits:
    """Limits in octets, packets and seconds since creation or first use. By default there are none."""

    soft_byte_limit: int = XFRM_INF
    hard_byte_limit: int = XFRM_INF
    soft_packet_limit: int = XFRM_INF
    hard_packet_limit: int = XFRM_INF
    soft_add_expires_seconds: int = 0
    hard_add_expires_seconds: int = 0
    soft_use_expires_seconds: int = 0
    hard_use_expires_seconds: int = 0

    def encode(self) -> bytes:
        return LIFETIME_CFG.pack(**{name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        return cls(**LIFETIME_CFG.unpack(data))


@dataclass(frozen=True, slots=True)
class LifetimeUsage:
    """What was used up: octets, packets; `add_time` and `use_time` are seconds since the epoch, 0 for never."""

    octets: int = 0
    packets: int = 0
    add_time: int = 0
    use_time: int = 0

    def __bool__(self) -> bool:
        return any(astuple(self))

    def encode(self) -> bytes:
        return LIFETIME_CUR.pack(
            bytes=self.octets, packets=self.packets, add_time=self.add_time, use_time=self.use_time
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        field = LIFETIME_CUR.unpack(data)
        return cls(field["bytes"], field["packets"], field["add_time"], field["use_time"])


@dataclass(frozen=True, slots=True)
class Mark:
    """Selects packets whose fwmark, masked, is the value. Mask 0 and value 0 is no mark at all, for the kernel too."""

    value: int = 0
    mask: int = 0

    def __bool__(self) -> bool:
        return bool(self.value or self.mask)

    def __str__(self) -> str:
        return f"{self.value:#x}/{self.mask:#x}"

    def encode(self) -> bytes:
        return MARK.pack(v=self.value, m=self.mask)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        field = MARK.exactly(data)
        return cls(field["v"], field["m"])


NO_LIMITS: Final = LifetimeLimits()
UNUSED: Final = LifetimeUsage()
NO_MARK: Final = Mark()

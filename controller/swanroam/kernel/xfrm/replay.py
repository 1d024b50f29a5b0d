"""Sequence numbers and anti-replay windows of an SA.

Source: struct xfrm_replay_state, xfrm_replay_state_esn (include/uapi/linux/xfrm.h); net/xfrm/xfrm_replay.c; RFC 4303
sections 2.2.1 and 3.3.3. The extended structure also serves SAs without extended sequence numbers when the window is
larger than 32; `oseq_hi` and `seq_hi` stay zero then.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Self

from swanroam.kernel.xfrm.codec import Layout
from swanroam.kernel.xfrm.errors import XfrmDecodeError

REPLAY_STATE: Final = Layout("xfrm_replay_state", oseq="I", seq="I", bitmap="I")
REPLAY_STATE_ESN: Final = Layout(
    "xfrm_replay_state_esn", bmp_len="I", oseq="I", seq="I", oseq_hi="I", seq_hi="I", replay_window="I"
)
XFRMA_REPLAY_ESN_MAX: Final = 4096
"""Largest window in bits."""


@dataclass(frozen=True, slots=True)
class ReplayState:
    """Last number sent, highest number received, 32 bits of window below it."""

    oseq: int = 0
    seq: int = 0
    bitmap: int = 0

    def encode(self) -> bytes:
        return REPLAY_STATE.pack(oseq=self.oseq, seq=self.seq, bitmap=self.bitmap)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        return cls(**REPLAY_STATE.exactly(data))


@dataclass(frozen=True, slots=True)
class EsnReplayState:
    """Numbers of 64 bits in two halves, window of `replay_window` packets in `bitmap`, words of 32 bits."""

    oseq: int = 0
    seq: int = 0
    oseq_hi: int = 0
    seq_hi: int = 0
    replay_window: int = 0
    bitmap: tuple[int, ...] = ()

    def encode(self) -> bytes:
        return REPLAY_STATE_ESN.pack(
            bmp_len=len(self.bitmap),
            oseq=self.oseq,
            seq=self.seq,
            oseq_hi=self.oseq_hi,
            seq_hi=self.seq_hi,
            replay_window=self.replay_window,
        ) + struct.pack(f"={len(self.bitmap)}I", *self.bitmap)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        field = REPLAY_STATE_ESN.unpack(data)
        words = field.pop("bmp_len")
        if words > XFRMA_REPLAY_ESN_MAX // 32 or len(data) != REPLAY_STATE_ESN.size + 4 * words:
            raise XfrmDecodeError(REPLAY_STATE_ESN.name, f"{len(data)} octets for a bitmap of {words} words")
        return cls(**field, bitmap=struct.unpack_from(f"={words}I", data, REPLAY_STATE_ESN.size))

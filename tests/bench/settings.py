"""How often, how far, how many. The same object reaches every measure and is written beside the results."""

from dataclasses import dataclass

MEASURES = ("silence", "clear", "sockets", "throughput")


@dataclass(frozen=True, slots=True)
class Settings:
    """Times in seconds unless the name says otherwise."""

    repetitions: int = 5
    rtts_ms: tuple[int, ...] = (20, 0)
    moves: tuple[str, ...] = ("soft", "hard")
    counts: tuple[int, ...] = (1, 10, 100, 1000, 2000, 5000)
    """Connections that are open at a move."""
    measures: tuple[str, ...] = MEASURES
    contenders: tuple[str, ...] = ()
    """Names, or parts of them; empty: all."""
    tick: float = 0.001
    """Between two messages of the TCP application."""
    udp_rate: int = 1000
    """Packets per second each way."""
    gap: float = 0.5
    """Without any address, in a hard move."""
    overlap: float = 1.0
    """With both addresses, in a soft move."""
    steady: float = 1.0
    """Before a measurement, of what it is compared with, and after everything has settled."""
    window: float = 1.0
    """Of one throughput figure."""

    def wants(self, name: str) -> bool:
        """Whether a contender of this name is measured."""
        return not self.contenders or any(part in name for part in self.contenders)

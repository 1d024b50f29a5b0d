"""What the stories with real programs share: five moves in a row while connections are open.

story = start(lab, captured=UNPROTECTED)
...                                             # a program connects from the mobile host to the correspondent
moves = FiveMoves(story, port=22)
moves.run(beat.check)                           # after each move; raises when a connection is not the same any more
"""

from collections.abc import Callable

from scenarios.native import Native
from scenarios.scenario import Story

MOVES = (("net-b", "soft"), ("net-a", "hard"), ("net-b", "soft"), ("net-a", "hard"), ("net-b", "soft"))
OVERLAP = 0.5
"""Seconds with both addresses, in a soft move."""
GAP = 0.3
"""Seconds without any address, in a hard move."""


class FiveMoves:
    """Soft and hard moves by turns, and the connections of the mobile host to one port of the correspondent."""

    def __init__(self, story: Story, port: int, *, connections: int = 1) -> None:
        """`connections`: how many the program opens; they are waited for."""
        self._story = story
        self._native = Native(story, port, least=connections)

    def run(self, check: Callable[[], object]) -> None:
        """Move five times. After each `check` is called, and the same connections are at the present addresses."""
        mobile = self._story.lab.mobile
        for network, kind in MOVES:
            mobile.move_to(network, soft=kind == "soft", overlap=OVERLAP, gap=GAP)
            self._story.wait_arrived()
            check()
            took = self._native.wait()
            print(f"{kind} move to {network}: {len(self._native)} at the new address {took:.1f} s after the filters")

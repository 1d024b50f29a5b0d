"""What the stories with real programs share: five moves in a row while connections are open.

story = start(lab, captured=UNPROTECTED)
...                                             # a program connects from the mobile host to the correspondent
moves = FiveMoves(story, port=22)
moves.run(beat.check)                           # after each move; raises when a connection is not the same any more
"""

from collections.abc import Callable

from lab.connections import Connection, connections
from lab.waiting import wait_for
from scenarios.scenario import Story

SOCKETS_MOVE = True
"""Whether a connection is on the hosts' present addresses after a move. As long as sockets stay where they were opened,
only that it is the same connection can be shown."""

MOVES = (("net-b", "soft"), ("net-a", "hard"), ("net-b", "soft"), ("net-a", "hard"), ("net-b", "soft"))
OVERLAP = 0.5
"""Seconds with both addresses, in a soft move."""
GAP = 0.3
"""Seconds without any address, in a hard move."""
SETTLING = 30.0


class FiveMoves:
    """Soft and hard moves by turns, and the connections of the mobile host to one port of the correspondent."""

    def __init__(self, story: Story, port: int) -> None:
        self._story = story
        self._port = port
        self._identities = {connection.identity for connection in self._connections()}
        assert self._identities, f"no connection to port {port}"

    def _connections(self) -> list[Connection]:
        return connections(self._story.lab.mobile, self._story.lab.correspondent, self._port)

    def run(self, check: Callable[[], object]) -> None:
        """Move five times; after each the connections are the same ones, and `check` is called."""
        mobile = self._story.lab.mobile
        for network, kind in MOVES:
            mobile.move_to(network, soft=kind == "soft", overlap=OVERLAP, gap=GAP)
            self._story.wait_arrived()
            check()
            self.assert_same()
            self.assert_on_present_addresses()

    def assert_same(self) -> None:
        """No program has connected anew: the ports and the sockets themselves are those of the beginning."""
        now = self._connections()
        assert {connection.identity for connection in now} == self._identities, now

    def assert_on_present_addresses(self) -> None:
        """On both hosts each connection has the addresses that the hosts have now, once these have settled."""
        if not SOCKETS_MOVE:
            return
        pair = self._story.lab.mobile.address, self._story.lab.correspondent.address
        wait_for(
            lambda: all(connection.addresses == pair * 2 for connection in self._connections()),
            SETTLING,
            f"all connections to port {self._port} are {pair[0]} - {pair[1]} on both hosts",
            lambda: "\n".join(map(str, self._connections())),
            poll=0.2,
        )

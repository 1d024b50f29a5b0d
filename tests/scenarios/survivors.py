"""Connections that live through the death of daemons: one set of them, from one move to the next."""

from collections.abc import Callable
from itertools import cycle

from lab.host import Host
from lab.topology import Lab
from lab.waiting import wait_for
from scenarios.native import Native
from scenarios.scenario import GRACE, Mix, Story, start

CONFIG = {"defaults": {"grace": GRACE}}
FEWEST = 2
"""Steps that a handover has at least on either host, of either kind. (Several changes of the kernel may be one.)"""
_LIGHT = {"bulk_rate": 20_000, "udp_rate": 50}
_NETWORKS = ("net-b", "net-c", "net-a")


class Survivors:
    """A story with connections, whose host moves on at every turn. The lab's charons must be up."""

    def __init__(self, lab: Lab) -> None:
        for host in lab.hosts:
            host.controller.mortal = True
        self.lab = lab
        self.story: Story = start(lab, config=CONFIG)
        self.mix: Mix = self.story.traffic(**_LIGHT)
        self.native = Native(self.story)
        self._networks = cycle(_NETWORKS)

    def move_until_dead(self, host: Host, runs: Callable[[], bool], what: str) -> bool:
        """Moves on, until what was told to die is dead, or the move is through and released; whether it died.

        `what` it is that `runs`, in words.
        """
        finished = len(self.lab.mobile.log_events("handover_finished"))
        self.lab.mobile.move_to(next(self._networks), soft=True, overlap=0.2)
        wait_for(
            lambda: not runs() or len(self.lab.mobile.log_events("handover_finished")) > finished,
            60,
            f"{host.name}: its {what} is dead, or the move is over",
            host.controller.log_tail,
        )
        killed = not host.controller.die_no_more()
        if killed:
            wait_for(lambda: not runs(), 10, f"{host.name}: its {what} is dead")
        return killed

    def finish(self) -> None:
        self.mix.stop()
        self.story.note_descriptors()
        self.story.finish()

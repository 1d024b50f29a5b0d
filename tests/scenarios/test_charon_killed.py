"""charon of either host is killed at the exact moment of a step of a handover, alone or with the controller.

Whatever watches over charon starts it again, as systemd does, and it brings up what its configuration says: the mobile
host's connections. Nobody does anything else. One set of connections lives through all of it, from one move to the
next; on the router nothing is ever in clear, and of what a dead charon has left in the kernel nothing stays.
"""

from collections.abc import Callable
from itertools import count, cycle

import pytest

from lab.addressing import Family
from lab.dying import ITSELF, Moment
from lab.host import Host
from lab.topology import Lab
from lab.waiting import wait_for
from scenarios.native import Native
from scenarios.scenario import GRACE, Mix, Story, start

pytestmark = pytest.mark.lab

LIGHT = {"bulk_rate": 20_000, "udp_rate": 50}
CONFIG = {"defaults": {"grace": GRACE}}
NETWORKS = ("net-b", "net-c", "net-a")
FEWEST = 3
"""Steps that a handover has at least on either host, of either kind."""
RECOVERY = 90.0
"""Seconds in which all is well again: a charon finds out that its peer is gone within half a minute (retransmits)."""


class Survivors:
    """A story with connections, whose host moves on at every turn."""

    def __init__(self, make_lab: Callable[..., Lab], family: Family) -> None:
        self.lab = make_lab(family=family, kept_up=True, connection_options=["dpd_delay = 2s"])
        self.lab.start()
        for host in self.lab.hosts:
            host.controller.mortal = True
        self.story: Story = start(self.lab, config=CONFIG)
        self.mix: Mix = self.story.traffic(**LIGHT)
        self._native = Native(self.story)
        self._networks = cycle(NETWORKS)

    def kill_during_a_move(self, host: Host, moment: Moment, number: int, *, both: bool = False) -> bool:
        """Whether the host's controller came so far before the move was over. All is well afterwards.

        `both`: the controller dies with charon.
        """
        finished = len(self.lab.mobile.log_events("handover_finished"))
        assert host.charon.process is not None
        host.controller.kill_at(moment, number, host.charon.process.pid, *([ITSELF] if both else []))
        self.lab.mobile.move_to(next(self._networks), soft=True, overlap=0.2)
        wait_for(
            lambda: not host.charon.running or self._over(finished),
            60,
            f"{host.name}: its charon is dead, or the move is over",
            host.controller.log_tail,
        )
        killed = not host.charon.running
        host.controller.die_no_more()
        if killed:
            host.charon.kill()
            host.charon.start()
            if both:
                host.start_controller(CONFIG)
        took = self._native.wait(RECOVERY)
        self.mix.wait_passing()
        self.story.wait_rest(RECOVERY)
        victims = "charon and controller" if both else "charon"
        print(
            f"{host.name}, {victims} killed at {moment.value} {number}: {killed}; "
            f"all at the new address {took:.1f} s later"
        )
        return killed

    def _over(self, since: int) -> bool:
        """The move is through and released: the mobile host has ended one more handover."""
        return len(self.lab.mobile.log_events("handover_finished")) > since

    def finish(self) -> None:
        self.mix.stop()
        self.story.note_descriptors()
        self.story.finish()


@pytest.mark.parametrize("family", [Family.IPV4], ids=["ipv4"])
def test_charon_killed_at_a_few_steps(make_lab: Callable[..., Lab], family: Family) -> None:
    survivors = Survivors(make_lab, family)
    lab = survivors.lab
    assert survivors.kill_during_a_move(lab.mobile, Moment.APPLIED, 1)
    assert survivors.kill_during_a_move(lab.correspondent, Moment.JOURNALLED, 2)
    assert survivors.kill_during_a_move(lab.mobile, Moment.JOURNALLED, 3, both=True)
    survivors.finish()


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("family", [Family.IPV6], ids=["ipv6"])
@pytest.mark.parametrize("both", [False, True], ids=["charon", "both"])
@pytest.mark.parametrize("moment", Moment, ids=lambda moment: moment.value)
@pytest.mark.parametrize("which", ["mobile", "correspondent"])
def test_charon_killed_at_every_step(
    make_lab: Callable[..., Lab], family: Family, which: str, moment: Moment, both: bool
) -> None:
    survivors = Survivors(make_lab, family)
    host: Host = getattr(survivors.lab, which)
    for number in count(1):
        if not survivors.kill_during_a_move(host, moment, number, both=both):
            break
    print(f"a move has {number - 1} such moments")
    assert number > FEWEST
    survivors.finish()

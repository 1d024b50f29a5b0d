"""The controller of either host is killed at the exact moment of a step of a handover, and started again at once.

The moments: as its journal is written and nothing is done yet; as the kernel is changed and nobody was told. One set of
connections lives through all of it, from one move to the next; on the router nothing is ever in clear.
"""

from itertools import count

import pytest

from lab.addressing import Family
from lab.dying import Moment
from lab.host import Host
from lab.topology import Lab
from lab.waiting import wait_for
from scenarios.survivors import CONFIG, FEWEST, Survivors

pytestmark = pytest.mark.lab


class Killed(Survivors):
    """Of controllers."""

    def kill_during_a_move(self, host: Host, moment: Moment, number: int, *others: Host) -> bool:
        """Whether the host's controller came so far before the move was over. All is well afterwards.

        `others`: whose controllers are killed as soon as that one is dead.
        """
        host.controller.die_at(moment, number)
        killed = self.move_until_dead(host, lambda: host.controller.running, "controller")
        for other in others:
            other.kill_controller()
        for one in (host, *others) if killed else others:
            one.start_controller(CONFIG)
        self.story.wait_ready()
        took = self.native.wait()
        self.mix.wait_passing()
        for one in self.lab.hosts:
            wait_for(lambda one=one: released(one), 60, f"{one.name} has no old address", one.controller.log_tail)
        print(f"{host.name} killed at {moment.value} {number}: {killed}; all at the new address {took:.1f} s later")
        return killed


def released(host: Host) -> bool:
    """Neither it nor its peer has an old address."""
    return all(
        not peer["own"]["deprecated"] and not peer["peer"]["deprecated"] and not peer["carried"]
        for peer in host.status()["peers"]
    )


@pytest.mark.parametrize("family", [Family.IPV6], ids=["ipv6"])
def test_killed_at_a_few_steps(lab: Lab) -> None:
    survivors = Killed(lab)
    for host, moment, number in (
        (lab.mobile, Moment.JOURNALLED, 1),
        (lab.correspondent, Moment.JOURNALLED, 2),
        (lab.mobile, Moment.APPLIED, 2),
        (lab.correspondent, Moment.APPLIED, 1),
    ):
        assert survivors.kill_during_a_move(host, moment, number)
    assert survivors.kill_during_a_move(lab.correspondent, Moment.APPLIED, 2, lab.mobile)
    survivors.finish()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("family", [Family.IPV4], ids=["ipv4"])
@pytest.mark.parametrize("moment", Moment, ids=lambda moment: moment.value)
@pytest.mark.parametrize("which", ["mobile", "correspondent"])
def test_killed_at_every_step(lab: Lab, which: str, moment: Moment) -> None:
    survivors = Killed(lab)
    host: Host = getattr(lab, which)
    for number in count(1):
        if not survivors.kill_during_a_move(host, moment, number):
            break
    print(f"a move has {number - 1} such moments")
    assert number > FEWEST
    survivors.finish()

"""charon of either host is killed at the exact moment of a step of a handover, alone or with the controller.

Whatever watches over charon starts it again, as systemd does, and it brings up what its configuration says: the mobile
host's connections. Nobody does anything else. One set of connections lives through all of it, from one move to the
next; on the router nothing is ever in clear, and of what a dead charon has left in the kernel nothing stays.
"""

from collections.abc import Callable
from itertools import count

import pytest

from lab.addressing import Family
from lab.dying import ITSELF, Moment
from lab.host import Host
from lab.topology import Lab
from scenarios.survivors import CONFIG, FEWEST, Survivors

pytestmark = pytest.mark.lab

RECOVERY = 90.0
"""Seconds in which all is well again: a charon finds out that its peer is gone within half a minute (retransmits)."""


class Killed(Survivors):
    """Of charons."""

    def __init__(self, make_lab: Callable[..., Lab], family: Family) -> None:
        lab = make_lab(family=family, kept_up=True, connection_options=["dpd_delay = 2s"])
        lab.start()
        super().__init__(lab)

    def kill_during_a_move(self, host: Host, moment: Moment, number: int, *, both: bool = False) -> bool:
        """Whether the host's controller came so far before the move was over. All is well afterwards.

        `both`: the controller dies with charon.
        """
        assert host.charon.process is not None
        host.controller.kill_at(moment, number, host.charon.process.pid, *([ITSELF] if both else []))
        killed = self.move_until_dead(host, lambda: host.charon.running, "charon")
        if killed:
            host.charon.kill()
            host.charon.start()
            if both:
                host.start_controller(CONFIG)
        took = self.native.wait(RECOVERY)
        self.mix.wait_passing()
        self.story.wait_rest(RECOVERY)
        victims = "charon and controller" if both else "charon"
        print(
            f"{host.name}, {victims} killed at {moment.value} {number}: {killed}; "
            f"all at the new address {took:.1f} s later"
        )
        return killed


@pytest.mark.parametrize("family", [Family.IPV4], ids=["ipv4"])
def test_charon_killed_at_a_few_steps(make_lab: Callable[..., Lab], family: Family) -> None:
    survivors = Killed(make_lab, family)
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
    survivors = Killed(make_lab, family)
    host: Host = getattr(survivors.lab, which)
    for number in count(1):
        if not survivors.kill_during_a_move(host, moment, number, both=both):
            break
    print(f"a move has {number - 1} such moments")
    assert number > FEWEST
    survivors.finish()

"""How people read the history: words for causes, results, steps and events, in text and drawings alike."""

from __future__ import annotations

from swanroam.history.document import entry_detail
from swanroam.history.handovers import STARTED, Moment, PastHandover

CAUSES = {
    "planned": "planned: somebody asked for it",
    "preferred": "another address was preferred",
    "deprecated": "the old address was about to be withdrawn",
    "gone": "the old address was lost",
    "link_down": "the link of the old address was down",
    "peer": "the peer's move",
    "unknown": "not known: begun before the daemon was restarted",
}
"""Why an address has changed."""
STEPS = {
    "deprecated": "old address is on the carrier",
    "acknowledged": "both hosts know, and agree",
    "proven": "data goes to the new address",
    "filters": "SAs and policies stand there",
    "transport": "sockets moved, where they can",
    "grace": "the grace period is over",
    "released": "the old address is gone",
}
"""What is true once a step is done."""
RESULTS = {
    "done": "done",
    "overtaken": "overtaken by the next move",
    "refused": "refused by the peer",
    "unanswered": "not answered by the peer",
    "unproven": "the new address was not proven",
    "running": "no end yet",
    "carrying": "done, but sockets stay on the old address",
    "cut_short": "cut short: the daemon ended before it did",
    "forgotten": "the peer was forgotten",
}
EVENTS = {
    "daemon_started": "the daemon started",
    "daemon_stopped": "the daemon stopped",
    "address_lost": "our address was lost",
    "address_back": "our address was back",
    "peer_registered": "the peer answers: its connections can move",
    "peer_silent": "the peer does not answer",
    "peer_sought": "the peer is looked for",
    "peer_found": "the peer was found",
    "peer_not_found": "the peer was not found",
    "peer_forgotten": "the peer is not managed any more",
    "address_change_refused_by_peer": "the peer refused",
    "address_change_refused": "the peer's change was refused",
    "path_not_proven": "the peer did not prove its address",
    "filters_failed": "no new SAs",
    "address_released": "no socket uses it any more",
    "release_waits_for_sockets": "sockets stay on the old address",
    "sockets_ended": "sockets were ended: their time was over",
    "transfer_given_up": "an attempt to move sockets was given up",
    "handover_started": "the move began",
    "handover_finished": "the end",
}
"""What else can be on a timeline, or in the list."""


def seconds(value: float) -> str:
    """A duration as people read it."""
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes}m {rest}s" if minutes < 120 else f"{minutes // 60}h {minutes % 60}m"


def result(handover: PastHandover) -> str:
    """How it ended, and after how long."""
    lasting = f", {seconds(handover.duration)}" if handover.duration is not None else ""
    return f"{RESULTS.get(handover.result, handover.result)}{lasting}"


def cause(handover: PastHandover) -> str:
    """Why the address changed."""
    flapping = f"; {handover.flapping}" if handover.flapping else ""
    return f"{CAUSES.get(handover.cause, handover.cause)}{flapping}"


def left_out(handover: PastHandover) -> str:
    """That the history has not all of it; empty if it has."""
    return f"{handover.left_out} moves before it were not written down: too many" if handover.left_out else ""


def moved(handover: PastHandover) -> str:
    """Who went from where to where."""
    return f"{'we' if handover.ours else 'it'} moved {handover.old} -> {handover.new}"


def silence(handover: PastHandover) -> str:
    """For how long nothing could get through, as far as this host can know."""
    if not handover.ours:
        return f"the peer's history knows, under the same id{_until(handover, 'proven', '; we sent there after ')}"
    if handover.cause not in ("gone", "link_down"):
        return "none to be expected: the old address worked until the carrier took over"
    without = handover.without_address
    before = f"no address for {seconds(without)}; then " if without is not None else ""
    sends = _until(handover, "deprecated", "sending after ") or "sending never began again"
    hears = _until(handover, "proven", ", receiving after ") or ", receiving not known"
    return f"{before}{sends}{hears}"


def _until(handover: PastHandover, step: str, words: str) -> str:
    return f"{words}{seconds(handover.steps[step])}" if step in handover.steps else ""


def event(kind: str) -> str:
    """Something that is not a step."""
    return EVENTS.get(kind, kind.replace("_", " "))


def moment_words(moment: Moment) -> str:
    """What happened, in words."""
    if moment.entry.text("step"):
        return f"{moment.what}: {STEPS.get(moment.what, 'done')}"
    detail = "" if moment.entry.kind == STARTED else entry_detail(moment.entry)
    result = moment.entry.text("result")
    words = f"{event(moment.what)}{f', {RESULTS.get(result, result)}' if result else ''}"
    return f"{words}: {detail}" if detail else words

"""charon itself: is it there, new enough, with what it needs, and set so that it leaves addresses to swanroam?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from swanroam.daemon.translation import carrier_settings
from swanroam.doctor import programs, remedies
from swanroam.doctor.settings import DEFAULT, Settings, SettingsError, read_settings
from swanroam.doctor.view import CharonAnswer, View
from swanroam.ike.definitions import NO
from swanroam.kernel.carrier_devices import DEVICE_NAMES
from swanroam.kernel.findings import Finding, Severity, ok

OLDEST: Final = (5, 9, 8)
NEEDED_PLUGINS: Final = ("kernel-netlink", "socket-default", "vici")
_SLACK: Final = 2.0
"""Seconds: when a process was started is known to one."""
ROAM_EVENTS: Final = "plugins.kernel-netlink.roam_events"
_LEAVE_ALONE: Final = "charon {\n  plugins {\n    kernel-netlink {\n      roam_events = no\n    }\n  }\n}\n"


def check(view: View) -> list[Finding]:
    """All about charon."""
    if view.charon is None:
        return [_unreachable(view)]
    return [
        ok("charon", f"answers on {view.config.vici_socket}"),
        _version(view.charon),
        *_plugins(view.charon),
        *_options(view, view.charon),
    ]


def _unreachable(view: View) -> Finding:
    check = "charon"
    if "no permission" in view.charon_trouble:
        return Finding(check, Severity.UNSEEN, view.charon_trouble)
    return Finding(
        check,
        Severity.ERROR,
        view.charon_trouble,
        "without it there is no IPsec; what its keys protected is held back by guards",
        f"systemctl restart {remedies.charon_unit()}",
    )


def _version(charon: CharonAnswer) -> Finding:
    check = "charon version"
    found = re.match(r"\D*(\d+)\.(\d+)\.(\d+)", charon.version)
    if found is not None and tuple(map(int, found.groups())) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return Finding(
            check,
            Severity.ERROR,
            f"charon is version {charon.version}, and swanroam needs {oldest} or later",
            "older ones do not tell which SAs have moved; a newer one is in a later release of the distribution",
            "apt install --only-upgrade strongswan-charon strongswan-swanctl",
        )
    return ok(check, charon.version)


def _plugins(charon: CharonAnswer) -> Iterator[Finding]:
    check = "charon plugins"
    missing = [name for name in NEEDED_PLUGINS if name not in charon.plugins]
    if missing:
        yield Finding(
            check,
            Severity.ERROR,
            f"charon runs without {', '.join(missing)}: swanroam needs the kernel's IPsec as kernel-netlink sets it "
            "up, and asks over vici",
            "load them: load = yes in /etc/strongswan.d/charon/NAME.conf, then restart charon",
        )
    else:
        yield ok(check, f"{', '.join(NEEDED_PLUGINS)} are loaded")
    if "bypass-lan" in charon.plugins:
        yield Finding(
            "bypass-lan",
            Severity.WARNING,
            "charon's plugin bypass-lan lets everything in the local network pass in clear, before any guard: a "
            "peer in the same network is not protected",
            command=remedies.charon_drop_in(
                DEFAULT,
                "zz-no-bypass-lan.conf",
                "charon {\n  plugins {\n    bypass-lan {\n      load = no\n    }\n  }\n}\n",
            ),
        )


def _options(view: View, charon: CharonAnswer) -> Iterator[Finding]:
    check = "strongswan.conf"
    environment = None if charon.pid is None else programs.environment_of(charon.pid)
    path = Path((environment or {}).get("STRONGSWAN_CONF", DEFAULT))
    try:
        settings = read_settings(path)
    except SettingsError as error:
        severity = Severity.WARNING if view.privileged else Severity.UNSEEN
        yield Finding(check, severity, f"{error}: charon's options could not be looked at", "mend the file")
        return
    started = None if charon.pid is None else programs.started_at(charon.pid)
    yield from option_findings(view, settings, started)


def option_findings(view: View, settings: Settings, started: float | None) -> Iterator[Finding]:
    """What the options mean for us. `started`: when charon was, in seconds since 1970, if known."""
    changed = [path for path, time in settings.changed.items() if started is not None and time > started + _SLACK]
    if changed:
        yield Finding(
            "strongswan.conf",
            Severity.WARNING,
            f"{', '.join(map(str, sorted(changed)))} changed after charon was started: most options are read at its "
            "start only",
            "this ends all its IKE_SAs, and connections on deprecated addresses with them",
            f"systemctl restart {remedies.charon_unit()}",
        )
    yield _roaming(view, settings)
    yield from _visible_carrier(view, settings)
    if _yes(settings.charon("prefer_best_path")):
        yield _option("prefer_best_path", "charon leaves an old address as soon as routing prefers the new one, before "
                      "swanroam is ready", settings, "no")  # fmt: skip
    if (settings.charon("reuse_ikesa") or "yes") in NO:
        yield _option("reuse_ikesa", "the CHILD_SAs for a new address come up in several IKE_SAs", settings, "yes")


def _roaming(view: View, settings: Settings) -> Finding:
    """Who moves IKE_SAs when this host's addresses change."""
    check = "roam_events"
    if (settings.charon(ROAM_EVENTS) or "yes") in NO:
        return ok(check, "charon leaves changes of addresses to swanroam")
    exposed = sorted(
        peer.connection
        for peer in view.config.peers
        if peer.moves.we_may
        and (connection := view.connection(peer)) is not None
        and (connection.mobike or "%any" in (connection.local_addrs or ("%any",)))
    )
    if not exposed:
        return ok(check, "charon leaves alone what is swanroam's: mobike = no and literal local_addrs")
    unmoved = [name for name in exposed if not _mobike(view, name)]
    end = (
        "moves the IKE_SAs itself" if not unmoved
        else f"ends the IKE_SA and begins anew ({', '.join(unmoved)}: mobike = no)"
    )  # fmt: skip
    return Finding(
        check,
        Severity.WARNING,
        f"when this host's addresses change, charon follows {', '.join(exposed)} after 100 ms; where swanroam is later "
        f"than that, it {end}, and connections on the old address stop",
        "for all connections of this charon; for another way see strongswan.d/swanroam-mobile.conf. The restart ends "
        "all IKE_SAs",
        remedies.charon_drop_in(settings.path, "swanroam-mobile.conf", _LEAVE_ALONE),
    )


def _mobike(view: View, name: str) -> bool:
    return view.definitions is not None and name in view.definitions and view.definitions[name].mobike


def _visible_carrier(view: View, settings: Settings) -> Iterator[Finding]:
    """charon must see the old address on the carrier and the routes that lead there."""
    devices = set(DEVICE_NAMES.values())
    ignored = _list(settings.charon("interfaces_ignore")) & devices
    if ignored:
        yield _hidden("interfaces_ignore", f"has {', '.join(sorted(ignored))}", "leave them out")
    used = _list(settings.charon("interfaces_use"))
    if used and not devices <= used:
        yield _hidden("interfaces_use", f"lacks {', '.join(sorted(devices - used))}", "add them")
    ours = carrier_settings(view.config)
    tables = _list(settings.charon("ignore_routing_tables")) & {str(ours.table), str(ours.control_table)}
    if tables:
        yield _hidden("ignore_routing_tables", f"has {', '.join(sorted(tables))}", "leave them out")


def _hidden(option: str, what: str, remedy: str) -> Finding:
    return Finding(
        option,
        Severity.ERROR,
        f"charon.{option} {what}: charon takes an old address for lost, moves the IKE_SA at once, and connections on "
        "the old address stop",
        f"{remedy}, then restart charon",
    )


def _option(name: str, effect: str, settings: Settings, value: str) -> Finding:
    text = f"charon {{\n  {name} = {value}\n}}\n"
    evidence = f"charon.{name} is {settings.charon(name)}: {effect}"
    return Finding(
        name, Severity.WARNING, evidence, command=remedies.charon_drop_in(settings.path, f"zz-{name}.conf", text)
    )


def _yes(value: str | None) -> bool:
    return value is not None and value not in NO


def _list(value: str | None) -> set[str]:
    return set(re.split(r"[\s,]+", value.strip())) - {""} if value else set()

"""The swanctl connections, and what charon has established of them."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from swanroam.cli.check_config import control_child
from swanroam.doctor import associations, connections
from swanroam.doctor.view import View
from swanroam.ike.associations import ChildSa, IkeSa, Mode
from swanroam.ike.definitions import read_definitions
from swanroam.kernel.findings import Finding, Severity
from unit.child_sas import selectors
from unit.doctor_views import CHARON, bad, config, definitions, healthy, only

SECTION = "# OPTIONS"


def connected(directory: Path, *changes: tuple[str, str], peer: str = "", **view: object) -> View:
    ours = config(peer, f"swanctl_file: {directory}/swanctl.conf", directory)
    return healthy(directory, ours, definitions=definitions(ours, directory, *changes), **view)


def test_a_connection_that_fits_is_fine(tmp_path: Path) -> None:
    assert bad(connections.check(connected(tmp_path))) == []


@pytest.mark.parametrize("unique", ["replace", "keep"])
def test_uniqueness_that_forbids_a_second_ike_sa_is_mended_by_the_command(tmp_path: Path, unique: str) -> None:
    view = connected(tmp_path, (SECTION, f"unique = {unique}"))
    finding = only(connections.check(view))
    assert finding.severity is Severity.ERROR
    command, _, load = finding.command.partition(" && ")
    assert load == f"swanctl --load-conns --file {tmp_path}/swanctl.conf"

    assert os.system(command) == 0

    assert bad(connections.check(reread(view))) == []


def reread(view: View) -> View:
    """As swanctl reads the file now."""
    return replace(view, definitions=asyncio.run(read_definitions(file=view.config.swanctl_file)))


def test_uniqueness_is_no_matter_where_the_one_ike_sa_is_migrated(tmp_path: Path) -> None:
    view = connected(tmp_path, (SECTION, "unique = replace"), peer="filters: migrate")
    assert bad(connections.check(view)) == []


def test_never_is_worth_a_note(tmp_path: Path) -> None:
    assert only(connections.check(connected(tmp_path, (SECTION, "unique = never")))).severity is Severity.NOTE


@pytest.mark.parametrize(
    "change",
    [
        ("            swanroam {", "            swanrome {"),
        ("set_mark_out = 0x5353", "set_mark_out = 0x1"),
        ("/128\n                set_mark_out", "/127\n                mode = transport\n                set_mark_out"),
    ],
    ids=["missing", "mark", "mode"],
)
def test_a_control_child_that_does_not_fit_is_mended_by_what_check_config_prints(
    tmp_path: Path, change: tuple[str, str]
) -> None:
    view = connected(tmp_path, change)
    finding = next(one for one in bad(connections.check(view)) if one.check == "control child")
    file = tmp_path / "swanctl.conf"
    assert finding.command.startswith(f"swanroam check-config --swanctl >> {file} && swanctl --load-conns")

    with file.open("a") as end:
        end.write(control_child(view.config, view.config.peers[0]))

    assert bad(connections.check(reread(view))) == []


def test_a_connection_that_charon_has_not_loaded_is_loaded_by_the_command(tmp_path: Path) -> None:
    view = connected(tmp_path, charon=replace(CHARON, loaded=frozenset({"other"})))
    assert only(connections.check(view)).command == f"swanctl --load-conns --file {tmp_path}/swanctl.conf"


def test_nothing_in_transport_mode_is_a_warning(tmp_path: Path) -> None:
    finding = only(connections.check(connected(tmp_path, ("mode = transport", "mode = tunnel"))))
    assert finding.check == "transport mode"
    assert "data in tunnel mode" in finding.evidence


def test_selectors_that_stay_are_an_error(tmp_path: Path) -> None:
    finding = only(connections.check(connected(tmp_path, ("# DATA OPTIONS", "local_ts = 10.1.1.2"))))
    assert (finding.check, finding.severity) == ("traffic selectors", Severity.ERROR)
    assert "10.1.1.2" in finding.evidence


def test_connections_that_cannot_be_read(tmp_path: Path) -> None:
    view = replace(connected(tmp_path), definitions=None, definitions_trouble="swanctl cannot read them")
    assert only(connections.check(view)).severity is Severity.ERROR
    assert only(connections.check(replace(view, privileged=False))).severity is Severity.UNSEEN


# --- associations -----------------------------------------------------------------------------------------------------


def established(view: View) -> list[Finding]:
    """Without the kernel, which is compared where there is one: tests/scenarios/test_doctor.py."""
    return asyncio.run(associations.check(replace(view, privileged=False)))


def changed(view: View, **ike_sa: object) -> View:
    (one,) = view.ike_sas
    return replace(view, ike_sas=(replace(one, **ike_sa),))  # type: ignore[arg-type]


def children(view: View) -> tuple[ChildSa, ChildSa]:
    (ike_sa,) = view.ike_sas
    data, control = ike_sa.children
    return data, control


def test_ike_sa_and_children_that_fit_are_fine(tmp_path: Path) -> None:
    assert bad(established(connected(tmp_path))) == []


def test_no_ike_sa_is_a_warning_where_we_move_and_a_note_where_the_peer_does(tmp_path: Path) -> None:
    finding = only(established(connected(tmp_path, ike_sas=())))
    assert finding.severity is Severity.WARNING
    assert finding.command == "swanctl --initiate --ike server --child data"

    finding = only(established(connected(tmp_path, ike_sas=(), peer="moves: peer")))
    assert finding.severity is Severity.NOTE

    anywhere = ("remote_addrs = 10.3.3.2", "remote_addrs = %any")
    finding = only(established(connected(tmp_path, anywhere, ike_sas=())))
    assert finding.severity is Severity.NOTE


def test_a_missing_control_child_is_initiated(tmp_path: Path) -> None:
    view = connected(tmp_path)
    finding = only(established(changed(view, children=children(view)[:1])))
    assert finding.severity is Severity.ERROR
    assert finding.command == "swanctl --initiate --ike server --child swanroam"


def test_a_control_child_that_is_not_configured_is_told_once(tmp_path: Path) -> None:
    view = connected(tmp_path, ("            swanroam {", "            swanrome {"))
    assert bad(established(changed(view, children=children(view)[:1]))) == []
    assert [finding.check for finding in bad(connections.check(view))] == ["control child"]


def test_a_control_child_for_other_addresses_is_made_anew(tmp_path: Path) -> None:
    view = connected(tmp_path)
    data, control = children(view)
    finding = only(established(changed(view, children=(data, replace(control, remote_ts=selectors("fd53::7/128"))))))
    assert "fd53::7" in finding.evidence
    assert finding.command.startswith(f"swanctl --terminate --child-id {control.unique_id} && swanctl --initiate")


def test_a_fall_back_to_tunnel_mode_is_an_error(tmp_path: Path) -> None:
    view = connected(tmp_path)
    data, control = children(view)
    finding = only(established(changed(view, children=(replace(data, mode=Mode.TUNNEL), control))))
    assert "is in tunnel mode instead of transport" in finding.evidence


def test_a_pair_that_nothing_covers_is_a_warning(tmp_path: Path) -> None:
    view = connected(tmp_path)
    data, control = children(view)
    for left in ((control,), (replace(data, local_ts=selectors("10.1.1.9/32")), control)):
        finding = only(established(changed(view, children=left)))
        assert "10.1.1.2 - 10.3.3.2" in finding.evidence
        assert finding.command == "swanctl --initiate --ike server --child data"


def test_nat_and_another_identity_are_errors(tmp_path: Path) -> None:
    view = connected(tmp_path)
    (ike_sa,) = view.ike_sas
    assert only(established(changed(view, nat_any=True))).check == "NAT"
    other: IkeSa = replace(ike_sa, local=replace(ike_sa.local, identity="laptop.example.org"))
    assert only(established(replace(view, ike_sas=(other,)))).check == "identity"


def test_without_charon_nothing_is_said_twice(tmp_path: Path) -> None:
    assert established(connected(tmp_path, charon=None, ike_sas=())) == []

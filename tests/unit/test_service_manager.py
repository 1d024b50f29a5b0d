"""What the service manager is told."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from swanroam.daemon.service_manager import READY, STOPPING, tell


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    """The other end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as receiver:
        receiver.bind(address)
        yield receiver


def test_each_state_is_one_datagram(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with manager(path) as receiver:
        tell(READY, {"NOTIFY_SOCKET": path})
        tell(STOPPING, {"NOTIFY_SOCKET": path})

        assert [receiver.recv(100), receiver.recv(100)] == [b"READY=1", b"STOPPING=1"]


def test_an_abstract_name_is_understood(tmp_path: Path) -> None:
    with manager(f"\0{tmp_path}") as receiver:
        tell(READY, {"NOTIFY_SOCKET": f"@{tmp_path}"})

        assert receiver.recv(100) == b"READY=1"


def test_without_a_service_manager_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    tell(READY, {})

    assert capsys.readouterr().out == ""


def test_a_service_manager_that_has_gone_is_told_of(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        tell(READY, {"NOTIFY_SOCKET": str(tmp_path / "gone")})

    assert [(entry["event"], entry["state"]) for entry in logs] == [("service_manager_not_told", "READY=1")]

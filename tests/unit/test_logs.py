"""The log when it has nowhere to go."""

from __future__ import annotations

import io
import os

import structlog

from swanroam.config import LogFormat, LogLevel
from swanroam.daemon import logs


def log_to(descriptor: int) -> io.TextIOWrapper:
    """Logs go there at once: nothing is left in a buffer when the stream is closed."""
    stream = io.TextIOWrapper(io.FileIO(descriptor, "w"), write_through=True)
    logs.configure(LogFormat.JSON, LogLevel.INFO, stream)
    return stream


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    with log_to(os.open("/dev/full", os.O_WRONLY)):
        structlog.get_logger().info("not written")


def test_a_reader_that_has_gone_costs_lines_and_nothing_else() -> None:
    reading, writing = os.pipe()
    with log_to(writing):
        structlog.get_logger().info("heard")
        assert b"heard" in os.read(reading, 1000)
        os.close(reading)

        structlog.get_logger().info("not heard")

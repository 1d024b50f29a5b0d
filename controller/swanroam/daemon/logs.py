"""Logging: readable on a terminal, one JSON object a line otherwise.

Events are past-tense facts with fields. Everything about one handover carries its id in the field ``handover``.
Key material never gets here: the layers below do not hand it out.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog

from swanroam.config import LogFormat, LogLevel
from swanroam.kernel.descriptors import MORE_FILES, lacks_descriptors


def configure(log_format: LogFormat, level: LogLevel, stream: TextIO | None = None) -> None:
    """Sets up structlog for the whole process; logs go to standard error unless told otherwise."""
    target = stream if stream is not None else sys.stderr
    terminal = log_format is LogFormat.CONSOLE or (log_format is LogFormat.AUTO and target.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if terminal:
        processors.append(structlog.dev.ConsoleRenderer(colors=target.isatty()))
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.value.upper()]),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Lossy(target))),
        cache_logger_on_first_use=False,
    )


def loop_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """asyncio's exception handler: what it can't hand to anybody, as a client whose connection it can't accept."""
    error = context.get("exception")
    remedy = {"remedy": MORE_FILES} if lacks_descriptors(error) else {}
    structlog.get_logger("swanroam").error("loop_failed", what=context["message"], exc_info=error, **remedy)


class _Lossy:
    """As much of a stream as a logger uses. What it does not take is lost: on a full disk, or when nobody reads the
    log any more, the daemon has to go on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

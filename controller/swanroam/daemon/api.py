"""The local API: a Unix socket on which the command line asks the daemon.

One request a connection: a line of JSON, answered by a line of JSON. ``{"command": "status"}``;
``{"command": "move", "address": "192.0.2.7", "peer": null}``. An answer has either ``"ok": true`` and the result,
or ``"ok": false`` and ``"error"``, a sentence for the user. Who may connect is a matter of the socket's permissions:
its owner and group.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger("swanroam")

MAX_REQUEST = 4096
"""Bytes of one request."""
PATIENCE = 5.0
"""Seconds in which a client must have said what it wants."""


class RequestError(Exception):
    """The request can't be carried out; the message goes to the user."""


Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Api:
    """Serves requests until closed. `group`: the id of the socket's, -1 for the process's own."""

    def __init__(self, path: Path, handlers: dict[str, Handler], group: int = -1) -> None:
        self._path = path
        self._handlers = handlers
        self._group = group
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Raises OSError when the socket can't be made."""
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self._path))  # nobody can connect before it listens
            os.chown(self._path, -1, self._group)
            self._path.chmod(0o660)
            self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MAX_REQUEST)
        except BaseException:
            listener.close()
            raise

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await self._answer(reader)
            writer.write(json.dumps(answer, default=str).encode() + b"\n")
            await writer.drain()
        except ConnectionError:
            pass  # the client has gone
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        try:
            async with asyncio.timeout(PATIENCE):
                line = await reader.readline()
            request = json.loads(line)
            handler = self._handlers[request["command"]]
        except (TimeoutError, ValueError, KeyError, TypeError, RecursionError):
            return {"ok": False, "error": f"the request is not one of {', '.join(sorted(self._handlers))}"}
        try:
            return {"ok": True, **await handler(request)}
        except RequestError as error:
            return {"ok": False, "error": str(error)}
        except Exception as error:  # the border of the connection's task
            log.exception("request_failed", command=request["command"])
            return {"ok": False, "error": f"the daemon failed at it ({error!r}); its log has the details"}

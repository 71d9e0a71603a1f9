"""The other end of `facts.sock`: one request, one answer, on a connection of its own."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Final

from edge import facts
from edge.facts import FactsError, Fields

TIMEOUT_S: Final = 15.0
"""The edge answers after a commit; a slow card takes a second, a hung one for ever."""


def call(path: Path | str, verb: str, args: Fields | None = None, *, timeout_s: float = TIMEOUT_S) -> Fields:
    """Ask the edge at `path`; the fields of its "ok" answer, results under 1, 2, ...

    Raises FactsError when the edge refuses, answers nonsense, is not there or does not answer in time.
    """
    message = facts.frame({0: verb, **(args or {})})
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            connection.sendall(message)
            body = _exactly(connection, facts.length(_exactly(connection, facts.LENGTH.size)))
    except OSError as error:
        raise FactsError(_absent(path, error)) from error
    return facts.result(facts.fields(body))


async def call_async(
    path: Path | str, verb: str, args: Fields | None = None, *, timeout_s: float = TIMEOUT_S
) -> Fields:
    """As `call`, for an event loop."""
    message = facts.frame({0: verb, **(args or {})})
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(str(path))
            try:
                writer.write(message)
                await writer.drain()
                body = await reader.readexactly(facts.length(await reader.readexactly(facts.LENGTH.size)))
            finally:
                writer.close()
    except (OSError, EOFError) as error:  # TimeoutError is an OSError, IncompleteReadError an EOFError
        raise FactsError(_absent(path, error)) from error
    return facts.result(facts.fields(body))


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            raise ConnectionResetError("the edge closed the connection")
        parts += part
    return bytes(parts)


def _absent(path: Path | str, error: BaseException) -> str:
    return f"no answer from the edge at {path} ({type(error).__name__}): is `holdfast edge` running?"

"""The server at `facts.sock`: same user or root only, bounded messages, and nobody can hold it up."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from edge import facts
from edge.facts import FactsError, Fields, Request
from edge.runtime.log import Log

MAX_CLIENTS: Final = 16
"""Connections at a time: uplink, status, a few short-lived tools."""
IDLE_S: Final = 60.0
"""A client that says nothing for so long is let go; it may come again."""
MESSAGE_S: Final = 5.0
"""From the first byte of a message to its last, and for taking our answer."""
_PEER: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)."""

Handle = Callable[[Request], Awaitable[Fields]]


class FactsServer:
    """Answers requests by `handle`; the answer is sent when `handle` returns, so after its commit."""

    def __init__(self, path: Path, handle: Handle, log: Log) -> None:
        self._path = path
        self._handle = handle
        self._log = log
        self._clients = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; a socket left by a dead process is replaced. Raises OSError."""
        self._path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=facts.MAX_MESSAGE)
        finally:
            os.umask(before)

    @property
    def listening(self) -> bool:
        """Requests are answered."""
        return self._server is not None

    async def serve(self) -> None:
        """Listen until cancelled. Raises OSError where the socket cannot be made (a full disk, for one)."""
        await self.start()
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Stop listening and remove the socket."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._clients >= MAX_CLIENTS or not self._trusted(writer):
            writer.close()
            return
        self._clients += 1
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, EOFError):  # gone, silent or slow (TimeoutError is an OSError)
            pass
        except FactsError as error:  # out of step: what follows cannot be understood
            self._log.say("facts_refused", level="warning", error=str(error))
        finally:
            self._clients -= 1
            writer.close()

    def _trusted(self, writer: asyncio.StreamWriter) -> bool:
        connection: socket.socket = writer.get_extra_info("socket")
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        _, uid, _ = _PEER.unpack(credentials)
        if uid in (0, os.geteuid()):
            return True
        self._log.say("facts_stranger", level="warning", uid=uid)
        return False

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; False when the client is done. Raises FactsError when out of step."""
        async with asyncio.timeout(IDLE_S):
            header = await reader.read(1)
        if not header:
            return False
        async with asyncio.timeout(MESSAGE_S):
            header += await reader.readexactly(facts.LENGTH.size - 1)
            body = await reader.readexactly(facts.length(header))
        try:
            answer = await self._handle(facts.request(body))
        except FactsError as error:
            answer = facts.error(str(error))
        writer.write(facts.frame(answer))
        async with asyncio.timeout(MESSAGE_S):
            await writer.drain()
        return True

"""HTTP/1.1 as uvicorn speaks it with h11, with the connection in reach of the application.

A viewer that does not read holds what was written to it. To end an answer is not enough then: the connection
would stay for as long as the viewer does. `scope["state"]["transport"]` lets the live stream cut it off.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


class ReachableProtocol(H11Protocol):
    """An H11Protocol whose requests know their connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember the connection for every request on it."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}

"""aiomqtt's client, with what it keeps to itself: why no connection came about, what the broker announced
in its CONNACK, and how the connection ended.

aiomqtt 2.5 drops a disconnect that comes before the CONNACK and then waits out its timeout, leaves the socket
of a failed attempt open, hands on no CONNACK properties, and leaves exceptions in futures that nobody asks.
It offers no hook for these, so the methods it has for them are overridden here; its version is pinned.
"""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType
from typing import Any, Final, Self

import aiomqtt
import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge.runtime.mqtt_tls import REJECTED, advice

PEER_IS_SILENT: Final = "Keep alive timeout"
"""paho's reason when it is the client who gave up."""


class Client(aiomqtt.Client):
    """As aiomqtt.Client; raises MqttError with advice when no connection comes about."""

    max_packet: int | None = None
    """Bytes of the largest packet the broker takes (MQTT 5 section 3.2.2.3.6); None: it did not say."""
    receive_max: int | None = None
    """Publishes without PUBACK the broker allows (section 3.2.2.3.3); None: it did not say."""
    blocked = False
    """A thread is resolving, connecting or in the TLS handshake, and cannot be interrupted."""
    ended_by_peer = False
    """The broker, or the network, ended the connection; not we."""
    _entering = False
    _opened = False

    async def __aenter__(self) -> Self:
        """Connect. Raises aiomqtt.MqttError."""
        futures = (self._connected, self._disconnected)
        self._entering = True
        try:
            return await super().__aenter__()
        except aiomqtt.MqttError as error:
            if self._opened and not isinstance(error, aiomqtt.MqttCodeError):
                raise aiomqtt.MqttError(f"{error} before the broker's CONNACK: {REJECTED}") from None
            raise
        finally:
            self._entering = False
            if not self._connected.done() or self._connected.cancelled():
                self._client.disconnect()  # closes the socket, which would live on without an owner
            for future in futures:
                _retrieve(future)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Disconnect, if that has not happened."""
        try:
            await super().__aexit__(exc_type, exc, tb)
        finally:
            _retrieve(self._disconnected)

    def _client_connect(self) -> None:
        """In a thread."""
        self.blocked = True
        try:
            super()._client_connect()
            self._opened = True
        except OSError as error:
            told = advice(error)
            if told is None:
                raise
            raise OSError(told) from error
        finally:
            self.blocked = False

    def _on_connect(
        self, client: mqtt.Client, userdata: Any, flags: mqtt.ConnectFlags, reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:  # fmt: skip
        self.max_packet = getattr(properties, "MaximumPacketSize", None)
        self.receive_max = getattr(properties, "ReceiveMaximum", None)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self, client: mqtt.Client, userdata: Any, flags: mqtt.DisconnectFlags, reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:  # fmt: skip
        if self._entering and not self._connected.done():  # perhaps in the thread that connects
            self._loop.call_soon_threadsafe(self._not_connected)
        elif not self._connected.cancelled():
            self.ended_by_peer = reason_code.is_failure and str(reason_code) != PEER_IS_SILENT
            super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _not_connected(self) -> None:
        if self._entering and not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError("the connection ended"))


def explained(error: BaseException) -> str:
    """The error with what aiomqtt hides behind it."""
    cause = error.__cause__
    return str(error) if cause is None or isinstance(cause, ssl.SSLError) else f"{error}: {cause}"


def _retrieve(future: asyncio.Future[None]) -> None:
    """Take note of a future's exception, which was told another way."""
    if future.done() and not future.cancelled():
        future.exception()

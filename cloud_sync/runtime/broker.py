"""`holdfast broker`: the embedded MQTT 3.1.1 broker (amqtt) with mutual TLS, for demos and tests.

A client is who its certificate says, and its client id must say the same. What amqtt leaves open is closed
here, before its own code sees the client:

* a wrong client id is refused *before* amqtt acts on it (amqtt takes a session over, and then authenticates);
* wills are refused (amqtt delivers them without asking the access rules);
* nothing is retained or queued for those who are away (unbounded memory; nobody may rely on it anyway);
* a second connection of a client id ends the first (MQTT-3.1.4-2; amqtt keeps both for clean sessions);
* a packet above the limit ends the connection before its body is read.

amqtt acknowledges a PUBLISH that the access rules refuse: a PUBACK never means delivered.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import signal
import ssl
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from amqtt.adapters import ReaderAdapter, StreamWriterAdapter, WriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import Action, BrokerConfig, ListenerConfig
from amqtt.errors import AMQTTError, BrokerError, CodecError, MQTTError, NoDataError
from amqtt.mqtt.connack import IDENTIFIER_REJECTED, NOT_AUTHORIZED, ConnackPacket
from amqtt.mqtt.connect import ConnectPacket
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session
from cryptography import x509

from cloud_sync.errors import ConfigError
from cloud_sync.runtime.kinds import broker_say as say
from edge import topics
from edge.segment import MAX_SEGMENT_BYTES
from firmware_bridge.runtime.journal import open_journal
from provisioning.errors import IdentityError
from provisioning.identity import Identity, identity_of

MAX_PACKET_BYTES: Final = MAX_SEGMENT_BYTES + 1024
"""One segment with its topic and header; SUBSCRIBE and CONNECT are far smaller."""
CONNECT_TIMEOUT_S: Final = 10.0
"""From the TLS handshake to CONNECT; a silent client must not hold a connection."""
MAX_CONNECTIONS: Final = 1000
EXIT_OK, EXIT_FAILED, EXIT_CONFIG, EXIT_BUSY, EXIT_PERMISSION = 0, 1, 2, 12, 13
_IDENTITY: Final = "holdfast.identity"


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """broker.toml: [broker] host, port (0: the system chooses), keys (folder), max_packet_bytes."""

    host: str
    port: int
    keys: Path
    max_packet_bytes: int = MAX_PACKET_BYTES


def load_settings(path: Path) -> BrokerSettings:
    """Read broker.toml; a relative `keys` is meant from its folder. Raises ConfigError: what to do."""
    try:
        table = tomllib.loads(path.read_text("utf-8")).get("broker")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: the table [broker] is missing")
    unknown = table.keys() - {"host", "port", "keys", "max_packet_bytes"}
    if unknown:
        raise ConfigError(f"{path}: [broker] does not know {', '.join(sorted(unknown))}")
    host, keys = table.get("host", "127.0.0.1"), table.get("keys", "keys")
    if not isinstance(host, str) or not host or not isinstance(keys, str):
        raise ConfigError(f"{path}: [broker] host and keys must be strings")
    port = _integer(path, table, "port", 0, 65_535, 8883)
    limit = _integer(path, table, "max_packet_bytes", 256, 1 << 20, MAX_PACKET_BYTES)
    folder = path.absolute().parent / keys
    for name in ("tls.key", "tls.crt", "ca.crt"):
        if not (folder / name).is_file():
            raise ConfigError(
                f"{path}: [broker] keys: {folder / name} is missing; issue the broker's certificate first"
            )
    return BrokerSettings(host, port, folder, limit)


def _integer(path: Path, table: dict[str, Any], key: str, low: int, high: int, default: int) -> int:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{path}: [broker] {key} must be an integer from {low} to {high}")
    return value


class AccessPlugin(BaseAuthPlugin, BaseTopicPlugin):  # type: ignore[misc]
    """amqtt's questions, answered by the identity of the session and the rules of `edge.topics`."""

    async def authenticate(self, *, session: Session) -> bool:
        return _IDENTITY in session.attributes

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool:
        identity = session.attributes.get(_IDENTITY) if session else None
        if identity is None or topic is None:
            return False
        if action is Action.SUBSCRIBE:
            allowed = topics.may_subscribe(identity, topic)
        elif action is Action.PUBLISH:
            allowed = topics.may_publish(identity, topic)
        else:
            return topics.may_receive(identity, topic)
        if not allowed:
            did = action.name.lower()
            say("broker_right_refused", client=identity.client_id, action=did, topic=topic[:120])
        return allowed


class _Refused(AMQTTError):  # type: ignore[misc]
    """The client was refused at its CONNECT."""


class _PacketTooLarge(Exception):
    """Not an MQTTError: amqtt would call that 'message discarded' and read on in the middle of the body."""


class _Reader(ReaderAdapter):  # type: ignore[misc]
    """Reads a client's bytes; gives the first packet twice, and no more than the limit at once."""

    def __init__(self, reader: asyncio.StreamReader, limit: int) -> None:
        self._reader = reader
        self._limit = limit
        self._first: bytearray | None = bytearray()
        self._again = b""

    def replay(self) -> None:
        """What was read so far will be read once more."""
        self._again, self._first = bytes(self._first or b""), None

    async def read(self, n: int = -1) -> bytes:
        if n < 0 or n > self._limit:
            raise _PacketTooLarge(f"{n} bytes in one field of a packet, at most {self._limit}")
        if self._again:
            part, self._again = self._again[:n], self._again[n:]
            return part
        data = await self._reader.readexactly(n)
        if self._first is not None:
            self._first += data
        return data

    def feed_eof(self) -> None:
        self._reader.feed_eof()


class HoldfastBroker(Broker):  # type: ignore[misc]
    """amqtt's broker with the gaps named above closed."""

    def __init__(self, settings: BrokerSettings) -> None:
        self.settings = settings
        keys = settings.keys
        listener = ListenerConfig(
            bind=f"{settings.host}:{settings.port}", ssl=True, max_connections=MAX_CONNECTIONS,
            certfile=keys / "tls.crt", keyfile=keys / "tls.key", cafile=keys / "ca.crt",
        )  # fmt: skip
        plugins: dict[str, Any] = {f"{AccessPlugin.__module__}.{AccessPlugin.__qualname__}": {}}
        super().__init__(BrokerConfig(listeners={"default": listener}, plugins=plugins))
        self._ending: set[asyncio.Future[None]] = set()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        sockets = self._servers["default"].instance.sockets
        return int(sockets[0].getsockname()[1])

    @staticmethod
    def _create_ssl_context(listener: ListenerConfig) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=listener.cafile)
        context.load_cert_chain(listener.certfile, listener.keyfile)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        limited = _Reader(reader, self.settings.max_packet_bytes)
        try:
            await self._client_connected(listener_name, limited, StreamWriterAdapter(writer))
        except OSError as error:  # the client vanished while it was being answered
            say("broker_connection_lost", error=error)

    async def _initialize_client_session(
        self, reader: _Reader, writer: WriterAdapter, remote_address: str, remote_port: int
    ) -> tuple[BrokerProtocolHandler, Session]:
        try:
            identity, client_id = await self._admit(reader, writer)
        except _Refused as error:
            say("broker_client_refused", peer=f"{remote_address}:{remote_port}", error=error)
            await writer.close()
            raise
        reader.replay()
        await self._end_other_connection(client_id)
        handler, session = await super()._initialize_client_session(
            reader, writer, remote_address, remote_port
        )
        session.attributes[_IDENTITY] = identity
        session.clean_session = True  # forgotten when it leaves, whatever the client asked
        session.keep_alive += session.keep_alive // 2  # MQTT-3.1.2-24: one and a half times
        handler.handle_read_timeout = lambda: self._end_silent(handler)
        return handler, session

    async def _admit(self, reader: _Reader, writer: WriterAdapter) -> tuple[Identity, str]:
        """The client's identity and client id, if certificate and CONNECT agree. Raises _Refused."""
        try:
            identity = _peer_identity(writer)
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connect = await ConnectPacket.from_stream(reader)
            client_id = str(connect.client_id)
        except IdentityError as error:
            raise _Refused(str(error)) from error
        except (
            AMQTTError,
            MQTTError,
            NoDataError,
            CodecError,
            _PacketTooLarge,
            OSError,
            ValueError,
        ) as error:
            raise _Refused(f"no MQTT CONNECT ({type(error).__name__})") from error
        own = identity.client_id
        if client_id != own and not (identity.is_collector and client_id.startswith(own + ".")):
            await ConnackPacket.build(0, IDENTIFIER_REJECTED).to_stream(writer)
            raise _Refused(f"client id {client_id!r:.80} with the certificate of {identity.urn}; use {own!r}")
        if connect.will_flag:
            await ConnackPacket.build(0, NOT_AUTHORIZED).to_stream(writer)
            raise _Refused(f"{own} has a will; wills are not used here")
        return identity, client_id

    async def _end_other_connection(self, client_id: str) -> None:
        session, handler = self._sessions.get(client_id, (None, None))
        if session is not None and session.transitions.is_connected():
            say("broker_client_twice", client=client_id)
            await handler.handle_connection_closed()
            await handler.stop()
            await self._cleanup_session(client_id)

    def _end_silent(self, handler: BrokerProtocolHandler) -> None:
        task = asyncio.ensure_future(handler.handle_connection_closed())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def retain_message(self, *_: Any, **__: Any) -> None:
        """Nothing is retained."""

    async def _retain_broadcast_message(self, *_: Any) -> None:
        """Nothing is kept for those who are away."""


def _peer_identity(writer: WriterAdapter) -> Identity:
    """Who the checked client certificate says. Raises IdentityError."""
    tls = writer.get_ssl_info()
    der = tls.getpeercert(binary_form=True) if tls is not None else None
    if not der:
        raise IdentityError("the client has no certificate")
    return identity_of(x509.load_der_x509_certificate(der))


def run(config_path: Path) -> int:
    """Serve until SIGTERM; the exit code. Prints `{"ready": true, "port": n}` when clients may come."""
    open_journal("holdfast-broker")
    for noisy in ("amqtt", "transitions"):  # their tracebacks and states are not for operators
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        return asyncio.run(_serve(load_settings(config_path)))
    except ConfigError as error:
        say("broker_not_started", error=error)
        return EXIT_CONFIG


async def _serve(settings: BrokerSettings) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    broker = HoldfastBroker(settings)
    try:
        await broker.start()
    except BrokerError as error:
        return _explain(settings, error.__cause__)
    print(json.dumps({"ready": True, "port": broker.port}), flush=True)
    await stop.wait()
    await broker.shutdown()
    return EXIT_OK


def _explain(settings: BrokerSettings, cause: BaseException | None) -> int:
    """Say why the broker could not start, and what to do; the exit code."""
    where = f"{settings.host}:{settings.port}"
    match cause:
        case ssl.SSLError():
            why = f"the broker's key or certificate in {settings.keys} cannot be used: {cause}"
            say("broker_not_started", error=why)
            return EXIT_CONFIG
        case OSError(errno=errno.EADDRINUSE):
            why = f"{where} is taken: end the other process, or let the system choose ([broker] port = 0)"
            say("broker_not_started", error=why)
            return EXIT_BUSY
        case OSError(errno=errno.EACCES):
            say("broker_not_started", error=f"no permission to listen on {where}: choose a port above 1023")
            return EXIT_PERMISSION
        case _:
            say("broker_not_started", error=f"cannot listen on {where}: {cause}")
            return EXIT_FAILED

"""What the tests of broker and uplink stand on: real broker processes, and fakes that can fail."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import aiomqtt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edge import facts, topics
from edge.note import NoteKey
from edge.receipt import ReceiptItem, make_receipt, verify_receipt
from edge.runtime.mqtt_tls import client_context
from edge.trust import Trust
from provisioning.runtime.lab import ORIGIN, Lab, make_lab

TENANT, DEVICE = "fund", "car-1"
RUN = b"r" * 16


def new_lab(home: Path) -> Lab:
    lab = make_lab(home, TENANT, [(DEVICE, "vehicle"), ("road-1", "roadside")], "127.0.0.1")
    write_broker_toml(lab, 0)
    return lab


def write_broker_toml(lab: Lab, port: int, extra: str = "") -> Path:
    path = lab.broker / "broker.toml"
    path.write_text(f'[broker]\nhost = "127.0.0.1"\nport = {port}\nkeys = "keys"\n{extra}', "utf-8")
    return path


def start(module: str, config: Path, **popen: object) -> subprocess.Popen[str]:
    """A daemon in a process of its own, as its command starts it."""
    code = f"import pathlib, sys; from {module} import run; sys.exit(run(pathlib.Path(sys.argv[1])))"
    argv = [sys.executable, "-c", code, str(config)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, **popen)  # type: ignore[call-overload, no-any-return]


def ready(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"it ended with code {process.wait(10)} before it was ready"
    answer: dict[str, object] = json.loads(line)
    assert answer["ready"] is True
    return answer


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
    if process.poll() is None:
        process.send_signal(number)
    code = process.wait(20)
    if process.stdout is not None:
        process.stdout.close()
    return code


@contextmanager
def broker(lab: Lab, port: int = 0, extra: str = "") -> Iterator[int]:
    process = start("cloud_sync.runtime.broker", write_broker_toml(lab, port, extra))
    try:
        yield int(str(ready(process)["port"]))
    finally:
        end(process)


def client(keys: Path, port: int, client_id: str, **options: object) -> aiomqtt.Client:
    made = aiomqtt.Client(
        "127.0.0.1", port, identifier=client_id, tls_context=client_context(keys, "localhost"),
        timeout=3, max_inflight_messages=1000, **options,
    )  # type: ignore[arg-type]  # fmt: skip
    made.pending_calls_threshold = 10_000
    return made


def plain_context(lab: Lab) -> ssl.SSLContext:
    """A client that trusts the broker and shows no certificate."""
    return ssl.create_default_context(cafile=str(lab.broker / "keys" / "ca.crt"))


class Collector:
    """Receipts for what arrives, under a checkpoint of its own; `answer` decides whether and when."""

    def __init__(self, lab: Lab, port: int) -> None:
        keys = lab.collector / "keys"
        receipt = load_pem_private_key((keys / "receipt.key").read_bytes(), None)
        log = load_pem_private_key((keys / "log.key").read_bytes(), None)
        assert isinstance(receipt, EllipticCurvePrivateKey) and isinstance(log, Ed25519PrivateKey)
        self._receipt, self._log = receipt, log
        self._keys, self.port = keys, port
        self.arrived: list[bytes] = []
        self.logged: dict[bytes, int] = {}
        self.answer: Callable[[bytes], bool] = lambda body: True
        self._sending: set[asyncio.Task[None]] = set()
        self.listening = asyncio.Event()
        self.client: aiomqtt.Client | None = None

    def count(self, body: bytes) -> int:
        return self.arrived.count(body)

    def receipt(self, bodies: Sequence[bytes]) -> bytes:
        items = []
        for body in bodies:
            digest = hashlib.sha256(body).digest()
            index = self.logged.setdefault(digest, len(self.logged))
            items.append(ReceiptItem(RUN, int(body[:8].decode()), digest, index))
        return make_receipt(TENANT, DEVICE, ORIGIN, self._note(), items, self._receipt)

    def _note(self) -> bytes:
        root = base64.b64encode(hashlib.sha256(b"root").digest()).decode()
        text = f"{ORIGIN}\n{len(self.logged)}\n{root}\n"
        key = NoteKey(ORIGIN, self._log.public_key().public_bytes_raw())
        line = base64.b64encode(key.id + self._log.sign(text.encode())).decode()
        return f"{text}\n— {ORIGIN} {line}\n".encode()

    async def run(self) -> None:
        """Answer until cancelled; connects again when the broker comes back."""
        while True:
            try:
                async with client(self._keys, self.port, f"{TENANT}.collector") as self.client:
                    await self.client.subscribe(topics.COLLECT_FILTER, qos=1)
                    self.listening.set()
                    async for message in self.client.messages:
                        body = bytes(message.payload)  # type: ignore[arg-type]
                        self.arrived.append(body)
                        if self.answer(body):
                            task = asyncio.create_task(self.send([body]))
                            self._sending.add(task)
                            task.add_done_callback(self._sending.discard)
            except (aiomqtt.MqttError, OSError):
                self.listening.clear()
                await asyncio.sleep(0.1)

    async def send(self, bodies: Sequence[bytes]) -> None:
        assert self.client is not None
        with contextlib.suppress(aiomqtt.MqttError):  # the broker is gone, and the receipt with it
            await self.client.publish(topics.receipt_topic(TENANT, DEVICE), self.receipt(bodies), qos=1)


class Outbox:
    """The table the uplink reads, written as the edge writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute(
            "CREATE TABLE IF NOT EXISTS segments(id INTEGER PRIMARY KEY AUTOINCREMENT, lane INTEGER,"
            " run BLOB, number INTEGER, created_ns INTEGER, hash BLOB, body BLOB, UNIQUE(run, number))"
        )
        self.db.execute("CREATE INDEX IF NOT EXISTS by_lane ON segments(lane, id)")
        self._number = 0

    def add(self, lane: int = 1, size: int = 200, count: int = 1) -> list[bytes]:
        """`count` more segments; their bodies begin with their number."""
        bodies = []
        self.db.execute("BEGIN IMMEDIATE")
        for _ in range(count):
            body = f"{self._number:08d}".encode().ljust(size, b"." if lane else b"!")
            digest = hashlib.sha256(body).digest()
            self.db.execute(
                "INSERT INTO segments(lane, run, number, created_ns, hash, body) VALUES (?, ?, ?, 0, ?, ?)",
                (lane, RUN, self._number, digest, body),
            )
            self._number += 1
            bodies.append(body)
        self.db.execute("COMMIT")
        return bodies

    def left(self) -> int:
        return int(self.db.execute("SELECT count(*) FROM segments").fetchone()[0])


class Edge:
    """`facts.sock`: deletes what a receipt names, unless it is told to fail."""

    def __init__(self, socket: Path, outbox: Outbox, trust: Trust) -> None:
        self.socket, self.outbox, self.trust = socket, outbox, trust
        self.deletes = True
        self.refuses = False
        self.receipts = 0
        self.facts: list[str] = []

    async def serve(self) -> None:
        server = await asyncio.start_unix_server(self._one, str(self.socket))
        async with server:
            await server.serve_forever()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (size,) = struct.unpack(">I", await reader.readexactly(4))
        request = facts.request(await reader.readexactly(size))
        writer.write(facts.frame(self._answer(request)))
        await writer.drain()
        writer.close()

    def _answer(self, request: facts.Request) -> facts.Fields:
        if self.refuses:
            return facts.error("disk I/O error")
        match request:
            case facts.ReceiptIn(data):
                receipt = verify_receipt(data, self.trust, tenant=TENANT, device=DEVICE)
                self.receipts += 1
                if not self.deletes:
                    return facts.ok(0, len(receipt.items))
                for item in receipt.items:
                    self.outbox.db.execute("DELETE FROM segments WHERE hash = ?", (item.hash,))
                return facts.ok(len(receipt.items), 0)
            case facts.FactIn(_, text):
                self.facts.append(text)
                return facts.ok(1)
        return facts.error("not in this fake")


def node_toml(lab: Lab, port: int, extra: str = "") -> Path:
    node = lab.nodes[DEVICE]
    path = node / "node.toml"
    path.write_text(
        f'[node]\ntenant = "{TENANT}"\ndevice = "{DEVICE}"\nkind = "vehicle"\n[state]\ndir = "{node}"\n'
        f'[uplink]\nhost = "127.0.0.1"\nport = {port}\nserver_name = "localhost"\n{extra}',
        "utf-8",
    )
    return path


async def until(done: Callable[[], bool], seconds: float = 90.0) -> None:
    """Wait for something to become true; fails the test when it does not."""
    limit = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < limit, "it did not happen"
        await asyncio.sleep(0.01)


def rss_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(text.split("VmRSS:")[1].split()[0])


def free_port() -> int:
    """A port that was free a moment ago: for a broker that must come back where it was."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def find_mosquitto() -> str:
    """The program, or the test skips."""
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("mosquitto is not installed (Debian package mosquitto)")
    return found


def start_mosquitto(program: str, config: Path) -> subprocess.Popen[bytes]:
    """A real broker; it is ready when its port answers."""
    return subprocess.Popen(
        [program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

"""A real `holdfast edge` on a pty, under a scenario's clock, with an oracle at its acceptance stream."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import tty
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cloud_sync.log.checkpoint import sign_checkpoint
from edge.note import Checkpoint
from edge.receipt import ReceiptItem, make_receipt
from edge.runtime import facts_client
from edge.segment import Sealed, verify
from firmware_bridge.runtime.clock import PageWriter
from firmware_bridge.wire import cose
from firmware_bridge.wire.stamp import NS
from provisioning.runtime.lab import make_lab

READY_S = 30.0
DRAIN_S = 10.0


def rmc(second: int) -> bytes:
    """One valid fix of a moving car, a second after another."""
    clock = f"{second // 3600 % 24:02d}{second // 60 % 60:02d}{second % 60:02d}.00"
    body = f"GPRMC,{clock},A,4730.0000,N,00830.0000,E,20.0,90.0,010130,,,A"
    check = 0
    for byte in body.encode():
        check ^= byte
    return f"${body}*{check:02X}\r\n".encode()


class Oracle:
    """Takes what edges say they accepted; many may connect, one after another."""

    def __init__(self, path: Path) -> None:
        self.lines: list[dict[str, Any]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        data = b""
        while part := connection.recv(65536):
            data += part
            *whole, data = data.split(b"\n")
            self.lines += [json.loads(line) for line in whole]
        connection.close()

    def close(self) -> None:
        self._socket.close()


class Live:
    """One node on disk, its pty and its clock; the process may be started and killed many times."""

    def __init__(
        self, extra: str = "", *, kind: str = "vehicle", protocol: str = "nmea", state: Path | None = None
    ) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="hf-"))
        self.kind = kind
        lab = make_lab(self.home / "lab", "tenant-a", [("car-1", kind)], "localhost")
        self.lab = lab
        self.folder = state or lab.nodes["car-1"]
        if state is not None:
            shutil.copytree(lab.nodes["car-1"], state, dirs_exist_ok=True)
        self.page = PageWriter(self.home / "page")
        self.second = 0
        self.master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self._poll = select.poll()
        self._poll.register(self._slave, select.POLLIN)
        self.oracle = Oracle(self.home / "oracle")
        self.config = self.home / "node.toml"
        self.config.write_text(
            f'[node]\ntenant = "tenant-a"\ndevice = "car-1"\nkind = "{kind}"\n'
            f'[state]\ndir = "{self.folder}"\n'
            f'[clock]\nsource = "page"\npage = "{self.home}/page"\nkind = "simulated"\n'
            f"epoch_wall_ns = {1_893_456_000 * NS}\n"
            f'[[port]]\nname = "gnss"\npath = "{os.ttyname(self._slave)}"\nprotocol = "{protocol}"\n'
            f'[edge]\nacceptance_socket = "{self.home}/oracle"\n{extra}',
            "utf-8",
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> dict[str, Any]:
        """Start the daemon and wait for its ready line."""
        self.log = (self.home / "log").open("ab")
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "firmware_bridge",
                "roadside" if self.kind == "roadside" else "edge",
                "--config",
                str(self.config),
            ],
            stdout=subprocess.PIPE,
            stderr=self.log,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.home / "log").read_text()
        return dict(json.loads(line))

    def feed(self, data: bytes) -> None:
        """Write to the pty and wait until the daemon has read it."""
        os.write(self.master, data)
        end = time.monotonic() + DRAIN_S
        while self._unread():
            assert time.monotonic() < end, "nobody reads the port"
            time.sleep(0.0005)

    def _unread(self) -> int:
        self._poll.poll(0)  # FIONREAD alone is 0 while the kernel still carries bytes to the slave
        return int(struct.unpack("i", fcntl.ioctl(self._slave, termios.FIONREAD, bytes(4)))[0])

    def drive(self, seconds: int) -> None:
        """So many seconds of a drive, in lock-step."""
        for _ in range(seconds):
            self.second += 1
            self.page.advance(self.second * NS)
            self.feed(rmc(self.second))

    def call(self, verb: str, args: dict[int, Any] | None = None) -> dict[int, Any]:
        return facts_client.call(self.folder / "facts.sock", verb, args)

    def status(self) -> dict[str, Any]:
        return dict(json.loads(str(self.call("status")[1])))

    def until(self, what: Any) -> dict[str, Any]:
        """The first status for which `what` holds."""
        end = time.monotonic() + DRAIN_S
        while not what(status := self.status()):
            assert time.monotonic() < end, status
            time.sleep(0.02)
        return status

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def segments(self) -> list[Sealed]:
        """The verified segments of the outbox."""
        import sqlite3

        key = load_pem_private_key((self.folder / "keys" / "event.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        kid, public = cose.key_id(key.public_key()), key.public_key()
        db = sqlite3.connect(self.folder / "outbox.db")
        bodies = db.execute("SELECT body FROM segments ORDER BY id").fetchall()
        db.close()
        return [verify(body, {kid: public}.get) for (body,) in bodies]

    def receipt(self, segments: list[Sealed], *, device: str = "car-1") -> bytes:
        """What the lab's collector would sign for these."""
        keys = self.lab.collector / "keys"
        log = load_pem_private_key((keys / "log.key").read_bytes(), None)
        key = load_pem_private_key((keys / "receipt.key").read_bytes(), None)
        assert isinstance(log, Ed25519PrivateKey) and isinstance(key, ec.EllipticCurvePrivateKey)
        origin = json.loads((self.folder / "trust.json").read_text())["origin"]
        note = sign_checkpoint(Checkpoint(origin, 100_000, bytes(32)), log)
        items = [ReceiptItem(s.segment.run, s.segment.number, s.hash, n) for n, s in enumerate(segments)]
        return make_receipt("tenant-a", device, origin, note, items, key)

    def logged(self) -> str:
        return (self.home / "log").read_text()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        os.close(self.master)
        os.close(self._slave)
        self.oracle.close()
        shutil.rmtree(self.home, ignore_errors=True)

"""Bad input that needs the whole thing: real processes and file systems, a copied card, an absent broker.

What one module refuses stands in that module's tests; here is what only shows when they work together.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cloudkit import TENANT, Kit, make_kit, write_config
from edge_live import Live
from mqtt_lab import broker, end, free_port, ready, start, write_broker_toml

from cloud_sync.runtime import queries
from cloud_sync.runtime.collector_files import load_config
from cloud_sync.runtime.store import Store
from edge import event as ev
from edge.chain import check
from edge.segment import Sealed, peek
from firmware_bridge.errors import DecodeError
from firmware_bridge.reading import FixQuality, Position, Tyre, Vibration
from firmware_bridge.wire.stamp import NS

WAIT_S = 30.0


def wait(condition: Callable[[], bool], what: str, seconds: float = WAIT_S) -> None:
    """Until `condition` holds; a bound, not a measurement."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"never came: {what}"
        time.sleep(0.02)


@contextmanager
def mounted(size: str) -> Iterator[Path]:
    """A small file system of our own, or the test skips."""
    folder = Path("/tmp") / f"hf-bad-{os.getpid()}"
    mount = shutil.which("mount")
    folder.mkdir()
    try:
        if os.geteuid() != 0 or mount is None:
            pytest.skip("mounting a small file system needs root")
        done = subprocess.run(
            [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
        )
        if done.returncode:
            pytest.skip(f"cannot mount: {done.stderr.decode()}")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
    finally:
        folder.rmdir()


RUNNING: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """A test that fails half way leaves no process behind."""
    yield
    for process in RUNNING:
        end(process, signal.SIGKILL)
    RUNNING.clear()


class Uplink:
    """`holdfast uplink` as a process; what it logs goes to a file."""

    def __init__(self, node: Live, code: str = "") -> None:
        self.log = node.home / "uplink.log"
        run = (
            f"{code}\nimport pathlib, sys\n"
            "from edge.runtime.uplinkd import run\nsys.exit(run(pathlib.Path(sys.argv[1])))"
        )
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", run, str(node.config)], stdout=subprocess.PIPE, stderr=out, text=True,
                env={**os.environ, "HOLDFAST_LOG_FORMAT": "json"},
            )  # fmt: skip
        RUNNING.append(self.process)
        ready(self.process)

    def texts(self) -> list[str]:
        return [json.loads(line)["text"] for line in self.log.read_text("utf-8").splitlines() if line]

    def says(self, what: str) -> bool:
        return any(what in text for text in self.texts())

    def stop(self) -> int:
        return end(self.process)


def uplink_toml(port: int) -> str:
    return f'[uplink]\nhost = "127.0.0.1"\nport = {port}\nserver_name = "localhost"\n'


def logged(store: Path) -> list[Sealed]:
    """Every segment of the log with its body, in the log's order."""
    with Store(store, read_only=True) as db:
        rows = db.db.execute(
            "SELECT b.data FROM segments s JOIN bodies b ON b.hash = s.hash WHERE s.log_index IS NOT NULL"
            " ORDER BY s.log_index"
        ).fetchall()
    return [peek(bytes(row[0])) for row in rows]


def told(node: Live) -> set[tuple[str, int, str]]:
    """What the edge said it accepted."""
    return {(line["run"], line["seq"], line["sha256"]) for line in node.oracle.lines}


def events_of(segments: list[Sealed]) -> dict[tuple[str, int], str]:
    return {
        (s.segment.run.hex(), e.seq): hashlib.sha256(ev.encode(e)).hexdigest()
        for s in segments for e in s.segment.events
    }  # fmt: skip


# --- a broker that is down for the whole run ----------------------------------------------------------


def test_a_broker_that_is_down_for_the_whole_run() -> None:
    """A drive without a broker: everything accepted waits, and is in the log a day later."""
    port = free_port()
    node = Live(uplink_toml(port))
    try:
        node.start()
        uplink = Uplink(node)
        node.drive(90)
        status = node.until(lambda s: s["pending"] == 0 and s["events"] >= 85)
        assert status["store"] == "ok" and status["receipts"] == 0 and status["faults"] == {}
        assert uplink.process.poll() is None
        assert node.stop() == 0 and uplink.stop() == 0
        (line,) = [text for text in uplink.texts() if "no connection to" in text]
        assert f"127.0.0.1:{port}" in line
        held = node.segments()
        assert (
            check(held).complete and events_of(held).items() == {(r, s): h for r, s, h in told(node)}.items()
        )

        write_broker_toml(node.lab, port)
        write_config(node.lab, port, ("simulated",))
        with broker(node.lab, port):
            collector = start("cloud_sync.runtime.collectord", node.lab.collector / "collector.toml")
            ready(collector)
            node.start()
            later = Uplink(node)
            node.until(lambda s: s["receipts"] > 0 and s["outbox"]["segments"] == 0)
            assert later.stop() == 0 and node.stop() == 0
            end(collector)
        stored = events_of(logged(node.lab.collector / "store.db"))
        assert events_of(held).items() <= stored.items()
    finally:
        node.close()


# --- a copied card (field case F19, the whole procedure) ----------------------------------------------


def sentence(second: int, latitude: str) -> bytes:
    """One fix of a drive of its own."""
    clock = f"{second // 3600 % 24:02d}{second // 60 % 60:02d}{second % 60:02d}.00"
    body = f"GPRMC,{clock},A,{latitude},N,00830.0000,E,20.0,90.0,010130,,,A"
    check = 0
    for byte in body.encode():
        check ^= byte
    return f"${body}*{check:02X}\r\n".encode()


def drive(node: Live, seconds: int, latitude: str) -> None:
    for _ in range(seconds):
        node.second += 1
        node.page.advance(node.second * NS)
        node.feed(sentence(node.second, latitude))


FAST_CLOCK = (
    "import edge.reconnect as r\n"
    "limits = r.ReconnectLimits\n"
    "r.ReconnectLimits = lambda: limits(first_s=0.1, max_s=3.0, short_s=0.75, conflict_s=3.0, calm_s=9.0)\n"
)
"""The uplink's pauses between connects, twenty times faster: a minute is three seconds."""


def test_a_copied_card_f19() -> None:
    """Two nodes of one identity, each on its own drive: both slow down, both are kept, nothing is lost."""
    port = free_port()
    first, second = Live(uplink_toml(port)), Live(uplink_toml(port))
    collector = None
    try:
        write_broker_toml(first.lab, port)
        write_config(first.lab, port, ("simulated",))
        with broker(first.lab, port):
            collector = start("cloud_sync.runtime.collectord", first.lab.collector / "collector.toml")
            ready(collector)
            first.start()
            uplink = Uplink(first)
            drive(first, 60, "4730.0000")
            first.call("seal")
            first.until(lambda s: s["receipts"] > 0 and s["outbox"]["segments"] == 0)
            assert uplink.stop() == 0 and first.stop() == 0

            card = second.home / "card"  # everything on it: keys, outbox, counters
            shutil.copytree(first.folder, card)
            second.config.write_text(second.config.read_text("utf-8").replace(str(second.folder), str(card)))
            second.folder, second.second = card, first.second

            nodes, uplinks = (first, second), []
            for node, place in zip(nodes, ("4730.0000", "4612.0000"), strict=True):
                node.start()
                uplinks.append(Uplink(node, FAST_CLOCK))
                drive(node, 60, place)
                node.call("seal")
            conflict = "another client uses this identity"
            wait(lambda: any(link.says(conflict) for link in uplinks), "one of them notices and yields")
            for node in nodes:
                node.until(lambda s: s["outbox"]["segments"] == 0)
            before = [sum("connected to" in text for text in link.texts()) for link in uplinks]
            time.sleep(6)  # two of its minutes
            after = [sum("connected to" in text for text in link.texts()) for link in uplinks]
            assert all(new - old <= 3 for new, old in zip(after, before, strict=True)), (before, after)

            assert uplinks[1].stop() == 0 and second.stop() == 0
            drive(first, 30, "4730.0000")
            first.call("seal")
            first.until(lambda s: s["outbox"]["segments"] == 0)
            assert uplinks[0].stop() == 0 and first.stop() == 0
            end(collector)
        store = first.lab.collector / "store.db"
        segments = logged(store)
        held = [events_of(node.segments()) for node in nodes]
        stored = events_of(segments)
        for node, own in zip(nodes, held, strict=True):
            accepted = told(node)
            assert len(accepted) > 60
            for run, seq, digest in accepted:
                assert stored.get((run, seq), own.get((run, seq))) == digest, "accepted, and nowhere"
        runs = {s.segment.run for s in segments}
        assert len(runs) == 3, "one before the copy, one of each copy"
        report = check(segments)
        assert report.forks, "the copies are not one chain"
        alarms = queries.alarms(store, "tenant-a")
        assert {row["kind"] for row in alarms} == {"chain_fork"}
        assert all("car-1" in row["detail"] and "revoke" in row["detail"] for row in alarms)
    finally:
        first.close()
        second.close()
        if collector is not None and collector.poll() is None:
            end(collector, signal.SIGKILL)


# --- full and read-only disks -------------------------------------------------------------------------


def moved_store(kit: Kit, folder: Path, port: int) -> Path:
    """collector.toml with its store on another file system; the path of that store."""
    path = write_config(kit.lab, port)
    text = path.read_text("utf-8").replace("[collector]\n", f'[collector]\nstore = "{folder}/store.db"\n')
    path.write_text(text, "utf-8")
    return load_config(path).store


def fill(folder: Path) -> Path:
    """A file that takes the last free byte."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
        while True:
            file.write(bytes(4096))
    return filler


def test_a_collector_on_a_full_disk_acknowledges_nothing_and_heals(tmp_path: Path) -> None:
    from test_cloud_sync_collectord import node as mqtt_node

    kit = make_kit(tmp_path / "lab")
    car = kit.device("car-1")
    write_broker_toml(kit.lab, 0)
    errors = tmp_path / "collect.log"
    with mounted("2m") as disk, broker(kit.lab) as port, errors.open("w") as log:
        store = moved_store(kit, disk, port)
        process = start("cloud_sync.runtime.collectord", kit.config_path, stderr=log)
        try:
            ready(process)
            with mqtt_node(kit, "car-1", port) as sender:
                sender.send_until_receipted([car.seal() for _ in range(5)], car.topic)
                filler = fill(disk)
                more = [car.seal(40) for _ in range(60)]
                sender.send([car.message(one) for one in more])
                wait(lambda: "free space" in errors.read_text("utf-8"), "the collector says what is wrong")
                receipted = set(sender.receipted)
                assert process.poll() is None
                with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as db:
                    stored = {bytes(row[0]) for row in db.execute("SELECT hash FROM segments")}
                assert receipted <= stored, "a receipt for what was never stored"
                assert len(receipted) < 65, "the disk was meant to be full"
                filler.unlink()
                sender.send_until_receipted(car.sealed, car.topic)
            assert end(process) == 0
        finally:
            end(process, signal.SIGKILL)
        with Store(store, read_only=True) as db_:
            hashes = [bytes(row[0]) for row in db_.db.execute("SELECT hash FROM entries ORDER BY log_index")]
        assert sorted(hashes) == sorted(one.hash for one in car.sealed), "each once, although sent again"
        assert queries.log_status(store)["verified"]


FAST_RECEIPTS = (
    "import edge.uplink as u\nlimits = u.WindowLimits\nu.WindowLimits = lambda: limits(receipt_s=1.5)\n"
)
"""The receipt timer of a test: 1.5 s, not 5."""


def test_nothing_is_sent_twice_although_a_full_disk_cannot_forget_f21() -> None:
    """The whole procedure: a backlog, a disk full to its last byte, then uplink and collector, then space."""
    port, collector = free_port(), None
    with mounted("1m") as disk:
        node = Live(uplink_toml(port), state=disk)
        try:
            write_broker_toml(node.lab, port)
            write_config(node.lab, port, ("simulated",))
            node.start()
            for _ in range(20):
                node.drive(10)
                node.call("seal")
            owed = len(node.segments())
            assert owed >= 20
            filler = fill(disk)
            with broker(node.lab, port):
                collector = start("cloud_sync.runtime.collectord", node.lab.collector / "collector.toml")
                ready(collector)
                uplink = Uplink(node, FAST_RECEIPTS)
                node.until(lambda s: s["receipts"] > 0 and store_settled(s))
                time.sleep(3)  # longer than the receipt timer: what is forgotten badly is sent again now
                status = node.status()
                assert status["outbox"]["segments"] <= status["outbox"]["remembered"]
                assert uplink.stop() == 0
                sent = next(text for text in uplink.texts() if text.startswith("stopped: "))
                end(collector)
            logged_now = logged(node.lab.collector / "store.db")
            assert int(sent.split()[1]) == len(logged_now) >= owed, sent
            filler.unlink()
            node.drive(10)
            node.until(lambda s: s["store"] == "ok" and s["outbox"]["remembered"] == 0)
            assert node.stop() == 0
            kept = node.segments()
            assert not {s.hash for s in kept} & {s.hash for s in logged_now}
            assert check([*logged_now, *kept]).complete
        finally:
            node.close()
            if collector is not None:
                end(collector, signal.SIGKILL)


def store_settled(status: dict[str, Any]) -> bool:
    """Every row is gone, or remembered until it can be."""
    return bool(status["outbox"]["segments"] <= status["outbox"]["remembered"])


def test_a_collector_in_a_read_only_folder_says_so(tmp_path: Path) -> None:
    kit = make_kit(tmp_path / "lab")
    with mounted("1m") as disk:
        moved_store(kit, disk, 1)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        done = subprocess.run(
            [sys.executable, "-m", "firmware_bridge", "collect", "--config", str(kit.config_path)],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    assert done.returncode not in (0, 2) and done.stdout == "" and "Traceback" not in done.stderr
    assert f"{disk}/store.db" in done.stderr
    assert "owner" in done.stderr and "mount" in done.stderr, done.stderr
    assert "free space" not in done.stderr and "tried again" not in done.stderr, (
        "it ended, and space is not the cause"
    )


def test_a_disk_that_turns_read_only_at_work_is_survived_and_said(tmp_path: Path) -> None:
    """What a worn card does: the kernel finds an error and mounts it read-only under the running edge."""
    image, folder = tmp_path / "card", Path("/tmp") / f"hf-card-{os.getpid()}"
    mkfs = shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin")
    if os.geteuid() != 0 or mkfs is None:
        pytest.skip("a file system that breaks needs root and mkfs.ext4")
    image.write_bytes(bytes(16 << 20))
    subprocess.run([mkfs, "-q", image], check=True, capture_output=True)
    folder.mkdir()
    done = subprocess.run(["mount", "-o", "loop,errors=remount-ro", image, folder], capture_output=True)
    if done.returncode:
        folder.rmdir()
        pytest.skip(f"cannot mount: {done.stderr.decode()}")
    node = Live("commit_interval_s = 1\n", state=folder / "state")
    try:
        node.start()
        node.drive(20)
        node.call("seal")
        accepted = told(node)
        subprocess.run(["mount", "-o", "remount,abort", folder], check=False, capture_output=True)
        probe = subprocess.run(["touch", folder / "probe"], capture_output=True)
        if probe.returncode == 0:
            pytest.skip("this kernel does not let a file system be broken")
        node.drive(20)
        status = node.until(lambda s: s["store"] != "ok" and s["pending"] > 0)
        assert "owner and mount" in status["store"] or "cannot be written" in status["store"], status["store"]
        assert node.process is not None and node.process.poll() is None
        assert status["pending"] <= 4096 and status["readings"]["position"] >= 38, "it goes on reading"
        copied = node.home / "outbox-copy"
        copied.mkdir()
        for part in folder.glob("state/outbox.db*"):
            shutil.copy(part, copied)
        with sqlite3.connect(copied / "outbox.db") as db:
            bodies = [bytes(row[0]) for row in db.execute("SELECT body FROM segments ORDER BY id")]
        kept = events_of([peek(body) for body in bodies])
        assert {(r, s): h for r, s, h in accepted}.items() <= kept.items(), "what was accepted is there"
    finally:
        node.close()
        subprocess.run(["umount", "-l", folder], check=False)
        folder.rmdir()


# --- wrong keys and strangers -------------------------------------------------------------------------


def test_what_a_collector_refuses_is_said_with_device_and_remedy(tmp_path: Path) -> None:
    """An operator reads the log: which device it was, and what to do. Nothing of it gets a receipt."""
    from test_cloud_sync_collectord import node as mqtt_node

    kit = make_kit(tmp_path / "lab")
    write_broker_toml(kit.lab, 0)
    (kit.config.devices / TENANT / "car-2.crt").unlink()
    car, unknown = kit.device("car-1"), kit.device("car-2")
    good = car.seal()
    clone = kit.device("car-1")
    twin = clone.seal(5)
    assert (twin.segment.run, twin.segment.number) == (good.segment.run, good.segment.number)
    by_tls = car.seal(key=kit.tls_key("car-1"))
    car.sealed.remove(by_tls)
    errors = tmp_path / "collect.log"
    with broker(kit.lab) as port, errors.open("w") as log:
        process = start("cloud_sync.runtime.collectord", write_config(kit.lab, port), stderr=log)
        try:
            ready(process)
            with mqtt_node(kit, "car-1", port) as one, mqtt_node(kit, "car-2", port) as other:
                other.send(unknown.messages(1))
                one.send([car.message(by_tls), car.message(b"\xd2\x84 garbage")])
                one.send_until_receipted([good, twin], car.topic)
                wait(lambda: len(queries.quarantine(kit.config.store, TENANT)) == 3, "all are looked at")
                assert set(one.receipted) == {good.hash, twin.hash} and other.receipted == {}
        finally:
            end(process)
    rows = {row["reason"]: row for row in queries.quarantine(kit.config.store, TENANT)}
    assert set(rows) == {"unknown_device", "wrong_key", "malformed"}
    assert "enrol" in rows["unknown_device"]["detail"] and "TLS key" in rows["wrong_key"]["detail"]
    assert len(logged(kit.config.store)) == 2, "two hashes under one number: both are kept"
    assert [row["kind"] for row in queries.alarms(kit.config.store, TENANT)] == ["chain_fork"]
    text = errors.read_text("utf-8")
    assert "fund/car-2" in text and "enrol" in text, f"which device, and what to do: {text}"
    assert "TLS key" in text, text
    assert "car-1" in text and "revoke" in text, text


@pytest.mark.parametrize("foreign", ["ca.crt", "tls"])
def test_an_uplink_with_foreign_keys_says_what_to_do(tmp_path: Path, foreign: str) -> None:
    """A broker of another authority, and a broker that does not know ours: nothing is sent, nothing lost."""
    lab, strange = make_kit(tmp_path / "lab").lab, make_kit(tmp_path / "strange").lab
    write_broker_toml(lab, 0)
    keys = lab.nodes["car-1"] / "keys"
    for name in ["ca.crt"] if foreign == "ca.crt" else ["tls.crt", "tls.key"]:
        shutil.copy(strange.nodes["car-1"] / "keys" / name, keys / name)
    folder = lab.nodes["car-1"]
    toml = folder / "node.toml"
    with broker(lab) as port:
        toml.write_text(
            f'[node]\ntenant = "{TENANT}"\ndevice = "car-1"\nkind = "vehicle"\n[state]\ndir = "{folder}"\n'
            + uplink_toml(port),
            "utf-8",
        )
        code = (
            "import pathlib, sys, edge.runtime.uplinkd as u\n"
            "u.CALL_TIMEOUT_S = 3.0\n"
            "sys.exit(u.run(pathlib.Path(sys.argv[1])))"
        )
        argv = [sys.executable, "-c", code, str(toml)]
        environment = {**os.environ, "HOLDFAST_LOG_FORMAT": "json"}
        process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        ready(process)
        assert process.stderr is not None
        line = json.loads(process.stderr.readline())["text"]
        end(process)
        process.stderr.close()
    assert f"127.0.0.1:{port}" in line
    assert "certificate" in line and ("enrol" in line or "ca.crt" in line or "tls.crt" in line), line


def test_another_user_cannot_speak_to_the_edge() -> None:
    """The peer's uid is asked of the kernel, even where the socket's mode would let him in."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    node = Live()
    try:
        node.start()
        node.home.chmod(0o755)
        path = node.folder / "facts.sock"
        for folder in path.parents:
            if node.home in folder.parents:
                folder.chmod(0o755)
        path.chmod(0o666)
        code = (
            "import os, socket, struct, sys\n"
            "os.setuid(int(sys.argv[2]))\n"
            "s = socket.socket(socket.AF_UNIX)\n"
            "s.settimeout(5)\n"
            "s.connect(sys.argv[1])\n"
            "print('connected')\n"
            "m = bytes.fromhex('a10066737461747573')\n"  # {0: "status"}
            "try:\n"
            "    s.sendall(struct.pack('>I', len(m)) + m)\n"
            "    print(len(s.recv(10)))\n"
            "except (BrokenPipeError, ConnectionResetError):\n"
            "    print(0)\n"
        )
        argv = [sys.executable, "-I", "-c", code, str(path)]
        said = [
            subprocess.run(
                [*argv, uid], capture_output=True, text=True, timeout=20, check=True
            ).stdout.split()
            for uid in ("0", "65534")
        ]
        assert said == [["connected", "10"], ["connected", "0"]]
        wait(lambda: "facts_stranger" in node.logged() and "65534" in node.logged(), "the log names him")
        assert node.status()["store"] == "ok"
    finally:
        node.close()


# --- ports, commands, numbers -------------------------------------------------------------------------


def test_a_serial_port_that_another_program_holds_is_said_by_status() -> None:
    import fcntl
    import termios

    node = Live()
    held = os.open(os.ttyname(node._slave), os.O_RDWR | os.O_NOCTTY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.ioctl(held, termios.TIOCEXCL)
        node.start()
        status = node.status()
        assert status["ports"] == {"gnss": "absent"} and "fuser" in status["port_detail"]["gnss"], status
        fcntl.ioctl(held, termios.TIOCNXCL)
        fcntl.flock(held, fcntl.LOCK_UN)
        os.close(held)
        held = -1
        node.until(lambda s: s["ports"] == {"gnss": "ok"} or feed_one(node))
    finally:
        if held >= 0:
            os.close(held)
        node.close()


def feed_one(node: Live) -> bool:
    """A fix, whoever reads it; False."""
    node.second += 1
    node.page.advance(node.second * NS)
    os.write(node.master, sentence(node.second, "4730.0000"))
    return False


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -1e9])
def test_a_reading_that_is_no_number_cannot_be_built(value: float) -> None:
    fix: dict[str, Any] = {"lat_deg": 46.5, "lon_deg": 6.6, "speed_mps": 1.0, "course_deg": 1.0}
    tyre: dict[str, Any] = {"pressure_kpa": 230.0, "temperature_degc": 20.0}
    still = (0.0, 0.0, 9.8)
    assert Position(0, "gnss", quality=FixQuality.AUTONOMOUS, **fix).lat_deg == 46.5
    assert Tyre(0, "board", "aa", rolling=None, **tyre).pressure_kpa == 230.0
    assert Vibration(0, "board", 1.0, 1000.0, still, 0.1, still).window_s == 1.0
    for name in fix:
        with pytest.raises(DecodeError):
            Position(0, "gnss", quality=FixQuality.AUTONOMOUS, **{**fix, name: value})
    for name in tyre:
        with pytest.raises(DecodeError):
            Tyre(0, "board", "aa", rolling=None, **{**tyre, name: value})
    with pytest.raises(DecodeError):
        Vibration(0, "board", value, 1000.0, still, 0.1, still)
    if not math.isfinite(value):
        with pytest.raises(DecodeError):
            Vibration(0, "board", 1.0, 1000.0, (0.0, value, 0.0), 0.1, still)


def test_the_verify_command_imports_neither_collector_nor_store_nor_runtime(tmp_path: Path) -> None:
    """`holdfast verify` as a person types it, every module that it loads written down."""
    from cloud_sync.runtime import bundles

    kit = make_kit(tmp_path / "lab")
    with kit.collector() as (store, _, intake):
        intake.process(kit.device("car-1").messages(3))
        bundle = bundles.export_device(store, TENANT, "car-1", tmp_path / "car.hfb")
    argv = ["-m", "firmware_bridge", "verify", str(bundle), "--trust", str(kit.lab.trust), "--json"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *argv], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0 and json.loads(done.stdout)["complete"], done.stdout
    loaded = {
        line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")
    }
    assert "cloud_sync.evidence.verify" in loaded
    ours = {name for name in loaded if name.split(".")[0] in ("cloud_sync", "edge", "models", "provisioning")}
    assert not {
        name
        for name in ours
        if ".runtime" in name or name.startswith(("cloud_sync.collector", "cloud_sync.log"))
    }
    assert not loaded & {"sqlite3", "ssl", "paho", "aiomqtt", "amqtt", "serialx", "cloud_sync.__main__"}

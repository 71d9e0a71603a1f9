"""How fast an incident reaches open pages, and what that costs. Run: `python tests/bench/liveload.py`

A real `holdfast serve` process, 200 real HTTP connections to its event stream in one other process, and a
collector that commits an incident every half second (and a heartbeat segment of another vehicle between).
Latency is from the return of the collector's commit to the receipt of the whole event by a viewer; each
incident counts once for each viewer. CPU is what the server's process used meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

import psutil

# Beside the rows stands this folder, beside the kit the one above it, however this is run.
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from rows import Row  # noqa: E402
from serve_kit import ServeKit, make_serve_kit  # noqa: E402

from cloud_sync.runtime.serve import accounts, tokens  # noqa: E402
from cloud_sync.runtime.serve.accounts import NewAccount  # noqa: E402
from cloud_sync.runtime.serve.live_hub import MAX_STREAMS  # noqa: E402

VIEWERS = 200
SECONDS = 30
EVERY_S = 0.5
LATENCY_GOAL_MS = 1000.0
CORE_GOAL = 1.0
START_S = 60


@dataclass
class Viewers:
    """All connections and what they have received."""

    seen: dict[str, list[float]]
    """Incident -> when each viewer had it (monotonic seconds)."""
    open: int = 0

    async def watch(self, port: int, token: str) -> None:
        """One viewer, until the connection ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
        writer.write(
            f"GET /api/v1/live HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode()
        )
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"the stream was refused: {status!r}")
        self.open += 1
        try:
            incident = False
            while line := await reader.readline():
                if line.startswith(b"event: "):
                    incident = line == b"event: incident\n"
                elif incident and line.startswith(b"data: "):
                    self.seen.setdefault(str(json.loads(line[6:])["id"]), []).append(time.monotonic())
        finally:
            self.open -= 1
            writer.close()


def measure(folder: Path, viewers: int = VIEWERS, seconds: float = SECONDS) -> dict[str, float]:
    """{p50_ms, p99_ms, worst_ms, missed, cpu_s, cores, viewers, incidents}."""
    kit = make_serve_kit(folder)
    try:
        keys = _tokens(kit, -(-viewers // MAX_STREAMS))
        cores = sorted(range(os.cpu_count() or 1))
        os.sched_setaffinity(0, set(cores))  # the viewers do not take time from the server
        command = [sys.executable, "-m", "firmware_bridge", "serve", "--config", str(folder / "serve.toml")]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            os.sched_setaffinity(server.pid, {cores[0]})
            if len(cores) > 1:
                os.sched_setaffinity(0, set(cores[1:]))
            assert server.stdout is not None
            port = int(json.loads(server.stdout.readline())["port"])
            return asyncio.run(
                _run(kit, server.pid, port, [keys[n // MAX_STREAMS] for n in range(viewers)], seconds)
            )
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(START_S)
    finally:
        kit.close()


def _tokens(kit: ServeKit, count: int) -> list[str]:
    made = []
    now_ms = kit.context.real_ms()
    with kit.context.db.transaction() as db:
        for number in range(count):
            account = accounts.add(db, NewAccount("fund", f"viewer {number}", "operator"), now_ms)
            who = accounts.find(db, "fund", account).principal()
            made.append(tokens.make_token(db, who, "bench", sorted(who.scopes), 1, now_ms)[1])
    return made


async def _run(kit: ServeKit, pid: int, port: int, keys: list[str], seconds: float) -> dict[str, float]:
    viewers = Viewers({})
    watching = [asyncio.create_task(viewers.watch(port, key)) for key in keys]
    end = time.monotonic() + START_S
    while viewers.open < len(keys):
        for task in watching:
            if task.done():
                task.result()
        if time.monotonic() > end:
            raise RuntimeError(f"{viewers.open} of {len(keys)} streams opened within {START_S} s")
        await asyncio.sleep(0.05)
    await asyncio.sleep(1)
    process = psutil.Process(pid)
    before = process.cpu_times()
    begun = time.monotonic()
    committed = await asyncio.to_thread(_commit, kit, seconds)
    spent = time.monotonic() - begun
    after = process.cpu_times()
    await asyncio.sleep(2)
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    waits = sorted((at - when) * 1000 for id_, when in committed.items() for at in viewers.seen.get(id_, []))
    cuts = quantiles(waits, n=100)
    cpu = after.user + after.system - before.user - before.system
    return {
        "p50_ms": cuts[49], "p99_ms": cuts[98], "worst_ms": waits[-1],
        "missed": float(len(committed) * len(keys) - len(waits)), "cpu_s": cpu, "cores": cpu / spent,
        "viewers": float(len(keys)), "incidents": float(len(committed)),
    }  # fmt: skip


def _commit(kit: ServeKit, seconds: float) -> dict[str, float]:
    """Commit incidents for so long; when each was durable (monotonic seconds)."""
    done: dict[str, float] = {}
    one, two = kit.devices["car-1"], kit.devices["car-2"]
    begun = time.monotonic()
    with kit.kit.collector() as (_, _, intake):
        number = 0
        while time.monotonic() < begun + seconds:
            number += 1
            batch = intake.commit([one.message(one.seal([one.incident(number)]))])
            done[f"car-1.{one.run.hex()}.{number}"] = time.monotonic()
            intake.finish(batch)
            intake.finish(intake.commit([two.message(two.seal(3))]))
            time.sleep(max(0.0, begun + number * EVERY_S - time.monotonic()))
    return done


def live(folder: Path) -> Iterator[Row]:
    """The rows of bench.json."""
    found = measure(folder)
    met = found["p99_ms"] < LATENCY_GOAL_MS and not found["missed"]
    yield Row("live_commit_to_page_p50", round(found["p50_ms"], 1), "ms")
    yield Row("live_commit_to_page_p99", round(found["p99_ms"], 1), "ms", goal="< 1000", met=met)
    fits = found["cores"] < CORE_GOAL
    yield Row(
        "live_server_of_200_viewers", round(found["cores"] * 100, 1), "% of a core", goal="< 100", met=fits
    )


def main() -> int:
    """Measure and print; 1 when an incident did not reach everybody."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--viewers", type=int, default=VIEWERS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="liveload-") as folder:
        found = measure(Path(folder), options.viewers, options.seconds)
    for name, value in found.items():
        print(f"{name:<10} {value:>12,.2f}")
    return 1 if found["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())

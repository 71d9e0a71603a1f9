"""How fast an incident reaches open pages, and what that costs. Run: `python tests/bench/liveload.py`

A real `holdfast serve` process over a large fleet (10,000 vehicles, a million events), alone on one core;
200 real HTTP connections to its event stream and one Chromium with the incidents' list open, on the other
cores; and a collector that commits an incident every half second (and a heartbeat segment of another vehicle
between). Latency is from the return of the collector's commit to the receipt of the whole event by a viewer,
each incident counting once for each viewer; and to the row in the document of the Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

# Beside the rows stands this folder, beside the kit the one above it, however this is run.
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import served  # noqa: E402
from rows import Row  # noqa: E402
from serve_kit import ServeKit  # noqa: E402
from served import CHROMIUM, CHROMIUM_ARGS, Fleet, Served  # noqa: E402

from cloud_sync.runtime.serve import accounts, tokens  # noqa: E402
from cloud_sync.runtime.serve.accounts import NewAccount  # noqa: E402
from cloud_sync.runtime.serve.live_hub import MAX_STREAMS  # noqa: E402

VIEWERS: Final = 200
SECONDS: Final = 30.0
MIN_SECONDS: Final = 5.0
EVERY_S: Final = 0.5
LATENCY_GOAL_MS: Final = 1000.0
CORE_GOAL: Final = 0.9
"""Of the one core the server has: above, it would be the core that says how many viewers there are."""
START_S: Final = 60
SETTLE_S: Final = 2.0


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


@dataclass(frozen=True, slots=True)
class Waits:
    """How long something took, milliseconds, in order."""

    sorted_ms: tuple[float, ...]
    missed: int
    """How many never came."""

    def at(self, share: float) -> float:
        """The wait that `share` of all do not exceed (nearest rank); infinite where nothing came."""
        if not self.sorted_ms:
            return math.inf
        return self.sorted_ms[max(0, math.ceil(share * len(self.sorted_ms)) - 1)]


@dataclass(frozen=True, slots=True)
class Found:
    """One run."""

    viewers: int
    incidents: int
    streams: Waits
    page: Waits | None
    """None where there is no Chromium."""
    cores: float
    """CPU seconds of the server in a second."""


def measure(fleet: Fleet, viewers: int = VIEWERS, seconds: float = SECONDS) -> Found:
    """Serve `fleet`, watch it and commit incidents for so long."""
    keys = _tokens(fleet.kit, -(-viewers // MAX_STREAMS))
    with served.serving(fleet) as server:
        chosen = [keys[n // MAX_STREAMS] for n in range(viewers)]
        return asyncio.run(_run(fleet.kit, server, chosen, seconds))


def _tokens(kit: ServeKit, count: int) -> list[str]:
    made = []
    now_ms = kit.context.real_ms()
    with kit.context.db.transaction() as db:
        for number in range(count):
            name = f"viewer {number} {time.monotonic_ns()}"
            account = accounts.add(db, NewAccount("fund", name, "operator"), now_ms)
            who = accounts.find(db, "fund", account).principal()
            made.append(tokens.make_token(db, who, "bench", sorted(who.scopes), 1, now_ms)[1])
    return made


async def _run(kit: ServeKit, server: Served, keys: list[str], seconds: float) -> Found:
    viewers = Viewers({})
    watching = [asyncio.create_task(viewers.watch(server.port, key)) for key in keys]
    try:
        await _all_open(viewers, watching)
        async with _page(kit, server.url) as page:
            await asyncio.sleep(SETTLE_S)
            process = psutil.Process(server.pid)
            before, begun = process.cpu_times(), time.monotonic()
            committed = await asyncio.to_thread(_commit, kit, seconds)
            spent, after = time.monotonic() - begun, process.cpu_times()
            await asyncio.sleep(SETTLE_S)
            shown = None if page is None else await page.evaluate("() => window.__rows")
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    streams = [(at - when) * 1000 for id_, (when, _) in committed.items() for at in viewers.seen.get(id_, [])]
    document = None
    if shown is not None:
        drawn = [shown[id_] - wall * 1000 for id_, (_, wall) in committed.items() if id_ in shown]
        document = Waits(tuple(sorted(drawn)), len(committed) - len(drawn))
    cpu = after.user + after.system - before.user - before.system
    missed = len(committed) * len(keys) - len(streams)
    return Found(
        len(keys), len(committed), Waits(tuple(sorted(streams)), missed), document, cpu / spent
    )  # fmt: skip


async def _all_open(viewers: Viewers, watching: list[asyncio.Task[None]]) -> None:
    end = time.monotonic() + START_S
    while viewers.open < len(watching):
        for task in watching:
            if task.done():
                task.result()
        if time.monotonic() > end:
            raise RuntimeError(f"{viewers.open} of {len(watching)} streams opened within {START_S} s")
        await asyncio.sleep(0.05)


_WATCH: Final = """() => {
  window.__rows = {};
  const note = () => {
    const now = performance.timeOrigin + performance.now();
    for (const row of document.querySelectorAll('tbody tr[data-key]')) window.__rows[row.dataset.key] ??= now;
  };
  note();
  new MutationObserver(note).observe(document.body, { childList: true, subtree: true });
}"""
"""Notes the wall time (ms) at which each row came into the document."""


@contextlib.asynccontextmanager
async def _page(kit: ServeKit, url: str) -> AsyncIterator[Any | None]:
    """The incidents' list in a Chromium, rows being timed; None where there is no Chromium."""
    if not CHROMIUM.exists():
        yield None
        return
    from playwright.async_api import async_playwright

    async with async_playwright() as player:
        browser = await player.chromium.launch(executable_path=str(CHROMIUM), args=list(CHROMIUM_ARGS))
        try:
            context = await browser.new_context(viewport={"width": 1280, "height": 800})
            await context.add_cookies([{"name": kit.context.cookie, "value": kit.session(), "url": url}])
            page = await context.new_page()
            await page.goto(f"{url}/#/incidents?sort=newest")
            await page.wait_for_selector("tbody tr[data-key]", timeout=START_S * 1000)
            await page.wait_for_selector(".line[data-state=live]", timeout=START_S * 1000)
            await page.evaluate(_WATCH)
            yield page
        finally:
            await browser.close()


def _commit(kit: ServeKit, seconds: float) -> dict[str, tuple[float, float]]:
    """Commit incidents for so long; when each was durable (monotonic and wall seconds)."""
    done: dict[str, tuple[float, float]] = {}
    one, two = kit.devices["car-1"], kit.devices["car-2"]
    one.restart()  # its incidents are numbered from 1 in every run
    begun = time.monotonic()
    with kit.kit.collector() as (_, _, intake):
        number = 0
        while time.monotonic() < begun + seconds:
            number += 1
            kit.kit.clock.wall_ms = one.wall_ms = two.wall_ms = time.time_ns() // 1_000_000
            batch = intake.commit([one.message(one.seal([one.incident(number)]))])
            done[f"car-1.{one.run.hex()}.{number}"] = (time.monotonic(), time.time())
            if batch.accepted != 1 or batch.alarms:
                raise RuntimeError(f"the collector did not take incident {number}: {batch}")
            intake.finish(batch)
            intake.finish(intake.commit([two.message(two.seal(3))]))
            time.sleep(max(0.0, begun + number * EVERY_S - time.monotonic()))
    return done


def live(folder: Path, scale: float = 1.0) -> Iterator[Row]:
    """The rows of bench.json."""
    viewers = max(MAX_STREAMS, round(VIEWERS * scale))
    found = measure(served.fleet(scale), viewers, max(MIN_SECONDS, SECONDS * scale))
    yield from _waits("live_commit_to_viewer", f"ms, {viewers} viewers", found.streams)
    if found.page is None:
        yield Row(
            "live_commit_to_page_p99", 0.0, "ms: not measured, no Chromium here",
            goal=f"< {LATENCY_GOAL_MS:.0f}", met=False,
        )  # fmt: skip
    else:
        yield from _waits("live_commit_to_page", "ms, row in Chromium's document", found.page)
    yield Row(
        f"live_server_of_{VIEWERS}_viewers", round(found.cores * 100, 1),
        f"% of its one core, {viewers} viewers",
        goal=f"< {CORE_GOAL * 100:.0f}", met=found.cores < CORE_GOAL,
    )  # fmt: skip


def _waits(name: str, unit: str, waits: Waits) -> Iterator[Row]:
    if waits.sorted_ms:
        yield Row(f"{name}_p50", round(waits.at(0.5), 1), unit)
    p99 = waits.at(0.99)
    yield Row(
        f"{name}_p99", round(p99, 1) if waits.sorted_ms else 0.0,
        f"{unit}, {waits.missed} missed" if waits.missed else unit,
        goal=f"< {LATENCY_GOAL_MS:.0f}", met=p99 < LATENCY_GOAL_MS and not waits.missed,
    )  # fmt: skip


def main() -> int:
    """Measure and print; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of vehicles, events, viewers and time")
    rows = list(live(served.BUILD, parser.parse_args().scale))
    for row in rows:
        print(row.line())
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

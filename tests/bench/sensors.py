"""NMEA decoding against pynmea2, on the same sentences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pynmea2
from rows import Row, against, best

from firmware_bridge.reading import Position, Refusal
from firmware_bridge.sensors.nmea import NmeaDecoder
from firmware_bridge.sim.scenario import scenario
from firmware_bridge.sim.script import GNSS
from firmware_bridge.timekeeper import Now

SENTENCES: Final = 40_000
PEER_SENTENCES: Final = 10_000
GOAL_PER_S: Final = 200_000


def nmea(folder: Path) -> Iterator[Row]:
    """Whole sentences a second, check sums verified, from bytes as a port gives them to readings."""
    script = scenario("default")
    chunks = []
    lines = 0
    for chunk in script.play():
        if chunk.port == GNSS:
            chunks.append((chunk.t_ns, chunk.data))
            lines += chunk.data.count(b"\n")
            if lines >= SENTENCES:
                break
    times = [Now(t_ns, script.epoch_wall_ns + t_ns, True, 0) for t_ns, _ in chunks]

    def ours() -> None:
        decoder = NmeaDecoder("gnss")
        found = 0
        for (_, data), now in zip(chunks, times, strict=True):
            for item in decoder.feed(data, now):
                if isinstance(item, Refusal):
                    raise RuntimeError(f"refused: {item}")
                found += isinstance(item, Position)
        if found < len(chunks) - 2:
            raise RuntimeError(f"{found} positions of {len(chunks)} epochs")

    text = b"".join(data for _, data in chunks).decode("ascii").splitlines()[:PEER_SENTENCES]

    def peer() -> None:
        for line in text:
            pynmea2.parse(line, check=True)

    rate, peer_rate = lines / best(ours), len(text) / best(peer)
    yield against(
        "nmea_sentences_per_s", rate, "sentences/s", f"pynmea2 {pynmea2.__version__}", peer_rate,
        goal=f">= {GOAL_PER_S} and faster than the peer", met=rate >= GOAL_PER_S and rate > peer_rate,
    )  # fmt: skip
    yield Row("nmea_bytes_per_s", round(rate * sum(len(d) for _, d in chunks) / lines, 1), "B/s")

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
from firmware_bridge.sim.script import GNSS, NS, Script
from firmware_bridge.timekeeper import Now

SENTENCES: Final = 40_000
PEER_SENTENCES: Final = 10_000
GOAL_PER_S: Final = 200_000
READ_BYTES: Final = 4096
"""What a port with a backlog gives at a read: a terminal's whole buffer."""


def nmea(folder: Path) -> Iterator[Row]:
    """Whole sentences a second, check sums verified, from bytes as a port gives them to readings."""
    script = scenario("default")
    epochs = []
    lines = 0
    for chunk in script.play():
        if chunk.port == GNSS:
            epochs.append(chunk.data)
            lines += chunk.data.count(b"\n")
            if lines >= SENTENCES:
                break
    data = b"".join(epochs)
    blocks = [data[at : at + READ_BYTES] for at in range(0, len(data), READ_BYTES)]
    seconds = len(epochs) / len(blocks)
    times = [_at(script, round(n * seconds * NS)) for n in range(len(blocks))]

    def ours() -> None:
        decoder = NmeaDecoder("gnss")
        found = 0
        for block, now in zip(blocks, times, strict=True):
            for item in decoder.feed(block, now):
                if isinstance(item, Refusal):
                    raise RuntimeError(f"refused: {item}")
                found += isinstance(item, Position)
        if found < len(epochs) - 2:
            raise RuntimeError(f"{found} positions of {len(epochs)} epochs")

    text = data.decode("ascii").splitlines()[:PEER_SENTENCES]

    def peer() -> None:
        for line in text:
            pynmea2.parse(line, check=True)

    rate, peer_rate = lines / best(ours, times=7), len(text) / best(peer, times=7)
    yield against(
        "nmea_sentences_per_s", rate, "sentences/s", f"pynmea2 {pynmea2.__version__}", peer_rate,
        goal=f">= {GOAL_PER_S} and faster than the peer", met=rate >= GOAL_PER_S and rate > peer_rate,
    )  # fmt: skip
    yield Row("nmea_bytes_per_s", round(rate * len(data) / lines, 1), "B/s")


def _at(script: Script, t_ns: int) -> Now:
    return Now(t_ns, script.epoch_wall_ns + t_ns, True, 0)

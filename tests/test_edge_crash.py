"""kill -9 of the daemon in the middle of work: everything accepted is there once, what was not is counted."""

from __future__ import annotations

import random
import time

import pytest
from edge_live import Live

from edge import event as ev
from edge.chain import check
from edge.event import Kind
from edge.segment import Lost, segment_hash

KILLS = 6


@pytest.mark.crash
def test_kill_9_at_random_moments_loses_nothing_that_was_accepted() -> None:
    chance = random.Random(20261124)
    node = Live("commit_interval_s = 2\nseal_interval_s = 20\n")
    try:
        runs: list[str] = []
        for _ in range(KILLS):
            runs.append(str(node.start()["run"]))
            node.drive(chance.randint(5, 90))
            time.sleep(chance.random() * 0.05)
            node.kill()
        runs.append(str(node.start()["run"]))
        node.drive(10)
        assert node.stop() == 0
        segments = node.segments()
        report = check(segments)
        assert report.complete, report
        stored: dict[tuple[str, int], str] = {}
        for sealed in segments:
            for event in sealed.segment.events:
                key = (sealed.segment.run.hex(), event.seq)
                assert key not in stored, "accepted twice"
                stored[key] = segment_hash(ev.encode(event)).hex()
        told = {(line["run"], line["seq"]): line["sha256"] for line in node.oracle.lines}
        assert told, "the oracle heard nothing"
        assert {key: stored.get(key) for key in told} == told, "an accepted event is missing or another"
        order = [key for key in stored]
        assert order == sorted(order, key=lambda key: (runs.index(key[0]), key[1])), "out of order"
        # Every run began, and each crash that cost something says how much: seqs end where it begins.
        starts = [e for s in segments for e in s.segment.events if e.kind is Kind.RUN_START]
        assert len(starts) == KILLS + 1
        for tombstone in (t for s in segments for t in s.segment.tombstones):
            assert tombstone.reason is Lost.CRASH
            seqs = [seq for run, seq in stored if run == tombstone.run.hex()]
            assert max(seqs) + 1 == tombstone.first and tombstone.count == tombstone.last - max(seqs)
        assert sum(n for _, n in report.lost) > 0, "the kills landed with work in hand"
    finally:
        node.close()


@pytest.mark.crash
def test_kill_9_before_the_first_commit_and_twice_in_a_row() -> None:
    node = Live()
    try:
        node.start()
        node.kill()
        node.start()
        node.kill()
        node.start()
        node.drive(5)
        assert node.stop() == 0
        report = check(node.segments())
        assert report.complete and report.segments >= 4
    finally:
        node.close()

"""The node's path: bytes to accepted and sealed events, signatures, and what a durable commit costs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from rows import Row, against, best

from edge.config import Config, OutboxLimits, parse
from edge.event import Body, Kind
from edge.intake import Draft, Intake
from edge.pipeline import Pipeline
from edge.runtime.edged import make_detector
from edge.runtime.outbox import Outbox
from edge.sealer import Signer
from firmware_bridge.sim.scenario import scenario
from firmware_bridge.sim.script import BOARD, GNSS, NS, Chunk
from firmware_bridge.timekeeper import Now
from firmware_bridge.wire import cose
from firmware_bridge.wire.signals import Sig
from firmware_bridge.wire.stamp import ClockKind, Stamp, TimeSource

DRIVE_S: Final = 720
"""The drive of the default scenario: everything is awake and the board sends all its samples."""
GOAL_REAL_TIME: Final = 35
COMMIT_NS: Final = 5 * NS
WALL_NS: Final = 1_796_229_000 * NS
GROUP: Final = 50
KEY: Final = ec.generate_private_key(ec.SECP256R1())
KID: Final = cose.key_id(KEY.public_key())


def open_outbox(folder: Path, *, seal_s: float = 60.0) -> Outbox:
    """A real outbox, fsync at every commit, that signs with a real key."""
    folder.mkdir(exist_ok=True)
    signer = Signer("fund-a", "vehicle-1", ClockKind.SIMULATED, KEY, KID)
    return Outbox(
        folder, signer, OutboxLimits(), seal_interval_ns=round(seal_s * NS), say=lambda *args, **fields: None
    )


def node_config(folder: Path) -> Config:
    """The configuration of the vehicle of the default scenario."""
    script = scenario("default")
    tyres = "\n".join(f'{wheel} = "{sensor}"' for wheel, sensor in (script.tyres or {}).items())
    home = script.home
    assert home is not None
    return parse(
        f"""
        [node]
        tenant = "fund-a"
        device = "vehicle-1"
        kind = "vehicle"
        [[port]]
        name = "{GNSS}"
        path = "gnss"
        protocol = "nmea"
        [[port]]
        name = "{BOARD}"
        path = "board"
        protocol = "board"
        baud = 460800
        [vehicle.tyres]
        {tyres}
        [fence]
        lat = {home.lat_deg}
        lon = {home.lon_deg}
        radius_m = {home.radius_m}
        """,
        base=str(folder),
    )


def now_at(t_ns: int) -> Now:
    """Scenario time as the daemon gives it to the pipeline."""
    return Now(t_ns, WALL_NS + t_ns, True, 0)


def drive_through(chunks: list[Chunk], config: Config, outbox: Outbox) -> tuple[int, int]:
    """Feed `chunks` as the daemon does; (events accepted, segments sealed)."""
    pipeline = Pipeline(config, make_detector(config), software="bench")
    intake = Intake(outbox.run)
    outbox.ensure(WALL_NS)
    drafts = [pipeline.start(now_at(0), "bench")]
    for link in pipeline.links.values():
        link.opened(now_at(0))
    events = segments = 0
    for chunk in chunks:
        now = now_at(chunk.t_ns)
        drafts += pipeline.tick(now)
        drafts += pipeline.feed(chunk.port, chunk.data, now)
        for draft in drafts:
            intake.add(draft)
        drafts = []
        if intake.due(now.mono_ns, COMMIT_NS) or outbox.seal_due(now.mono_ns):
            done = outbox.commit(intake.take(), now_ns=now.mono_ns, wall_ns=now.host_wall_ns)
            intake.done()
            events, segments = events + len(done.events), segments + len(done.sealed)
    return events, segments


def pipeline(folder: Path) -> Iterator[Row]:
    """One vehicle's bytes (1 Hz receiver, four tyres, 1 kHz three-axis board) to the durable outbox."""
    chunks = list(itertools.takewhile(lambda chunk: chunk.t_ns < DRIVE_S * NS, scenario("default").play()))
    chunks = [chunk for chunk in chunks if chunk.port in (GNSS, BOARD)]
    config = node_config(folder)
    speeds = []
    for attempt in range(3):
        outbox = open_outbox(folder / str(attempt))
        begun, cpu = time.perf_counter(), time.process_time()
        events, segments = drive_through(chunks, config, outbox)
        speeds.append((DRIVE_S / (time.perf_counter() - begun), DRIVE_S / (time.process_time() - cpu)))
        outbox.close()
        if events < DRIVE_S or segments < DRIVE_S // 60:
            raise RuntimeError(f"{events} events, {segments} segments of {DRIVE_S} s: the path is not whole")
    speed = max(wall for wall, _ in speeds)
    yield Row(
        "pipeline_times_real_time", round(speed, 1), "x real time, one core, fsync included",
        goal=f">= {GOAL_REAL_TIME}", met=speed >= GOAL_REAL_TIME,
    )  # fmt: skip
    yield Row(
        "pipeline_cpu_times_real_time", round(max(c for _, c in speeds), 1), "x real time, CPU time only"
    )
    yield Row("pipeline_bytes_per_s", round(speed * sum(len(c.data) for c in chunks) / DRIVE_S, 1), "B/s")


def cose_sign1(folder: Path) -> Iterator[Row]:
    """Sign and verify a segment's worth of bytes, against python-cwt."""
    payload = bytes(range(256)) * 12
    rounds = 300
    pem = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public_pem = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    private = cwt.COSEKey.from_pem(pem, kid=KID)
    public = cwt.COSEKey.from_pem(public_pem, kid=KID)
    context = cwt.COSE.new()

    def ours() -> None:
        for _ in range(rounds):
            cose.verify1(cose.sign1(payload, KEY, KID), lambda kid: KEY.public_key())

    def peer() -> None:
        for _ in range(rounds):
            data = context.encode(payload, private, protected={1: -7, 4: KID})
            context.decode(data, public)

    yield against(
        "cose_sign_and_verify_per_s", rounds / best(ours), "messages/s", f"cwt {cwt.__version__}",
        rounds / best(peer),
    )  # fmt: skip


def draft(n: int) -> Draft:
    """The telemetry event of a second on the road."""
    body: Body = {
        Sig.LATITUDE: 471200, Sig.LONGITUDE: 85400 + n % 100, Sig.FIX_TYPE: 1, Sig.SPEED: 500 + n % 300,
        Sig.SATELLITES: 10, Sig.HEADING: n % 360,
    }  # fmt: skip
    stamp = Stamp(n * NS, WALL_NS + n * NS, TimeSource.GNSS, 1000)
    return Draft(Kind.POSITION, stamp, {int(key): value for key, value in body.items()})


def commit_events(folder: Path, count: int, group: int) -> float:
    """Events a second into the outbox, committed in groups of `group`, sealed by its rules."""
    outbox = open_outbox(folder)
    intake = Intake(outbox.run)
    outbox.ensure(WALL_NS)
    begun = time.perf_counter()
    for start in range(0, count, group):
        for n in range(start, start + group):
            intake.add(draft(n))
        outbox.commit(intake.take(), now_ns=(start + group) * NS, wall_ns=WALL_NS)
        intake.done()
    seconds = time.perf_counter() - begun
    outbox.close()
    return count / seconds


def outbox(folder: Path) -> Iterator[Row]:
    """What committing in groups is worth: the same events, durable in fifties or one by one."""
    grouped = max(commit_events(folder / f"g{n}", 5000, GROUP) for n in range(3))
    single = max(commit_events(folder / f"s{n}", 500, 1) for n in range(3))
    yield against(
        "outbox_events_per_s_in_fifties", grouped, "events/s, SQLite FULL, sealed", "one by one", single
    )

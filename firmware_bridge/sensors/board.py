"""The MCU board: tyres, vibration, supply and tamper switch, as CBOR maps in frames (see framing.py).

    HELLO {0: board_id bytes[8], 1: firmware text, 2: boot_count}
    DATA  {0: board_ms, and any of
           1: [rate_hz, scale_um_s2, bytes]   raw vibration, int16 little endian, x y z interleaved
           2: [window_ms, rate_hz, rms_x, rms_y, rms_z, peak, gx, gy, gz, dominant_decihz / null]   mm/s²
           3: [[sensor_id bytes[4], kPa, degC, flags], ...]   flags: 1 rolling known, 2 rolling, 4 battery ok
           4: [supply_mV, power state, case_open 0 / 1, next_report_s]}

There are no floats on this wire, so there is no NaN. What is impossible is refused part by part: a board
with one mad tyre still delivers its vibration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from firmware_bridge.errors import DecodeError, WireError
from firmware_bridge.framing import SAMPLE_BYTES, BadFrame, Deframer, Frame, FrameType
from firmware_bridge.reading import BoardHello, Power, PowerState, Reading, Refusal, Tyre, Vibration
from firmware_bridge.sensors.vibration import MAX_RATE_HZ, RawWindow
from firmware_bridge.timekeeper import Now
from firmware_bridge.wire import cbor

BOARD_ID_BYTES: Final = 8
SENSOR_ID_BYTES: Final = 4
MAX_TYRES: Final = 32
"""Transmissions in one frame: a truck with trailer has 22 tyres."""
MAX_SLEEP_S: Final = 86_400
"""Longest announced silence: a board that could announce a year could hide a theft behind it."""
MAX_SCALE_UM_S2: Final = 61_000
"""int16 at 200 g full scale; no accelerometer on a vehicle is coarser."""
MAX_FIRMWARE_CHARS: Final = 32
"""A version text; longer ones are cut before anybody prints them."""
MAX_WINDOW_MS: Final = 3_600_000
_CLOCK_WRAP_MS: Final = 1 << 32

Raw: TypeAlias = tuple[int, int, bytes]
"""Rate in Hz, µm/s² of one step, int16 little endian samples x y z."""
Features: TypeAlias = tuple[int, int, int, int, int, int, int, int, int, int | None]
"""Window in ms, rate in Hz, then mm/s²: rms x y z, peak, gravity x y z; dominant frequency in 0.1 Hz."""
TyreItem: TypeAlias = tuple[bytes, int, int, int]
"""Sensor id (4 bytes), gauge pressure in kPa, degrees C, flags."""
PowerItem: TypeAlias = tuple[int, int, int, int]
"""Supply in mV, PowerState, case open 0 or 1, seconds until the next report."""

ROLLING_KNOWN: Final = 1
ROLLING: Final = 2
BATTERY_OK: Final = 4


def encode_hello(board_id: bytes, firmware: str, boot_count: int) -> bytes:
    """CBOR of a HELLO; `board_id` has 8 bytes, `boot_count` counts the board's starts."""
    return cbor.encode({0: board_id, 1: firmware, 2: boot_count})


def encode_data(
    board_ms: int,
    *,
    raw: Raw | None = None,
    features: Features | None = None,
    tyres: Sequence[TyreItem] = (),
    power: PowerItem | None = None,
) -> bytes:
    """CBOR of a DATA with the parts that are given; `board_ms` is the board's own time since its start."""
    body: dict[int, cbor.Value] = {0: board_ms}
    if raw is not None:
        body[1] = list(raw)
    if features is not None:
        body[2] = list(features)
    if tyres:
        body[3] = [list(tyre) for tyre in tyres]
    if power is not None:
        body[4] = list(power)
    return cbor.encode(body)


class BoardDecoder:
    """Bytes of one board -> readings. Never raises on input; everything refused is counted by reason."""

    def __init__(self, port: str) -> None:
        self._port = port
        self._deframer = Deframer()
        self._raw = RawWindow()
        self._seq: int | None = None
        self._board_ms: int | None = None
        self.intact = 0
        """Intact frames so far: says whether this port speaks our protocol at all."""

    def reset(self) -> None:
        """The port was reopened: nothing begun before goes on."""
        self._deframer.reset()
        self._raw.clear()
        self._seq = None
        self._board_ms = None

    def feed(self, data: bytes, now: Now) -> list[Reading | Refusal]:
        """What `data` completes, every reading stamped with `now`."""
        out: list[Reading | Refusal] = []
        for item in self._deframer.feed(data):
            if isinstance(item, BadFrame):
                out.append(Refusal(now.mono_ns, self._port, item.reason, item.sample))
            else:
                self.intact += 1
                _Frame(self._port, now.mono_ns, out, item.payload).decode(self, item)
        return out

    def follow(self, frame: Frame, refuse: Callable[[str, bytes], None]) -> None:
        """Check the sequence number. A HELLO starts a new count: the board was restarted."""
        expected, self._seq = self._seq, (frame.seq + 1) & 0xFF
        if frame.type == FrameType.HELLO:
            self._raw.clear()
            self._board_ms = None
            return
        if expected is not None and frame.seq != expected:
            missing = (frame.seq - expected) & 0xFF
            refuse("frames_missing", b"%d" % missing)
            self._raw.clear()

    def tick(self, board_ms: int, refuse: Callable[[str, bytes], None]) -> None:
        """Check the board's own time: one that goes back is a restart whose HELLO was lost."""
        before, self._board_ms = self._board_ms, board_ms
        if before is not None and board_ms < before:
            refuse("board_restarted", b"%d after %d" % (board_ms, before))
            self._raw.clear()

    def vibration(self, t_ns: int, board_ms: int, raw: Raw) -> list[Vibration]:
        """Add raw samples; one reading for each second of them that is complete."""
        return self._raw.add(t_ns, self._port, board_ms, *raw)


class _Frame:
    """One frame being decoded: what it yields goes to `out`, what it may not say is refused there."""

    __slots__ = ("_out", "_payload", "_port", "_t_ns")

    def __init__(self, port: str, t_ns: int, out: list[Reading | Refusal], payload: bytes) -> None:
        self._port = port
        self._t_ns = t_ns
        self._out = out
        self._payload = payload

    def refuse(self, reason: str, sample: bytes | None = None) -> None:
        shown = self._payload if sample is None else sample
        self._out.append(Refusal(self._t_ns, self._port, reason, shown[:SAMPLE_BYTES]))

    def decode(self, board: BoardDecoder, frame: Frame) -> None:
        board.follow(frame, self.refuse)
        if frame.type not in (FrameType.HELLO, FrameType.DATA):
            known = frame.type in FrameType._value2member_map_
            self.refuse("unhandled" if known else "unknown_type")
            return
        try:
            body = cbor.decode(frame.payload)
        except WireError:
            self.refuse("bad_cbor")
            return
        if not isinstance(body, dict):
            self.refuse("not_a_map")
        elif frame.type == FrameType.HELLO:
            self._hello(body)
        else:
            self._data(board, body)

    def _hello(self, body: dict[int, cbor.Value]) -> None:
        match (body.get(0), body.get(1), body.get(2)):
            case (bytes() as board_id, str() as firmware, int() as boots) if (
                len(board_id) == BOARD_ID_BYTES and any(board_id) and _uint(boots)
            ):
                shown = "".join(c for c in firmware if c.isprintable())[:MAX_FIRMWARE_CHARS]
                self._out.append(BoardHello(self._t_ns, self._port, board_id.hex(), shown, boots))
            case _:
                self.refuse("hello_malformed")

    def _data(self, board: BoardDecoder, body: dict[int, cbor.Value]) -> None:
        board_ms = body.get(0)
        if not isinstance(board_ms, int) or not _uint(board_ms) or board_ms >= _CLOCK_WRAP_MS:
            self.refuse("data_malformed")
            return
        board.tick(board_ms, self.refuse)
        for key, value in body.items():
            if key == 1:
                self._raw(board, board_ms, value)
            elif key == 2:
                self._features(value)
            elif key == 3:
                self._tyres(value)
            elif key == 4:
                self._power(value)
            elif key != 0:
                self.refuse("unhandled")

    def _raw(self, board: BoardDecoder, board_ms: int, value: cbor.Value) -> None:
        match value:
            case [int() as rate, int() as scale, bytes() as samples]:
                if not 1 <= rate <= MAX_RATE_HZ or not 1 <= scale <= MAX_SCALE_UM_S2:
                    self.refuse("raw_out_of_range")
                elif not samples or len(samples) % 6:
                    self.refuse("raw_malformed")
                else:
                    self._out += board.vibration(self._t_ns, board_ms, (rate, scale, samples))
            case _:
                self.refuse("raw_malformed")

    def _features(self, value: cbor.Value) -> None:
        if not isinstance(value, list) or len(value) != 10:
            self.refuse("features_malformed")
            return
        *figures, dominant = value
        numbers = [n for n in figures if isinstance(n, int) and not isinstance(n, bool)]
        if len(numbers) != 9 or not (dominant is None or (isinstance(dominant, int) and _uint(dominant))):
            self.refuse("features_malformed")
            return
        window_ms, rate, *mm = numbers
        limit = MAX_SCALE_UM_S2 * 32_768 // 1000
        hz = None if dominant is None else dominant / 10
        if (
            not 1 <= window_ms <= MAX_WINDOW_MS
            or not 1 <= rate <= MAX_RATE_HZ
            or any(not 0 <= n <= limit for n in mm[:4])
            or any(abs(n) > limit for n in mm[4:])
            or (hz is not None and hz > rate / 2)
        ):
            self.refuse("features_out_of_range")
            return
        x, y, z, peak, gx, gy, gz = (n / 1000 for n in mm)
        self._out.append(
            Vibration(
                self._t_ns, self._port, window_ms / 1000, float(rate), (x, y, z), peak, (gx, gy, gz), hz
            )
        )

    def _tyres(self, value: cbor.Value) -> None:
        if not isinstance(value, list):
            self.refuse("tyre_malformed")
            return
        if len(value) > MAX_TYRES:
            self.refuse("tyres_too_many")
        for item in value[:MAX_TYRES]:
            match item:
                case [bytes() as sensor_id, int() as kpa, int() as degc, int() as flags] if (
                    len(sensor_id) == SENSOR_ID_BYTES
                    and not any(isinstance(n, bool) for n in item)
                    and flags >= 0
                ):
                    self._tyre(sensor_id, kpa, degc, flags)
                case _:
                    self.refuse("tyre_malformed")

    def _tyre(self, sensor_id: bytes, kpa: int, degc: int, flags: int) -> None:
        if not any(sensor_id):  # an all-zero frame passes the check sum of some radio decoders
            self.refuse("tyre_id_zero")
            return
        rolling = bool(flags & ROLLING) if flags & ROLLING_KNOWN else None
        try:
            tyre = Tyre(
                self._t_ns,
                self._port,
                sensor_id.hex(),
                float(kpa),
                float(degc),
                rolling,
                bool(flags & BATTERY_OK),
            )
        except DecodeError:
            self.refuse("tyre_out_of_range", sensor_id + b" %d %d" % (kpa, degc))
            return
        self._out.append(tyre)

    def _power(self, value: cbor.Value) -> None:
        match value:
            case [int() as supply_mv, int() as state, int() as case_open, int() as next_report_s]:
                pass
            case _:
                self.refuse("power_malformed")
                return
        if state not in PowerState._value2member_map_ or case_open not in (0, 1):
            self.refuse("power_malformed")
            return
        if not 0 <= next_report_s <= MAX_SLEEP_S:
            self.refuse("power_out_of_range")
            return
        try:
            power = Power(
                self._t_ns, self._port, supply_mv / 1000, PowerState(state), bool(case_open), next_report_s
            )
        except DecodeError:
            self.refuse("power_out_of_range")
            return
        self._out.append(power)


def _uint(value: int) -> bool:
    return not isinstance(value, bool) and value >= 0

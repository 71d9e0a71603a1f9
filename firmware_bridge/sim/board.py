"""The vibration and tyre board in the vehicle, and the one at the roadside: frames as they leave the UART.

Awake, the board streams raw vibration in frames of 100 ms. Thirty still seconds after the last motion it
announces its parked watch, and then reports features and supply once a minute. Motion, tilt or an open
case wake it, and raw frames flow again within a second. When the supply is cut, a capacitor lasts for
one more report.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np

from firmware_bridge import framing
from firmware_bridge.reading import PowerState
from firmware_bridge.sensors import board as wire
from firmware_bridge.sim import vibration
from firmware_bridge.sim.motion import Kind, State
from firmware_bridge.sim.script import NS
from firmware_bridge.sim.tyres import Transmission

VEHICLE_ID: Final = bytes.fromhex("48460001c0ffee01")
ROADSIDE_ID: Final = bytes.fromhex("48460002c0ffee02")
FIRMWARE: Final = "hf-board 0.1.0"
FRAME_S: Final = 0.1
STILL_S: Final = 30
"""Seconds without motion after which the board goes into its parked watch."""
WATCH_PERIOD_S: Final = 60
WATCH_NEXT_S: Final = 70
"""What a parked board announces: its period and ten seconds for a slow start."""
AWAKE_PERIOD_S: Final = 10
AWAKE_NEXT_S: Final = 15
_WAKE_S: Final = 0.5
"""From the interrupt of the accelerometer to the first raw frame."""
ENGINE_V: Final = 14.2
REST_V: Final = 12.5

Timed: TypeAlias = tuple[int, bytes]
"""Nanoseconds of the scenario, and the bytes that leave then."""
_Body: TypeAlias = tuple[int, bytes]
"""Milliseconds of the scenario, and the CBOR that is framed then: numbered in order of time."""


class Framer:
    """Numbers and frames what one board says."""

    def __init__(self) -> None:
        self._seq = 0

    def hello(self, board_id: bytes, boot_count: int) -> bytes:
        """The frame by which a board introduces itself."""
        return self._frame(framing.FrameType.HELLO, wire.encode_hello(board_id, FIRMWARE, boot_count))

    def data(self, cbor: bytes) -> bytes:
        """A DATA frame around a map that `sensors.board.encode_data` made."""
        return self._frame(framing.FrameType.DATA, cbor)

    def _frame(self, kind: int, cbor: bytes) -> bytes:
        seq, self._seq = self._seq, (self._seq + 1) & 0xFF
        return framing.frame(kind, seq, cbor)


def _tyre(heard: Transmission) -> wire.TyreItem:
    flags = wire.ROLLING_KNOWN | wire.BATTERY_OK | (wire.ROLLING if heard.rolling else 0)
    return heard.sensor_id, heard.kpa, heard.degc, flags


class VehicleBoard:
    """The board in the vehicle; `second` once a second."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 5])
        self._sensor = vibration.Accelerometer(seed)
        self._framer = Framer()
        self._awake = False
        self._dead = False
        self._still_s = 0
        self._pitch_deg: float | None = None
        self._report_s = 0

    @property
    def awake(self) -> bool:
        """Raw vibration flows, and the receiver is kept on."""
        return self._awake and not self._dead

    @property
    def dead(self) -> bool:
        """The supply was cut and the last report sent."""
        return self._dead

    def second(self, state: State, heard: list[Transmission]) -> list[Timed]:
        """All frames of the second of `state`, in order of time."""
        if self._dead:
            return []
        out: list[Timed] = []
        if state.t_s == 0:
            out.append((0, self._framer.hello(VEHICLE_ID, 1)))
        for at_ms, cbor in sorted(self._bodies(state, heard), key=lambda body: body[0]):
            out.append((at_ms * 1_000_000, self._framer.data(cbor)))
        return out

    def _bodies(self, state: State, heard: list[Transmission]) -> list[_Body]:
        if not state.supplied:
            self._dead = True
            return [self._power(state, 0.02, PowerState.LOW_BATTERY, 0, supply_v=0.0)]
        woken = self._decide(state)
        out = [self._data(state, tyre.at_s, tyres=[_tyre(tyre)]) for tyre in heard]
        if self._awake:
            out += self._awake_second(state, self._sensor.second(state), woken)
        elif state.t_s >= self._report_s:
            out.append(self._watch_report(state, self._sensor.second(state)))
        return out

    def _decide(self, state: State) -> bool:
        """Whether the board is awake in this second; True where it has just woken."""
        tilted = self._pitch_deg is not None and abs(state.pitch_deg - self._pitch_deg) > 0.05
        self._pitch_deg = state.pitch_deg
        moving = (
            state.engine or state.speed_mps > 0.02 or state.bump or tilted
            or state.kind in (Kind.WINCHED, Kind.OPENED)
        )  # fmt: skip
        self._still_s = 0 if moving else self._still_s + 1
        before = self._awake
        self._awake = moving or (before and self._still_s <= STILL_S)
        if before and not self._awake:
            self._report_s = state.t_s
        if self._awake and not before:
            self._report_s = state.t_s
            return state.t_s > 0
        return False

    def _awake_second(self, state: State, samples: vibration.Samples, woken: bool) -> list[_Body]:
        out: list[_Body] = []
        if state.t_s >= self._report_s or (state.case_open and self._still_s == 0):
            self._report_s = state.t_s + AWAKE_PERIOD_S
            out.append(self._power(state, 0.05, PowerState.DRIVING, AWAKE_NEXT_S))
        per_frame = round(vibration.RATE_HZ * FRAME_S)
        for number in range(round(1 / FRAME_S)):
            if woken and number * FRAME_S < _WAKE_S:
                continue
            part = samples[number * per_frame : (number + 1) * per_frame]
            raw = (vibration.RATE_HZ, vibration.SCALE_UM_S2, vibration.to_wire(part))
            out.append(self._data(state, (number + 1) * FRAME_S, raw=raw))
        return out

    def _watch_report(self, state: State, samples: vibration.Samples) -> _Body:
        self._report_s = state.t_s + WATCH_PERIOD_S
        mean = samples.mean(axis=0)
        moving = samples - mean
        rms = np.sqrt((moving**2).mean(axis=0)) * 1000
        peak = float(np.sqrt((moving**2).sum(axis=1)).max()) * 1000
        x, y, z = (round(float(v)) for v in rms)
        gx, gy, gz = (round(float(v) * 1000) for v in mean)
        features = (1000, vibration.RATE_HZ, x, y, z, round(peak), gx, gy, gz, None)
        power = self._supply(state, PowerState.PARKED_WATCH, WATCH_NEXT_S)
        return self._data(state, 0.4, features=features, power=power)

    def _supply(
        self, state: State, mode: PowerState, next_s: int, supply_v: float | None = None
    ) -> wire.PowerItem:
        if supply_v is None:
            supply_v = (ENGINE_V if state.engine else REST_V) + float(self._rng.normal(0.0, 0.03))
        return round(supply_v * 1000), int(mode), int(state.case_open), next_s

    def _power(
        self, state: State, at_s: float, mode: PowerState, next_s: int, *, supply_v: float | None = None
    ) -> _Body:
        return self._data(state, at_s, power=self._supply(state, mode, next_s, supply_v))

    def _data(
        self,
        state: State,
        at_s: float,
        *,
        raw: wire.Raw | None = None,
        features: wire.Features | None = None,
        tyres: Sequence[wire.TyreItem] = (),
        power: wire.PowerItem | None = None,
    ) -> _Body:
        at_ms = state.t_s * 1000 + round(at_s * 1000)
        return at_ms, wire.encode_data(at_ms, raw=raw, features=features, tyres=tyres, power=power)


class RoadsideBoard:
    """The receiver board of a roadside node: mains supply, and an exciter that makes tyre sensors speak."""

    REACH_M: Final = 30.0
    """Distance at which the low-frequency exciter's field wakes a tyre sensor."""

    def __init__(self) -> None:
        self._framer = Framer()
        self._passing = False

    def second(self, t_s: int, distance_m: float, near: list[Transmission]) -> list[Timed]:
        """Frames of this second; `near` are the vehicle's tyres, heard once when it comes into reach."""
        start_ns = t_s * NS
        out: list[Timed] = []
        if t_s == 0:
            out.append((start_ns, self._framer.hello(ROADSIDE_ID, 1)))
        if t_s % WATCH_PERIOD_S == 0:
            power = (12000, int(PowerState.PARKED_WATCH), 0, WATCH_NEXT_S)
            body = wire.encode_data(t_s * 1000 + 300, power=power)
            out.append((start_ns + 300_000_000, self._framer.data(body)))
        inside = distance_m <= self.REACH_M
        if inside and not self._passing:
            body = wire.encode_data(t_s * 1000 + 600, tyres=[_tyre(tyre) for tyre in near])
            out.append((start_ns + 600_000_000, self._framer.data(body)))
        self._passing = inside
        return out

"""What a three-axis accelerometer in the vehicle feels, one second at 1 kHz at a time.

Engine: a tone at twice the crankshaft's speed (four cylinders; 25 Hz at idle) with its first overtone.
Road: broad noise that grows with speed. Flatbed: sway of 2 to 6 Hz and muffled road, no engine tone.
Winch: the deck's hydraulic hum and jerks of the rope. Rest: sensor noise and, now and then, a bump.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.sim.motion import Kind, State

RATE_HZ: Final = 1000
G_MPS2: Final = 9.80665
SCALE_UM_S2: Final = 898
"""One step of a 3 g range in 16 bits: 3 * 9.80665e6 / 32768, rounded up."""
_LOOP: Final = 1 << 15
"""Samples of prepared noise; read at a running offset, so that it does not repeat audibly in a window."""
_SENSOR_NOISE: Final = 0.018
"""m/s^2 rms of an accelerometer of this class in 500 Hz of bandwidth."""

Samples: TypeAlias = NDArray[np.float64]


def _shaped(rng: np.random.Generator, low_hz: float, high_hz: float, tilt: float) -> Samples:
    """A loop of Gaussian noise of rms 1 between two frequencies, falling as f**-tilt."""
    spectrum = np.fft.rfft(rng.standard_normal(_LOOP))
    f = np.fft.rfftfreq(_LOOP, 1 / RATE_HZ)
    gain = np.where((f >= low_hz) & (f <= high_hz), np.maximum(f, 1.0) ** -tilt, 0.0)
    noise = np.fft.irfft(spectrum * gain, _LOOP)
    return noise / float(np.sqrt(np.mean(noise**2)))


class Accelerometer:
    """The sensor and everything that shakes it. Deterministic from its seed."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 3])
        self._rng = rng
        self._road = _shaped(rng, 1.0, 180.0, 0.5)
        self._muffled = _shaped(rng, 1.0, 60.0, 0.8)
        self._sway = _shaped(rng, 2.0, 6.0, 0.0)
        self._white = rng.standard_normal(_LOOP)
        self._phase = 0.0
        self._t = np.arange(RATE_HZ) / RATE_HZ

    def second(self, state: State) -> Samples:
        """(1000, 3) accelerations in m/s^2 over the second of `state`, gravity included."""
        out = np.empty((RATE_HZ, 3))
        out[:] = _gravity(state)
        for axis in range(3):
            out[:, axis] += self._take(self._white) * _SENSOR_NOISE
        out[:, 0] += state.accel_mps2
        out[:, 1] += state.speed_mps * state.yaw_rps
        if state.engine:
            self._add_drive(out, state)
        elif state.kind is Kind.CARRIED:
            self._add_flatbed(out, state)
        elif state.kind is Kind.WINCHED:
            self._add_winch(out, state)
        elif state.kind is Kind.OPENED:
            self._add_knocks(out, count=5, strength=9.0)
        if state.bump:
            self._add_knocks(out, count=2, strength=1.2)
        return out

    def _take(self, loop: Samples) -> Samples:
        start = int(self._rng.integers(0, _LOOP - RATE_HZ))
        return loop[start : start + RATE_HZ]

    def _tone(self, hz: float) -> Samples:
        wave = self._phase + 2 * math.pi * hz * self._t
        self._phase = (self._phase + 2 * math.pi * hz) % (2 * math.pi)
        return wave

    def _add_drive(self, out: Samples, state: State) -> None:
        revs = 25.0 + (0.0 if state.speed_mps < 0.5 else 28.0 + (state.speed_mps % 9.0) * 3.1)
        wave = self._tone(revs)
        engine = 0.16 * np.sin(wave) + 0.07 * np.sin(2 * wave)
        road = 0.06 * state.speed_mps
        for axis, (of_engine, of_road) in enumerate(((0.6, 0.35), (0.5, 0.45), (1.0, 1.0))):
            out[:, axis] += of_engine * engine + of_road * road * self._take(self._road)

    def _add_flatbed(self, out: Samples, state: State) -> None:
        sway = 0.08 + 0.045 * state.speed_mps
        road = 0.015 * state.speed_mps
        for axis, (of_sway, of_road) in enumerate(((0.4, 0.4), (0.9, 0.6), (1.0, 1.0))):
            out[:, axis] += of_sway * sway * self._take(self._sway) + of_road * road * self._take(
                self._muffled
            )

    def _add_winch(self, out: Samples, state: State) -> None:
        hum = 0.10 * np.sin(self._tone(11.5))
        for axis, share in enumerate((0.8, 0.5, 1.0)):
            out[:, axis] += share * (hum + 0.12 * self._take(self._sway))
        if state.t_s % 3 == 0:
            self._add_knocks(out, count=1, strength=4.5)

    def _add_knocks(self, out: Samples, *, count: int, strength: float) -> None:
        """Short ringing blows on all axes; `strength` is about the peak in m/s^2."""
        for _ in range(count):
            at = int(self._rng.integers(0, RATE_HZ - 200))
            t = self._t[: RATE_HZ - at]
            ring = strength * np.exp(-t * 28.0) * np.sin(2 * math.pi * 41.0 * t)
            for axis, share in enumerate(self._rng.uniform(0.3, 1.0, 3)):
                out[at:, axis] += share * ring


def _gravity(state: State) -> tuple[float, float, float]:
    pitch, roll = math.radians(state.pitch_deg), math.radians(state.roll_deg)
    return (
        G_MPS2 * math.sin(pitch),
        -G_MPS2 * math.sin(roll) * math.cos(pitch),
        G_MPS2 * math.cos(roll) * math.cos(pitch),
    )


def to_wire(samples: Samples) -> bytes:
    """int16 little-endian, x y z interleaved, `SCALE_UM_S2` micrometres a second squared a step."""
    steps = np.rint(samples * (1e6 / SCALE_UM_S2))
    return bytes(np.clip(steps, -32768, 32767).astype("<i2").tobytes())

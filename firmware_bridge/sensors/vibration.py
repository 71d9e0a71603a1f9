"""Raw accelerometer samples -> features of one-second windows.

int16 samples in steps of `scale` µm/s² are collected until a second is full. The mean of the window is
gravity, and so says how the device lies; what remains is vibration.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from firmware_bridge.reading import Vibration

MAX_RATE_HZ: Final = 4000
"""Fastest sampling accepted; bounds the window at 24 kB."""
LOWEST_HZ: Final = 2.0
"""Below it lie braking and bends, not vibration."""
STILL_MPS2: Final = 0.03
"""A window whose rms over all axes is less is a sensor's own noise: it has no dominant frequency."""
MAX_PAUSE_MS: Final = 2000
"""Batches further apart on the board's clock are not one stretch: the window begins anew."""
_AXES: Final = 3


class RawWindow:
    """Collects batches of samples; holds less than one second of them."""

    def __init__(self) -> None:
        self._batches: list[npt.NDArray[np.int16]] = []
        self._samples = 0
        self._form: tuple[int, int] | None = None
        self._board_ms = 0

    def clear(self) -> None:
        """Forget the samples held: something is missing between them and what comes."""
        self._batches.clear()
        self._samples = 0

    def add(
        self, t_ns: int, port: str, board_ms: int, rate_hz: int, scale_um_s2: int, samples: bytes
    ) -> list[Vibration]:
        """Add one batch; a reading for every second that it completes.

        `samples` holds int16 little endian x, y, z triples, `rate_hz` is 1 .. MAX_RATE_HZ.
        """
        batch = np.frombuffer(samples, dtype="<i2").reshape(-1, _AXES)
        span_ms = len(batch) * 1000 // rate_hz
        if self._form != (rate_hz, scale_um_s2) or board_ms - self._board_ms > MAX_PAUSE_MS + span_ms:
            self.clear()
            self._form = (rate_hz, scale_um_s2)
        self._board_ms = board_ms
        self._batches.append(batch)
        self._samples += len(batch)
        if self._samples < rate_hz:
            return []
        whole = np.concatenate(self._batches)
        full = len(whole) // rate_hz
        out = [
            features(t_ns, port, whole[n * rate_hz : (n + 1) * rate_hz], rate_hz, scale_um_s2)
            for n in range(full)
        ]
        rest = whole[full * rate_hz :].copy()
        self._batches = [rest] if len(rest) else []
        self._samples = len(rest)
        return out


def features(
    t_ns: int, port: str, samples: npt.NDArray[np.int16], rate_hz: int, scale_um_s2: int
) -> Vibration:
    """The features of one window of shape (n, 3) in steps of `scale_um_s2` µm/s²."""
    accel = samples.astype(np.float64) * (scale_um_s2 * 1e-6)
    gravity = accel.mean(axis=0)
    moving = accel - gravity
    square = moving * moving
    rms = np.sqrt(square.mean(axis=0))
    peak = float(np.sqrt(square.sum(axis=1).max()))
    return Vibration(
        t_ns,
        port,
        len(samples) / rate_hz,
        float(rate_hz),
        (float(rms[0]), float(rms[1]), float(rms[2])),
        peak,
        (float(gravity[0]), float(gravity[1]), float(gravity[2])),
        _dominant_hz(moving, float(np.sqrt((rms * rms).sum())), rate_hz),
    )


def _dominant_hz(moving: npt.NDArray[np.float64], rms: float, rate_hz: int) -> float | None:
    if rms < STILL_MPS2:
        return None
    power = (np.abs(np.fft.rfft(moving, axis=0)) ** 2).sum(axis=1)
    frequency = np.fft.rfftfreq(len(moving), 1.0 / rate_hz)
    above = frequency > LOWEST_HZ
    if not above.any():
        return None
    return float(frequency[above][int(power[above].argmax())])

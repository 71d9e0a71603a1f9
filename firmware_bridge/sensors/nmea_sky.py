"""GSV: the satellites in view, all constellations of one cycle put together.

    $--GSV,sentences,number,in view{,satellite,elevation,azimuth,SNR}[,signal]

Since NMEA 4.10 a constellation comes once a signal; a satellite heard on two signals counts once.
Sentences are kept as they come and read together when the cycle is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from firmware_bridge.reading import SkyView
from firmware_bridge.sensors.nmea_fields import FieldError

MAX_SENTENCES: Final = 64
"""Of one cycle: six constellations on two signals need 40. Bounds what a mad sender can make us hold."""


class Sky:
    """Collects the GSV sentences of one cycle."""

    def __init__(self, over: Callable[[], None]) -> None:
        """`over` is called when a new cycle begins, and must `flush`."""
        self._over = over
        self._sentences: list[list[bytes]] = []
        self._begun: set[bytes] = set()
        self._by_signal = False

    def add(self, body: bytes) -> None:
        """Take a sentence in. Raises FieldError."""
        f = body.split(b",")
        if len(f) < 4:
            raise FieldError("malformed")
        if f[2] == b"1":
            by_signal = len(f) % 4 == 1
            signal = f[0] + f[-1] if by_signal else f[0]
            if signal in self._begun:  # the first of its constellation and signal again
                self._over()
            self._begun.add(signal)
            self._by_signal |= by_signal
        if len(self._sentences) >= MAX_SENTENCES:
            self._over()
        self._sentences.append(f)

    def clear(self) -> None:
        """Forget the cycle that has begun."""
        self._sentences = []
        self._begun.clear()
        self._by_signal = False

    def flush(self, t_ns: int, port: str) -> SkyView | None:
        """The view collected so far, None where no GSV came since the last."""
        sentences = self._sentences
        if not sentences:
            return None
        in_view: dict[bytes, bytes] = {}
        strengths: list[bytes] = []
        for f in sentences:
            in_view[f[0]] = f[3]
            strengths += f[7::4]
        heard, strongest = _heard(strengths)
        total = 0
        if self._by_signal:
            heard = _satellites_heard(sentences)
            total = _satellites_in_view(sentences)
        else:
            for field in in_view.values():
                total += _count(field)
        self.clear()
        return SkyView(t_ns, port, total, heard, float(strongest) if strongest else None)


def _heard(strengths: list[bytes]) -> tuple[int, int]:
    """How many SNR fields say something, and the largest in dBHz."""
    figures = b"".join(strengths)
    told = len(strengths) - strengths.count(b"")
    if not told:
        return 0, 0
    if len(figures) == 2 * told and figures.isdigit():  # the usual case: two digits or blank
        return told - strengths.count(b"00"), int(max(strengths))
    values = [_snr(field) for field in strengths]
    return len(values) - values.count(0), max(values)


def _satellites_heard(sentences: list[list[bytes]]) -> int:
    """Different satellites with an SNR, where they come once a signal."""
    return len({f[0] + f[index - 3] for f in sentences for index in range(7, len(f), 4) if _snr(f[index])})


def _satellites_in_view(sentences: list[list[bytes]]) -> int:
    """The largest number each constellation told, where its signals differ."""
    most: dict[bytes, int] = {}
    for f in sentences:
        most[f[0]] = max(_count(f[3]), most.get(f[0], 0))
    return sum(most.values())


def _count(field: bytes) -> int:
    """Satellites in view, 0 .. 999; 0 where the field is no such number."""
    return int(field) if len(field) <= 3 and field.isdigit() else 0


def _snr(field: bytes) -> int:
    """0 .. 99 dBHz; 0 where the satellite is not heard, or the field is no such number."""
    return int(field) if len(field) <= 2 and field.isdigit() else 0

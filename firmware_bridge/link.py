"""One port as a state machine: absent, silent, babbling or in order. Bytes and time in, readings out.

It opens nothing itself. The runtime tells it what happened (`opened`, `received`, `lost`, and `tick` about
once a second) and asks it how long to wait before it tries again. A `PortState` comes out whenever what a
technician would be told changes, and only then.
"""

from __future__ import annotations

from typing import Final, Protocol

from firmware_bridge.reading import PortCondition, PortState, Reading, Refusal
from firmware_bridge.timekeeper import Now
from firmware_bridge.wire.stamp import NS

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
"""A port that comes back is found within half a minute, and an absent one costs nothing."""
NOISE_NS: Final = 20 * NS
"""Bytes for so long without one intact sentence: the speed is wrong."""
NOISE_BYTES: Final = 64
"""Fewer are a disturbance on an idle line, not a sender at another speed."""
SILENCE_S: Final = 180
"""No byte at all for so long is worth a word; a parked vehicle is heard every 60 s."""


class Decoder(Protocol):
    """Turns the bytes of one port into readings; never raises on input, never holds more than it says."""

    @property
    def intact(self) -> int:
        """Sentences or frames so far whose check sum was right, whatever they said."""
        ...

    def feed(self, data: bytes, now: Now) -> list[Reading | Refusal]:
        """What `data` completes, stamped with `now`."""
        ...

    def reset(self) -> None:
        """Forget what had begun: the port was reopened."""
        ...


class Link:
    """The state of one port."""

    def __init__(
        self,
        port: str,
        decoder: Decoder,
        *,
        expects: str = "sentence",
        baud: int | None = None,
        silence_s: int = SILENCE_S,
    ) -> None:
        """`port` is the name in the configuration, `expects` one word for what should come ("sentence",
        "frame"), `baud` the speed it is opened with, for the message only.
        """
        self.port: Final = port
        self._decoder = decoder
        self._expects = expects
        self._baud = baud
        self._silence_ns = silence_s * NS
        self._told: tuple[PortCondition, str] | None = None
        self._open = False
        self._opened_ns = 0
        self._heard_ns = 0
        self._noise_since_ns: int | None = None
        self._noise = 0
        self._backoff_s = 0.0
        self.bytes = 0
        """Bytes received so far."""

    @property
    def condition(self) -> PortCondition:
        """What was last told; ABSENT before the port was first opened."""
        return PortCondition.ABSENT if self._told is None else self._told[0]

    @property
    def detail(self) -> str:
        """The sentence that goes with `condition`."""
        return "not opened yet" if self._told is None else self._told[1]

    @property
    def backoff_s(self) -> float:
        """Seconds to wait before the port is opened again."""
        return self._backoff_s

    def opened(self, now: Now) -> list[Reading | Refusal]:
        """The port is open; nothing was received yet."""
        self._decoder.reset()
        self._open = True
        self._opened_ns = self._heard_ns = now.mono_ns
        self._noise_since_ns = None
        self._noise = 0
        return []

    def received(self, data: bytes, now: Now) -> list[Reading | Refusal]:
        """Bytes arrived: their readings, after a PortState where the condition changed."""
        if not data:
            return []
        self.bytes += len(data)
        self._heard_ns = now.mono_ns
        before = self._decoder.intact
        items = self._decoder.feed(data, now)
        if self._decoder.intact != before:
            self._noise_since_ns = None
            self._noise = 0
            self._backoff_s = 0.0
            return [*self._tell(now, PortCondition.OK, f"{self._expects}s arrive"), *items]
        if self._noise_since_ns is None:
            self._noise_since_ns = now.mono_ns
        self._noise += len(data)
        return [*items, *self._check_noise(now)]

    def tick(self, now: Now) -> list[Reading | Refusal]:
        """Time went on; call it about once a second."""
        if not self._open:
            return []
        if now.mono_ns - self._heard_ns >= self._silence_ns:
            heard = "no byte yet" if self._heard_ns == self._opened_ns else "no byte any more"
            text = (
                f"open, but {heard}: check the power and the receive line of the device on port {self.port}"
            )
            return self._tell(now, PortCondition.NO_BYTES, text)
        return self._check_noise(now)

    def lost(self, now: Now, why: str) -> list[Reading | Refusal]:
        """The port cannot be opened, or went away; `why` is said to the technician as it is."""
        self._open = False
        self._backoff_s = min(max(self._backoff_s * 2, BACKOFF_FIRST_S), BACKOFF_MAX_S)
        return self._tell(now, PortCondition.ABSENT, why)

    def _check_noise(self, now: Now) -> list[Reading | Refusal]:
        since = self._noise_since_ns
        if since is None or self._noise < NOISE_BYTES or now.mono_ns - since < NOISE_NS:
            return []
        speed = "its speed" if self._baud is None else f"the speed ({self._baud} baud is set)"
        text = (
            f"bytes arrive on port {self.port}, but no valid {self._expects} for {NOISE_NS // NS} s: "
            f"most likely {speed} is wrong; set `baud` of this port to the sender's (9600, 38400, 115200)"
        )
        return self._tell(now, PortCondition.NO_SENTENCE, text)

    def _tell(self, now: Now, condition: PortCondition, detail: str) -> list[Reading | Refusal]:
        if self._told == (condition, detail):
            return []
        self._told = (condition, detail)
        return [PortState(now.mono_ns, self.port, condition, detail)]

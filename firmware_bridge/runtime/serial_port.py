"""One task a port: open it, hand its bytes to its Link, say what is wrong, open it again.

Bytes are decoded in the very callback that read them, before the event loop does anything else: nothing
waits in a second buffer, and a scenario in lock-step sees a port as read only when its readings are out.
Ports are opened exclusively (advisory lock), so a second program of ours is refused, not mixed in.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import termios
from collections.abc import Callable
from typing import Final, TypeAlias

import serialx

from firmware_bridge.link import Link
from firmware_bridge.reading import Reading, Refusal
from firmware_bridge.timekeeper import Now

TICK_S: Final = 1.0
"""How often the link is told that time went on, in real seconds."""
_GONE: Final = frozenset((errno.EIO, errno.ENXIO, errno.ENODEV, errno.EBADF))

Deliver: TypeAlias = Callable[[list[Reading | Refusal]], None]

# serialx logs every read on its own logger; a node's log is for people.
logging.getLogger("serialx").setLevel(logging.WARNING)


async def run_port(path: str, baud: int, link: Link, now: Callable[[], Now], deliver: Deliver) -> None:
    """Read the port at `path` with `baud` bits per second into `link` until cancelled.

    `deliver` gets every batch of readings and refusals, in order, on the event loop; it must not block for
    long. A port that is absent, taken or forbidden is tried again after 0.5 s, doubling to 30 s, and its
    PortState says what to do. Whatever `deliver` raises ends the task and is raised from here.
    """
    while True:
        why = await _session(path, baud, link, now, deliver)
        _hand_over(deliver, link.lost(now(), why))
        await asyncio.sleep(link.backoff_s)


async def _session(path: str, baud: int, link: Link, now: Callable[[], Now], deliver: Deliver) -> str:
    """One opening of the port, until it is lost; the reason in a sentence."""
    loop = asyncio.get_running_loop()
    port = _Port(link, now, deliver, loop.create_future())
    try:
        transport, _ = await serialx.create_serial_connection(loop, lambda: port, path, baudrate=baud)
    # Back-ends raise OSError, termios.error, ValueError and, on dead peers, AssertionError: each means that
    # there is no port, and none may end the node.
    except Exception as error:  # noqa: BLE001
        return explain(path, baud, error)
    try:
        while not port.ended.done():
            await asyncio.wait((port.ended,), timeout=TICK_S)
            if not port.ended.done():
                _hand_over(deliver, link.tick(now()))
        error_or_none = port.ended.result()  # raises what `deliver` raised
    finally:
        transport.abort()
        await transport.wait_closed()
    return explain(path, baud, error_or_none)


def explain(path: str, baud: int, error: BaseException | None) -> str:
    """What a technician reads when the port at `path` cannot be opened or was lost."""
    if isinstance(error, (serialx.UnsupportedSetting, ValueError)):
        return f"{path} cannot run at {baud} baud ({error}): set `baud` of this port to a usual speed"
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, termios.error):
        number = error.args[0] if error.args else None
    if number == errno.ENOENT:
        return f"{path} is not there: plug the device in, or set `path` to one of /dev/serial/by-path/*"
    if number in (errno.EACCES, errno.EPERM):
        return (
            f"no permission to open {path}: run `sudo usermod -aG dialout USER` for the user that runs "
            "Holdfast, then log in again"
        )
    if number in (errno.EBUSY, errno.EAGAIN):
        return (
            f"{path} is in use by another program: `fuser -v {path}` names it; gpsd and ModemManager "
            "take ports by themselves (systemctl stop gpsd.socket gpsd ModemManager)"
        )
    if number in (errno.ENOTTY, errno.EINVAL, errno.EISDIR):
        return f"{path} is not a serial port: set `path` to one of /dev/serial/by-path/*"
    if error is None or number in _GONE:
        return f"{path} went away (unplugged?): it is opened again as soon as it is back"
    return f"{path} cannot be read: {error}"


def _hand_over(deliver: Deliver, items: list[Reading | Refusal]) -> None:
    if items:
        deliver(items)


class _Port(asyncio.Protocol):
    """What serialx calls: `ended` is resolved with the error that took the port away."""

    def __init__(
        self,
        link: Link,
        now: Callable[[], Now],
        deliver: Deliver,
        ended: asyncio.Future[BaseException | None],
    ) -> None:
        self._link = link
        self._now = now
        self._deliver = deliver
        self.ended = ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._guard(lambda: self._link.opened(self._now()))

    def data_received(self, data: bytes) -> None:
        self._guard(lambda: self._link.received(data, self._now()))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(exc)

    def _guard(self, step: Callable[[], list[Reading | Refusal]]) -> None:
        """Run one step; what it raises must reach the task, not the event loop's log."""
        if self.ended.done():
            return
        try:
            _hand_over(self._deliver, step())
        except Exception as error:  # noqa: BLE001  (raised again from run_port)
            self.ended.set_exception(error)

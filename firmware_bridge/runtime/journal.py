"""The one logger of all daemons: to journald where stderr is the journal, else lines on stderr.

Under systemd ($JOURNAL_STREAM names stderr's own device and inode) each line is a datagram with fields to
journald's socket. When the journal does not take one, it goes to stderr with its priority in front
(sd-daemon(3)); when the journal is full, it is counted and the count told later: a log never blocks a daemon.
Elsewhere a line is readable text, or a JSON object where `--log-format json` or HOLDFAST_LOG_FORMAT asks.

Everything passes Python's `logging`, so that libraries are bounded and cleaned as our own lines are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, TextIO, cast, get_args

from firmware_bridge import logline
from firmware_bridge.logline import LIBRARY, OWN_KINDS, PRIORITIES, Kind, Line, Rates

JOURNAL_SOCKET: Final = Path("/run/systemd/journal/socket")
FORMAT_VARIABLE: Final = "HOLDFAST_LOG_FORMAT"
"""What `--log-format` sets, for this process and its children."""
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_LIBRARY: Final = OWN_KINDS[LIBRARY]

Format = Literal["auto", "text", "json"]


def choose(value: str | None) -> None:
    """Set the form of lines outside the journal. Raises ValueError that names the forms."""
    if value is None:
        return
    if value not in get_args(Format):
        raise ValueError(f"{value!r} is no form of log lines: {', '.join(get_args(Format))}")
    os.environ[FORMAT_VARIABLE] = value


def is_journal(stream: TextIO, variable: str | None) -> bool:
    """Whether `stream` goes to the journal: its "device:inode" stands in JOURNAL_STREAM (systemd.exec(5))."""
    try:
        device, _, inode = (variable or "").partition(":")
        found = os.fstat(stream.fileno())
        return (found.st_dev, found.st_ino) == (int(device), int(inode))
    except (OSError, ValueError):
        return False


class Journal(logging.Handler):
    """Writes lines; never raises and never blocks on the journal. Safe for threads."""

    def __init__(
        self,
        identifier: str,
        level: str = "info",
        stream: TextIO | None = None,
        *,
        form: Format | None = None,
        journal: Path = JOURNAL_SOCKET,
        common: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        self.identifier = identifier
        self.common: dict[str, object] = dict(common or {})
        """Fields of every line: tenant and device, on a node."""
        self._stream = stream if stream is not None else sys.stderr
        self._least = level
        chosen = form or cast(Format, os.environ.get(FORMAT_VARIABLE) or "auto")
        self._json = chosen == "json"
        self._rates = Rates()
        self._guard = threading.RLock()
        self._lost = 0
        self._address = str(journal)
        self._socket: socket.socket | None = None
        if chosen == "auto" and is_journal(self._stream, os.environ.get("JOURNAL_STREAM")):
            with contextlib.suppress(OSError):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)

    def set_level(self, level: str) -> None:
        """From now on only lines from `level` up. Raises KeyError for no level."""
        self._least = {name: name for name in PRIORITIES}[level]

    def enabled(self, level: str) -> bool:
        """Whether a line of this level is written."""
        return PRIORITIES[level] <= PRIORITIES[self._least]

    def say(
        self, kind: Kind, fields: Mapping[str, object], *, level: str | None = None, trace: str = ""
    ) -> None:
        """Write one line of `kind`, if its level and its rate allow."""
        if self.enabled(level or kind.level):
            self._admit(kind, fields, level, trace)

    def emit(self, record: logging.LogRecord) -> None:
        """A line of a Teller, or a record of a library."""
        level = next((name for name, number in _LEVELS.items() if record.levelno <= number), "error")
        if not self.enabled(level):
            return
        error = record.exc_info[1] if record.exc_info else None
        trace = "".join(traceback.format_exception(error)) if error is not None else ""
        kind: object = getattr(record, "kind", None)
        if isinstance(kind, Kind):
            fields: Mapping[str, object] = getattr(record, "fields", {})
            self._admit(kind, fields, level, trace)
            return
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # a library's own mistake
            text = str(record.msg)
        more = {} if error is None else {"error": repr(error)}
        self._admit(_LIBRARY, {"detail": text, "task": record.name, **more}, level, trace)

    def close(self) -> None:
        """Tell what was left out, and let go of the socket."""
        with self._guard:
            self._tell_owed(time.monotonic(), all_=True)
            if self._socket is not None:
                self._socket.close()
                self._socket = None
        super().close()

    def _admit(self, kind: Kind, fields: Mapping[str, object], level: str | None, trace: str) -> None:
        with self._guard:
            now = time.monotonic()
            count = self._rates.admit(kind, now, str(fields.get(kind.by, "")))
            self._tell_owed(now)
            if count is None:
                return
            made = self._line(kind, {**self.common, **fields}, level, trace)
            self._write(dataclasses.replace(made, suppressed=count))

    def _tell_owed(self, now_s: float, *, all_: bool = False) -> None:
        """Counts of what was left out of kinds that are not said at this moment."""
        for kind, part, count in self._rates.owed(now_s, all_=all_):
            made = self._line(kind, {**self.common, **({kind.by: part} if kind.by else {}), "count": count})
            text = f"{count} more of this kind were not written"
            self._write(dataclasses.replace(made, text=text))

    def _line(
        self, kind: Kind, fields: Mapping[str, object], level: str | None = None, trace: str = ""
    ) -> Line:
        return logline.make(kind, fields, time=_utc(), source=self.identifier, level=level, trace=trace)

    def _write(self, line: Line) -> None:
        if self._socket is not None:
            try:
                self._socket.sendto(logline.as_datagram(line), self._address)
            except BlockingIOError:  # the journal does not keep up
                self._lost += 1
                return
            except OSError:  # it is not there, or this is too large for it
                self._print(f"<{PRIORITIES[line.level]}>{logline.as_json(line)}")
                return
            if self._lost:
                lost, self._lost = self._lost, 0
                self._write(self._line(OWN_KINDS["log_lost"], {"count": lost}))
            return
        self._print(logline.as_json(line) if self._json else logline.as_text(line))

    def _print(self, text: str) -> None:
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass  # stderr is gone or its disk is full: the daemon goes on


def _utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def open_journal(identifier: str, level: str = "info", **common: object) -> Journal:
    """Send all logging of this process through one Journal; an earlier one ends."""
    found = Journal(identifier, level, common=common)
    logging.basicConfig(level=_LEVELS[level], handlers=[found], force=True)
    return found


def set_level(level: str) -> None:
    """Change the least level of this process's Journal. Raises KeyError for no level."""
    logging.getLogger().setLevel(_LEVELS[level])
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Journal):
            handler.set_level(level)


def about(**common: object) -> None:
    """Fields of every line from now on, of this process's Journal."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Journal):
            handler.common.update(common)


class Teller:
    """Says the kinds of one table through `logging`, under one logger's name."""

    def __init__(self, name: str, kinds: Mapping[str, Kind]) -> None:
        self._logger = logging.getLogger(name)
        self.kinds = kinds

    def __call__(
        self, kind: str, *, level: str | None = None, exc_info: BaseException | None = None, **fields: object
    ) -> None:
        """One line. Raises KeyError for a kind that is not in the table."""
        found = self.kinds[kind]
        number = _LEVELS[level or found.level]
        if not self._logger.isEnabledFor(number):
            return
        text = logline.make(found, fields, time="", source="").text
        extra = {"kind": found, "fields": fields}
        self._logger.log(number, "%s", text, exc_info=exc_info, extra=extra, stacklevel=2)

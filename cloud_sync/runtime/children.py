"""Child processes of a demo or a crash test: started, listened to, measured and ended by their own pid.

Each child speaks JSON lines on stdout (`{"ready": true, ...}` first) and logs to a file. A child never
outlives its parent: the kernel sends it SIGTERM when the parent dies (Linux prctl, PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from cloud_sync.errors import CloudError

_PR_SET_PDEATHSIG: Final = 1
READY_TIMEOUT_S: Final = 30.0
"""Longest a child may take to say that it is ready; a cold start takes about a second."""
STOP_TIMEOUT_S: Final = 10.0
"""After SIGTERM; then SIGKILL."""


class ChildFailed(CloudError):
    """A child ended or stayed silent where it must not; the message ends with the tail of its log."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process used: resident memory now (peak where the kernel says it) and CPU time so far."""

    name: str
    rss_mb: float
    cpu_s: float


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Child:
    """One running child. `argv` follows the interpreter: `("-m", "module", ...)`."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, *, stdin: bool = False) -> None:
        self.name = name
        self._log = log
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._last_usage = Usage(name, 0.0, 0.0)
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *argv],
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                preexec_fn=_die_with_parent,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        threading.Thread(target=self._read, name=f"{name}-stdout", daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                self._lines.put(value)
        self._lines.put(None)

    def next_line(self, timeout_s: float) -> dict[str, Any] | None:
        """The next JSON object the child printed, or None when none came in time.

        Raises ChildFailed when the child has ended.
        """
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if line is None:
            self._lines.put(None)
            raise ChildFailed(f"{self.name} ended with code {self.process.wait()}: {self.log_tail()}")
        return line

    def wait_ready(self) -> dict[str, Any]:
        """The child's ready line. Raises ChildFailed when it ends or stays silent."""
        end = time.monotonic() + READY_TIMEOUT_S
        while (left := end - time.monotonic()) > 0:
            line = self.next_line(left)
            if line is not None and line.get("ready"):
                return line
        raise ChildFailed(f"{self.name} did not become ready in {READY_TIMEOUT_S:.0f} s: {self.log_tail()}")

    def say(self, text: str) -> None:
        """One line to the child's stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    @property
    def alive(self) -> bool:
        """Still running."""
        return self.process.poll() is None

    def usage(self) -> Usage:
        """Memory and CPU now; the last known figures once the child has ended."""
        try:
            process = psutil.Process(self.process.pid)
            with process.oneshot():
                cpu = process.cpu_times()
                rss = process.memory_info().rss / 1e6
            if rss > 0:
                self._last_usage = Usage(
                    self.name, round(max(rss, self._last_usage.rss_mb), 1), round(cpu.user + cpu.system, 2)
                )
        except psutil.Error:
            return self._last_usage
        return self._last_usage

    def kill(self) -> None:
        """SIGKILL, at once: for crash tests."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, then SIGKILL after STOP_TIMEOUT_S; the exit code."""
        if self.alive:
            self.usage()
            self.process.terminate()
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def log_tail(self, characters: int = 600) -> str:
        """The end of what the child logged."""
        try:
            return self._log.read_text("utf-8", "replace")[-characters:].strip() or "(it logged nothing)"
        except OSError as error:
            return f"(no log: {error})"

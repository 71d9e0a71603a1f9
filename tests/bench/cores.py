"""Which cores a process may use while it is measured; what it had before comes back."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

CAN_PIN: Final = hasattr(os, "sched_setaffinity")
"""Linux can; elsewhere everything runs where the system puts it, and "one core" is not one."""
ALL: Final[tuple[int, ...]] = tuple(sorted(os.sched_getaffinity(0))) if CAN_PIN else (0,)
"""The cores that this process was started with."""


def first() -> tuple[int, ...]:
    """The core of what is measured."""
    return ALL[:1]


def rest() -> tuple[int, ...]:
    """The cores of whoever asks it: all others, or the only one."""
    return ALL[1:] or ALL


def pin(pid: int, cores: Collection[int]) -> None:
    """Let the process `pid` run on `cores` alone (0: the calling thread and what it starts)."""
    if CAN_PIN:
        os.sched_setaffinity(pid, cores)


@contextmanager
def only(cores: Collection[int]) -> Iterator[None]:
    """Run this thread, and what it starts meanwhile, on `cores` alone."""
    before = os.sched_getaffinity(0) if CAN_PIN else set()
    pin(0, cores)
    try:
        yield
    finally:
        pin(0, before)

"""What `holdfast demo` was asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Options of one demonstration."""

    speed: float = 0.0
    """Scenario seconds per second; 0 is as fast as the readers read."""
    headless: bool = False
    """No live display, plain lines instead."""
    keep: bool = False
    """Leave the folder with all databases, keys and logs in place, and the page open."""
    replay: Path | None = None
    """A real log to play instead of the scenario."""
    json: Path | None = None
    """Where the machine-readable result goes."""
    scenario: str = "default"
    """Scenario of the simulator."""
    dir: Path | None = None
    """Folder to work in; a temporary one when None."""

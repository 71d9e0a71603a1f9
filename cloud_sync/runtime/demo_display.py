"""What a person sees while the demo runs: one progress bar with the scenario's phase, or plain lines."""

from __future__ import annotations

import sys
from typing import Any, Final, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn

from cloud_sync.demo_options import DemoOptions

WIDE: Final = 110
"""Columns of a terminal from which the bar and the figures fit beside the phase."""
PLAIN_STEP_PERCENT: Final = 10
"""Headless: one line each tenth of the way."""


class Display(Protocol):
    """Steps before the drive, then progress; errors at any time. Everything goes to stderr."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def step(self, text: str) -> None:
        """A step of preparation or winding up."""
        ...

    def progress(self, line: dict[str, Any], status: dict[str, Any]) -> None:
        """How far the world is, and what the vehicle's edge says."""
        ...

    def error(self, text: str) -> None:
        """What went wrong and what to do."""
        ...


def clock(seconds: float) -> str:
    """Scenario time as h:mm:ss."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _figures(status: dict[str, Any]) -> str:
    opened = len(status.get("open_incidents", ()))
    return (
        f"{status.get('position_valid', 0):,} fixes · {status.get('events', 0):,} events · "
        f"{status.get('receipts', 0):,} receipts · "
        + (f"{opened} incident{'s' if opened != 1 else ''} open" if opened else "nothing open")
    )


class PlainDisplay:
    """One line a step and a tenth of the way."""

    def __init__(self) -> None:
        self._percent = -PLAIN_STEP_PERCENT

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def step(self, text: str) -> None:
        print(f"holdfast demo: {text}", file=sys.stderr)

    def progress(self, line: dict[str, Any], status: dict[str, Any]) -> None:
        percent = int(100 * line["t_s"] / max(line["total_s"], 1e-9))
        if percent >= self._percent + PLAIN_STEP_PERCENT:
            self._percent = percent - percent % PLAIN_STEP_PERCENT
            print(
                f"{percent:3d} %  {clock(line['t_s'])}  {line['text']}  {_figures(status)}", file=sys.stderr
            )

    def error(self, text: str) -> None:
        print(f"holdfast demo: {text}", file=sys.stderr)


class RichDisplay:
    """A live line, with a bar and figures where there is room; each incident above it as it opens."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._wide = self._console.width >= WIDE
        columns: list[ProgressColumn] = [TextColumn("[bold]{task.fields[when]}[/]")]
        if self._wide:
            columns.append(BarColumn(bar_width=32))
        columns += [TextColumn("{task.percentage:3.0f} %"), TextColumn("{task.description}")]
        self._progress = Progress(*columns, console=self._console)
        self._task: TaskID | None = None
        self._told: set[int] = set()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def step(self, text: str) -> None:
        self._console.print(f"[dim]{text}[/]", highlight=False)

    def progress(self, line: dict[str, Any], status: dict[str, Any]) -> None:
        if self._task is None:
            self._task = self._progress.add_task("", total=line["total_s"], when="")
        for incident in status.get("open_incidents", ()):
            if incident["incident"] not in self._told:
                self._told.add(incident["incident"])
                told = f"{clock(line['t_s'])}  {incident['cause']}: {incident['sentence']}"
                self._console.print(told, style="bold yellow", markup=False, highlight=False)
        opened = len(status.get("open_incidents", ()))
        figures = _figures(status) if self._wide else f"{opened} open" if opened else ""
        self._progress.update(
            self._task,
            completed=line["t_s"],
            when=clock(line["t_s"]),
            description=f"{line['text']}  [dim]{figures}[/]",
        )

    def error(self, text: str) -> None:
        self._console.print(text, style="red", markup=False, highlight=False)


def make_display(options: DemoOptions) -> Display:
    """A bar for a person at a terminal, lines for everything else."""
    return PlainDisplay() if options.headless or not sys.stderr.isatty() else RichDisplay()

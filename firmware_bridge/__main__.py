"""`holdfast COMMAND`: finds the commands that installed packages registered, loads only the chosen one."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path

from firmware_bridge.cli import (
    FAILURE_EXIT,
    GROUP,
    USAGE_EXIT,
    Entry,
    help_text,
    summary_of,
    unknown_text,
)


def _source(entry: Entry) -> Path | None:
    """The file of the command's module, found without importing it; None where it is not installed."""
    package, *rest = entry.module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin)
    file = root.parent.joinpath(*rest).with_suffix(".py") if rest else root
    return file if file.is_file() else None


def _installed() -> dict[str, tuple[Entry, Path]]:
    """Every command whose module is here, by name."""
    found: dict[str, tuple[Entry, Path]] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        entry = Entry(point.name, point.module, point.attr)
        if file := _source(entry):
            found[entry.name] = (entry, file)
    return found


def _run(entry: Entry, args: list[str]) -> int:
    """Load one command and hand it its arguments; only a failure to load comes back as a code."""
    try:
        app = getattr(importlib.import_module(entry.module), entry.attribute)
    except (ImportError, AttributeError, SyntaxError) as error:
        reason = f"{type(error).__name__}: {error}"
        print(
            f"holdfast: `{entry.name}` is installed but cannot be loaded ({reason}).\n"
            "  Make the environment again (`make demo`, or `make node-install` on a node); if that does not"
            f" help, the fault is in {entry.module}.",
            file=sys.stderr,
        )
        return FAILURE_EXIT
    app(args, prog_name=f"holdfast {entry.name}", standalone_mode=True)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run `holdfast` with these arguments (default: the process's own); returns the exit code."""
    args = sys.argv[1:] if argv is None else argv
    if args[:1] == ["--version"]:
        print(f"holdfast {importlib.metadata.version('holdfast')}")
        return 0
    commands = _installed()
    if not args or args[0] in ("--help", "-h", "help"):
        summaries = {
            name: summary_of(file.read_text("utf-8"), entry.attribute)
            for name, (entry, file) in commands.items()
        }
        print(help_text(importlib.metadata.version("holdfast"), summaries))
        return 0 if args else USAGE_EXIT
    if args[0] not in commands:
        print(unknown_text(args[0], sorted(commands)), file=sys.stderr)
        return USAGE_EXIT
    return _run(commands[args[0]][0], args[1:])


if __name__ == "__main__":
    sys.exit(main())

"""`holdfast edge | roadside | uplink | outbox | status`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path, typer.Option("--config", help="The node's configuration, node.toml.", dir_okay=False)
]

edge = typer.Typer(add_completion=False, help="Watch a vehicle: read its ports, decide, sign, keep.")
roadside = typer.Typer(add_completion=False, help="The same beside the road: hears tyre sensors and LoRaWAN.")
uplink = typer.Typer(add_completion=False, help="Bring the outbox to the collector and its receipts back.")
status = typer.Typer(add_completion=False, help="How a running node is.")


def _run_node(config: Path, kind: str) -> None:
    # numpy is used for sums over a second of vibration: threads of a linear algebra library only cost memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from edge.runtime import edged

    raise typer.Exit(edged.run(config, kind))


@edge.command()
def run_edge(config: ConfigFile) -> None:
    """Watch a vehicle: read its ports, decide, sign, keep. Runs until SIGTERM."""
    _run_node(config, "vehicle")


@roadside.command()
def run_roadside(config: ConfigFile) -> None:
    """Watch a place: which tyre sensors pass, and which LoRaWAN frames. Runs until SIGTERM."""
    _run_node(config, "roadside")


@uplink.command()
def run_uplink(config: ConfigFile) -> None:
    """Bring the outbox to the collector and its receipts back. Runs until SIGTERM."""
    from edge.runtime import uplinkd

    raise typer.Exit(uplinkd.run(config))


@status.command()
def show_status(
    config: ConfigFile,
    json: Annotated[bool, typer.Option("--json", help="The edge's own JSON, for programs.")] = False,
) -> None:
    """One screen about a running node, or its JSON."""
    from edge.runtime import show

    raise typer.Exit(show.status(config, as_json=json))


outbox = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Look into a node's outbox; changes nothing."
)
OutboxFile = Annotated[Path, typer.Argument(help="outbox.db, one set aside as damaged, or the state folder.")]


def _outbox_path(path: Path) -> Path:
    return path / "outbox.db" if path.is_dir() else path


@outbox.command("peek")
def outbox_peek(
    path: OutboxFile,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="How many segments.")] = 10,
) -> None:
    """The newest segments in words, one JSON object a line."""
    import json

    from edge.errors import ConfigError, EdgeError
    from edge.runtime import outbox_tools
    from firmware_bridge.errors import WireError

    try:
        for segment in outbox_tools.peek(outbox_tools.open_outbox(_outbox_path(path)), count):
            typer.echo(json.dumps(segment, ensure_ascii=False))
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    except (EdgeError, WireError) as error:
        typer.echo(f"{error}: try `holdfast outbox fsck`", err=True)
        raise typer.Exit(1) from error


@outbox.command("fsck")
def outbox_fsck(
    path: OutboxFile,
    certificate: Annotated[
        Path | None,
        typer.Option("--cert", help="Event certificate; keys/event.crt beside the file if there."),
    ] = None,
) -> None:
    """Check structure, hashes, signatures and chain. Exit code 40 when something is not in order."""
    from edge.errors import ConfigError, EdgeError
    from edge.runtime import outbox_tools

    file = _outbox_path(path)
    beside = file.parent / "keys" / "event.crt"
    try:
        crt = certificate if certificate is not None else beside if beside.is_file() else None
        resolve = None if crt is None else outbox_tools.event_key(crt)
        report, findings = outbox_tools.fsck(outbox_tools.open_outbox(file), resolve)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    except EdgeError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    signed = "signatures checked" if resolve is not None else "signatures NOT checked: give --cert"
    typer.echo(f"{report.segments} segments, {report.events} events, {signed}")
    for reason, count in report.lost:
        typer.echo(f"told missing: {count} events ({reason.name.lower()})")
    for gap in report.gaps:
        typer.echo(
            f"not here: segments {gap.first} to {gap.last} of run {gap.run.hex()} (receipted, or lost)"
        )
    for finding in findings:
        typer.echo(f"{finding.what}: {finding.text}", err=True)
    if findings:
        raise typer.Exit(40)
    typer.echo("in order")


@outbox.command("export")
def outbox_export(
    path: OutboxFile, folder: Annotated[Path, typer.Argument(help="Where the files go.")]
) -> None:
    """Write every readable segment as a file of its own, with an index."""
    from edge.errors import ConfigError, EdgeError
    from edge.runtime import outbox_tools

    try:
        count = outbox_tools.export(outbox_tools.open_outbox(_outbox_path(path)), folder)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    except (EdgeError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{count} segments in {folder}")

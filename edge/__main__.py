"""`holdfast edge | roadside | uplink | outbox | status | config | doctor | metrics`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path, typer.Option("--config", help="The node's configuration, node.toml.", dir_okay=False)
]

LogFormat = Annotated[
    str | None, typer.Option("--log-format", help="Lines outside the journal: text or json; auto is text.")
]

edge = typer.Typer(add_completion=False, help="Watch a vehicle: read its ports, decide, sign, keep.")
roadside = typer.Typer(add_completion=False, help="The same beside the road: hears tyre sensors and LoRaWAN.")
uplink = typer.Typer(add_completion=False, help="Bring the outbox to the collector and its receipts back.")
status = typer.Typer(add_completion=False, help="How a running node is.")


def _log_as(form: str | None) -> None:
    from firmware_bridge.runtime import journal

    try:
        journal.choose(form)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--log-format") from error


def _run_node(config: Path, kind: str, log_format: str | None) -> None:
    _log_as(log_format)
    # numpy is used for sums over a second of vibration: threads of a linear algebra library only cost memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from edge.runtime import edged

    raise typer.Exit(edged.run(config, kind))


@edge.command()
def run_edge(config: ConfigFile, log_format: LogFormat = None) -> None:
    """Watch a vehicle: read its ports, decide, sign, keep. Runs until SIGTERM."""
    _run_node(config, "vehicle", log_format)


@roadside.command()
def run_roadside(config: ConfigFile, log_format: LogFormat = None) -> None:
    """Watch a place: which tyre sensors pass, and which LoRaWAN frames. Runs until SIGTERM."""
    _run_node(config, "roadside", log_format)


@uplink.command()
def run_uplink(config: ConfigFile, log_format: LogFormat = None) -> None:
    """Bring the outbox to the collector and its receipts back. Runs until SIGTERM."""
    from edge.runtime import uplinkd

    _log_as(log_format)
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


config = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Check, explain and compare configuration files."
)
AnyKind = Annotated[
    str | None, typer.Option("--kind", help="node, collector, serve or ca, where the file does not tell.")
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs, on stdout.")]


@config.command("check")
def config_check(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Configurations; /etc/holdfast/node.toml if none.")
    ] = None,
    kind: AnyKind = None,
    json: AsJson = False,
) -> None:
    """Say every mistake of a configuration, with its line. Exit code 0, or 2 when there is one."""
    from edge.runtime import config_tool

    raise typer.Exit(config_tool.check(files or [], as_json=json, kind=kind))


@config.command("explain")
def config_explain(
    key: Annotated[str | None, typer.Argument(help="A setting or a table; everything if none.")] = None,
    file: Annotated[
        Path | None, typer.Option("--config", help="The file whose values are in effect.", dir_okay=False)
    ] = None,
    kind: AnyKind = None,
    json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The whole list as a page.")] = False,
) -> None:
    """Tell what a setting is: unit, range, default and its reason, and the value in effect."""
    from edge.runtime import config_tool

    if markdown:
        raise typer.Exit(config_tool.print_markdown())
    raise typer.Exit(config_tool.explain(key, file, kind=kind, as_json=json))


@config.command("diff")
def config_diff(
    first: Annotated[Path, typer.Argument(help="A configuration.", dir_okay=False)],
    second: Annotated[
        Path | None, typer.Argument(help="Another one; without it the defaults.", dir_okay=False)
    ] = None,
    kind: AnyKind = None,
    json: AsJson = False,
) -> None:
    """Where a configuration differs from the defaults, or from another, and what each change needs."""
    from edge.runtime import config_tool

    raise typer.Exit(config_tool.diff(first, second, kind=kind, as_json=json))


@config.command("init")
def config_init(
    out: Annotated[
        Path | None, typer.Option("--out", help="A file that is not there yet; stdout if not given.")
    ] = None,
    tenant: Annotated[str, typer.Option("--tenant", help="Whose node it is.")] = "tenant-a",
    device: Annotated[str, typer.Option("--device", help="Its name.")] = "car-1",
    kind: Annotated[str, typer.Option("--kind", help="vehicle or roadside.")] = "vehicle",
    host: Annotated[str | None, typer.Option("--host", help="The broker, if it is known.")] = None,
) -> None:
    """Write a first node.toml in which every setting stands as a comment with its reason."""
    from edge.runtime import config_tool

    raise typer.Exit(config_tool.init(out, tenant=tenant, device=device, kind=kind, host=host))


metrics = typer.Typer(add_completion=False, no_args_is_help=True, help="Figures for Prometheus.")


@metrics.callback()
def _metrics() -> None:
    """Figures for Prometheus."""


@metrics.command("node")
def metrics_node(
    config: ConfigFile,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="HOST:PORT", help="Serve here; 127.0.0.1:9463.")
    ] = None,
    textfile: Annotated[
        Path | None,
        typer.Option("--textfile", help="Write this file once, for node_exporter.", dir_okay=False),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print them once.")] = False,
) -> None:
    """Read a node from the outside and serve its figures until SIGTERM."""
    from edge.runtime import metrics_tool

    if (listen is not None) + (textfile is not None) + once > 1:
        raise typer.BadParameter("one of --listen, --textfile and --once")
    raise typer.Exit(metrics_tool.node(config, listen=listen, textfile=textfile, once=once))


doctor = typer.Typer(add_completion=False, help="Look for what is wrong with a node, and say what to do.")


@doctor.command()
def run_doctor(
    file: Annotated[
        Path | None,
        typer.Option("--config", help="node.toml; /etc/holdfast/node.toml if none.", dir_okay=False),
    ] = None,
    json: AsJson = False,
) -> None:
    """Look for what is wrong with a node, and say what to do; changes nothing.

    Exit code 0, or that of the error to mend first: 2 configuration, 10 no device, 11 several devices,
    12 port in use, 13 permission, 31 broker or service away, 40 clock or certificate, 1 anything else.
    """
    from edge.runtime import doctor as tool

    raise typer.Exit(tool.doctor(file, as_json=json))

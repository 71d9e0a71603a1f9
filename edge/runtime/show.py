"""`holdfast status`: one screen about a running node."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge.errors import ConfigError
from edge.facts import FactsError
from edge.runtime import facts_client
from edge.runtime.load import load_config


def status(config_path: Path, *, as_json: bool) -> int:
    """Ask the edge and print its answer; 1 when it does not answer, 2 for a bad configuration."""
    try:
        config = load_config(config_path)
        text = str(facts_client.call(config.path("facts.sock"), "status")[1])
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except FactsError as error:
        print(error, file=sys.stderr)
        return 1
    if as_json:
        print(text)
    else:
        _screen(json.loads(text))
    return 0


def _screen(node: dict[str, Any]) -> None:
    console = Console()
    table = Table(title=f"{node['tenant']} / {node['device']} ({node['kind']})", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("clock", _clock(node["clock"]))
    for name, condition in node["ports"].items():
        colour = "green" if condition == "ok" else "red"
        table.add_row(f"port {name}", f"[{colour}]{condition}[/]  {node['port_detail'][name]}")
    fixes = f"{node['position_valid']:,} fixes ({node['position_estimated']:,} estimated)"
    table.add_row("positions", f"{fixes}, {node['position_void']:,} void")
    table.add_row("last fix", _age(node["last_fix_age_s"], "none that is dated"))
    table.add_row("readings", ", ".join(f"{k} {v:,}" for k, v in node["readings"].items()) or "none")
    table.add_row("refused", ", ".join(f"{k} {v:,}" for k, v in node["refused"].items()) or "none")
    outbox = node["outbox"]
    held = f"{outbox['segments']:,} segments, {outbox['bytes'] / 1e6:.1f} MB"
    table.add_row("outbox", f"{held}, {outbox['events_unsealed']:,} events unsealed")
    table.add_row(
        "accepted", f"{node['events']:,} events, {node['segments']:,} segments, {node['receipts']:,} receipts"
    )
    table.add_row("last receipt", _receipt(node))
    table.add_row("store", "[green]ok[/]" if node["store"] == "ok" else f"[red]{node['store']}[/]")
    for incident in node["open_incidents"]:
        table.add_row("[red]incident[/]", f"{incident['cause']}: {incident['sentence']}")
    if not node["open_incidents"]:
        table.add_row("incidents", "[green]none open[/]")
    for source, text in node["facts"].items():
        at = node["facts_at"][source] or "time unknown"
        table.add_row(escape(f"{source} says"), escape(f"{text} ({at})"))
    table.add_row("process", f"{node['rss_mb']} MB, loss window {node['loss_window_ms'] / 1000:g} s")
    if node["faults"]:
        table.add_row("[red]faults[/]", ", ".join(f"{k} {v}" for k, v in node["faults"].items()))
    console.print(table)


def _clock(kind: str) -> str:
    """Large where what this node says is not of the present world."""
    if kind == "live":
        return "live"
    return f"[black on yellow] {' '.join(kind.upper())} [/] {kind.upper()}: nothing here happens now"


def _age(seconds: int | None, none: str) -> str:
    if seconds is None:
        return none
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def _receipt(node: dict[str, Any]) -> str:
    """The last receipt's age; where segments wait and no receipt came, what to look at."""
    waiting = node["outbox"]["segments"]
    if node["receipts"]:
        return _age(node["last_receipt_age_s"], "age not known")
    if waiting:
        return f"[yellow]none since the start, {waiting:,} segments wait: is `holdfast uplink` running?[/]"
    return "none since the start"

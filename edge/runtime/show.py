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
    for name, condition in node["ports"].items():
        colour = "green" if condition == "ok" else "red"
        table.add_row(f"port {name}", f"[{colour}]{condition}[/]  {node['port_detail'][name]}")
    fixes = f"{node['position_valid']:,} fixes ({node['position_estimated']:,} estimated)"
    table.add_row("positions", f"{fixes}, {node['position_void']:,} void")
    table.add_row("readings", ", ".join(f"{k} {v:,}" for k, v in node["readings"].items()) or "none")
    table.add_row("refused", ", ".join(f"{k} {v:,}" for k, v in node["refused"].items()) or "none")
    outbox = node["outbox"]
    held = f"{outbox['segments']:,} segments, {outbox['bytes'] / 1e6:.1f} MB"
    table.add_row("outbox", f"{held}, {outbox['events_unsealed']:,} events unsealed")
    table.add_row(
        "accepted", f"{node['events']:,} events, {node['segments']:,} segments, {node['receipts']:,} receipts"
    )
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

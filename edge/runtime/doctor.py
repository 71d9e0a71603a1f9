"""`holdfast doctor`: everything that can be wrong with a node, and what to do about each; changes nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import serialx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge.config import Config
from edge.errors import ConfigError
from edge.facts import FactsError
from edge.runtime import facts_client
from edge.runtime.config_tool import NODE_TOML
from edge.runtime.doctor_keys import check_broker, check_clock, check_identity
from edge.runtime.doctor_ports import Devices, check_ports, service_user
from edge.runtime.doctor_store import check_disk, check_outbox, check_units
from edge.runtime.load import load_config
from edge.status import USAGE, Finding, Level, exit_code, judge

ASK_S: Final = 5.0
"""Seconds for the edge's answer: one that takes longer is a finding by itself."""
COLOURS: Final = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.ERROR: "bold red"}


def examine(
    path: Path, now: Callable[[], datetime], devices: Devices = serialx.list_serial_ports
) -> list[Finding]:
    """Look at everything; never raises for what is wrong with the node."""
    try:
        config = load_config(path)
    except ConfigError as error:
        wrong = Finding("config", Level.ERROR, str(error), f"holdfast config check {path}", USAGE)
        return [wrong, *check_clock(None, now())]
    who = service_user(Path(config.state_dir))
    found = [Finding("config", Level.OK, f"{path}: in order")]
    found += check_clock(config, now())
    found += check_disk(config, who)
    found += check_ports(config, who, devices)
    found += check_identity(config, now())
    found += check_broker(config, now())
    found += check_outbox(config, now())
    found += _edge(config)
    found += check_units(config)
    return found


def _edge(config: Config) -> list[Finding]:
    """What the running edge says of itself."""
    command = f"systemctl start holdfast-{'roadside' if config.node.kind == 'roadside' else 'edge'}"
    try:
        answer = facts_client.call(config.path("facts.sock"), "status", timeout_s=ASK_S)
        told = json.loads(str(answer[1]))
    except FactsError as error:
        return [Finding("edge", Level.WARNING, f"the edge does not run here: {error}", command)]
    except ValueError:
        return [Finding("edge", Level.WARNING, "the edge's answer is not ours", "is it of the same version?")]
    found = judge(told)
    return found or [Finding("edge", Level.OK, f"runs; {told['events']:,} events accepted since its start")]


def doctor(path: Path | None, *, as_json: bool) -> int:
    """Print what was found; the exit code is of the error to mend first."""
    found = examine(path or NODE_TOML, lambda: datetime.now(UTC))
    code = exit_code(found)
    if as_json:
        told = {"ok": code == 0, "exit_code": code, "findings": [one.as_json() for one in found]}
        print(json.dumps(told, ensure_ascii=False))
    print_findings(found, Console(file=sys.stderr) if as_json else Console())
    return code


def print_findings(findings: list[Finding], console: Console) -> None:
    """A line for each, and under it what to do."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for one in findings:
        text = escape(one.text) + (f"\n[bold]->[/] {escape(one.next)}" if one.next else "")
        table.add_row(f"[{COLOURS[one.level]}]{one.level}[/]", one.check, text)
    console.print(table)
    errors = sum(one.level is Level.ERROR for one in findings)
    warnings = sum(one.level is Level.WARNING for one in findings)
    console.print(f"{errors} errors, {warnings} warnings")

"""`holdfast status`: one screen: what a node sees, what it decided, what it owes the cloud.

Works beside the running edge, and without it: then what lies in the outbox is told.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge.config import Config
from edge.errors import ConfigError
from edge.facts import FactsError
from edge.runtime import facts_client
from edge.runtime.doctor_keys import check_identity
from edge.runtime.doctor_store import judge_outbox
from edge.runtime.load import load_config
from edge.runtime.outbox_look import Look, look
from edge.runtime.uplink_state import UplinkState
from edge.status import FAILURE, Finding, Level, judge, span
from provisioning.errors import EnrolError
from provisioning.runtime.keystore import read_certificates

EXIT_CONFIG = 2


def status(config_path: Path, *, as_json: bool) -> int:
    """Print how the node is: 0 when the edge answers, 1 when it does not, 2 for a bad configuration.

    What is wrong besides stands on the screen; `holdfast doctor` has exit codes for it.
    """
    try:
        config = load_config(config_path)
    except ConfigError as error:
        print(error, file=sys.stderr)
        print(f"-> holdfast config check {config_path}", file=sys.stderr)
        return EXIT_CONFIG
    told, found = _ask(config)
    owed = _owed(config, told, found)
    code = 0 if told["running"] else FAILURE
    if as_json:
        findings = [one.as_json() for one in found]
        print(json.dumps({**told, "owed": owed, "findings": findings}, ensure_ascii=False))
    else:
        _screen(config, told, owed, found)
    return code


def _ask(config: Config) -> tuple[dict[str, Any], list[Finding]]:
    """The edge's own answer, and what of it is wrong; without the edge who it is, and that it is down."""
    try:
        told = dict(json.loads(str(facts_client.call(config.path("facts.sock"), "status")[1])))
        return {"running": True, **told}, judge(told)
    except FactsError as error:
        name = "roadside" if config.node.kind == "roadside" else "edge"
        then = f"systemctl start holdfast-{name}; why it ended: journalctl -u holdfast-{name} -n 50"
        node = {"running": False, "tenant": config.node.tenant, "device": config.node.device}
        down = Finding("edge", Level.ERROR, f"nothing is watched: {error}", then, FAILURE)
        return {**node, "kind": config.node.kind}, [down]


def _owed(config: Config, told: Mapping[str, Any], found: list[Finding]) -> dict[str, Any]:
    """What waits for the cloud, by the file itself; adds findings."""
    now, state = datetime.now(UTC), Path(config.state_dir)
    # Segments of a scenario are dated by its own clock: their age cannot be told by the host's.
    live = config.clock.source == "system"
    owed: dict[str, Any] = {
        "segments": None,
        "alarms": None,
        "bytes": None,
        "oldest_s": None,
        "unsealed": None,
        "damage": None,
    }
    try:
        seen = look(state)
    except PermissionError:
        seen = None
        found.append(
            Finding("outbox", Level.WARNING, "the outbox cannot be read by this user", "sudo holdfast status")
        )
    if seen is not None:
        if not seen.damage:  # else what was counted is what could be read
            owed |= _figures(seen, now, live)
        owed["damage"] = seen.damage or None
        if live or seen.damage:
            found += [one for one in judge_outbox(seen, config, now) if one.level is not Level.OK]
    uplink = UplinkState.read(state, time.time())
    owed["uplink"] = None if uplink is None else asdict(uplink)
    owed["certificate_days"] = _days(config, now)
    if live:
        identity = [one for one in check_identity(config, now) if one.level in (Level.WARNING, Level.ERROR)]
        found += identity
    if told["running"] and config.uplink is not None and uplink is not None and not uplink.connected:
        found.append(Finding("uplink", Level.WARNING, "the uplink runs and has no connection to the broker",
                             "`holdfast doctor` tries the broker step by step"))  # fmt: skip
    return owed


def _figures(seen: Look, now: datetime, live: bool) -> dict[str, Any]:
    age = None if seen.oldest_ns is None or not live else max(now.timestamp() - seen.oldest_ns / 1e9, 0)
    return {
        "segments": seen.segments, "alarms": seen.alarms, "bytes": seen.bytes, "unsealed": seen.unsealed,
        "oldest_s": None if age is None else int(age),
    }  # fmt: skip


def _days(config: Config, now: datetime) -> dict[str, int | None]:
    """Whole days that each certificate is still good; None where it cannot be read."""
    days: dict[str, int | None] = {}
    for name in ("tls", "event"):
        try:
            first = read_certificates(Path(config.path(f"keys/{name}.crt")))[0]
            days[name] = (first.not_valid_after_utc - now).days
        # Absent, unreadable or no certificate: `holdfast doctor` says which; here there is no figure.
        except (OSError, ValueError, IndexError, EnrolError):
            days[name] = None
    return days


# ---- the screen -------------------------------------------------------------------------------------


def _screen(config: Config, told: dict[str, Any], owed: dict[str, Any], found: list[Finding]) -> None:
    console = Console()
    table = Table(title=f"{told['tenant']} / {told['device']} ({told['kind']})", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    if told["running"]:
        _sees(table, told)
        _decided(table, told)
    else:
        table.add_row("[red]edge[/]", "[red]not running: nothing is watched[/]")
    _owes(table, config, told, owed)
    if told["running"]:
        table.add_section()
        table.add_row(
            "store", "[green]ok[/]" if told["store"] == "ok" else f"[red]{escape(told['store'])}[/]"
        )
        table.add_row("process", f"{told['rss_mb']} MB, loss window {told['loss_window_ms'] / 1000:g} s")
        if told["faults"]:
            table.add_row("[red]faults[/]", ", ".join(f"{k} {v}" for k, v in told["faults"].items()))
    console.print(table)
    for one in found:
        colour = "red" if one.level is Level.ERROR else "yellow" if one.level is Level.WARNING else "cyan"
        console.print(f"[{colour}]{one.level}[/] {escape(one.text)}", highlight=False)
        if one.next:
            console.print(f"   -> {escape(one.next)}", highlight=False)


def _sees(table: Table, node: dict[str, Any]) -> None:
    table.add_row("clock", _clock(node["clock"]))
    for name, condition in node["ports"].items():
        table.add_row(f"port {name}", _port(node, name, condition))
    fixes = f"{node['position_valid']:,} fixes ({node['position_estimated']:,} estimated)"
    table.add_row("positions", f"{fixes}, {node['position_void']:,} void")
    table.add_row("last fix", _age(node["last_fix_age_s"], "none that is dated"))
    table.add_row("readings", ", ".join(f"{k} {v:,}" for k, v in node["readings"].items()) or "none")
    table.add_row("refused", ", ".join(f"{k} {v:,}" for k, v in node["refused"].items()) or "none")


def _port(node: dict[str, Any], name: str, condition: str) -> str:
    """Two lines: where it leads and its condition; what comes in."""
    figures, where = node["port_figures"][name], node["port_config"][name]
    detail = node["port_detail"][name]
    if condition == "absent" and detail == "not opened yet":
        condition, detail = "open", "no byte yet"
    colour = {"ok": "green", "open": "yellow"}.get(condition, "red")
    lines = [f"{where['path']} at {where['baud']} baud: [{colour}]{condition}[/]  {escape(detail)}"]
    if figures["readings"]:
        rate = f"{figures['per_second']:g} readings a second"
        lines.append(f"{rate}, the last {_age(figures['last_reading_age_s'], 'never')}")
    if figures["refused"]:
        lines.append("refused: " + ", ".join(f"{k} {v:,}" for k, v in figures["refused"].items()))
    return "\n".join(lines)


def _decided(table: Table, node: dict[str, Any]) -> None:
    table.add_section()
    for one in node["open_incidents"]:
        stage = f"{one['stage']}, since {span(one['since_s'])}, {one['confidence']:.0%} sure"
        table.add_row("[red]incident[/]", f"{one['cause']} ({stage}): {escape(one['sentence'])}")
    if not node["open_incidents"]:
        table.add_row("incidents", f"[green]none open[/]; {node['incidents']:,} since the start")
    for one in node["verdicts"]:
        if one["stage"] == "closed":
            table.add_row("", f"{_age(one['age_s'], '')}: {one['cause']} closed: {escape(one['sentence'])}")
    for source, text in node["facts"].items():
        at = node["facts_at"][source] or "time unknown"
        table.add_row(escape(f"{source} says"), escape(f"{text} ({at})"))


def _owes(table: Table, config: Config, told: dict[str, Any], owed: dict[str, Any]) -> None:
    table.add_section()
    if owed["damage"]:
        table.add_row("owes", "[red]unknown: the outbox is damaged[/]")
    elif owed["segments"] is None:
        table.add_row("outbox", "none yet, or not to be read by this user")
    else:
        held = f"{owed['segments']:,} segments ({owed['alarms']} with alarms), {owed['bytes'] / 1e6:.1f} MB"
        oldest = "" if owed["oldest_s"] is None else f", the oldest {_age(owed['oldest_s'], '')}"
        table.add_row("owes", f"{held}{oldest}; {owed['unsealed']:,} events unsealed")
    if told["running"]:
        counts = f"{told['events']:,} events, {told['segments']:,} segments, {told['receipts']:,} receipts"
        table.add_row("accepted", counts)
        table.add_row("last receipt", _receipt(told))
    if config.uplink is not None:
        table.add_row("uplink", _uplink(config, owed["uplink"]))
    days = [f"{name} {'?' if left is None else left} days" for name, left in owed["certificate_days"].items()]
    table.add_row("certificates", "valid: " + ", ".join(days))


def _uplink(config: Config, state: Mapping[str, Any] | None) -> str:
    assert config.uplink is not None
    place = f"{config.uplink.host}:{config.uplink.port}"
    if state is None:
        return f"[yellow]not running[/] (broker {place}): systemctl start holdfast-uplink"
    if not state["connected"]:
        return f"[yellow]no connection[/] to {place}"
    return f"[green]connected[/] to {place}: {state['sent']:,} sent, {state['receipts']:,} receipts brought"


def _clock(kind: str) -> str:
    """Large where what this node says is not of the present world."""
    if kind == "live":
        return "live"
    return f"[black on yellow] {' '.join(kind.upper())} [/] {kind.upper()}: nothing here happens now"


def _age(seconds: int | None, none: str) -> str:
    return none if seconds is None else f"{span(seconds)} ago"


def _receipt(node: dict[str, Any]) -> str:
    """The last receipt's age; where segments wait and no receipt came, what to look at."""
    waiting = node["outbox"]["segments"]
    if node["receipts"]:
        return _age(node["last_receipt_age_s"], "age not known")
    if waiting:
        return f"[yellow]none since the start, {waiting:,} segments wait: is `holdfast uplink` running?[/]"
    return "none since the start"

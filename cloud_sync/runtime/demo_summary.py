"""The end of a demo for a person: what was read, what was found, what was checked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cloud_sync.demo_options import DemoOptions
from cloud_sync.runtime.demo_report import Result

SHOWN_GAPS: Final = 12
"""More gaps than these are counted, not listed."""
MARKS: Final = {
    "replay": "[bold white on blue] REPLAY of a recorded drive [/]",
    "simulated": "[bold black on yellow] SIMULATED vehicle and sensors [/]",
}


def print_summary(result: Result, options: DemoOptions, *, kept: Path | None) -> None:
    """The summary a person understands, on stdout."""
    console = Console(highlight=False)
    d = result.document
    console.print(f"\n[bold]Holdfast demo: {escape(d['name'])}[/]  {MARKS[d['kind']]}")
    r = d["readings"]
    console.print(
        f"{d['scenario_s'] / 3600:.2f} h of driving and parking in {d['played_s']:.0f} s: "
        f"{d['bytes']:,} bytes from serial ports, {r['position_valid']:,} valid fixes "
        f"({r['position_estimated']} estimated, {r['position_void']} void), "
        f"{d['events']:,} events in {d['segments']:,} signed segments, {d['log']['size']:,} log entries."
    )
    if gaps := d["gaps_s"]:
        shown = (
            ", ".join(map(str, gaps)) if len(gaps) <= SHOWN_GAPS else f"{len(gaps)}, the longest {max(gaps)}"
        )
        asleep = " (parked, the receiver sleeps by plan)" if d["kind"] == "simulated" else ""
        console.print(f"Gaps in the receiver's record, in seconds: {shown}{asleep}")
    if d["incidents"]:
        table = Table("cause", "opened after", "now", "last word", title="Incidents", title_justify="left")
        for row in d["incidents"]:
            late = "-" if row["detect_s"] is None else f"{row['detect_s']:.0f} s"
            table.add_row(row["cause"], late, row["state"], escape(row["sentence"]))
        console.print(table)
    else:
        console.print("No incident, as it should be." if result.ok else "No incident.")
    for title in d["titles"]:
        console.print(f"Title {title['token'][:12]}… of {title.get('device')}: [bold]{title['state']}[/]")
    console.print(
        "Processes: "
        + ", ".join(f"{p['name']} {p['rss_mb']:.0f} MB {p['cpu_s']:.1f} s" for p in d["processes"])
    )
    for row in d["checks"]:
        mark = "[green]ok  [/]" if row["ok"] else "[bold red]FAIL[/]"
        console.print(f"  {mark} {row['name']}: {escape(row['detail'])}")
    holdfast = Path(sys.executable).with_name("holdfast")
    console.print("Check it yourself, without any of our servers:")
    bundle = d["evidence"] or d["chain"]
    console.print(f"  {holdfast} verify {bundle} --trust {d['trust']}", soft_wrap=True)
    page = d["page"]
    if page["open"]:
        console.print(
            f"[bold]The page is open:[/] {page['url']}  Log in as {page['name']} with {page['password']}",
            soft_wrap=True,
        )
        console.print(f"Close it: {holdfast} demo --stop {kept}", soft_wrap=True)
    else:
        console.print(
            f"The page was at {page['url']} while it ran; --keep leaves it open and says how to enter."
        )
    if kept is not None:
        console.print(f"Kept in {kept}", soft_wrap=True)
    if options.json is not None:
        console.print(f"JSON in {options.json}", soft_wrap=True)
    failed = ", ".join(row["name"] for row in d["checks"] if not row["ok"])
    console.print("[bold green]Every check held.[/]" if result.ok else f"[bold red]Failed: {failed}[/]")

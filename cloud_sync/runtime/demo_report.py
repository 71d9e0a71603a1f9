"""What a demo must have shown: the checks, the JSON document and the summary.

Every figure is asked from the process or file that owns it: the edge over facts.sock, the collector's
store, and `holdfast verify` in a process of its own for everything that is claimed as proven.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cloud_sync.runtime import bundles, queries
from cloud_sync.runtime.children import Usage
from cloud_sync.runtime.demo_config import ROADSIDE, TENANT, VEHICLE, Layout
from cloud_sync.runtime.demo_page import Entrance

EDGE_RSS_LIMIT_MB: Final = 80.0
"""What an edge daemon may hold resident: a third of the smallest node we know of (256 MB)."""
DETECT_LIMIT_S: Final = 180.0
"""Scenario seconds from a true event to its incident; the trade needs 0.8 days."""
DAMAGED: Final = frozenset(
    {
        "garbage",
        "bad_checksum",
        "no_checksum",
        "too_long",
        "too_short",
        "bad_cobs",
        "bad_crc",
        "unknown_version",
    }
)
"""Reasons of refusal that do not even prove a sentence or frame."""
FORBIDDEN_IN_REPLAY: Final = ("moved_without_wheels", "removed_or_opened")
"""A replayed drive holds neither tyres nor a board that could be pulled: these would be invented."""


@dataclass(frozen=True, slots=True)
class Collected:
    """Everything the run left behind."""

    world: dict[str, Any]
    truth: list[dict[str, Any]]
    written: dict[str, int]
    played_s: float
    states: dict[str, dict[str, Any]]
    usages: list[Usage]
    layout: Layout
    replay: Path | None
    entrance: Entrance
    seen: dict[str, Any]
    """What the page showed to a visitor: `demo_page.look`."""


@dataclass(slots=True)
class Result:
    """The JSON document; `ok` only if every check held."""

    document: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Every check held."""
        return bool(self.document.get("ok"))

    def moved_evidence(self, folder: Path) -> None:
        """The evidence files now lie in `folder`."""
        for key in ("evidence", "chain", "trust"):
            if self.document[key] is not None:
                self.document[key] = str(folder / Path(self.document[key]).name)

    def page_left_open(self, left: dict[str, Any] | None) -> None:
        """The page was left open, by which processes; or could not be, which fails the demo."""
        if left is None:
            self.document["ok"] = False
            self.document["checks"].append(
                {
                    "name": "page_left_open",
                    "ok": False,
                    "detail": "it could not be started again: see the logs",
                }
            )
        else:
            self.document["page"] |= {"open": True, **left}


class _Checks:
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, ok: bool, detail: str) -> None:
        self.rows.append({"name": name, "ok": bool(ok), "detail": detail})


def assess(run: Collected) -> Result:
    """Ask, verify and check. Raises CloudError where evidence cannot even be exported."""
    checks = _Checks()
    store = run.layout.collector / "store.db"
    vehicle = run.states[VEHICLE]
    incidents = _incidents(run, queries.incidents(store, TENANT))
    titles = queries.titles(store, TENANT)
    log = queries.log_status(store)
    alarms = queries.alarms(store, TENANT)
    quarantine = queries.quarantine(store, TENANT)
    chain, evidence, verified = _evidence(run, store, incidents)
    _check_input(checks, vehicle, replay=run.replay is not None)
    _check_data_path(checks, run, verified)
    _check_log(checks, log, [*alarms, *quarantine])
    _check_incidents(checks, run, incidents)
    _check_title(checks, run, titles)
    _check_page(checks, run.seen, incidents)
    _check_processes(checks, run.usages)
    document = {
        "ok": all(row["ok"] for row in checks.rows),
        "name": run.world["name"],
        "kind": run.world["kind"],
        "checks": checks.rows,
        "bytes": sum(state["bytes"] for state in run.states.values()),
        "readings": {
            **vehicle["readings"],
            **{key: vehicle[key] for key in ("position_valid", "position_estimated", "position_void")},
        },
        "refused": vehicle["refused"],
        "gaps_s": vehicle["gaps_s"],
        "fix_gaps_s": vehicle["fix_gaps_s"],
        "events": sum(state["events"] for state in run.states.values()),
        "segments": sum(state["segments"] for state in run.states.values()),
        "receipts": sum(state["receipts"] for state in run.states.values()),
        "log": log,
        "alarms": alarms,
        "quarantine": quarantine,
        "incidents": incidents,
        "titles": titles,
        "page": run.entrance.as_json(open_now=False),
        "processes": [{"name": u.name, "rss_mb": u.rss_mb, "cpu_s": u.cpu_s} for u in run.usages],
        "evidence": None if evidence is None else str(evidence),
        "chain": str(chain),
        "trust": str(run.layout.evidence / "trust.json"),
        "nodes": run.states,
        "scenario_s": run.world["duration_s"],
        "played_s": round(run.played_s, 1),
    }
    return Result(document)


def _incidents(run: Collected, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The logged incidents with their delay against the scenario's truth, in scenario seconds."""
    epoch_s = run.world["epoch_wall_ns"] / 1e9
    out = []
    for row in rows:
        opened_s = datetime.fromisoformat(row["opened_at"]).timestamp() - epoch_s
        truths = [t["t_s"] for t in run.truth if t["cause"] == row["cause"] and t["t_s"] <= opened_s]
        out.append({**row, "detect_s": round(opened_s - max(truths), 1) if truths else None})
    return out


def _evidence(
    run: Collected, store: Path, incidents: list[dict[str, Any]]
) -> tuple[Path, Path | None, dict[str, dict[str, Any]]]:
    """Export the whole chain of each node and the first incident; verify each in a process of its own."""
    folder = run.layout.evidence
    folder.mkdir(exist_ok=True)
    trust = folder / "trust.json"
    trust.write_text((run.layout.node(VEHICLE) / "trust.json").read_text("utf-8"), "utf-8")
    verified: dict[str, dict[str, Any]] = {}
    for node in (VEHICLE, ROADSIDE):
        path = folder / f"{node}-chain.hfb"
        bundles.export_device(run.layout.collector_config, TENANT, node, path)
        verified[node] = _verify(path, trust)
    evidence = None
    mine = [row for row in incidents if row["device"] == VEHICLE]
    if mine:
        evidence = folder / f"incident-{mine[0]['cause']}.hfb"
        bundles.export_incident(run.layout.collector_config, TENANT, mine[0], evidence)
        verified["incident"] = _verify(evidence, trust)
    return folder / f"{VEHICLE}-chain.hfb", evidence, verified


def _verify(bundle: Path, trust: Path) -> dict[str, Any]:
    """`holdfast verify` as an auditor runs it: another process, the bundle and the pinned keys only."""
    done = subprocess.run(
        [sys.executable, "-m", "firmware_bridge", "verify", str(bundle), "--trust", str(trust), "--json"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        report = {"error": (done.stderr or done.stdout).strip()[-400:]}
    return {**report, "exit_code": done.returncode}


def _check_input(checks: _Checks, vehicle: dict[str, Any], *, replay: bool) -> None:
    """Something was understood: a file of another kind must not pass as a quiet drive."""
    told = vehicle["position_valid"] + vehicle["position_void"]
    if replay and not told:
        checks.add(
            "input_understood", False, "no sentence is about a position: is this an NMEA or GENIVI log?"
        )
        return
    readings = sum(count for kind, count in vehicle["readings"].items() if kind != "port_state")
    intact = sum(count for reason, count in vehicle["refused"].items() if reason not in DAMAGED)
    checks.add(
        "input_understood",
        readings + intact > 0,
        f"{readings:,} readings; {intact:,} intact sentences or frames not used"
        if readings + intact
        else "not one intact sentence or frame: is this an NMEA 0183 or GENIVI log?",
    )


def _check_log(checks: _Checks, log: dict[str, Any], refused: list[dict[str, Any]]) -> None:
    checks.add(
        "log_verified", bool(log["verified"]), f"{log['size']} entries, root recomputed from every entry"
    )
    checks.add(
        "nothing_quarantined",
        not refused,
        "; ".join(f"{row['device']}: {row['detail']}" for row in refused[:3]) or "no alarm, no quarantine",
    )


def _check_data_path(checks: _Checks, run: Collected, verified: dict[str, dict[str, Any]]) -> None:
    read = {name: n for state in run.states.values() for name, n in state["port_bytes"].items()}
    wrong = {n: (run.written[n], read.get(n, 0)) for n in run.written if read.get(n, 0) != run.written[n]}
    checks.add(
        "bytes_read", not wrong,
        f"{sum(read.values()):,} bytes written to {len(run.written)} serial ports, all read" if not wrong else
        "; ".join(f"{n}: {w} written, {r} read" for n, (w, r) in wrong.items()),
    )  # fmt: skip
    for node, state in run.states.items():
        report = verified[node]
        owed = state["outbox"]["segments"] + state["outbox"]["events_unsealed"]
        checks.add(
            f"{node}_outbox_empty", owed == 0, f"{state['receipts']} receipts, {owed} segments still owed"
        )
        checks.add(
            f"{node}_chain_verified",
            (report["exit_code"], report.get("complete"), report.get("events")) == (0, True, state["events"]),
            f"{state['events']:,} events accepted, {report.get('events')} logged in {report.get('segments')} "
            f"segments, complete: {report.get('complete')}{_said(report)}",
        )
    if "incident" in verified:
        report = verified["incident"]
        checks.add(
            "evidence_verified",
            report["exit_code"] == 0,
            f"the first incident's bundle, offline, keys pinned{_said(report)}",
        )


def _said(report: dict[str, Any]) -> str:
    """What a failed verification said."""
    return "" if report["exit_code"] == 0 else f"; holdfast verify: {json.dumps(report)[:300]}"


def _check_incidents(checks: _Checks, run: Collected, incidents: list[dict[str, Any]]) -> None:
    mine = [row for row in incidents if row["device"] == VEHICLE]
    expected = [t["cause"] for t in run.truth]
    for cause in expected:
        found = [row for row in mine if row["cause"] == cause and row["detect_s"] is not None]
        late = found[0]["detect_s"] if found else None
        checks.add(
            f"found_{cause}", late is not None and late <= DETECT_LIMIT_S,
            f"{late} s after it began" if late is not None else "no incident tells of it",
        )  # fmt: skip
    unwanted = [row["cause"] for row in mine if row["cause"] not in expected]
    if run.replay is not None:
        unwanted = [cause for cause in unwanted if cause in FORBIDDEN_IN_REPLAY]
    checks.add("no_false_incident", not unwanted, ", ".join(unwanted) or "none that did not happen")


def _check_title(checks: _Checks, run: Collected, titles: list[dict[str, Any]]) -> None:
    states = [title["state"] for title in titles]
    wanted = "ALERT" if any(t["cause"] in FORBIDDEN_IN_REPLAY for t in run.truth) else "PLEDGED"
    checks.add("title", states == [wanted], f"the pledged title is {', '.join(states)}; it must be {wanted}")


def _check_page(checks: _Checks, seen: dict[str, Any], incidents: list[dict[str, Any]]) -> None:
    """What is logged is what a person sees, each with what to do next, under its clock's mark."""
    logged = sorted((row["device"], row["run"], row["incident"]) for row in incidents)
    shown = sorted(tuple(row["id"].split(".")) for row in seen["incidents"])
    same = [(device, run, str(number)) for device, run, number in logged] == shown
    advised = all(story["next"] for story in seen["stories"] if story["incident"]["device_open"])
    marked = all(row["clock"] != "live" for row in [*seen["incidents"], *seen["vehicles"]])
    devices = {row["device"] for row in seen["vehicles"]}
    checks.add(
        "page_shows_it",
        same and advised and marked and devices >= {VEHICLE, ROADSIDE},
        f"{len(shown)} of {len(logged)} incidents and {len(devices)} nodes on the page, "
        f"{'each' if advised else 'NOT each'} with what to do next, {'all' if marked else 'NOT all'} marked",
    )


def _check_processes(checks: _Checks, usages: list[Usage]) -> None:
    edge = max((u.rss_mb for u in usages if u.name.endswith("-edge")), default=0.0)
    checks.add(
        "edge_memory", 0 < edge < EDGE_RSS_LIMIT_MB, f"{edge} MB resident, limit {EDGE_RSS_LIMIT_MB:.0f}"
    )

"""`holdfast demo` as a person or a script runs it: the exit code, the JSON, the evidence, the refusals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cloud_sync.runtime import demo_folders, demo_open, demo_report
from cloud_sync.runtime.children import Usage
from cloud_sync.runtime.demo_config import ROADSIDE, VEHICLE, Layout
from cloud_sync.runtime.demo_page import Entrance
from cloud_sync.runtime.demo_report import Collected

pytestmark = pytest.mark.timeout(300)


def demo(folder: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run the command in `folder`; what it printed and its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "firmware_bridge", "demo", "--headless", "--json", "demo.json", *options],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    path = folder / "demo.json"
    return done, json.loads(path.read_text("utf-8")) if path.exists() else {}


def failed(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [check for check in document.get("checks", ()) if not check["ok"]]


@pytest.mark.slow
def test_a_tow_is_found_logged_and_proven(tmp_path: Path) -> None:
    done, d = demo(tmp_path, "--scenario", "tow")
    assert done.returncode == 0, done.stderr + done.stdout
    assert d["ok"] and not failed(d)
    assert_the_document_is_whole(d)
    assert [row["cause"] for row in d["incidents"]] == ["moved_without_wheels"]
    first = d["incidents"][0]
    assert 0 <= first["detect_s"] <= 120 and "without a wheel turning" in first["sentence"]
    assert [title["state"] for title in d["titles"]] == ["ALERT"]
    assert d["log"]["verified"] and d["log"]["size"] >= d["segments"] and len(d["log"]["root"]) > 40
    assert d["bytes"] > 1_000_000 and d["events"] > 500 and d["receipts"] > 0
    assert {p["name"] for p in d["processes"]} >= {
        "broker",
        "collector",
        f"{VEHICLE}-edge",
        f"{ROADSIDE}-edge",
    }
    assert all(p["rss_mb"] > 0 for p in d["processes"])
    assert "SIMULATED" in done.stdout
    bundle, trust = Path(d["evidence"]), Path(d["trust"])
    assert bundle.is_file() and trust.is_file(), "evidence outlives the run's folder"
    assert verify(bundle, trust) == 0
    spoilt = bytearray(bundle.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    (tmp_path / "spoilt.hfb").write_bytes(spoilt)
    assert verify(tmp_path / "spoilt.hfb", trust) == 40


def assert_the_document_is_whole(d: dict[str, Any]) -> None:
    """What scripts rely on; keys may be added, none may go."""
    assert set(d) >= {
        "ok", "checks", "bytes", "readings", "gaps_s", "fix_gaps_s", "events", "segments", "receipts", "log",
        "incidents", "titles", "processes", "evidence", "page",
    }  # fmt: skip
    assert set(d["page"]) >= {"url", "name", "password", "open"} and d["page"]["url"].startswith("http://127")
    assert "page_shows_it" in {check["name"] for check in d["checks"]}
    assert all(set(check) == {"name", "ok", "detail"} for check in d["checks"]) and len(d["checks"]) >= 10
    assert set(d["readings"]) >= {"position", "position_valid", "position_estimated", "position_void"}
    assert set(d["log"]) >= {"origin", "size", "root", "verified"}
    assert all(set(row) >= {"cause", "opened_at", "detect_s", "sentence"} for row in d["incidents"])
    assert all(set(row) >= {"name", "rss_mb", "cpu_s"} for row in d["processes"])


def verify(bundle: Path, trust: Path) -> int:
    return subprocess.run(
        [sys.executable, "-m", "firmware_bridge", "verify", str(bundle), "--trust", str(trust)],
        capture_output=True, check=False,
    ).returncode  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (
            "gps/20100403_Z205_Switzerland.txt",
            {
                "position_valid": 10_327, "position_estimated": 89, "position_void": 85,
                "gaps_s": [12, 207], "fix_gaps_s": [2, 35, 12, 208, 4, 35, 13],
            },
        ),
        (
            "gps/munich-gps.nmea",
            {"position_valid": 1_847, "position_void": 20, "gaps_s": [], "fix_gaps_s": [21]},
        ),
        (
            "gps/20160209_RPi_GENIVI_Regensburg.log",
            {"position_valid": 511, "position_void": 38, "vibration": 540},
        ),
    ],
)  # fmt: skip
def test_real_drives(
    tmp_path: Path, shared_data: Callable[[str], Path], file: str, expected: dict[str, Any]
) -> None:
    path = shared_data(file)
    done, d = demo(tmp_path, "--replay", str(path))
    assert done.returncode == 0, done.stderr + done.stdout
    assert d["ok"] and not failed(d) and d["kind"] == "replay" and "REPLAY" in done.stdout
    assert d["incidents"] == []
    figures = {**d["readings"], "gaps_s": d["gaps_s"], "fix_gaps_s": d["fix_gaps_s"]}
    if "vibration" in expected:
        assert figures["vibration"] >= expected.pop("vibration")
    assert {key: figures[key] for key in expected} == expected


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done, d = demo(tmp_path, "--replay", "nowhere.nmea")
    assert done.returncode == 2 and "nowhere.nmea" in done.stderr and not d
    assert "Traceback" not in done.stderr


def test_a_file_without_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty.nmea").write_bytes(b"")
    done, d = demo(tmp_path, "--replay", "empty.nmea")
    assert done.returncode in (1, 2) and not d
    assert "empty.nmea" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_file_of_another_kind_is_no_quiet_drive(tmp_path: Path) -> None:
    (tmp_path / "picture.bin").write_bytes(bytes(range(256)) * 40)
    done, d = demo(tmp_path, "--replay", "picture.bin")
    assert done.returncode == 1 and [check["name"] for check in failed(d)] == ["input_understood"]
    assert "NMEA" in failed(d)[0]["detail"] and "Failed: input_understood" in done.stdout


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "mine"
    other.mkdir()
    (other / "letter.txt").write_text("dear", "utf-8")
    done, _ = demo(tmp_path, "--dir", str(other))
    assert done.returncode == 2 and "other things" in done.stderr and "letter.txt" in done.stderr
    assert (other / "letter.txt").read_text("utf-8") == "dear"
    (other / Layout.MARK).touch()
    done, _ = demo(tmp_path, "--dir", str(other))
    assert done.returncode == 2 and "letter.txt" in done.stderr, "a demo's folder with a file of somebody's"


def test_evidence_of_an_earlier_run_goes_and_other_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    layout = Layout(tmp_path / "home")
    layout.evidence.mkdir(parents=True)
    (layout.evidence / "new.hfb").write_bytes(b"new")
    kept = tmp_path / "demo-evidence"
    kept.mkdir()
    (kept / "old.hfb").write_bytes(b"old")
    (kept / "mine.txt").write_text("mine", "utf-8")
    assert demo_folders.keep_evidence(layout) == kept
    assert sorted(file.name for file in kept.iterdir()) == ["mine.txt", "new.hfb"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--scenario", "nonsense"), "jammed"),
        (("--json", "nowhere/x.json"), "cannot be written"),
        (("--json", "."), "cannot be written"),
        (("--dir", "/proc/x"), "cannot be used"),
    ],
)
def test_what_must_fail_fails_before_the_night_is_played(
    tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    done, d = demo(tmp_path, *options)
    assert done.returncode == 2 and says in done.stderr and not d
    assert "starting" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_every_process_and_leaves_no_key(
    tmp_path: Path, short_dir: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "firmware_bridge", "demo", "--headless", "--scenario", "tow", "--speed", "20"],
        cwd=tmp_path, env={**os.environ, "TMPDIR": str(short_dir)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "%" in line:  # the drive has begun
            break
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 7
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert not alive and len(gone) == len(children)
    assert list(short_dir.iterdir()) == []


# --- the checks themselves can fail -------------------------------------------------------------------


RUN = "07" * 16
ROW = {"id": f"{VEHICLE}.{RUN}.1", "clock": "simulated", "device_open": True}
SEEN: dict[str, Any] = {
    "incidents": [ROW],
    "vehicles": [{"device": node, "clock": "simulated"} for node in (VEHICLE, ROADSIDE)],
    "stories": [{"incident": ROW, "next": [{"code": "next.call", "params": {}}]}],
}
"""What the page shows of one true tow."""


def collected(folder: Path, **changes: Any) -> Collected:
    """What a good run of one true tow leaves behind, changed."""
    state = {
        "readings": {"position": 3, "port_state": 1}, "position_valid": 3, "position_void": 0, "refused": {},
        "port_bytes": {"gnss": 10},
        "outbox": {"segments": 0, "events_unsealed": 0},
        "events": 5, "receipts": 1, "bytes": 10,
    }  # fmt: skip
    good: dict[str, Any] = {
        "world": {"epoch_wall_ns": 0, "name": "tow", "kind": "simulated"},
        "truth": [{"t_s": 100.0, "cause": "moved_without_wheels", "text": ""}],
        "written": {"gnss": 10},
        "played_s": 1.0,
        "states": {VEHICLE: state, ROADSIDE: {**state, "port_bytes": {}}},
        "usages": [Usage(f"{VEHICLE}-edge", 60.0, 1.0)],
        "layout": Layout(folder),
        "replay": None,
        "entrance": Entrance("http://127.0.0.1:1", "demo", "four unrelated words"),
        "seen": SEEN,
    }
    return Collected(**{**good, **changes})


LATE, BEFORE_IT_BEGAN = "1970-01-01T01:00:00+00:00", "1970-01-01T00:01:00+00:00"
GOOD_REPORT = {"exit_code": 0, "complete": True, "events": 5, "segments": 1}
TOW = {
    "device": VEHICLE,
    "run": RUN,
    "incident": 1,
    "cause": "moved_without_wheels",
    "opened_at": "1970-01-01T00:02:30+00:00",
    "sentence": "x",
}


def shown(incidents: list[dict[str, Any]]) -> dict[str, Any]:
    """What a page that shows these incidents gave to the visitor."""
    items = [{**ROW, "id": f"{one['device']}.{one['run']}.{one['incident']}"} for one in incidents]
    stories = [{"incident": item, "next": SEEN["stories"][0]["next"]} for item in items]
    return {"seen": {**SEEN, "incidents": items, "stories": stories}}


def rows(
    run: Collected,
    reports: dict[str, dict[str, Any]],
    incidents: list[dict[str, Any]],
    titles: list[str],
    log_verified: bool = True,
    refused: list[dict[str, Any]] | None = None,
) -> dict[str, bool]:
    checks = demo_report._Checks()
    demo_report._check_input(checks, run.states[VEHICLE], replay=run.replay is not None)
    demo_report._check_data_path(checks, run, reports)
    demo_report._check_log(checks, {"verified": log_verified, "size": 3}, refused or [])
    demo_report._check_incidents(checks, run, demo_report._incidents(run, incidents))
    demo_report._check_title(checks, run, [{"state": state} for state in titles])
    demo_report._check_page(checks, run.seen, incidents)
    demo_report._check_processes(checks, run.usages)
    return {row["name"]: row["ok"] for row in checks.rows}


def both(**changes: Any) -> dict[str, dict[str, Any]]:
    return {VEHICLE: {**GOOD_REPORT, **changes}, ROADSIDE: dict(GOOD_REPORT), "incident": dict(GOOD_REPORT)}


def owing(node: str) -> dict[str, Any]:
    """A run in which `node` still owes a segment."""
    states = collected(Path()).states
    return {"states": {**states, node: {**states[node], "outbox": {"segments": 1, "events_unsealed": 0}}}}


def test_a_good_run_passes_every_check(tmp_path: Path) -> None:
    result = rows(collected(tmp_path), both(), [TOW], ["ALERT"])
    assert all(result.values()), result


@pytest.mark.parametrize(
    ("name", "changes", "reports", "incidents", "titles"),
    [
        ("bytes_read", {"written": {"gnss": 11}}, {}, [TOW], ["ALERT"]),
        (f"{VEHICLE}_chain_verified", {}, {"exit_code": 40}, [TOW], ["ALERT"]),
        (f"{VEHICLE}_chain_verified", {}, {"complete": False}, [TOW], ["ALERT"]),
        (f"{VEHICLE}_chain_verified", {}, {"events": 4}, [TOW], ["ALERT"]),
        ("found_moved_without_wheels", {}, {}, [], ["ALERT"]),
        ("found_moved_without_wheels", {}, {}, [{**TOW, "opened_at": LATE}], ["ALERT"]),
        ("found_moved_without_wheels", {}, {}, [{**TOW, "opened_at": BEFORE_IT_BEGAN}], ["ALERT"]),
        ("no_false_incident", {}, {}, [TOW, {**TOW, "incident": 2, "cause": "jammed"}], ["ALERT"]),
        ("title", {}, {}, [TOW], ["PLEDGED"]),
        ("edge_memory", {"usages": [Usage(f"{VEHICLE}-edge", 80.5, 1.0)]}, {}, [TOW], ["ALERT"]),
        ("edge_memory", {"usages": []}, {}, [TOW], ["ALERT"]),
    ],
)  # fmt: skip
def test_each_check_of_the_run_can_fail(
    tmp_path: Path, name: str, changes: dict[str, Any], reports: dict[str, Any],
    incidents: list[dict[str, Any]], titles: list[str],
) -> None:  # fmt: skip
    result = rows(collected(tmp_path, **shown(incidents), **changes), both(**reports), incidents, titles)
    assert [key for key, ok in result.items() if not ok] == [name]


@pytest.mark.parametrize(
    "seen",
    [
        {"incidents": []},
        {"incidents": [{**ROW, "id": f"{VEHICLE}.{RUN}.2"}]},
        {"incidents": [{**ROW, "clock": "live"}]},
        {"vehicles": SEEN["vehicles"][:1]},
        {"vehicles": [{**one, "clock": "live"} for one in SEEN["vehicles"]]},
        {"stories": [{"incident": ROW, "next": []}]},
    ],
)
def test_a_page_that_shows_less_or_other_than_the_log_fails_the_demo(
    tmp_path: Path, seen: dict[str, Any]
) -> None:
    result = rows(collected(tmp_path, seen={**SEEN, **seen}), both(), [TOW], ["ALERT"])
    assert failing(result) == ["page_shows_it"]


def test_a_page_that_cannot_be_left_open_fails_the_demo() -> None:
    result = demo_report.Result({"ok": True, "checks": [], "page": {"open": False}})
    result.page_left_open({"url": "http://127.0.0.1:1", "pids": {"page": 1}})
    assert result.ok and result.document["page"]["open"] is True
    result.page_left_open(None)
    assert not result.ok and [row["name"] for row in failed(result.document)] == ["page_left_open"]


def failing(result: dict[str, bool]) -> list[str]:
    return [key for key, ok in result.items() if not ok]


def test_the_other_checks_can_fail(tmp_path: Path) -> None:
    run = collected(tmp_path)
    assert failing(rows(run, both(), [TOW], ["ALERT"], log_verified=False)) == ["log_verified"]
    forged = [{"device": VEHICLE, "detail": "two nodes use one identity"}]
    assert failing(rows(run, both(), [TOW], ["ALERT"], refused=forged)) == ["nothing_quarantined"]
    bad = {**both(), "incident": {"exit_code": 40, "error": "a proof does not hold"}}
    assert failing(rows(run, bad, [TOW], ["ALERT"])) == ["evidence_verified"]
    lost = {**both(), ROADSIDE: {**GOOD_REPORT, "events": 4}}
    assert failing(rows(run, lost, [TOW], ["ALERT"])) == [f"{ROADSIDE}_chain_verified"]
    for node in (VEHICLE, ROADSIDE):
        owed = collected(tmp_path, **owing(node))
        assert failing(rows(owed, both(), [TOW], ["ALERT"])) == [f"{node}_outbox_empty"]
    noise = {**run.states[VEHICLE], "readings": {"port_state": 1}, "refused": {"garbage": 9}}
    deaf = collected(tmp_path, states={**run.states, VEHICLE: noise})
    assert failing(rows(deaf, both(), [TOW], ["ALERT"])) == ["input_understood"]


def test_the_help_lists_every_scenario() -> None:
    from firmware_bridge.sim.scenario import PLANS

    done = subprocess.run(
        [sys.executable, "-m", "firmware_bridge", "demo", "--help"],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert all(name in done.stdout for name in PLANS)
    readme = (Path(__file__).resolve().parent.parent / "README.md").read_text("utf-8")
    assert all(f"`{name}`" in readme for name in PLANS)


# --- the page that is left open -------------------------------------------------------------------------


def nmea(body: str) -> str:
    checksum = 0
    for char in body:
        checksum ^= ord(char)
    return f"${body}*{checksum:02X}\r\n"


def short_drive(path: Path) -> None:
    """Two minutes of a car at rest in Munich."""
    rows = [
        nmea(f"GPRMC,10{at // 60:02d}{at % 60:02d}.00,A,4808.2320,N,01134.5660,E,0.0,0.0,030410,,,A")
        for at in range(120)
    ]
    path.write_text("".join(rows), "ascii")


@pytest.mark.slow
def test_a_kept_demo_leaves_its_page_open_until_it_is_stopped(tmp_path: Path, short_dir: Path) -> None:
    short_drive(tmp_path / "short.nmea")
    home = short_dir / "kept"
    done, d = demo(tmp_path, "--replay", "short.nmea", "--keep", "--dir", str(home))
    left: list[psutil.Process] = []
    try:
        assert done.returncode == 0, done.stderr + done.stdout
        page = d["page"]
        assert page["open"] is True and page["url"] in done.stdout and page["password"] in done.stdout
        assert set(page["pids"]) == {"broker", "collector", "page"}
        left = [psutil.Process(pid) for pid in page["pids"].values()]
        assert all(process.is_running() for process in left)
        assert f"demo --stop {home}" in done.stdout
        with httpx.Client(base_url=page["url"], timeout=20.0, trust_env=False) as client:
            assert "<html" in client.get("/").text
            assert client.get("/api/v1/vehicles").status_code == 401
            login = {"name": page["name"], "password": page["password"]}
            assert client.post("/api/v1/session", json={**login, "password": "wrong"}).status_code == 401
            assert client.post("/api/v1/session", json=login).status_code == 200
            vehicles = client.get("/api/v1/vehicles").json()["items"]
        assert VEHICLE in {row["device"] for row in vehicles}
        assert {row["clock"] for row in vehicles} == {"replay"}, "marked as what it is"
        stopped = stop(tmp_path, home)
        assert stopped.returncode == 0 and stopped.stdout == "ended: page, collector, broker\n"
        _, alive = psutil.wait_procs(left, timeout=10)
        assert not alive
        again = stop(tmp_path, home)
        assert again.returncode == 1 and "--keep" in again.stderr and "Traceback" not in again.stderr
    finally:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def stop(folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "firmware_bridge", "demo", "--stop", str(home)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_only_the_processes_that_were_started_are_stopped(tmp_path: Path) -> None:
    """A pid that means another process by now is left alone."""
    mine = psutil.Process()
    rows = [{"name": "page", "pid": mine.pid, "since": mine.create_time() - 100}]
    (tmp_path / demo_open.FILE).write_text(json.dumps(rows), "utf-8")
    assert demo_open.stop(tmp_path) == [] and mine.is_running()

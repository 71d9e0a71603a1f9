"""The runner of `make bench`: what it says, what it writes, and when it ends with 1."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parent / "bench"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The runner in a folder of its own, with benches of two modules: the others are not there."""
    folder = tmp_path / "tests" / "bench"
    folder.mkdir(parents=True)
    for name in ("run.py", "cores.py", "rows.py"):
        shutil.copy(BENCH / name, folder)
    (folder / "ledgers.py").write_text(
        "import os\n"
        "from rows import Row\n"
        "def log(folder):\n"
        "    yield Row('cores_of_log', len(os.sched_getaffinity(0)), 'cores')\n"
        "    yield Row('fast', 2.0, '1/s', goal='>= 1', met=True)\n"
        "def titles(folder):\n"
        "    yield Row('first', 1.0, '1/s')\n"
        "    raise LookupError('nothing to measure')\n"
    )
    (folder / "whole.py").write_text(
        "import os\n"
        "from rows import Row\n"
        "def whole(folder, scale):\n"
        "    yield Row('cores_of_whole', len(os.sched_getaffinity(0)), 'cores')\n"
        "    yield Row('slow', scale, '1/s', goal='>= 1', met=scale >= 1)\n"
    )
    return folder


def run(here: Path, *options: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code, what it said, and the files it wrote, the figures as `rows`."""
    out = here / "bench.json"
    done = subprocess.run(
        [sys.executable, str(here / "run.py"), "--out", str(out), *options],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    found: dict[str, Any] = {}
    if out.exists():
        found = {**json.loads(out.with_suffix(".run.json").read_text()), "rows": json.loads(out.read_text())}
    return done.returncode, done.stdout + done.stderr, found


def test_a_goal_that_is_met_ends_with_0_and_one_that_is_missed_with_1(here: Path) -> None:
    code, said, found = run(here, "--only", "log", "--only", "whole")
    assert (code, found["missed"], found["failed"], found["skipped"]) == (0, [], {}, {})
    assert "[1/2] log" in said and "[2/2] whole" in said

    code, said, found = run(here, "--only", "whole", "--scale", "0.5")
    assert (code, found["missed"], found["scale"]) == (1, ["slow"], 0.5)
    assert "goals missed: slow" in said


def test_one_core_means_one_and_the_others_come_back(here: Path) -> None:
    _, _, found = run(here, "--only", "log", "--only", "whole")
    cores = {row["name"]: row["value"] for row in found["rows"] if row["unit"] == "cores"}
    assert cores == {"cores_of_log": 1, "cores_of_whole": len(os.sched_getaffinity(0))}


def test_a_bench_that_fails_is_named_and_the_others_run(here: Path) -> None:
    code, said, found = run(here)
    assert code == 1
    assert found["failed"] == {"titles": "LookupError: nothing to measure"}
    assert {row["name"] for row in found["rows"]} == {
        "cores_of_log",
        "fast",
        "first",
        "cores_of_whole",
        "slow",
    }
    assert "failed: titles" in said


def test_a_bench_that_is_not_here_is_skipped_unless_it_was_asked_for(here: Path) -> None:
    (here / "ledgers.py").write_text(
        "from rows import Row\ndef log(folder):\n    yield Row('fast', 2.0, '1/s')\ntitles = log\n"
    )
    code, said, found = run(here)
    assert code == 0
    assert found["skipped"]["intake"] == "intakeload.py is not here"
    assert "intake: skipped, intakeload.py is not here" in said

    code, _, found = run(here, "--only", "intake")
    assert (code, found["rows"], list(found["skipped"])) == (1, [], ["intake"])


def test_a_library_that_is_missing_is_named(here: Path) -> None:
    text = (here / "run.py").read_text()
    assert 'Bench("log", "ledgers")' in text
    changed = text.replace('Bench("log", "ledgers")', 'Bench("log", "ledgers", ("no_such_lib",))')
    (here / "run.py").write_text(changed)
    code, said, found = run(here, "--only", "log")
    assert (code, found["skipped"]) == (1, {"log": "not installed: no_such_lib"})
    assert "not installed: no_such_lib" in run(here, "--list")[1]
    assert "skipped, not installed: no_such_lib" in said


def test_the_file_says_on_what_and_how_it_was_measured(here: Path) -> None:
    _, _, found = run(here, "--only", "log")
    assert set(found["machine"]) >= {"system", "kernel", "python", "cpu", "cores", "memory", "load_before"}
    assert found["date"].endswith("+00:00")
    assert found["command"].startswith("python tests/bench/run.py --out ")
    assert found["rows"][1] == {
        "name": "fast", "value": 2.0, "unit": "1/s", "peer": None, "peer_value": None, "ratio": None,
        "goal": ">= 1", "met": True,
    }  # fmt: skip


def test_the_table_is_what_the_document_shows(here: Path) -> None:
    run(here, "--only", "whole", "--scale", "0.5")
    code, said, _ = run(here, "--table", str(here / "bench.json"))
    assert code == 0
    assert "| `slow` | 0.5 | 1/s |  |  | >= 1: **missed** |" in said.splitlines()


def test_a_scale_or_name_that_cannot_be_meant_is_refused(here: Path) -> None:
    assert run(here, "--scale", "0")[0] == run(here, "--scale", "7")[0] == 2
    assert run(here, "--only", "everything")[0] == 2
    assert not (here / "bench.json").exists()


def test_every_bench_that_is_here_has_its_function() -> None:
    """The names in the list and those in the modules go together."""
    script = (
        "import run\n"
        "for bench in run.BENCHES:\n"
        "    assert bench.why_not() is not None or callable(bench.load(0.1)), bench.name\n"
        "    print(bench.name, bench.why_not())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=BENCH, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "page None" in done.stdout.splitlines()

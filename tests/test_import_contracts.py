"""Every import contract of pyproject.toml holds, and breaks, alone, on a deliberate violation."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
PACKAGES: list[str] = CONFIG["root_packages"]
NAMES: dict[str, str] = {contract["id"]: contract["name"] for contract in CONFIG["contracts"]}
EFFECTS = frozenset({"open", "print", "input", "breakpoint", "exec", "eval"})


@dataclass(frozen=True)
class Violation:
    """One deliberate mistake, and the contract that must notice it."""

    contract: str
    module: str
    line: str

    def __str__(self) -> str:
        return f"{self.contract}: {self.module}: {self.line or '(new module)'}"


VIOLATIONS = [
    Violation("folders", "models/verdict.py", "import edge.errors"),
    Violation("folders", "models/verdict.py", "import provisioning.errors"),
    Violation("folders", "provisioning/identity.py", "import models.errors"),
    Violation("folders", "firmware_bridge/reading.py", "import models.errors"),
    Violation("folders", "edge/event.py", "import cloud_sync.errors"),
    Violation("runtime", "edge/pipeline.py", "import firmware_bridge.runtime.clock"),
    Violation("runtime", "cloud_sync/projection.py", "from edge import runtime"),
    Violation("sans-io", "edge/pipeline.py", "import logging"),
    Violation("sans-io", "edge/pipeline.py", "from time import monotonic_ns"),
    Violation("sans-io", "provisioning/identity.py", "import os.path"),
    Violation("sans-io", "firmware_bridge/link.py", "import serialx"),
    Violation("sans-io", "models/verdict.py", "import random"),
    Violation("sans-io", "cloud_sync/ledger/contract.py", "import sqlite3"),
    Violation("edge-stages", "edge/topics.py", "import edge.segment"),
    Violation("edge-stages", "edge/unplaced.py", ""),
    Violation("cloud-stages", "cloud_sync/demo_options.py", "import cloud_sync.incidents"),
    Violation("cloud-stages", "cloud_sync/unplaced.py", ""),
    Violation("sensors", "firmware_bridge/sensors/nmea.py", "import firmware_bridge.sensors.board"),
    Violation("evidence", "cloud_sync/evidence/verify.py", "import cloud_sync.collector"),
    Violation("evidence", "cloud_sync/evidence/verify.py", "import models.detector"),
    Violation("cycles", "models/errors.py", "import models.limits"),
    Violation("cycles", "firmware_bridge/wire/stamp.py", "import firmware_bridge.timekeeper"),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the five packages and their contracts."""
    copy = tmp_path_factory.mktemp("contracts")
    shutil.copy(ROOT / "pyproject.toml", copy)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def broken(tree: Path) -> set[str]:
    """The ids of the contracts that break there."""
    result = subprocess.run(
        [BIN / "lint-imports", "--no-logo", "--no-cache"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    verdicts = {}
    for contract, name in NAMES.items():
        match = re.search(rf"^{re.escape(name)} *(KEPT|BROKEN)", result.stdout, re.MULTILINE)
        assert match, f"no verdict on {contract}:\n{result.stdout}{result.stderr}"
        verdicts[contract] = match[1]
    found = {contract for contract, verdict in verdicts.items() if verdict == "BROKEN"}
    assert (result.returncode != 0) == bool(found)
    return found


@pytest.fixture
def violated(tree: Path, violation: Violation) -> Iterator[Path]:
    """The copy with one violation in it, taken out again afterwards."""
    file = tree / violation.module
    before = file.read_text("utf-8") if file.exists() else None
    assert (before is None) == (violation.line == ""), f"{violation.module} moved: change the violation"
    file.write_text(f"{before or ''}\n{violation.line}\n", "utf-8")
    yield tree
    if before is None:
        file.unlink()
    else:
        file.write_text(before, "utf-8")


def test_every_contract_holds(tree: Path) -> None:
    assert broken(tree) == set()


def test_every_contract_has_a_violation() -> None:
    assert {violation.contract for violation in VIOLATIONS} == set(NAMES)


@pytest.mark.parametrize("violation", VIOLATIONS, ids=str)
def test_contract_breaks_alone(violated: Path, violation: Violation) -> None:
    assert broken(violated) == {violation.contract}


# --- calls that are not imports ----------------------------------------------------------------------


def pure_modules() -> list[Path]:
    """Every module that is neither runtime nor wiring."""
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    return sorted(file for file in files if "runtime" not in file.parts and file.name != "__main__.py")


def effects(source: str) -> list[str]:
    """The built-in functions with effects that this source calls, as `name (line)`."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [
        f"{call.func.id} (line {call.lineno})"
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id in EFFECTS
    ]


def test_effects_are_seen() -> None:
    assert effects("def f():\n    with open('x') as f:\n        print(f)") == [
        "open (line 2)",
        "print (line 3)",
    ]
    assert effects("f.open('x'); printed(1)") == []


def test_pure_modules_call_no_effects() -> None:
    found = {str(file.relative_to(ROOT)): effects(file.read_text("utf-8")) for file in pure_modules()}
    assert len(found) > 40
    assert {file: calls for file, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    ("place", "caught"),
    [("edge/event.py", True), ("edge/runtime/daemon.py", False), ("edge/__main__.py", False)],
)
@pytest.mark.parametrize(
    "call",
    ["import datetime\ndatetime.datetime.now()", "import time\ntime.time()", "import uuid\nuuid.uuid4()"],
)
def test_reading_the_clock_or_chance_is_caught_outside_runtime(place: str, caught: bool, call: str) -> None:
    result = subprocess.run(
        [BIN / "ruff", "check", "--no-cache", "--select=TID251", "--stdin-filename", ROOT / place, "-"],
        input=call,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("TID251" in result.stdout) == caught, result.stdout + result.stderr

"""The surface that others build on, pinned: commands, the names of the stages' seams, cheap imports."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PACKAGES = ("firmware_bridge", "models", "provisioning", "edge", "cloud_sync")

COMMANDS = {
    "broker": "cloud_sync.__main__:broker",
    "ca": "provisioning.__main__:ca",
    "collect": "cloud_sync.__main__:collect",
    "config": "edge.__main__:config",
    "demo": "cloud_sync.__main__:demo",
    "doctor": "edge.__main__:doctor",
    "edge": "edge.__main__:edge",
    "erase": "cloud_sync.__main__:erase",
    "evaluate": "models.__main__:evaluate",
    "evidence": "cloud_sync.__main__:evidence",
    "log": "cloud_sync.__main__:log",
    "market": "models.__main__:market",
    "metrics": "edge.__main__:metrics",
    "outbox": "edge.__main__:outbox",
    "provision": "provisioning.__main__:provision",
    "roadside": "edge.__main__:roadside",
    "serve": "cloud_sync.__main__:serve",
    "status": "edge.__main__:status",
    "title": "cloud_sync.__main__:title",
    "train": "models.__main__:train",
    "uplink": "edge.__main__:uplink",
    "value": "models.__main__:value",
    "verify": "cloud_sync.evidence.__main__:verify",
}

SEAMS = {
    "firmware_bridge.reading": "BoardHello FixQuality PortCondition PortState Position PositionVoid Power"
    " PowerState Refusal Relay SkyView Tyre Vibration VoidReason Wheel",
    "firmware_bridge.link": "Decoder Link",
    "models.verdict": "Action Cause Evidence Verdict",
    "models.detector": "Detector",
    "edge.segment": "Lost Previous Sealed Segment Tombstone parse peek seal segment_hash verify",
    "edge.receipt": "Receipt ReceiptItem make_receipt verify_receipt",
    "edge.trust": "Trust",
    "cloud_sync.statement": "Statement make_statement parse_statement peek_statement valid_tenant",
}


def public(module: str) -> set[str]:
    """The classes and functions that a module itself defines for others."""
    members = vars(importlib.import_module(module)).items()
    return {
        name
        for name, value in members
        if (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module
        and not name.startswith("_")
    }


def test_the_commands() -> None:
    assert PROJECT["entry-points"]["holdfast.commands"] == COMMANDS
    assert PROJECT["scripts"] == {"holdfast": "firmware_bridge.__main__:main"}


def test_the_installed_commands_are_those_of_the_project() -> None:
    installed = {
        point.name: point.value for point in importlib.metadata.entry_points(group="holdfast.commands")
    }
    assert installed == COMMANDS


def test_the_extras() -> None:
    assert set(PROJECT["optional-dependencies"]) == {"value", "cloud", "train", "dev"}


@pytest.mark.parametrize("module", sorted(SEAMS))
def test_the_names_at_a_seam(module: str) -> None:
    assert public(module) == set(SEAMS[module].split())


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_nothing(package: str) -> None:
    code = (
        f"import sys; before = set(sys.modules); import {package}; print(sorted(set(sys.modules) - before))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == f"['{package}']"


def test_no_other_distribution_ships_our_names() -> None:
    providers = importlib.metadata.packages_distributions()
    assert {
        name: set(providers[name]) for name in PACKAGES if set(providers.get(name, ())) - {"holdfast"}
    } == {}

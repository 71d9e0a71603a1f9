"""ARCHITECTURE.md's diagram matches the code: every module it names exists in the package it is drawn in."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("firmware_bridge", "models", "edge", "cloud_sync", "provisioning")


def diagram() -> str:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    return text.split("```mermaid", 1)[1].split("```", 1)[0]


def test_every_module_in_the_diagram_exists() -> None:
    package = ""
    seen = 0
    for line in diagram().splitlines():
        if match := re.match(r"\s*subgraph (?:\w+\[)?(\w+)\]?", line):
            package = match[1]
            assert package in PACKAGES
        for module in re.findall(r"[\w/]+\.py", line):
            seen += 1
            assert (ROOT / package / module).is_file(), f"{package}/{module} is drawn but is not there"
    assert seen >= 15


def test_every_arrow_between_packages_runs_with_the_data() -> None:
    assert "DEC -->|Reading| PIPE" in diagram()
    for name in PACKAGES[:4]:
        assert name in diagram()

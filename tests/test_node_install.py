"""What a node gets: all but the cloud, in the size that the README promises. Needs the package registry."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MB = 1_000_000
NODE_LIMIT_MB = 145
VALUE_LIMIT_MB = 210
SOURCES = ("Makefile", "pyproject.toml", "setup.py", "README.md", "requirements")
CLOUD = "cloud_sync"


def packages() -> list[str]:
    """The import packages, the cloud among them."""
    return [file.parent.name for file in ROOT.glob("*/__init__.py")]


def size_mb(folder: Path) -> float:
    """What the folder takes on disk, in whole blocks, links not followed."""
    stats = (Path(base, name).lstat() for base, _, names in os.walk(folder) for name in names)
    return sum(stat.st_blocks * 512 for stat in stats) / MB


def registry_answers() -> bool:
    """Whether pip finds any one package: a lock that cannot be installed must not pass for a dead network."""
    probe = [
        sys.executable,
        "-m",
        "pip",
        "-q",
        "install",
        "--dry-run",
        "--no-deps",
        "--ignore-installed",
        "cbor2",
    ]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def make(copy: Path, node: Path, *variables: str) -> None:
    """`make node-install` in the copy, by this environment; skips where the registry is away."""
    bin_ = Path(sys.executable).parent
    result = subprocess.run(
        [
            *("make", "-C", copy, "-o", f"{bin_.parent}/.project", "node-install", f"DEST={node}"),
            *(f"VENV={bin_.parent}", f"PYTHON={sys.executable}", *variables),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0 and not registry_answers():
        pytest.skip("the package registry cannot be reached: the node's size was not measured")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node's environment, made once with `make node-install` from a copy of the sources."""
    folder = tmp_path_factory.mktemp("node")
    copy = folder / "sources"
    copy.mkdir()
    for name in SOURCES:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
    for name in packages():
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    make(copy, folder / "holdfast")
    return folder / "holdfast"


def in_node(node: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the node, from a folder that holds nothing of ours."""
    program, *rest = args
    return subprocess.run(
        [node / "bin" / program, *rest], cwd=node.parent, capture_output=True, text=True, check=False
    )


def names(node: Path) -> set[str]:
    """The top-level names in the node's site-packages."""
    return {path.name for path in node.glob("lib/python3*/site-packages/*")}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_has_no_cloud(node: Path) -> None:
    result = in_node(node, "python", "-c", f"import {CLOUD}")
    assert result.returncode == 1
    assert f"No module named '{CLOUD}'" in result.stderr
    here = names(node)
    assert {"edge", "firmware_bridge", "models", "provisioning"} <= here
    assert not here & {
        CLOUD,
        "amqtt",
        "psutil",
        "tensorflow",
        "keras",
        "pytest",
        "ai_edge_litert",
        "setuptools",
    }


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_has_its_commands_and_only_those(node: Path) -> None:
    result = in_node(node, "holdfast", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    listed = re.findall(r"^  ([a-z]+)  ", result.stdout, re.MULTILINE)
    assert {"edge", "uplink", "status", "outbox"} <= set(listed)
    assert not {"demo", "collect", "verify", "title"} & set(listed)
    for command in listed:
        assert in_node(node, "holdfast", command, "--help").returncode == 0
    assert in_node(node, "holdfast", "collect").returncode == 2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_module_of_a_node_imports_without_the_cloud(node: Path) -> None:
    script = (
        "import importlib, pkgutil\n"
        "for name in ('firmware_bridge', 'models', 'provisioning', 'edge'):\n"
        "    package = importlib.import_module(name)\n"
        "    for found in pkgutil.walk_packages(package.__path__, name + '.'):\n"
        "        importlib.import_module(found.name)\n"
        "        print(found.name)\n"
    )
    result = in_node(node, "python", "-c", script)
    assert result.returncode == 0, result.stderr
    assert "edge.runtime.daemon" in result.stdout.split()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_is_small(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = size_mb(node)
    assert list(node.glob("lib/python3*/site-packages/numpy/__pycache__/*.pyc")), "measured with bytecode"
    with capsys.disabled():
        print(f"\nnode install with bytecode: {size:.0f} MB (limit {NODE_LIMIT_MB})")
    assert size < NODE_LIMIT_MB


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_with_valuation_is_small(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    valued = node.parent / "valued"
    make(node.parent / "sources", valued, "VALUE=1")
    size = size_mb(valued)
    with capsys.disabled():
        print(f"\nnode install with [value]: {size:.0f} MB (limit {VALUE_LIMIT_MB})")
    assert "ai_edge_litert" in names(valued)
    assert not names(valued) & {"tensorflow", "keras", CLOUD}
    assert size < VALUE_LIMIT_MB


def test_an_unknown_profile_is_refused() -> None:
    result = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        env={**os.environ, "HOLDFAST_PROFILE": "nodes"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "use one of full, node" in result.stderr

"""What the repository as a whole must be: its entries, its words, its locks."""

from __future__ import annotations

import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FOLDERS = {"edge", "firmware_bridge", "cloud_sync", "models", "provisioning", "systemd", "tests"}
PACKAGES = sorted(FOLDERS - {"systemd", "tests"})
LOCKS = {"build", "node", "value", "cloud", "train", "dev"}
SELF = "tests/test_repository.py"

# Spelt with character classes, so that this file does not hold what it looks for.
FORBIDDEN = {
    "registry host": re.compile(
        r"pythonhosted[.]|pypi[.]org|registry[.]npmjs|proxy[.]golang|crates[.]io/|deb[.]debian[.]org|repo1?[.]maven"
    ),
    "path of a machine": re.compile(r"/work[/](main|shared)|/farm[/]|/home[/]\w+/|/root[/]|/tmp[/]bash_jobs"),
    "unfinished": re.compile(r"\bT[O]DO\b|\bF[I]XME\b|\bX[X]X\b|N[o]tImplementedError|p[l]aceholder", re.I),
}


@cache
def tracked() -> tuple[str, ...]:
    """Every text file of the repository, or of the folder when it is no repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout: what belongs to the repository is not known")
    return tuple(name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())


def findings(what: str, text: str) -> list[str]:
    """The lines of `text` in which the forbidden thing stands."""
    return [line.strip() for line in text.splitlines() if FORBIDDEN[what].search(line)]


def test_seven_folders_and_no_other_package() -> None:
    top = {name.split("/")[0] for name in tracked() if "/" in name}
    assert top - {".ci", "requirements", "docs"} == FOLDERS
    assert {name.split("/")[0] for name in tracked() if name.endswith("__init__.py")} == set(PACKAGES)
    assert {name for name in tracked() if name.endswith(".py") and "/" not in name} == {"setup.py"}
    assert PROJECT["project"]["name"] == "holdfast"


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_every_folder_has_its_page(folder: str) -> None:
    text = (ROOT / folder / "README.md").read_text("utf-8")
    assert text.startswith("# ")
    assert len(text) > 500


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_page_says_what_it_is_not(package: str) -> None:
    headings = re.findall(
        r"^## (.+)$", (ROOT / package / "README.md").read_text("utf-8").lower(), re.MULTILINE
    )
    for names in (("invariants", "promised"), ("non-goals", "not here"), ("blind alleys",)):
        found = [heading for heading in headings if any(name in heading for name in names)]
        assert found, f"{package}/README.md: no section on {names[0]}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_systemd_holds_no_python() -> None:
    assert [name for name in tracked() if name.startswith("systemd/") and name.endswith(".py")] == []


@pytest.mark.parametrize("what", sorted(FORBIDDEN))
def test_nothing_forbidden_stands_in_the_repository(what: str) -> None:
    found = {}
    for name in tracked():
        if what == "unfinished" and not name.endswith(".py"):
            continue
        if lines := findings(what, (ROOT / name).read_text("utf-8", "replace")):
            found[name] = lines[:3]
    assert found == {}


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("registry host", "--index-url https://{}.org/simple".format("pypi")),
        ("path of a machine", "see /{}/main/edge".format("work")),
        ("unfinished", "# {}DO later".format("TO")),
    ],
)
def test_the_search_finds_what_it_looks_for(what: str, line: str) -> None:
    assert findings(what, f"fine\n{line}\n") == [line]
    assert SELF in tracked()


# --- locks -------------------------------------------------------------------------------------------


def pins(lock: str) -> dict[str, str]:
    """`name; marker` -> version, of one lock file."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text("utf-8")
    found = re.findall(r"^([a-z0-9._-]+)==(\S+) *(;[^\\\n]*)?", text, re.MULTILINE)
    return {f"{name}{marker.strip()}": version for name, version, marker in found}


def versions(lock: str) -> dict[str, set[str]]:
    """Package -> its pinned versions (more than one where they depend on the Python version)."""
    found: dict[str, set[str]] = {}
    for key, version in pins(lock).items():
        found.setdefault(key.split(";")[0], set()).add(version)
    return found


def test_the_locks_are_there() -> None:
    assert {file.stem for file in (ROOT / "requirements").glob("*.txt")} == LOCKS


@pytest.mark.parametrize("lock", sorted(LOCKS))
def test_every_pin_has_hashes_and_nothing_names_an_index(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text("utf-8")
    entries = re.split(r"\n(?=\S)", text.strip())
    assert entries == [entry for entry in entries if re.match(r"[a-z0-9._-]+==", entry)]
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in text
    assert "index" not in text


@pytest.mark.parametrize("lock", ["value", "cloud", "dev"])
def test_a_larger_lock_holds_the_node_at_the_same_pins(lock: str) -> None:
    larger = versions(lock)
    node = versions("node")
    assert {name: larger.get(name) for name in node} == node


def test_the_node_lock_is_small() -> None:
    names = set(versions("node"))
    assert not names & {
        "amqtt",
        "tensorflow",
        "tensorflow-cpu",
        "keras",
        "psutil",
        "pytest",
        "ai-edge-litert",
    }
    assert "ai-edge-litert" in versions("value")
    assert versions("node")["cbor2"] == {"5.9.0"}


def test_every_direct_dependency_is_locked() -> None:
    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^A-Za-z0-9_-]", need)[0].lower() for need in requirements} - {"holdfast"}

    extras = PROJECT["project"]["optional-dependencies"]
    assert names(PROJECT["project"]["dependencies"]) <= set(versions("node"))
    assert names(extras["value"]) <= set(versions("value"))
    assert names(extras["cloud"]) <= set(versions("cloud"))
    assert names(extras["dev"]) <= set(versions("dev"))


def test_ci_runs_the_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert script.strip().splitlines()[-1] == "make test"

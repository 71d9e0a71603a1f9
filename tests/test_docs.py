"""The documents say what is so: links lead somewhere, commands and options exist, names stand in the code."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("firmware_bridge", "models", "provisioning", "edge", "cloud_sync")
SKIP = {".venv", "build", "node_modules", ".pytest_cache", "demo-state", "demo-evidence"}
DOCUMENTS = sorted(
    file
    for file in ROOT.rglob("*.md")
    if not SKIP & set(file.relative_to(ROOT).parts) and not file.is_symlink()
)
COMMANDS = {point.name for point in importlib.metadata.entry_points(group="holdfast.commands")}
SPAN = re.compile(r"`([^`\n]+)`")
FOREIGN = {"SetApprovalForAll"}
"""Names of standards that a document says are left out."""
CONFIGURATIONS = ("node.toml", "collector.toml", "broker.toml", "serve.toml", "ca.toml")
SUFFIXES = ("py", "md", "cddl", "service", "rules", "sysusers", "tmpfiles", "toml")


WITH_COMMANDS = frozenset(
    {"ca", "config", "evaluate", "market", "metrics", "outbox", "provision", "title", "train"}
)
"""Commands that have commands."""


def name(file: Path) -> str:
    """The document's name, for test ids."""
    return str(file.relative_to(ROOT))


def prose(file: Path) -> str:
    """The document's text."""
    return file.read_text("utf-8")


def blocks(text: str) -> list[str]:
    """The lines of code blocks, fenced and indented."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)
    return [line for block in fenced for line in block.splitlines()] + indented


def commands(text: str) -> list[str]:
    """Every shell command in code spans and code blocks that starts with `make` or `holdfast`."""
    spans = [match[1] for match in SPAN.finditer(text)]
    lines = [line.strip() for line in (*spans, *blocks(text))]
    return [line for line in lines if re.match(r"(make|(\.venv/bin/)?holdfast) [a-z]", line)]


def slug(heading: str) -> str:
    """A heading's anchor, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@cache
def targets() -> frozenset[str]:
    """The targets of the Makefile."""
    return frozenset(re.findall(r"^([a-z][a-z-]*):", prose(ROOT / "Makefile"), re.MULTILINE))


@cache
def help_of(*command: str) -> str:
    """What `holdfast COMMAND --help` prints, wide enough that nothing is cut."""
    result = subprocess.run(
        [Path(sys.executable).parent / "holdfast", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"},
    )
    return result.stdout


@cache
def words_of_the_code() -> frozenset[str]:
    """Every identifier that the sources define or use, and every string that could be one."""
    found: set[str] = set()
    for package in (*PACKAGES, "tests"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    found.add(node.name)
                elif isinstance(node, ast.Name):
                    found.add(node.id)
                elif isinstance(node, ast.Attribute):
                    found.add(node.attr)
                elif isinstance(node, ast.arg):
                    found.add(node.arg)
                elif (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and node.value.isidentifier()
                ):
                    found.add(node.value)
                elif isinstance(node, ast.alias):
                    found.update(node.name.split("."))
    return frozenset(found)


def test_there_are_documents() -> None:
    assert {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {
        name(file) for file in DOCUMENTS
    }


@pytest.mark.parametrize("file", DOCUMENTS, ids=name)
def test_links_lead_somewhere(file: Path) -> None:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(file)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        page = target.suffix == ".md" and target.is_file()
        headings = re.findall(r"^#+ (.+)$", prose(target), re.MULTILINE) if page else []
        if not target.exists() or (anchor and anchor not in map(slug, headings)):
            dead.append(link)
    assert dead == []


@pytest.mark.parametrize("file", DOCUMENTS, ids=name)
def test_files_that_are_named_exist(file: Path) -> None:
    """A path counts from the root or the document's folder; a bare name from anywhere below that folder."""
    missing = []
    for span in SPAN.findall(prose(file)):
        if not re.fullmatch(rf"[\w.-][\w./-]*\.(?:{'|'.join(SUFFIXES)})", span) or span in CONFIGURATIONS:
            continue
        found = file.parent.rglob(span) if "/" not in span else iter(())
        below = any(SKIP.isdisjoint(place.relative_to(ROOT).parts) for place in found)
        if not below and not any((place / span).exists() for place in (ROOT, file.parent)):
            missing.append(span)
    assert missing == []


@pytest.mark.parametrize("file", DOCUMENTS, ids=name)
def test_commands_exist(file: Path) -> None:
    unknown = []
    for line in commands(prose(file)):
        program, first, *_ = re.split(r"[\s,]+", line)
        known = targets() if program == "make" else COMMANDS
        if first not in known:
            unknown.append(line)
    assert unknown == []


@pytest.mark.parametrize("file", DOCUMENTS, ids=name)
def test_options_exist(file: Path) -> None:
    """Every `--option` after `holdfast COMMAND` or in DEMO_ARGS is in that command's --help."""
    unknown = []
    for line in commands(prose(file)):
        words = shlex.split(line.split("#")[0]) if line.count('"') % 2 == 0 else line.split()
        demo = [word.removeprefix("DEMO_ARGS=") for word in words if word.startswith("DEMO_ARGS=")]
        command = ["demo"] if demo else words[1:2]
        options = re.findall(r"(?<![\w-])--[a-z][a-z-]*", " ".join(demo or words))
        if words[0] == "make" and not demo:
            continue
        if options and command[0] in WITH_COMMANDS and len(words) > 2 and not words[2].startswith("-"):
            command.append(words[2])
        text = help_of(*command) if options else ""
        unknown += [f"{' '.join(command)} {option}" for option in options if option not in text]
    assert unknown == []


def test_the_options_of_the_demo_that_the_readme_lists_exist() -> None:
    rows = re.findall(r"^\| `(--[a-z]+)", prose(ROOT / "README.md"), re.MULTILINE)
    assert len(rows) >= 5
    assert [row for row in rows if row not in help_of("demo")] == []


@pytest.mark.parametrize("file", DOCUMENTS, ids=name)
def test_names_stand_in_the_code(file: Path) -> None:
    """A span that looks like Python, `name(...)` or `CamelCase`, is defined somewhere."""
    unknown = []
    for span in SPAN.findall(prose(file)):
        if match := re.fullmatch(r"\.?([A-Za-z_][\w.]*)\([^)]*\)", span):
            names = match[1].split(".")
        elif re.fullmatch(r"[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]+)+", span):
            names = [span]
        else:
            continue
        unknown += [span for part in names if part not in words_of_the_code() | FOREIGN]
    assert unknown == []


def test_the_readme_lists_every_command() -> None:
    listed = set(
        re.findall(r"`(?:holdfast )?([a-z]+)`", prose(ROOT / "README.md").split("## Commands", 1)[1])
    )
    assert COMMANDS - listed == set()


def test_the_readme_states_sizes_under_the_limits() -> None:
    rows = re.findall(
        r"^\| (?:node install|with on-node)[^|]*\| (\S+) MB \| (\d+) MB", prose(ROOT / "README.md"), re.M
    )
    assert len(rows) == 2
    for measured, limit in rows:
        assert float(measured) < float(limit)

"""The one command: lists without importing, loads only the chosen, and says what to do when it cannot."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.__main__ import main
from firmware_bridge.cli import Entry, help_text, nearest, summary_of, unknown_text

HOLDFAST = Path(sys.executable).parent / "holdfast"
COMMANDS = sorted(point.name for point in importlib.metadata.entry_points(group="holdfast.commands"))


def holdfast(*args: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the real command, with `path` before everything else on sys.path."""
    env = {**os.environ, "COLUMNS": "100"} | ({"PYTHONPATH": str(path)} if path else {})
    return subprocess.run([HOLDFAST, *args], capture_output=True, text=True, check=False, env=env)


def listed(text: str) -> dict[str, str]:
    """The commands in a help text, with their summaries."""
    rows = (line.strip().split("  ", 1) for line in text.splitlines() if line.startswith("  "))
    return {row[0]: row[1].strip() if len(row) > 1 else "" for row in rows if not row[0].startswith("-")}


def install(folder: Path, entries: str, **modules: str) -> Path:
    """Pretend that a distribution with these commands and modules stands in `folder`."""
    info = folder / "stranger-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[holdfast.commands]\n{entries}\n")
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    return folder


# --- the real command --------------------------------------------------------------------------------


def test_help_lists_every_command_with_a_summary() -> None:
    result = holdfast("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(listed(result.stdout)) == COMMANDS
    assert {name: text for name, text in listed(result.stdout).items() if not text} == {}


def test_help_imports_no_command() -> None:
    script = (
        "import sys; from firmware_bridge.__main__ import main; main(['--help']);"
        "heavy = {'typer', 'edge', 'cloud_sync', 'cryptography', 'asyncio'};"
        "print(*heavy.intersection(m.split('.')[0] for m in sys.modules), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr.split() == []


def test_no_command_prints_the_list_and_is_a_usage_error() -> None:
    result = holdfast()
    assert result.returncode == 2
    assert sorted(listed(result.stdout)) == COMMANDS


def test_version() -> None:
    result = holdfast("--version")
    assert (result.returncode, result.stdout) == (0, f"holdfast {importlib.metadata.version('holdfast')}\n")


@pytest.mark.parametrize(("typed", "meant"), [("dmeo", "demo"), ("colect", "collect"), ("Verify", "verify")])
def test_unknown_command_names_the_nearest(typed: str, meant: str) -> None:
    result = holdfast(typed)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"did you mean `holdfast {meant}`?" in result.stderr


def test_unknown_command_far_from_all_points_to_help() -> None:
    result = holdfast("zzzzzz")
    assert result.returncode == 2
    assert "`holdfast --help` lists the commands" in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"holdfast {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_an_option_it_does_not_have(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--no-such-option"])
    assert ended.value.code == 2
    assert "--no-such-option" in capsys.readouterr().err


# --- commands that are not as they should be ---------------------------------------------------------


def test_a_command_whose_package_is_absent_is_not_listed(tmp_path: Path) -> None:
    path = install(tmp_path, "ghost = not_installed.__main__:ghost")
    assert "ghost" not in listed(holdfast("--help", path=path).stdout)
    assert holdfast("ghost", path=path).returncode == 2


def test_a_registered_command_gets_its_arguments_and_sets_the_exit_code(tmp_path: Path) -> None:
    source = (
        "import typer\necho = typer.Typer(help='Say it back. Twice.')\n"
        "@echo.command()\ndef run(word: str) -> None:\n    print(word, word)\n    raise typer.Exit(40)\n"
    )
    path = install(tmp_path, "echo = echoing:echo", echoing=source)
    assert listed(holdfast("--help", path=path).stdout)["echo"] == "Say it back"
    result = holdfast("echo", "hi", path=path)
    assert (result.returncode, result.stdout) == (40, "hi hi\n")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_library", "no_such_library"),
        ("other = 1", "has no attribute 'broken'"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_a_command_that_cannot_be_loaded_says_so(tmp_path: Path, source: str, reason: str) -> None:
    path = install(tmp_path, "broken = breaking:broken", breaking=source)
    assert "broken" in listed(holdfast("--help", path=path).stdout)
    result = holdfast("broken", path=path)
    assert (result.returncode, result.stdout) == (1, "")
    assert reason in result.stderr
    assert "Make the environment again" in result.stderr
    assert "Traceback" not in result.stderr


# --- the pure part -----------------------------------------------------------------------------------

APP = "app = typer.Typer()\n"
A_COMMAND = "@app.command()\ndef f():\n    '''A.'''\n"
B_COMMAND = "@app.command()\nasync def g():\n    '''B.\n\n    More.'''\n"
CALLBACK = "@app.callback()\ndef h():\n    '''All.'''\n"


@pytest.mark.parametrize(
    ("source", "summary"),
    [
        ("app = typer.Typer(help='One. Two.')", "One"),
        ("app: typer.Typer = typer.Typer(help='One\\nline.\\n\\nMore.')", "One line"),
        (APP + A_COMMAND, "A"),
        (APP + B_COMMAND, "B"),
        (APP + CALLBACK + A_COMMAND, "All"),
        (APP + A_COMMAND + B_COMMAND, ""),
        ("other = typer.Typer(help='One.')\n@other.command\ndef f():\n    '''Not this.'''", ""),
        ("app = make(help=TEXT)", ""),
        ("app = 1", ""),
        ("app = typer.Typer(", ""),
        ("", ""),
    ],
)
def test_summary(source: str, summary: str) -> None:
    assert summary_of(source, "app") == summary


@given(st.text(), st.text())
def test_summary_of_anything_is_one_line(source: str, attribute: str) -> None:
    try:
        assert "\n" not in summary_of(source, attribute)
    except ValueError as error:
        assert "null bytes" in str(error)


@given(st.text(max_size=40))
def test_nearest_is_an_installed_command_or_nothing(name: str) -> None:
    assert nearest(name, ["demo", "edge"]) in ("demo", "edge", None)
    assert unknown_text(name, ["demo", "edge"]).startswith("holdfast: no command ")


def test_help_with_nothing_installed_says_how_to_mend_it() -> None:
    assert "make demo" in help_text("1", {})


def test_entry_is_immutable() -> None:
    with pytest.raises(AttributeError):
        Entry("a", "b", "c").name = "d"  # type: ignore[misc]

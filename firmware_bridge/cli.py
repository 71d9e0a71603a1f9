"""What `holdfast --help` says, worked out from source text: no command is imported to be listed.

A command is a `typer.Typer` named in the entry-point group `holdfast.commands`. Its summary is the first
sentence of, in this order: the `help=` of its `typer.Typer(...)`, the docstring of its `@NAME.callback()`,
the docstring of its only `@NAME.command()`.
"""

from __future__ import annotations

import ast
import difflib
from dataclasses import dataclass
from functools import cache

GROUP = "holdfast.commands"
"""Entry-point group that each package registers its commands in."""
USAGE_EXIT = 2
"""Exit code of a command line that cannot be meant."""
FAILURE_EXIT = 1
"""Exit code of a command that is installed and cannot be loaded."""
NEAR = 0.6
"""How alike (0 to 1, difflib's ratio) a name must be to be suggested for a mistyped one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One installed command: its name and where its Typer stands, `module:attribute`."""

    name: str
    module: str
    attribute: str


def _text(node: ast.expr | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _help_of_call(value: ast.expr | None) -> str:
    """The `help=` of `typer.Typer(...)`, or nothing."""
    if not isinstance(value, ast.Call):
        return ""
    return next((_text(keyword.value) for keyword in value.keywords if keyword.arg == "help"), "")


def _decorates(function: ast.stmt, attribute: str, method: str) -> bool:
    """Whether the statement is a function under `@ATTRIBUTE.METHOD(...)`."""
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    for decorator in function.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        if (
            isinstance(target, ast.Attribute)
            and target.attr == method
            and isinstance(target.value, ast.Name)
            and target.value.id == attribute
        ):
            return True
    return False


def _docstrings(tree: ast.Module, attribute: str, method: str) -> list[str]:
    found = [node for node in tree.body if _decorates(node, attribute, method)]
    return [
        ast.get_docstring(node) or ""
        for node in found
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.strip().split("\n\n", 1)[0].split())
    return paragraph.split(". ", 1)[0].rstrip(".")


@cache
def _parsed(source: str) -> ast.Module | None:
    """The tree of a source, made once for all commands that stand in it; None where it is no Python."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return None


def summary_of(source: str, attribute: str) -> str:
    """The one-line summary of the Typer called `attribute` in this source; empty where there is none."""
    tree = _parsed(source)
    if tree is None:
        return ""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == attribute for target in targets):
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            if found := _help_of_call(node.value):
                return _first_sentence(found)
    callbacks = _docstrings(tree, attribute, "callback")
    commands = _docstrings(tree, attribute, "command")
    candidates = callbacks or (commands if len(commands) == 1 else [])
    return _first_sentence(candidates[0]) if candidates else ""


def nearest(name: str, known: list[str]) -> str | None:
    """The installed command that a mistyped name most likely means."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=NEAR)), None)


def help_text(version: str, summaries: dict[str, str]) -> str:
    """The whole of `holdfast --help`."""
    width = max((len(name) for name in summaries), default=0)
    lines = [
        f"holdfast {version}: watches pledged vehicles and can prove what it saw.",
        "",
        "usage: holdfast COMMAND [OPTIONS]    (holdfast COMMAND --help says more)",
        "",
    ]
    lines += [f"  {name:<{width}}  {summaries[name]}".rstrip() for name in sorted(summaries)]
    if not summaries:
        lines.append(
            "  No commands are installed: make the environment again with `make demo` or `make node-install`."
        )
    lines += ["", "  --version   print the version", "  --help      print this"]
    return "\n".join(lines)


def unknown_text(name: str, known: list[str]) -> str:
    """What to say to a command that is not there."""
    guess = nearest(name, known)
    hint = f"did you mean `holdfast {guess}`?" if guess else "`holdfast --help` lists the commands."
    return f"holdfast: no command {name!r} here; {hint}"

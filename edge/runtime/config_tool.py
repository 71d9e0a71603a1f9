"""`holdfast config check | explain | diff | init`: what a configuration says, and whether it can be meant."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from edge import settings
from edge.config import Problem
from edge.errors import ConfigError
from edge.runtime.config_kinds import NODE, ConfigKind, kind_of, kinds, read_text
from edge.runtime.load import load_config
from edge.settings import Difference, Setting, line_of, lines_of

NODE_TOML: Final = Path("/etc/holdfast/node.toml")
"""Where an installed node has its configuration."""
OK, USAGE = 0, 2
_TOML_LINE: Final = re.compile(r"at line (\d+)")


def say(text: str) -> None:
    """For people who asked: on stdout."""
    print(text)


def complain(text: str) -> None:
    """For people: on stderr."""
    print(text, file=sys.stderr)


# ---- check ------------------------------------------------------------------------------------------


def check(paths: Sequence[Path], *, as_json: bool, kind: str | None = None) -> int:
    """Say everything that is wrong with each file; 0 when nothing is, else 2."""
    reports = [_report(path, kind) for path in paths or [NODE_TOML]]
    if as_json:
        say(json.dumps({"ok": all(one["ok"] for one in reports), "files": reports}, ensure_ascii=False))
    for one in reports:
        for problem in one["problems"]:
            complain(_at(one["file"], problem["line"]) + problem["text"])
        if one["ok"] and not as_json:
            say(f"{one['file']}: in order ({one['kind']})")
        elif not one["ok"]:
            count = len(one["problems"])
            complain(f"{one['file']}: {count} {'mistake' if count == 1 else 'mistakes'}")
    return OK if all(one["ok"] for one in reports) else USAGE


def _report(path: Path, name: str | None) -> dict[str, Any]:
    kind, lines = None, dict[str, int]()
    try:
        text = read_text(path)
        kind, lines = kind_of(path, text, name), lines_of(text)
        problems = kind.check(path, text)
    except ConfigError as error:
        problems = [Problem("", str(error))]
    found = [
        {"line": _line(one, lines), "where": one.where or None, "text": one.text.removeprefix(f"{path}: ")}
        for one in problems
    ]
    return {
        "file": str(path),
        "kind": None if kind is None else kind.name,
        "ok": not problems,
        "problems": sorted(found, key=lambda one: int(str(one["line"] or 0))),
    }


def _line(problem: Problem, lines: Mapping[str, int]) -> int | None:
    if found := line_of(problem.where, lines):
        return found
    syntax = _TOML_LINE.search(problem.text)
    return int(syntax[1]) if syntax else None


def _at(file: str, line: int | None) -> str:
    return f"{file}:{line}: " if line else f"{file}: "


# ---- explain ----------------------------------------------------------------------------------------


def explain(key: str | None, path: Path | None, *, kind: str | None, as_json: bool) -> int:
    """Tell of one key, one table, or all of a configuration; with a file also what is in effect."""
    try:
        file = path if path is not None else NODE_TOML if NODE_TOML.is_file() and kind is None else None
        text = "" if file is None else read_text(file)
        which = kind_of(file or Path(NODE.name), text, kind)
        every = which.settings()
        found = list(every) if key is None else settings.explain(key, every)
        effect = {} if file is None else _effect(which, file, text)
    except ConfigError as error:
        complain(str(error))
        return USAGE
    told = [_told(one, effect) for one in found]
    if as_json:
        say(json.dumps(told, ensure_ascii=False))
    for one in [] if as_json else told:
        say(_words(one))
    return OK


def _effect(kind: ConfigKind, path: Path, text: str) -> dict[str, tuple[str, str]]:
    """Setting -> (value in effect, where it comes from)."""
    lines, values = lines_of(text), kind.values(path, text)
    ports = [name for name in dict.fromkeys(key.split(".")[1] for key in values if key.startswith("port."))]
    found = {}
    for name, value in values.items():
        where = name
        if kind is NODE and name.startswith("port."):
            _, port, field = name.split(".", 2)
            where = f"port[{ports.index(port)}].{field}"
        line = lines.get(where)
        found[name] = (value, f"{path}:{line}" if line else "the default")
    return found


def _told(setting: Setting, effect: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    table, _, key = setting.name.partition(".")
    values = [
        {"setting": name, "value": value, "from": origin}
        for name, (value, origin) in effect.items()
        if name == setting.name or (table == "port" and name.startswith("port.") and name.endswith(f".{key}"))
    ]
    return {
        "name": setting.name, "type": setting.type, "unit": setting.unit or None,
        "allowed": setting.allowed or None, "default": setting.default, "required": setting.required,
        "reason": setting.reason, "takes_effect": None, "in_effect": values,
    } | ({"takes_effect": settings.takes_effect(setting.name)} if _of_node(setting.name) else {})  # fmt: skip


def _of_node(name: str) -> bool:
    return any(one.name == name for one in settings.settings())


def _words(told: Mapping[str, Any]) -> str:
    unit = f" {told['unit']}" if told["unit"] else ""
    allowed = f", {told['allowed']}{unit}" if told["allowed"] else ""
    default = "must be said" if told["required"] else f"default {told['default']}"
    lines = [told["name"], f"  {told['type']}{allowed}; {default}", f"  {told['reason']}"]
    for one in told["in_effect"]:
        name = "" if one["setting"] == told["name"] else f" for {one['setting']}"
        lines.append(f"  in effect{name}: {one['value']} ({one['from']})")
    if told["takes_effect"]:
        lines.append(f"  a change is taken by: {told['takes_effect']}")
    return "\n".join(lines)


def markdown(every: Sequence[ConfigKind]) -> str:
    """The page docs/configuration.md: every setting of every configuration."""
    out = [
        "# Every setting",
        "",
        "Written by `holdfast config explain --markdown`; a test holds it against the code.",
        "A key that is not known is an error, and `holdfast config check FILE` says all mistakes of a file.",
    ]
    for kind in sorted(every, key=lambda one: one.name):
        out += ["", f"## {kind.name}", "", f"For {kind.what}.", ""]
        out += ["| setting | value | default | why |", "|---|---|---|---|"]
        for one in kind.settings():
            unit = f" {one.unit}" if one.unit else ""
            value = f"{one.type}, {one.allowed}{unit}" if one.allowed else one.type
            default = "must be said" if one.required else one.default
            out.append(f"| {one.name} | {value} | {default} | {one.reason} |")
    out += ["", "## What a change of node.toml needs", ""]
    for command, names in _by_command().items():
        out.append(f"- {command}: {', '.join(names)}")
    return "\n".join(out) + "\n"


def _by_command() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in settings.settings():
        found.setdefault(settings.takes_effect(one.name), []).append(one.name)
    return found


def print_markdown() -> int:
    """The page, on stdout."""
    print(markdown(list(kinds().values())), end="")
    return OK


# ---- diff -------------------------------------------------------------------------------------------


def diff(first: Path, second: Path | None, *, kind: str | None, as_json: bool) -> int:
    """Where a file differs from the defaults, or from another file, and what each change needs."""
    try:
        text = read_text(first)
        which = kind_of(first, text, kind)
        if which is NODE:
            before = load_config(first)
            found = (
                settings.defaults(before) if second is None else settings.diff(before, load_config(second))
            )
        else:
            found = _differences(which, first, text, second)
    except ConfigError as error:
        complain(str(error))
        return USAGE
    node = before.node.kind if which is NODE else ""
    told = [
        {"name": one.name, "before": one.before, "after": one.after,
         "takes_effect": settings.takes_effect(one.name, kind=node) if which is NODE else None}
        for one in found
    ]  # fmt: skip
    if as_json:
        say(json.dumps(told, ensure_ascii=False))
        return OK
    for item in told:
        taken = f"   [{item['takes_effect']}]" if item["takes_effect"] and second is not None else ""
        say(f"{item['name']}: {item['before']} -> {item['after']}{taken}")
    if not told:
        say("nothing differs")
    return OK


def _differences(kind: ConfigKind, first: Path, text: str, second: Path | None) -> list[Difference]:
    own = kind.values(first, text)
    if second is None:
        default = {one.name: one.default for one in kind.settings() if not one.required}
        other = {name: default.get(name, value) for name, value in own.items()}
        before, after = other, dict(own)
    else:
        before, after = dict(own), dict(kind.values(second, read_text(second)))
    return [
        Difference(name, before[name], after[name]) for name in sorted(own) if before[name] != after[name]
    ]


# ---- init -------------------------------------------------------------------------------------------


def init(out: Path | None, *, tenant: str, device: str, kind: str, host: str | None) -> int:
    """A commented first node.toml, on stdout or into a file that is not there yet."""
    try:
        text = settings.template(str(out or NODE_TOML), tenant=tenant, device=device, kind=kind, host=host)
    except ConfigError as error:
        complain(str(error))
        return USAGE
    if out is None:
        print(text, end="")
        return OK
    try:
        with os.fdopen(
            os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w", encoding="utf-8"
        ) as file:
            file.write(text)
    except FileExistsError:
        complain(f"{out} is there already and is not replaced: name another file, or move it away")
        return USAGE
    except OSError as error:
        complain(f"cannot write {out}: {error.strerror or error}")
        return USAGE if error.errno != 13 else 13
    say(f"{out}: written; add the ports, then: holdfast config check {out}")
    return OK

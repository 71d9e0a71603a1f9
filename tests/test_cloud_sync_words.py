from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from cloud_sync import story
from cloud_sync.runtime import fleet_reads
from cloud_sync.runtime.serve.problems import TITLES
from cloud_sync.words import LANGUAGES, Words, parameters

ROOT = Path(__file__).resolve().parent.parent / "cloud_sync"
PAGE = ROOT / "page"
AREAS = sorted(path.stem for path in (PAGE / "words" / "en").glob("*.json"))
PREFIXES = {"story": {"story", "reason", "alarm"}}
"""First words of the codes of an area, where they are not the area's name alone."""
CHINESE = re.compile(r"[\u4e00-\u9fff]")
SAME = re.compile(r"(?:\{[a-z_]+\}|Holdfast|[^\w]|\d|V|kPa|km|m|s|min|h|²)*")
"""A text that needs no Chinese: parameters, figures, units, punctuation."""


@cache
def area(language: str, name: str) -> dict[str, str]:
    found: dict[str, str] = json.loads((PAGE / "words" / language / f"{name}.json").read_text("utf-8"))
    return found


@cache
def catalogue(language: str) -> dict[str, str]:
    return {code: text for name in AREAS for code, text in area(language, name).items()}


@cache
def prefixes() -> frozenset[str]:
    return frozenset(code.partition(".")[0] for code in catalogue("en"))


# -- both languages ------------------------------------------------------------------------------------


def test_both_languages_have_the_same_areas() -> None:
    assert sorted(path.stem for path in (PAGE / "words" / "zh").glob("*.json")) == AREAS
    assert {path.name for path in (PAGE / "words").iterdir()} == set(LANGUAGES)


@pytest.mark.parametrize("name", AREAS)
def test_both_languages_say_the_same_things(name: str) -> None:
    english, chinese = area("en", name), area("zh", name)
    assert english.keys() == chinese.keys()
    for code, text in english.items():
        assert parameters(text) == parameters(chinese[code]), code
        assert text.strip() and chinese[code].strip(), code
        assert code.partition(".")[0] in PREFIXES.get(name, {name}), code


@pytest.mark.parametrize("name", AREAS)
def test_each_text_is_in_its_language(name: str) -> None:
    for code, text in area("zh", name).items():
        assert CHINESE.search(text) or SAME.fullmatch(text), f"{code}: {text}"
        assert not re.search(r"[\u4e00-\u9fff][,;:?!]", text), (
            f"{code}: half-width mark after Chinese: {text}"
        )
    for code, text in area("en", name).items():
        assert not CHINESE.search(text), f"{code}: {text}"


def test_no_code_stands_in_two_areas() -> None:
    assert len(catalogue("en")) == sum(len(area("en", name)) for name in AREAS)


def test_a_form_for_one_stands_beside_its_base() -> None:
    for code, text in catalogue("en").items():
        if code.endswith(".one"):
            base = catalogue("en").get(code.removesuffix(".one"))
            assert base is not None, code
            assert parameters(text) <= parameters(base), code


# -- against the code ----------------------------------------------------------------------------------

_LITERAL = re.compile(r""""((?:[^"\\\n]|\\.)*)"|'((?:[^'\\\n]|\\.)*)'|`((?:[^`\\]|\\.)*)`""")


def in_page() -> Iterator[tuple[str, str]]:
    """(where, code or template with * for what is filled in) of every text of the page's own scripts."""
    for path in sorted(PAGE.glob("*.js")):
        source = re.sub(r"^\s*(?://[^\n]*|/\*.*?\*/)", "", path.read_text("utf-8"), flags=re.M | re.S)
        left = [source]
        while left:
            for match in _LITERAL.finditer(left.pop()):
                text = next(group for group in match.groups() if group is not None)
                if match[3] is not None:
                    left += re.findall(r"\$\{(.*?)\}", text, flags=re.S)
                    text = re.sub(r"\$\{[^}]*\}", "*", text)
                yield path.name, text
        for text in re.findall(r"`(\w+\.[^`\n]*)`", source):  # also within another template
            yield path.name, re.sub(r"\$\{[^}]*\}", "*", text)


def in_python() -> Iterator[tuple[str, str]]:
    """The same of every string of the package."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path.name, node.value
            elif isinstance(node, ast.JoinedStr):
                parts = [str(v.value) if isinstance(v, ast.Constant) else "*" for v in node.values]
                yield path.name, "".join(parts)


def is_code(text: str) -> bool:
    first, dot, rest = text.partition(".")
    return bool(dot) and first in prefixes() and re.fullmatch(r"[\w.*-]+[\w*]", rest) is not None


NOT_CODES = re.compile(r".*\.(?:js|json|py|csv|db|toml|html|css|v1|proto)")
"""Names of files that begin like a code."""


@cache
def used() -> tuple[tuple[str, str], ...]:
    """What looks like a code. A literal that is no code but the beginning of codes stands for all of them."""
    texts = catalogue("en")
    out = []
    for where, text in (*in_page(), *in_python()):
        if is_code(text) and not NOT_CODES.fullmatch(text):
            whole = "*" in text or text in texts or not any(code.startswith(f"{text}.") for code in texts)
            out.append((where, text if whole else f"{text}.*"))
    return tuple(out)


def pattern(text: str) -> re.Pattern[str]:
    return re.compile(r"[^ ]+".join(re.escape(part) for part in text.split("*")))


def test_every_code_that_is_used_has_a_text() -> None:
    texts = catalogue("en")
    assert len(used()) > 200
    for where, text in used():
        if "*" not in text:
            assert text in texts or f"{text}.one" in texts, f"{where}: {text} has no text"
        else:
            matching = pattern(text)
            assert any(matching.fullmatch(code) for code in texts), f"{where}: no text is like {text}"


FORMS = re.compile(r"(?:\.(?:one|at|now|since|until|some))+$")
"""Ends of other forms of a sentence, chosen by what of its parameters is there (words.js, lanes.js)."""


def test_every_text_is_used() -> None:
    exact = {text for _, text in used() if "*" not in text}
    templates = {text: pattern(text) for _, text in used() if re.match(r"\w+\.(\w+.*\*|\*.*\.\w)", text)}
    unused = [
        code
        for code in catalogue("en")
        if not {code, FORMS.sub("", code)} & exact
        and not any(like.fullmatch(FORMS.sub("", code)) for like in templates.values())
        and not code.startswith("problem.")
    ]
    assert unused == []


def test_every_problem_has_its_title_and_remedy() -> None:
    expected = {f"problem.{code}" for code in TITLES} | {f"problem.{code}.remedy" for code in TITLES}
    assert set(area("en", "problem")) == expected


def test_every_sentence_of_stories_and_records_has_its_parameters() -> None:
    for code, names in (story.CODES | fleet_reads.CODES).items():
        for language in LANGUAGES:
            said = parameters(catalogue(language)[code])
            assert said <= set(names), code
            assert set(names) - said <= {"device", "clock", "n", "at", "minutes"}, code


# -- Words ---------------------------------------------------------------------------------------------


def test_words_fill_parameters_and_choose_the_form_for_one() -> None:
    words = Words("en", {"a": "{n} cars in {place}", "a.one": "one car in {place}"})
    assert words.say("a", {"n": 2, "place": "Bern"}) == "2 cars in Bern"
    assert words.say("a", {"n": 1, "place": "Bern"}) == "one car in Bern"
    assert words.say("a", {"n": 2, "place": None}) == "2 cars in –"
    assert words.say("b.c") == "b.c"
    assert "a" in words and "b" not in words


@pytest.mark.parametrize(
    ("minutes", "english", "chinese"),
    [
        (0, "just now", "刚才"), (1, "1 min ago", "1 分钟前"), (89, "89 min ago", "89 分钟前"),
        (90, "2 h ago", "2 小时前"), (35 * 60, "35 h ago", "35 小时前"), (40 * 60, "2 days ago", "2 天前"),
    ],
)  # fmt: skip
def test_ages_are_said_in_the_unit_that_fits(minutes: int, english: str, chinese: str) -> None:
    for language, expected in (("en", english), ("zh", chinese)):
        said = Words(language, catalogue(language)).say("story.next.send_coarse", {"minutes": minutes})
        assert expected in said


def test_a_parameter_is_not_filled_again() -> None:
    assert Words("en", {"a": "{x} {y}"}).say("a", {"x": "{y}", "y": "1"}) == "{y} 1"

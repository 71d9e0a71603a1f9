"""What people read, in English and Chinese: a code with parameters becomes a sentence. Pure.

The catalogues are `cloud_sync/page/words/<language>/<area>.json`, flat maps of code to text with `{name}` for
parameters; the page and the messages use the same ones. Other forms of a sentence are taken where they exist:
`code.one` where `n` is 1, `code.at` where `distance` is None or 0, `code.now` (after `.at`) where `minutes`
is 0. Figures of `minutes` and of `distance` (metres) become "8 min", "3 h", "2 days", "300 m", "1.2 km", as
the page's words.js does it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

LANGUAGES: Final = ("en", "zh")

_PARAM: Final = re.compile(r"\{([a-z_]+)\}")

_SPANS: Final = (
    (90, "shell.time.min", 1), (36 * 60, "shell.time.h", 60), (float("inf"), "shell.time.d", 24 * 60),
)  # fmt: skip
"""Minutes below which a span is told in a unit, that unit, and its size in minutes."""

Param = str | int | float | None


class Words:
    """The catalogue of one language."""

    def __init__(self, language: str, texts: Mapping[str, str]) -> None:
        self.language = language
        self._texts = dict(texts)

    def say(self, code: str, params: Mapping[str, Param] | None = None) -> str:
        """The sentence of `code`; the code itself where there is none, so that nothing is hidden."""
        values = params or {}
        if "distance" in values and not values["distance"] and f"{code}.at" in self._texts:
            code = f"{code}.at"
        if values.get("minutes") == 0 and f"{code}.now" in self._texts:
            code = f"{code}.now"
        text = self._texts.get(code, code)
        if values.get("n") == 1:
            text = self._texts.get(f"{code}.one", text)

        def fill(match: re.Match[str]) -> str:
            value = values.get(match[1])
            if isinstance(value, int | float):
                value = self._figure(match[1], value)
            return "–" if value is None else str(value)

        return _PARAM.sub(fill, text)

    def _figure(self, name: str, value: float) -> str:
        if name == "distance" and "shell.unit.km" in self._texts:
            if value < 1000:
                return self.say("shell.unit.m", {"n": value})
            return self.say("shell.unit.km", {"n": f"{value / 1000:.{int(value < 10_000)}f}"})
        if name == "minutes" and "shell.time.under_a_minute" in self._texts:
            if value < 1:
                return self.say("shell.time.under_a_minute")
            unit, size = next(one for one in _SPANS if value < one[0])[1:]
            return self.say(unit, {"n": int(value / size + 0.5)})
        return str(value)

    def __contains__(self, code: str) -> bool:
        return code in self._texts


def parameters(text: str) -> frozenset[str]:
    """Names of the parameters of `text`: translations must have the same."""
    return frozenset(_PARAM.findall(text))

"""What people read, in English and Chinese: a code with parameters becomes a sentence. Pure.

The catalogues are `cloud_sync/page/words/<language>/<area>.json`, flat maps of code to text with `{name}` for
parameters; the page and the messages use the same ones. `code.one` is taken instead of `code` where the
parameter `n` is 1 and it exists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

LANGUAGES: Final = ("en", "zh")

_PARAM: Final = re.compile(r"\{([a-z_]+)\}")

Param = str | int | float | None


class Words:
    """The catalogue of one language."""

    def __init__(self, language: str, texts: Mapping[str, str]) -> None:
        self.language = language
        self._texts = dict(texts)

    def say(self, code: str, params: Mapping[str, Param] | None = None) -> str:
        """The sentence of `code`; the code itself where there is none, so that nothing is hidden."""
        values = params or {}
        text = self._texts.get(code, code)
        if values.get("n") == 1:
            text = self._texts.get(f"{code}.one", text)

        def fill(match: re.Match[str]) -> str:
            value = values.get(match[1])
            return "–" if value is None else str(value)

        return _PARAM.sub(fill, text)

    def __contains__(self, code: str) -> bool:
        return code in self._texts


def parameters(text: str) -> frozenset[str]:
    """Names of the parameters of `text`: translations must have the same."""
    return frozenset(_PARAM.findall(text))

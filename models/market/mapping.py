"""A mapping: how the columns of somebody's file become the columns of the sales table. Written in TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from models.errors import MappingError
from models.market import schema
from models.market.schema import Kind

NULLS: Final = frozenset({"", "-", "--", "—", "–", "?", "n/a", "na", "nan", "null", "none", "\\n", "unknown"})
"""What people write for "not known", in lower case; a mapping adds codes of its own."""
CASES: Final = ("", "lower", "upper", "title")
VIN_RULES: Final = ("", "US", "CN", "EU")
ENCODINGS: Final = ("", "utf-8", "gb18030", "cp1252", "utf-16")
_SOURCE_KEYS: Final = frozenset(
    {"column", "columns", "join", "factor", "nulls", "strip", "decimal", "formats", "case", "split", "part",
     "rescale_up_to", "rescale", "pattern", "values", "constant", "code"}
)  # fmt: skip
_TOP_KEYS: Final = frozenset(
    {
        "name",
        "title",
        "currency",
        "encoding",
        "delimiter",
        "vin",
        "car",
        "columns",
        "extra",
        "price_range",
        "currency_column",
        "synthetic",
    }
)
_MAX_NAME: Final = 40
"""A mapping's name stands in reports and in every ingest's record."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where one column comes from, and what is done to its text on the way."""

    columns: tuple[str, ...]
    join: str = " "
    factor: float = 1.0
    nulls: frozenset[str] = NULLS
    strip: str = ""
    decimal: str = "."
    formats: tuple[str, ...] = ("%Y-%m-%d",)
    case: str = ""
    split: str = ""
    part: int = 0
    rescale_up_to: float | None = None
    rescale: float = 1.0
    pattern: str = ""
    values: Dict[str, str] = field(default_factory=dict)
    constant: str | None = None
    code: bool = False
    """A number that is a name: 31.0 and 31 are the same."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """A checked mapping. Names of source columns are compared without case and surrounding blanks."""

    name: str
    currency: str
    columns: Dict[str, Source]
    vin: str | None = None
    vin_rule: str = ""
    car: tuple[str, ...] = ()
    encoding: str = ""
    delimiter: str = ""
    price_range: tuple[float, float] = (1.0, 1e9)
    currency_column: str | None = None
    """Where each row says its currency: a row of another one is refused."""
    synthetic: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        """Every source column that is read, each once, in the spelling that is compared."""
        names = [name for source in self.columns.values() for name in source.columns]
        names += [name for name in (self.vin, self.currency_column) if name]
        return tuple(dict.fromkeys(folded(name) for name in [*names, *self.car]))

    def missing(self, header: Sequence[str]) -> list[str]:
        """The source columns that `header` lacks."""
        there = {folded(name) for name in header}
        return [name for name in self.sources if name not in there]


def folded(name: str) -> str:
    """A column's name as it is compared."""
    return name.strip().strip("\ufeff").strip().casefold()


def parse(text: str) -> Mapping:
    """The mapping written in TOML `text`. Raises MappingError naming the wrong key and what it may be."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MappingError(f"the mapping is no TOML: {error}") from None
    _only(raw, _TOP_KEYS, "the mapping")
    vin = _table(raw, "vin")
    _only(vin, frozenset({"column", "rule"}), "[vin]")
    columns = {name: _source(name, given) for name, given in _table(raw, "columns").items()}
    for name, given in _table(raw, "extra").items():
        if not name.startswith(schema.EXTRA_PREFIX) or not name.isidentifier():
            raise MappingError(
                f"[extra] {name}: the name begins with {schema.EXTRA_PREFIX}, then letters, digits or _"
            )
        columns[name] = _source(name, {"column": given} if isinstance(given, str) else given)
    _needed(columns)
    return Mapping(
        name=_text(raw, "name", "the mapping", "")[:_MAX_NAME] or "unnamed",
        currency=_currency(raw),
        columns=columns,
        vin=_text(vin, "column", "[vin]", "") or None,
        vin_rule=_choice(vin, "rule", "[vin]", VIN_RULES),
        car=_texts(raw, "car", "the mapping"),
        encoding=_choice(raw, "encoding", "the mapping", ENCODINGS),
        delimiter=_choice(raw, "delimiter", "the mapping", ("", ",", ";", "\t", "|")),
        price_range=_range(raw),
        currency_column=_text(raw, "currency_column", "the mapping", "") or None,
        synthetic=bool(raw.get("synthetic", False)),
    )


def _needed(columns: Dict[str, Source]) -> None:
    lacking = [column.name for column in schema.COLUMNS if column.required and not column.made]
    lacking = [name for name in lacking if name not in columns and name != "model"]
    if lacking:
        raise MappingError(
            f"the mapping fills no {', '.join(lacking)}: each needs a table such as [columns.{lacking[0]}]"
            ' with column = "NAME IN THE FILE"'
        )


def _source(name: str, given: Any) -> Source:
    where = f"[columns.{name}]"
    try:
        column = schema.column(name)
    except KeyError:
        known = ", ".join(known.name for known in schema.COLUMNS if not known.made)
        raise MappingError(f"{where}: no such column; there are {known}, and x_... under [extra]") from None
    if column.made:
        raise MappingError(
            f"{where}: it is made at the door; name vehicle numbers under [vin], other identity in car"
        )
    if not isinstance(given, dict):
        raise MappingError(f"{where}: a table with at least column = ...")
    _only(given, _SOURCE_KEYS, where)
    columns = _texts(given, "columns", where) or (
        (_text(given, "column", where, ""),) if "column" in given else ()
    )
    constant = str(given["constant"]) if "constant" in given else None
    if not any(columns) and constant is None:
        raise MappingError(f"{where}: column = ... (or columns = [...], or constant = ...) is missing")
    formats = _texts(given, "formats", where) or ("%Y-%m-%d",)
    if column.kind is Kind.DATE and not all("%" in one for one in formats):
        raise MappingError(f'{where}: formats = ["%Y-%m-%d"] in the letters of strftime')
    values = given.get("values", {})
    if not isinstance(values, dict):
        raise MappingError(f"{where}: values is a table from the file's text to ours")
    return Source(
        columns=columns,
        join=_text(given, "join", where, " "),
        factor=_number(given, "factor", where, 1.0),
        nulls=NULLS | {text.casefold() for text in _texts(given, "nulls", where)},
        strip=_text(given, "strip", where, ""),
        decimal=_choice(given, "decimal", where, (".", ",")),
        formats=formats,
        case=_choice(given, "case", where, CASES),
        split=_text(given, "split", where, ""),
        part=int(_number(given, "part", where, 0)),
        rescale_up_to=_number(given, "rescale_up_to", where, 0.0) if "rescale_up_to" in given else None,
        rescale=_number(given, "rescale", where, 1.0),
        pattern=_text(given, "pattern", where, ""),
        values={str(key): str(value) for key, value in values.items()},
        constant=constant,
        code=bool(given.get("code", False)),
    )


def _only(given: Dict[str, Any], known: frozenset[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise MappingError(f"{where}: no key {key!r}; there are {', '.join(sorted(known))}")


def _table(raw: Dict[str, Any], key: str) -> Dict[str, Any]:
    value = raw.get(key, {})
    if not isinstance(value, dict):
        raise MappingError(f"{key} is a table: [{key}]")
    return value


def _text(given: Dict[str, Any], key: str, where: str, default: str) -> str:
    value = given.get(key, default)
    if not isinstance(value, str):
        raise MappingError(f"{where}: {key} is a text in quotes")
    return value


def _texts(given: Dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = given.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise MappingError(f"{where}: {key} is a list of texts")
    return tuple(value)


def _number(given: Dict[str, Any], key: str, where: str, default: float) -> float:
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e15:
        raise MappingError(f"{where}: {key} is a number")
    return float(value)


def _choice(given: Dict[str, Any], key: str, where: str, choices: Sequence[str]) -> str:
    value = given.get(key, choices[0])
    if value not in choices:
        raise MappingError(f"{where}: {key} is one of {', '.join(repr(one) for one in choices)}")
    return str(value)


def _currency(raw: Dict[str, Any]) -> str:
    value = raw.get("currency", "")
    if not isinstance(value, str) or len(value) != 3 or not (value.isascii() and value.isupper()):
        raise MappingError('currency = "CNY": three capital letters of ISO 4217')
    return value


def _range(raw: Dict[str, Any]) -> tuple[float, float]:
    value = raw.get("price_range", [1.0, 1e9])
    if (
        not isinstance(value, list) or len(value) != 2
        or not all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in value)
        or not 0 < value[0] < value[1]
    ):  # fmt: skip
        raise MappingError("price_range = [lowest, highest], both above zero, in units of the currency")
    return float(value[0]), float(value[1])

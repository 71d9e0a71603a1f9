"""From texts to typed sales: the rules a row must meet, and the reason it does not. No files, no clock.

A row whose price, day or vehicle cannot be trusted is refused with one reason. Any other value that cannot
be read, or lies outside its column's range, becomes unknown and is counted; it is never guessed.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import Final

import polars as pl

from models.market import schema, vin
from models.market.mapping import NULLS, Mapping, Source, folded
from models.market.schema import Kind

DTYPES: Final[dict[Kind, pl.DataType]] = {
    Kind.U64: pl.UInt64(), Kind.I16: pl.Int16(), Kind.I32: pl.Int32(), Kind.F32: pl.Float32(),
    Kind.F64: pl.Float64(), Kind.TEXT: pl.String(), Kind.DATE: pl.Date(), Kind.BOOL: pl.Boolean(),
}  # fmt: skip
CLOCK_SLACK: Final = dt.timedelta(days=1)
"""A sale of today east of us is dated tomorrow."""
MAX_TEXT: Final = 200
"""A longer text in a sales column is a swallowed row, not a name."""
TRUE: Final = ("true", "1", "1.0", "yes", "y", "t")
FALSE: Final = ("false", "0", "0.0", "no", "n", "f")
MID_YEAR: Final = (7, 1)
"""Month and day of a car's first registration where only its model year is known."""

TEXT: Final = "_t_"
UNREADABLE: Final = "_u_"
OUTSIDE: Final = "_o_"
VIN: Final = "_vin"
"""What a working column is, before the name of the column it belongs to."""


@unique
class Reason(StrEnum):
    """Why a row was refused; the value stands in reports."""

    FIELDS = "too many or too few fields"
    QUOTE = "a quotation mark that is never closed"
    DAMAGED = "characters that are no text (wrong encoding or binary)"
    VIN_ELSEWHERE = "a vehicle number outside its column: the columns are shifted"
    VIN_FORM = "no vehicle number where one belongs: the columns are shifted, or it is misread"
    DOMAIN = "a value its column cannot have: the columns are shifted"
    DATE_MISSING = "no date of sale"
    DATE_UNREADABLE = "a date of sale that cannot be read"
    DATE_FUTURE = "a sale in the future"
    DATE_OLD = "a sale before 1990"
    PRICE_MISSING = "no price"
    PRICE_UNREADABLE = "a price that is no number"
    PRICE_ZERO = "a price of zero or below"
    PRICE_RANGE = "an absurd price"
    PRICE_RATIO = "a price absurd against the price when new"
    PRICE_TRADE = "a price absurd against the trade's valuation"
    CURRENCY = "a price in another currency"
    NAME = "no brand or series"
    OUTLIER = "a price absurd against cars like it"


@dataclass(slots=True)
class Counts:
    """What happened to the rows of one file besides being refused."""

    unreadable: dict[str, int] = field(default_factory=dict)
    out_of_range: dict[str, int] = field(default_factory=dict)
    check_digits: int = 0
    no_vin: int = 0
    before_registration: int = 0

    def add(self, other: Counts) -> None:
        """Add the counts of another part of the file."""
        for mine, theirs in ((self.unreadable, other.unreadable), (self.out_of_range, other.out_of_range)):
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count
        self.check_digits += other.check_digits
        self.no_vin += other.no_vin
        self.before_registration += other.before_registration


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Typed rows that may stay, and (index into the given rows, reason, column) of those that may not."""

    kept: pl.DataFrame
    refused: list[tuple[int, Reason, str]]
    counts: Counts


class Dates:
    """Reads days, each text once: a file has few days and many rows."""

    def __init__(self, formats: tuple[str, ...]) -> None:
        self._formats = formats
        self._seen: dict[str, dt.date | None] = {}

    def read(self, text: str) -> dt.date | None:
        """The day that `text` says in one of the formats; None where it says none."""
        if text not in self._seen:
            self._seen[text] = next((day for one in self._formats if (day := parse_day(text, one))), None)
        return self._seen[text]


def parse_day(text: str, pattern: str) -> dt.date | None:
    """`text` read by one strftime pattern; a pattern that ends with * lets anything follow."""
    text = text.strip()
    if pattern.endswith("*"):
        pattern = pattern[:-1]
        words = len(pattern.split())
        text = " ".join(text.split()[:words])
        if words == 1:
            text = text.replace("T", " ").split(" ")[0]
    try:
        return dt.datetime.strptime(text, pattern).date()  # noqa: DTZ007 - a day has no zone
    except ValueError:
        return None


def storage_schema(names: list[str]) -> dict[str, pl.DataType]:
    """Types of the sales table with these `x_` columns."""
    return {one.name: DTYPES[one.kind] for one in (*schema.COLUMNS, *(schema.extra(name) for name in names))}


class Cleaner:
    """Applies one mapping to batches of rows. `today` bounds the day of sale."""

    def __init__(self, mapping: Mapping, key: bytes, today: dt.date) -> None:
        self._mapping = mapping
        self._key = key
        self._latest = today + CLOCK_SLACK
        self._dates = {name: Dates(source.formats) for name, source in mapping.columns.items()}
        self._kinds = {name: schema.column(name) for name in mapping.columns}

    @property
    def extras(self) -> list[str]:
        """Names of the anonymous numbers the mapping fills, sorted."""
        return sorted(name for name in self._kinds if name.startswith(schema.EXTRA_PREFIX))

    def clean(self, rows: pl.DataFrame) -> Cleaned:
        """Type and judge `rows`: texts under the folded names of the source, and `row_id`."""
        counts = Counts()
        frame = rows.with_columns(pl.col(name).str.strip_chars() for name in self._mapping.sources)
        typed = self._typed(frame)
        if self._mapping.vin:
            typed = typed.with_columns(_vins(frame[folded(self._mapping.vin)]).alias(VIN))
        reason, where = self._judge(frame, typed)
        judged = typed.with_columns(
            reason.alias("_reason"), where.alias("_where"), _row=pl.int_range(pl.len())
        )
        bad = judged.filter(pl.col("_reason").is_not_null()).select("_row", "_reason", "_where")
        refused = [(row, Reason(why), at or "") for row, why, at in bad.iter_rows()]
        good = judged["_reason"].is_null()
        typed = typed.filter(good)
        for mark, into in ((UNREADABLE, counts.unreadable), (OUTSIDE, counts.out_of_range)):
            marks = [name for name in typed.columns if name.startswith(mark)]
            for name, count in (
                typed.select(pl.col(one).sum() for one in marks).to_dicts()[0].items() if marks else ()
            ):
                _count(into, name.removeprefix(mark), count)
        kept = self._finish(typed, frame.filter(good), counts)
        return Cleaned(kept, refused, counts)

    def _typed(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Each column of the mapping as text and as value, and where that was unreadable or out of range."""
        columns = [frame["row_id"]]
        for name, source in self._mapping.columns.items():
            text = self._text(frame, source).rename(name)
            columns.append(text.rename(f"{TEXT}{name}"))
            columns += self._value(name, source, text)
        return pl.DataFrame(columns)

    def _text(self, frame: pl.DataFrame, source: Source) -> pl.Series:
        """The source's text, with null for what its author means by "not known"."""
        if source.constant is not None and not source.columns:
            return pl.Series([source.constant], dtype=pl.String).new_from_index(0, frame.height)
        parts = []
        for column in source.columns:
            text = pl.col(folded(column))
            if source.split:
                text = text.str.split(source.split).list.get(source.part, null_on_oob=True).str.strip_chars()
            if source.case:
                text = {"lower": text.str.to_lowercase, "upper": text.str.to_uppercase}.get(
                    source.case, text.str.to_titlecase
                )()
            if source.code:
                text = _code(text)
            known = ~text.str.to_lowercase().is_in(list(source.nulls))
            parts.append(pl.when(known).then(text))
        joined = (
            parts[0] if len(parts) == 1 else pl.concat_str(parts, separator=source.join, ignore_nulls=True)
        )
        joined = pl.when(joined != "").then(joined)
        if source.values:
            joined = joined.replace(dict(source.values))
        return frame.select(joined.alias("text"))["text"]

    def _value(self, name: str, source: Source, text: pl.Series) -> list[pl.Series]:
        column = self._kinds[name]
        if column.kind is Kind.TEXT:
            return [text]
        if column.kind is Kind.DATE:
            value = self._days(name, text)
        elif column.kind is Kind.BOOL:
            lower = text.str.to_lowercase()
            yes, no = lower.is_in(TRUE), lower.is_in(FALSE)
            value = pl.select(pl.when(yes).then(True).when(no).then(False).alias(name))[name]
        else:
            value = self._number(source, text)
        found = [(text.is_not_null() & value.is_null()).rename(f"{UNREADABLE}{name}")]
        if column.kind.is_number and not column.required:
            low = column.low if column.low is not None else -3e38
            high = column.high if column.high is not None else 3e38
            inside = value.is_between(low, high)
            found.append((value.is_not_null() & ~inside).rename(f"{OUTSIDE}{name}"))
            value = pl.select(pl.when(inside).then(value).alias(name))[name]
        return [value.cast(DTYPES[column.kind]).rename(name), *found]

    def _days(self, name: str, text: pl.Series) -> pl.Series:
        """A file has few days and many rows: each text is read once."""
        texts = text.drop_nulls().unique()
        days = pl.Series([self._dates[name].read(one) for one in texts.to_list()], dtype=pl.Date)
        return text.replace_strict(texts, days, default=None, return_dtype=pl.Date)

    def _number(self, source: Source, text: pl.Series) -> pl.Series:
        for char in source.strip:
            text = text.str.replace_all(char, "", literal=True)
        if source.decimal == ",":
            text = text.str.replace_all(".", "", literal=True).str.replace_all(",", ".", literal=True)
        value = text.str.strip_chars().cast(pl.Float64, strict=False)
        value = pl.select(pl.when(value.is_finite()).then(value).alias("v"))["v"]
        if source.rescale_up_to is not None:
            small = value <= source.rescale_up_to
            value = pl.select(pl.when(small).then(value * source.rescale).otherwise(value).alias("v"))["v"]
        return value if source.factor == 1.0 else value * source.factor

    def _judge(self, frame: pl.DataFrame, typed: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
        """The first rule each row breaks, and the column where; null where it breaks none."""
        rules: list[tuple[pl.Expr, Reason, str]] = []
        for name in self._mapping.columns:
            if bool((typed[f"{TEXT}{name}"].str.len_bytes() >= vin.VIN_CHARS).any()):
                rules.append((_holds_vin(f"{TEXT}{name}"), Reason.VIN_ELSEWHERE, name))
        if self._mapping.vin:
            rules.append((~pl.col(VIN).str.contains(vin.FORM), Reason.VIN_FORM, "car"))
        for name, source in self._mapping.columns.items():
            text = pl.col(f"{TEXT}{name}")
            if source.pattern:
                rules.append((~text.str.contains(source.pattern), Reason.DOMAIN, name))
            if self._kinds[name].kind is Kind.TEXT:
                rules.append((text.str.len_chars() > MAX_TEXT, Reason.DOMAIN, name))
        rules += self._core_rules()
        judged = typed
        if self._mapping.currency_column:
            judged = judged.with_columns(
                frame[folded(self._mapping.currency_column)].str.to_uppercase().alias("_cur")
            )
            rules.append((pl.col("_cur").fill_null("") != self._mapping.currency, Reason.CURRENCY, "price"))
        reason = pl.coalesce(pl.when(broken).then(pl.lit(why.value)) for broken, why, _ in rules)
        where = pl.coalesce(pl.when(broken).then(pl.lit(at)) for broken, _, at in rules)
        both = judged.select(reason.alias("reason"), where.alias("where"))
        return both["reason"], both["where"]

    def _core_rules(self) -> list[tuple[pl.Expr, Reason, str]]:
        day, price = pl.col("seen_on"), pl.col("price")
        low, high = self._mapping.price_range
        rules = [
            (pl.col(f"{TEXT}seen_on").is_null(), Reason.DATE_MISSING, "seen_on"),
            (day.is_null(), Reason.DATE_UNREADABLE, "seen_on"),
            (day > self._latest, Reason.DATE_FUTURE, "seen_on"),
            (day < dt.date.fromisoformat(schema.OLDEST), Reason.DATE_OLD, "seen_on"),
            (pl.col(f"{TEXT}price").is_null(), Reason.PRICE_MISSING, "price"),
            (price.is_null(), Reason.PRICE_UNREADABLE, "price"),
            (price <= 0, Reason.PRICE_ZERO, "price"),
            (~price.is_between(low, high), Reason.PRICE_RANGE, "price"),
        ]
        if "new_price" in self._kinds:
            ratio = price / pl.col("new_price")
            inside = (ratio > schema.MIN_RATIO) & (ratio < schema.MAX_RATIO)
            rules.append((~inside, Reason.PRICE_RATIO, "price"))
        if "trade_value" in self._kinds:
            ratio = price / pl.col("trade_value")
            inside = ratio.is_between(1 / schema.MAX_TRADE_RATIO, schema.MAX_TRADE_RATIO)
            rules.append((~inside, Reason.PRICE_TRADE, "price"))
        for name in ("brand", "series"):
            rules.append((pl.col(name).is_null(), Reason.NAME, name))
        return rules

    def _finish(self, typed: pl.DataFrame, frame: pl.DataFrame, counts: Counts) -> pl.DataFrame:
        """Add the car and the columns the mapping does not fill, in the order of storage."""
        vins = typed[VIN].to_list() if self._mapping.vin else [None] * typed.height
        counts.check_digits = vin.check_digits_fail([one for one in vins if one], self._mapping.vin_rule)
        counts.no_vin = vins.count(None) if self._mapping.vin else 0
        named = frame.select(_code(pl.col(folded(name)).fill_null("")) for name in self._mapping.car)
        parts = [column.to_list() for column in named]
        ids = typed["row_id"].to_list()
        others = list(zip(*parts, strict=True)) if parts else [("row", str(one)) for one in ids]
        cars = [
            vin.hash_vin(one, self._key) if one else vin.hash_parts(other, self._key)
            for one, other in zip(vins, others, strict=True)
        ]
        wanted = storage_schema(self.extras)
        frame = typed.with_columns(pl.Series("car", cars, dtype=pl.String))
        frame = frame.with_columns(
            pl.lit(None, dtype=kind).alias(name) for name, kind in wanted.items() if name not in frame.columns
        )
        late = pl.col("registered") > pl.col("seen_on")
        counts.before_registration = int(frame.select(late.sum()).item())
        given = pl.when(~late).then(pl.col("registered"))
        guess = pl.min_horizontal(pl.date(pl.col("model_year"), *MID_YEAR), pl.col("seen_on"))
        guess = pl.when(pl.col("model_year").is_not_null()).then(guess)
        return frame.with_columns(
            registered=pl.coalesce(given, guess), model=pl.coalesce("model", "series")
        ).select(list(wanted))  # fmt: skip


def _code(text: pl.Expr) -> pl.Expr:
    """One spelling of a number that is a name: tables with gaps write 31.0 for 31."""
    return text.str.replace(r"^([0-9]+)\.0+$", "${1}")


def _vins(text: pl.Series) -> pl.Series:
    """Normalised vehicle numbers; null where the source has none, or a filler such as seventeen zeros."""
    bare = text.str.replace_all(r"[\s-]", "").str.to_uppercase().rename(VIN)
    known = ~bare.str.to_lowercase().is_in(list(NULLS))
    formed = bare.str.contains(r"^[A-Z0-9]{17}$").fill_null(False)
    fillers = pl.Series([False]).new_from_index(0, len(bare))
    fillers = fillers.scatter(formed.arg_true(), vin.made_up(bare.filter(formed).to_list()))
    return pl.select(pl.when(known & ~fillers).then(bare).alias(VIN))[VIN]


def _holds_vin(name: str) -> pl.Expr:
    """Whether a text is, or holds, a vehicle number: seventeen characters with at least one letter."""
    text = pl.col(name)
    found = text.str.extract(vin.INSIDE, 0)
    bare = text.str.replace_all(r"[\s-]", "").str.to_uppercase()
    whole = pl.when(bare.str.contains(vin.FORM)).then(bare)
    return pl.coalesce(found, whole).str.contains("[A-Za-z]")


def _count(into: dict[str, int], name: str, count: int) -> None:
    if count:
        into[name] = into.get(name, 0) + count

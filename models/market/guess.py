"""A mapping to fill in for a file nobody has mapped yet: guesses by the names of its columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from models.market import schema, vin
from models.market.cleaning import parse_day
from models.market.mapping import folded
from models.market.schema import Kind

NAMES: Final[dict[str, tuple[str, ...]]] = {
    "seen_on": ("seen_on", "saledate", "sale_date", "date", "sold", "sold_on", "sold_at", "tradetime",
                "posted", "listed", "datum", "verkaufsdatum", "date_vente",
                "成交日期", "交易日期", "上架日期", "日期"),
    "price": ("price", "sellingprice", "selling_price", "sale_price", "saleprice", "amount", "preis", "prix",
              "prezzo", "precio", "成交价", "价格", "售价"),
    "new_price": ("new_price", "newprice", "msrp", "list_price", "listprice", "neupreis", "prix_neuf",
                  "新车价", "指导价"),
    "trade_value": ("trade_value", "mmr", "book_value", "trade", "market_value", "评估价"),
    "brand": ("brand", "make", "manufacturer", "marke", "marque", "marca", "品牌"),
    "series": ("series", "serial", "model", "line", "modell", "modele", "modelo", "车系"),
    "model": ("version", "variant", "trim", "model_name", "typ", "车型"),
    "model_year": ("model_year", "modelyear", "year", "baujahr", "annee", "anno", "年款", "年份"),
    "registered": ("registered", "licensedate", "license_date", "registration", "first_registration",
                   "registerdate", "erstzulassung", "上牌日期", "上牌时间"),
    "odometer_km": ("odometer_km", "odometer", "mileage", "km", "kilometers", "kilometres", "miles",
                    "laufleistung", "kilometrage", "里程", "表显里程"),
    "region": ("region", "state", "city", "cityid", "location", "province", "ort", "ville", "城市", "地区"),
    "transfers": ("transfers", "transfercount", "owners", "previous_owners", "halter", "过户次数"),
    "gearbox": ("gearbox", "transmission", "getriebe", "boite", "变速箱"),
    "displacement_l": ("displacement_l", "displacement", "engine", "engine_size", "hubraum", "排量"),
    "colour": ("colour", "color", "farbe", "couleur", "颜色", "车身颜色"),
    "seller": ("seller", "dealer", "vendor", "haendler", "卖家", "商家"),
    "body": ("body", "body_type", "bodytype", "karosserie", "车身"),
    "fuel": ("fuel", "fuel_type", "oiltype", "kraftstoff", "燃料"),
    "condition": ("condition", "grade", "zustand", "车况"),
    "seats": ("seats", "seatings", "sitze", "座位数"),
}  # fmt: skip
"""Names that files use, as they are compared, for each of our columns; the first that fits is taken."""
VIN_NAMES: Final = ("vin", "vehicle_identification_number", "fin", "fahrgestellnummer", "chassis", "车架号")
FORMATS: Final = (
    "%Y-%m-%d*",
    "%d.%m.%Y*",
    "%d/%m/%Y*",
    "%m/%d/%Y*",
    "%Y/%m/%d*",
    "%Y%m%d",
    "%a %b %d %Y*",
    "%Y年%m月%d日",
)
"""Ways to write a day, the unmistakable before the mistakable."""


def _key(name: str) -> str:
    return folded(name).replace(" ", "_").replace("-", "_")


def quoted(text: str) -> str:
    """`text` as a TOML basic string."""
    out = "".join(
        {"\\": "\\\\", '"': '\\"'}.get(char, char if char.isprintable() else f"\\u{ord(char):04x}"[:6])
        for char in text
    )
    return f'"{out}"'


def template(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A TOML mapping for a file with this header; `rows` are some of its rows, of the header's width.

    What could not be guessed stands in comments. Values are shown masked (letters a, digits 9).
    """
    keys = {_key(name): at for at, name in reversed(list(enumerate(header))) if name.strip()}
    vin_at = _vin_column(header, rows, keys)
    used: set[int] = {vin_at} if vin_at is not None else set()
    lines = [
        'name = "mine"',
        'currency = "EUR"          # ISO 4217: whose units the prices are in, after factor',
    ]
    if vin_at is None:
        lines += [
            "# No column of vehicle numbers was found. Name the columns that together tell cars apart:",
            '# car = ["MODEL", "REGISTERED", "COLOUR"]',
        ]
    else:
        lines += [
            "",
            "[vin]",
            f"column = {quoted(header[vin_at])}",
            'rule = ""                 # "US" or "CN": check digits are due',
        ]
    guessed = _guess(keys, used)
    for column in schema.COLUMNS:
        if column.made:
            continue
        at = guessed.get(column.name)
        if at is None:
            if column.required:
                lines += ["", f"# [columns.{column.name}]   # {column.meaning}", '# column = "..."']
            continue
        values = [row[at].strip() for row in rows if row[at].strip()]
        lines += [
            "",
            f"[columns.{column.name}]   # {column.meaning}",
            f"column = {quoted(header[at])}",
            *_hints(column, values),
        ]
    rest = [name for at, name in enumerate(header) if at not in used and at not in guessed.values()]
    if rest:
        lines += ["", "# Not used: " + ", ".join(quoted(name[:40]) for name in rest)]
    return "\n".join(lines) + "\n"


def _guess(keys: dict[str, int], used: set[int]) -> dict[str, int]:
    guessed: dict[str, int] = {}
    for name, spellings in NAMES.items():
        at = next(
            (keys[one] for one in spellings if one in keys and keys[one] not in used | set(guessed.values())),
            None,
        )
        if at is not None:
            guessed[name] = at
    return guessed


def _vin_column(header: Sequence[str], rows: Sequence[Sequence[str]], keys: dict[str, int]) -> int | None:
    named = next((keys[name] for name in VIN_NAMES if name in keys), None)
    if named is not None:
        return named
    for at in range(len(header)):
        values = [row[at].strip() for row in rows if row[at].strip()]
        long = [one for one in values if len(one) == vin.VIN_CHARS and one.isalnum() and one[-4:].isdigit()]
        if values and len(long) > len(values) / 2:
            return at
    return None


def _hints(column: schema.Column, values: Sequence[str]) -> list[str]:
    if column.kind is Kind.DATE:
        best = next(
            (one for one in FORMATS if values and all(parse_day(value, one) for value in values)), "%Y-%m-%d*"
        )
        return [f"formats = [{quoted(best)}]   # such as {vin.shape(values[0]) if values else 'nothing'}"]
    hints = []
    text = "".join(values)
    if column.kind.is_number:
        if any(char in text for char in "$€£¥ "):
            hints.append(f"strip = {quoted(''.join(sorted({char for char in text if char in '$€£¥, '})))}")
        elif values and any("," in one for one in values) and not any("." in one for one in values):
            hints.append('decimal = ","')
    if column.name == "odometer_km":
        hints.append("factor = 1                # 1.609344 for miles, 10000 for 万公里")
    elif column.unit == "currency":
        hints.append("factor = 1                # 10000 for 万元")
    return hints

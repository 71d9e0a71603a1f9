"""Mappings: what their TOML may say, and what is told when it cannot be meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("polars", reason="the market needs polars: install the extra [train]")

from market_kit import CN_HEADER, US_HEADER

from models.errors import MappingError
from models.market import builtin, guess
from models.market.mapping import parse

GOOD = """
currency = "EUR"
car = ["Modell", "EZ"]
[columns.seen_on]
column = "Datum"
formats = ["%d.%m.%Y"]
[columns.price]
column = "Preis"
decimal = ","
strip = "€"
[columns.brand]
column = "Marke"
[columns.series]
column = "Modell"
[extra]
x_doors = "Türen"
"""


def test_a_mapping_of_ones_own() -> None:
    mapping = parse(GOOD)
    assert mapping.currency == "EUR" and mapping.car == ("Modell", "EZ")
    assert set(mapping.columns) == {"seen_on", "price", "brand", "series", "x_doors"}
    assert mapping.missing(["datum", " PREIS ", "Marke", "modell", "ez"]) == ["türen"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('currency = "EUR"', 'currency = "euro"'), "three capital letters"),
        (("[columns.price]", "[columns.prise]"), "no such column; there are seen_on, price"),
        (('decimal = ","', 'decimal = "x"'), "decimal is one of"),
        (('strip = "€"', "strip = 3"), "strip is a text in quotes"),
        (('column = "Preis"', 'colunm = "Preis"'), "no key 'colunm'"),
        (('formats = ["%d.%m.%Y"]', 'formats = ["dd.mm.yyyy"]'), "letters of strftime"),
        (("[columns.brand]\n", "[columns.row_id]\n"), "made at the door"),
        (("[columns.series]\ncolumn", "[columns.trim]\ncolumn"), "fills no series"),
        (("x_doors", "doors"), "begins with x_"),
        (("car = [", "car = 1 #"), "car is a list of texts"),
        (('currency = "EUR"', "price_range = [9, 1]\ncurrency = 'EUR'"), "both above zero"),
        (("[extra]", "[extra"), "no TOML"),
    ],
)
def test_what_cannot_be_meant_is_named(change: tuple[str, str], said: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(MappingError, match=said.replace("[", r"\[")):
        parse(GOOD.replace(*change, 1))


@given(st.text(max_size=200))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        parse(text)
    except MappingError as error:
        assert str(error)


def test_the_built_in_ones_are_known_by_their_headers() -> None:
    assert (found := builtin.recognise(US_HEADER)) is not None and found.name == "us"
    assert (
        found := builtin.recognise([name.lower() for name in US_HEADER])
    ) is not None and found.name == "us"
    assert (found := builtin.recognise(CN_HEADER)) is not None and found.name == "cn"
    assert builtin.recognise(US_HEADER[:-1]) is None
    assert builtin.builtin("synthetic").synthetic and not builtin.builtin("cn").synthetic


def test_a_guessed_mapping_is_read_back_and_shows_no_value() -> None:
    header = ["Fahrgestellnummer", "Marke", "Modell", "Verkaufsdatum", "Preis", "Kilometer", "Ort", "km"]
    row = ["WVGZZZ5NZEW000017", "Beispiel", "Eins", "31.12.2024", "12.500,00 €", "x", "Bern", "88000"]
    text = guess.template(header, [row] * 3)
    mapping = parse(text)
    assert mapping.vin == "Fahrgestellnummer"
    assert mapping.columns["seen_on"].formats == ("%d.%m.%Y*",)
    assert mapping.columns["price"].columns == ("Preis",)
    assert mapping.columns["odometer_km"].columns == ("km",)
    assert "WVGZZZ" not in text and "000017" not in text and "Bern" not in text
    assert '# Not used: "Kilometer"' in text


@given(st.lists(st.text(min_size=1, max_size=20), min_size=2, max_size=12, unique=True))
def test_a_guessed_mapping_is_toml_whatever_the_columns_are_called(header: list[str]) -> None:
    text = guess.template(header, [["1"] * len(header)])
    try:
        parse(text)
    except MappingError as error:
        assert "no TOML" not in str(error)

"""The mappings of the package: Chinese listings, North American auctions, our synthetic market."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

from models.market.mapping import Mapping, parse

CN: Final = """\
name = "cn"
title = "Chinese listings: price in 10,000 CNY, mileage in 10,000 km, identifiers anonymised"
currency = "CNY"
price_range = [500, 100000000]
# No vehicle numbers: the same version, licence day and colour is the same car.
car = ["model", "licenseDate", "color"]

[columns.seen_on]          # the day the price was posted
column = "tradeTime"
[columns.price]
column = "price"
factor = 10000
[columns.new_price]
column = "newprice"
factor = 10000
[columns.brand]
column = "brand"
code = true
[columns.series]
column = "serial"
code = true
[columns.model]
column = "model"
code = true
[columns.model_year]
column = "modelyear"
[columns.registered]
column = "licenseDate"
[columns.odometer_km]
column = "mileage"
factor = 10000
[columns.region]
column = "cityId"
code = true
[columns.transfers]
column = "transferCount"
[columns.gearbox]
column = "gearbox"
code = true
[columns.displacement_l]
column = "displacement"
[columns.colour]
column = "color"
code = true
[columns.fuel]
column = "oiltype"
code = true
[columns.country]
column = "country"
code = true
[columns.seats]
column = "seatings"
nulls = ["0"]
[columns.length_mm]
column = "anonymousFeature12"
split = "*"
part = 0
[columns.width_mm]
column = "anonymousFeature12"
split = "*"
part = 1
[columns.height_mm]
column = "anonymousFeature12"
split = "*"
part = 2
[columns.launched]
column = "anonymousFeature13"

[extra]
x_maketype = "maketype"
x_carcode = "carCode"
x_f1 = "anonymousFeature1"
x_f2 = "anonymousFeature2"
x_f3 = "anonymousFeature3"
x_f4 = "anonymousFeature4"
x_f5 = "anonymousFeature5"
x_f6 = "anonymousFeature6"
x_f8 = "anonymousFeature8"
x_f9 = "anonymousFeature9"
x_f10 = "anonymousFeature10"
x_f14 = "anonymousFeature14"
"""

US: Final = """\
name = "us"
title = "North American auctions with the trade's own valuation (MMR)"
currency = "USD"
price_range = [100, 5000000]

[vin]
column = "VIN"
rule = "US"

[columns.seen_on]
column = "SALEDATE"
formats = ["%a %b %d %Y*", "%Y-%m-%d*"]
[columns.price]
column = "SELLINGPRICE"
[columns.trade_value]
column = "MMR"
[columns.brand]
column = "MAKE"
case = "lower"
[columns.series]
column = "MODEL"
case = "lower"
[columns.model]
columns = ["MODEL", "TRIM"]
case = "lower"
[columns.model_year]
column = "YEAR"
[columns.odometer_km]      # miles; 1 and 999,999 are codes
column = "ODOMETER"
factor = 1.609344
nulls = ["1", "999999"]
[columns.region]
column = "STATE"
case = "lower"
pattern = "^[a-z]{2}$"
[columns.gearbox]
column = "TRANSMISSION"
case = "lower"
pattern = "^(automatic|manual)$"
[columns.colour]
column = "COLOR"
case = "lower"
pattern = "^[a-z /-]{2,20}$"
[columns.seller]
column = "SELLER"
case = "lower"
[columns.body]
column = "BODY"
case = "lower"
[columns.trim]
column = "TRIM"
case = "lower"
[columns.condition]        # two scales mixed: 1 to 5, and 11 to 49
column = "CONDITION"
rescale_up_to = 5
rescale = 10
"""

_SAME: Final = (
    "seen_on", "price", "new_price", "brand", "series", "model", "trim", "model_year", "registered",
    "odometer_km", "region", "colour", "seller", "body", "gearbox", "transfers", "condition",
    "displacement_l", "electric", "length_mm", "width_mm", "height_mm", "launched", "seats",
)  # fmt: skip
SYNTHETIC: Final = """\
name = "synthetic"
title = "The market of our own making: nobody sold these cars"
currency = "XTS"
currency_column = "currency"
synthetic = true

[vin]
column = "vin"

""" + "".join(f'[columns.{name}]\ncolumn = "{name}"\n' for name in _SAME)

TEXTS: Final = {"cn": CN, "us": US, "synthetic": SYNTHETIC}


@cache
def builtin(name: str) -> Mapping:
    """The mapping called `name`. Raises KeyError for any other."""
    return parse(TEXTS[name])


def recognise(header: Sequence[str]) -> Mapping | None:
    """The built-in mapping all of whose columns `header` has; None where none fits."""
    return next((builtin(name) for name in TEXTS if not builtin(name).missing(header)), None)

"""A market of our own: invented brands and cars, and the mechanisms real sales show. Pure arithmetic.

    ln(price / price new) = ageing(brand) + distance(brand) + brand + series + model
                          + market week + segment week + series week + region + region's shock + season
                          + colour + transfers + condition + battery + what nobody records
    asking price          = the above, dear or cheap by the seller, rounded as sellers round

What a valuation can learn is all there, each at a size found in real listings; what it cannot learn (the
unrecorded part and the seller's mood) spreads prices by about 5 %. The same plan gives the same market.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

CURRENCY: Final = "XTS"
"""The code that ISO 4217 keeps for testing: no one can take the prices for money."""
CRASH: Final = 0.30
"""Fall of prices in the week of the crash."""
CRASH_HEALS_WEEKS: Final = 60.0
"""Weeks after which 1/e of the fall is left."""
CRASH_DAYS: Final = 7
UNRECORDED: Final = 0.038
"""Standard deviation of ln price by what no column says: scratches, smell, history."""
MOOD: Final = 0.030
"""And by how dear the seller asks. Together with the rounding: about 5 %."""
RELISTED: Final = 0.10
"""Share of cars that show up again, as in the Chinese listings."""
DAMAGED: Final = 0.0015
"""Share of rows with a typing error, of the kinds real files have."""
MAX_AGE_YEARS: Final = 14.0
MIN_DAYS: Final = 28
BRANDS: Final = (
    "Alvaro", "Bexley", "Corvane", "Dunmore", "Elstra", "Fenwick", "Garrick", "Holmby", "Ivero", "Jarlan",
    "Keston", "Lorvik", "Marden", "Norvale", "Ostara", "Pellan", "Quorra", "Rivasto", "Sondel", "Tarvos",
    "Umbra", "Velmont", "Wexon", "Zandry",
)  # fmt: skip
SERIES: Final = (
    "Aster", "Birch", "Comet", "Delta", "Ember", "Fjord", "Grove", "Heron", "Iris", "Jade", "Krill", "Lark",
)  # fmt: skip
REGIONS: Final = (
    "Amberford", "Brightwater", "Cold Harbour", "Dellmouth", "Eastmere", "Fallow", "Graywick", "Highmoor",
    "Inglebay", "Junction", "Kingsholm", "Longreach", "Millport", "Northgate", "Oakhaven", "Portmere",
    "Quarry Hill", "Redcliff", "Saltmarsh", "Thornbury", "Underwood", "Valebrook", "Westlake", "Yarrow",
)  # fmt: skip
COLOURS: Final = ("white", "black", "silver", "grey", "blue", "red", "brown", "green", "yellow")
TRIMS: Final = ("base", "plus", "prime", "max")
BODIES: Final = ("hatchback", "sedan", "suv", "van")
SELLERS: Final = ("chain", "dealer", "private")


@dataclass(frozen=True, slots=True)
class Plan:
    """What market to make. Raises ValueError for days or a size that cannot be meant."""

    seed: int
    cars: int
    start: dt.date
    end: dt.date
    crash: dt.date | None = None

    def __post_init__(self) -> None:
        if (self.end - self.start).days < MIN_DAYS:
            raise ValueError(
                f"a market spans at least {MIN_DAYS} days: --to lies before or too near to --from"
            )
        if self.crash is not None and not self.start <= self.crash <= self.end:
            raise ValueError("the crash lies outside the market's days")
        if self.cars < 1:
            raise ValueError("a market has at least one car")

    @property
    def days(self) -> int:
        """Days from the first to the last, both counted."""
        return (self.end - self.start).days + 1

    @property
    def weeks(self) -> int:
        """Weeks begun."""
        return -(-self.days // 7)


@dataclass(frozen=True, slots=True)
class World:
    """What is true of brands, series, regions and weeks; prices follow from it."""

    series_brand: Array
    series_name: Array
    series_price: Array
    series_level: Array
    series_share: Array
    series_body: Array
    series_electric: Array
    series_litres: Array
    series_size: Array
    series_week: Array
    brand_level: Array
    brand_ageing: Array
    brand_km: Array
    brand_share: Array
    model_level: Array
    region_share: Array
    region_level: Array
    region_week: Array
    market_week: Array
    colour_level: Array


def walk(rng: np.random.Generator, shape: tuple[int, ...], step: float, pull: float) -> Array:
    """Random walks along the last axis that are drawn back to zero by `pull` a week."""
    steps = rng.normal(0.0, step, shape)
    out = np.empty(shape)
    level = np.zeros(shape[:-1])
    for week in range(shape[-1]):
        level = level * (1.0 - pull) + steps[..., week]
        out[..., week] = level
    return out


def make_world(plan: Plan) -> World:
    """Draw the world of `plan`."""
    rng = np.random.default_rng([plan.seed, 1])
    brands, regions, weeks = len(BRANDS), len(REGIONS), plan.weeks
    per_brand = rng.integers(3, 9, brands)
    brand = np.repeat(np.arange(brands), per_brand)
    count = len(brand)
    name = np.concatenate([rng.permutation(len(SERIES))[:many] for many in per_brand])
    luxury = rng.beta(1.2, 2.2, brands)
    size = rng.uniform(0.0, 1.0, count)
    electric = rng.random(count) < 0.12
    price = np.exp(
        np.log(80_000) + 1.5 * luxury[brand] + 1.1 * size + rng.normal(0, 0.12, count) + 0.15 * electric
    )
    region_week = walk(rng, (regions, weeks), 0.004, 0.03)
    for region in range(regions):
        if rng.random() < 0.6 and weeks > 12:
            hit = int(rng.integers(4, weeks - 4))
            depth = float(rng.choice([-1.0, -1.0, 1.0]) * rng.uniform(0.04, 0.12))
            region_week[region, hit:] += depth * np.exp(-np.arange(weeks - hit) / rng.uniform(6, 20))
    return World(
        series_brand=brand, series_name=name, series_price=price,
        series_level=rng.normal(0.0, 0.09, count), series_share=_zipf(rng, count, 0.9),
        series_body=np.clip((size * 3.2 + rng.normal(0, 0.6, count)).astype(int), 0, len(BODIES) - 1),
        series_electric=electric,
        series_litres=np.where(electric, 0.0, np.round(1.0 + 2.2 * size + 0.8 * luxury[brand], 1)),
        series_size=size, series_week=walk(rng, (count, weeks), 0.006, 0.02),
        brand_level=rng.normal(0.0, 0.06, brands) + 0.05 * (luxury - 0.35),
        brand_ageing=np.clip(rng.normal(0.118, 0.016, brands) + 0.02 * luxury, 0.08, 0.18),
        brand_km=np.clip(rng.normal(0.0135, 0.005, brands), 0.004, 0.03),
        brand_share=_zipf(rng, brands, 0.8),
        model_level=rng.normal(0.0, 0.035, (count, 40, len(TRIMS))),
        region_share=_zipf(rng, regions, 0.9), region_level=rng.normal(0.0, 0.035, regions),
        region_week=region_week, market_week=_market(rng, plan),
        colour_level=np.array([0.01, 0.008, 0.0, 0.0, -0.005, -0.012, -0.03, -0.04, -0.05]),
    )  # fmt: skip


def _zipf(rng: np.random.Generator, count: int, power: float) -> Array:
    share = rng.permutation(1.0 / np.arange(1, count + 1) ** power)
    return np.asarray(share / share.sum())


def _market(rng: np.random.Generator, plan: Plan) -> Array:
    """The level of all prices, week by week: a slow walk, the season, and the crash."""
    week = np.arange(plan.weeks)
    level = walk(rng, (plan.weeks,), 0.005, 0.01) - 0.0004 * week
    day = plan.start.timetuple().tm_yday + 7 * week
    return np.asarray(level + 0.018 * np.sin(2 * np.pi * (day - 60) / 365.25))


def crash_by_day(plan: Plan, day: Array) -> Array:
    """What the crash takes off ln price on each day (counted from the first)."""
    if plan.crash is None:
        return np.zeros(len(day))
    since = day - (plan.crash - plan.start).days
    fall = np.log(1.0 - CRASH) * np.clip((since + 1) / CRASH_DAYS, 0.0, 1.0)
    heal = np.exp(-np.maximum(since - CRASH_DAYS, 0) / (7 * CRASH_HEALS_WEEKS))
    return np.asarray(fall * heal)


@dataclass(frozen=True, slots=True)
class Cars:
    """The cars of one draw, before they are offered."""

    series: Array
    year: Array
    trim: Array
    age_years: Array
    km: Array
    day: Array
    region: Array
    colour: Array
    transfers: Array
    condition: Array
    new_price: Array
    serial: Array


def make_cars(plan: Plan, world: World) -> Cars:
    """Draw the cars of `plan`, in the order of their serial numbers."""
    rng = np.random.default_rng([plan.seed, 2])
    count = plan.cars
    share = world.series_share * world.brand_share[world.series_brand]
    series = rng.choice(len(share), count, p=share / share.sum())
    day = _days(rng, plan)
    age = np.minimum(0.4 + rng.gamma(2.6, 1.9, count), MAX_AGE_YEARS)
    registered = np.array(plan.start.toordinal() + day - age * 365.25)
    year = 1 + np.floor(registered / 365.2425).astype(int) - (rng.random(count) < 0.25)
    trim = rng.choice(len(TRIMS), count, p=[0.4, 0.3, 0.2, 0.1])
    yearly = np.exp(rng.normal(np.log(13_500), 0.42, count))
    km = np.maximum(yearly * age * np.clip(1.15 - 0.02 * age, 0.7, 1.2), 150.0)
    inflation = 1.0 + 0.012 * (year - 2015)
    new_price = world.series_price[series] * (1.0 + 0.13 * trim) * inflation
    transfers = rng.poisson(0.16 * age)
    wear = 42.0 - 1.4 * age - 0.000045 * km - 0.8 * transfers + rng.normal(0.0, 5.0, count)
    return Cars(
        series=series, year=year, trim=trim, age_years=age, km=np.round(km / 100) * 100, day=day,
        region=rng.choice(len(REGIONS), count, p=world.region_share),
        colour=rng.choice(len(COLOURS), count, p=[0.33, 0.2, 0.12, 0.13, 0.1, 0.05, 0.04, 0.02, 0.01]),
        transfers=transfers, condition=np.clip(np.round(wear), 5, 50),
        new_price=np.round(new_price / 100) * 100, serial=rng.permutation(count),
    )  # fmt: skip


def _days(rng: np.random.Generator, plan: Plan) -> Array:
    """Days of sale: growing numbers, fewer at the turn of the year and on weekends."""
    day = np.arange(plan.days)
    of_year = (plan.start.timetuple().tm_yday + day) % 365
    quiet = np.where((of_year < 25) | (of_year > 355), 0.55, 1.0)
    weekend = np.where((plan.start.weekday() + day) % 7 >= 5, 0.6, 1.0)
    weight = quiet * weekend * np.linspace(0.7, 1.3, plan.days)
    return np.asarray(rng.choice(plan.days, plan.cars, p=weight / weight.sum()))


def true_log_ratio(plan: Plan, world: World, cars: Cars) -> Array:
    """ln(price / price new) of each car as the market sees it, without what nobody records."""
    brand = world.series_brand[cars.series]
    week = cars.day // 7
    age, km10 = cars.age_years, cars.km / 10_000
    electric = world.series_electric[cars.series]
    version = np.clip(cars.year - 1995, 0, 39)
    return np.asarray(
        -0.075
        - world.brand_ageing[brand] * age
        - 0.02 * np.minimum(age, 1.0)
        - world.brand_km[brand] * km10
        - 0.0004 * km10 * age
        + world.brand_level[brand]
        + world.series_level[cars.series]
        + world.model_level[cars.series, version, cars.trim]
        + world.market_week[week]
        + world.series_week[cars.series, week]
        + world.region_level[cars.region]
        + world.region_week[cars.region, week]
        + world.colour_level[cars.colour]
        - 0.012 * cars.transfers
        + 0.0045 * (cars.condition - 34.0)
        - np.where(electric, 0.03 * age, 0.0)
        + crash_by_day(plan, cars.day)
    )


def ask(price: Array, rng: np.random.Generator) -> Array:
    """Prices as sellers write them: hundreds below 50,000, then thousands, often just under a round one."""
    step = np.where(price < 50_000, 100.0, np.where(price < 500_000, 1000.0, 5000.0))
    rounded = np.maximum(np.round(price / step), 1.0) * step
    habit = rng.random(len(price))
    under = np.where(habit < 0.30, 0.2 * step, np.where(habit < 0.38, 0.12 * step, 0.0))
    return np.asarray(rounded - np.where(price < 50_000, 0.0, under))


def make_sales(plan: Plan) -> dict[str, Array]:
    """The sales as columns of a file (see the mapping `synthetic`), sorted by day; "" where unknown."""
    world = make_world(plan)
    cars = make_cars(plan, world)
    rng = np.random.default_rng([plan.seed, 3])
    hidden = rng.normal(0.0, UNRECORDED, plan.cars)
    level = true_log_ratio(plan, world, cars) + hidden
    price = ask(cars.new_price * np.exp(level + rng.normal(0.0, MOOD, plan.cars)), rng)
    again = _relist(plan, cars, rng)
    which = np.concatenate([np.arange(plan.cars), again["car"]])
    day = np.concatenate([cars.day, again["day"]])
    cut = ask(price[again["car"]] * np.exp(again["cut"] + again["crash"]), rng)
    prices = np.concatenate([price, cut])
    km = np.concatenate([cars.km, cars.km[again["car"]] + again["km"]])
    table = _columns(plan, world, cars, which, day, prices, km)
    order = np.lexsort((which, day))
    table = {name: values[order] for name, values in table.items()}
    _spoil(table, rng)
    return table


def _relist(plan: Plan, cars: Cars, rng: np.random.Generator) -> dict[str, Array]:
    """Cars that show up again weeks later, somewhat cheaper."""
    car = np.flatnonzero(rng.random(plan.cars) < RELISTED)
    day = cars.day[car] + rng.integers(7, 75, len(car))
    cut = -np.abs(rng.normal(0.012, 0.02, len(car)))
    km = np.round(rng.gamma(1.2, 400.0, len(car)) / 100) * 100
    there = day < plan.days
    car, day, cut, km = car[there], day[there], cut[there], km[there]
    crash = crash_by_day(plan, day) - crash_by_day(plan, cars.day[car])
    return {"car": car, "day": day, "cut": cut, "km": km, "crash": crash}


def _columns(
    plan: Plan, world: World, cars: Cars, which: Array, day: Array, price: Array, km: Array
) -> dict[str, Array]:
    series = cars.series[which]
    first = np.datetime64(plan.start, "D")
    born = first + (cars.day[which] - np.round(cars.age_years[which] * 365.25)).astype("timedelta64[D]")
    brand_name = np.array(BRANDS, dtype=object)[world.series_brand[series]]
    series_name = np.array(SERIES, dtype=object)[world.series_name[series]]
    trim = np.array(TRIMS, dtype=object)[cars.trim[which]]
    versions = zip(series_name, cars.year[which], trim, strict=True)
    model = np.array([f"{one} {year} {kind}" for one, year, kind in versions], dtype=object)
    size = world.series_size[series]
    automatic = (cars.trim[which] > 0) | world.series_electric[series]
    table: dict[str, Array] = {
        "vin": np.array([synthetic_vin(plan.seed, int(one)) for one in cars.serial[which]], dtype=object),
        "seen_on": (first + day.astype("timedelta64[D]")).astype(str).astype(object),
        "price": price.astype(int).astype(str).astype(object),
        "currency": np.full(len(which), CURRENCY, dtype=object),
        "new_price": cars.new_price[which].astype(int).astype(str).astype(object),
        "brand": brand_name, "series": series_name, "model": model, "trim": trim,
        "model_year": cars.year[which].astype(str).astype(object),
        "registered": born.astype(str).astype(object),
        "odometer_km": km.astype(int).astype(str).astype(object),
        "region": np.array(REGIONS, dtype=object)[cars.region[which]],
        "colour": np.array(COLOURS, dtype=object)[cars.colour[which]],
        "seller": np.array(SELLERS, dtype=object)[(cars.serial[which] * 7919) % 10 // 4],
        "body": np.array(BODIES, dtype=object)[world.series_body[series]],
        "gearbox": np.where(automatic, "automatic", "manual").astype(object),
        "transfers": cars.transfers[which].astype(str).astype(object),
        "condition": cars.condition[which].astype(int).astype(str).astype(object),
        "displacement_l": np.round(world.series_litres[series], 1).astype(str).astype(object),
        "electric": np.where(world.series_electric[series], "yes", "no").astype(object),
        "length_mm": np.round(3600 + 1400 * size).astype(int).astype(str).astype(object),
        "width_mm": np.round(1680 + 260 * size).astype(int).astype(str).astype(object),
        "height_mm": np.round(1420 + 320 * size).astype(int).astype(str).astype(object),
        "launched": np.array([f"{year - 1}09" for year in cars.year[which]], dtype=object),
        "seats": np.where(world.series_body[series] == 3, "7", "5").astype(object),
    }  # fmt: skip
    return table


def synthetic_vin(seed: int, serial: int) -> str:
    """An invented vehicle number. A0T: a maker's code that ISO 3780 assigns to nobody."""
    letters = "ABCDEFGHJKLMNPRSTUVWXYZ"
    mark = "".join(letters[(seed // 23**at) % 23] for at in range(4))
    return f"A0T{mark}{serial:010d}"


def _spoil(table: dict[str, Array], rng: np.random.Generator) -> None:
    """Gaps and typing errors of the kinds real files have, in place."""
    count = len(table["price"])
    for name, share in (
        ("condition", 0.03),
        ("odometer_km", 0.004),
        ("colour", 0.02),
        ("transfers", 0.02),
        ("launched", 0.05),
    ):
        table[name][rng.random(count) < share] = ""
    wrong = np.flatnonzero(rng.random(count) < DAMAGED)
    for at, kind in zip(wrong, rng.integers(0, 5, len(wrong)), strict=True):
        if kind == 0:
            table["price"][at] = "0"
        elif kind == 1:
            table["price"][at] = str(int(table["price"][at]) * 100)
        elif kind == 2:
            table["price"][at] = f"{int(table['price'][at]) / 1000:.2f}"
        elif kind == 3:
            table["seen_on"][at] = "2099-12-31"
        else:
            table["odometer_km"][at] = "9999999"

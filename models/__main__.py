"""`holdfast market ...` and the commands of the valuation: wiring. Each loads what it needs inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# --- market: sales of any seller ---------------------------------------------------------------------

market = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Sales of cars: take them in, look at them, make them up.",
)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable on stdout.")]
Into = Annotated[
    Path, typer.Option("--into", metavar="FOLDER", help="The market folder.", show_default=False)
]


@market.command("ingest")
def market_ingest(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="CSV files, plain or .gz.", show_default=False)
    ],
    into: Into,
    mapping: Annotated[
        str | None,
        typer.Option(
            "--mapping", help="A TOML file, or cn, us. Default: chosen by the header.", show_default=False
        ),
    ] = None,
    outliers: Annotated[
        str,
        typer.Option(
            "--outliers", help="A file full of absurd prices: refuse it, drop those rows, or keep them."
        ),
    ] = "refuse",
    json: Json = False,
) -> None:
    """Take sales into a market folder. The same file again adds nothing."""
    from models.runtime import market_tool

    _done(market_tool.guarded(lambda: market_tool.ingest(files, into, mapping, outliers, as_json=json)))


@market.command("mapping")
def market_mapping(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of sales.", show_default=False)],
) -> None:
    """Print a mapping for a file, with guesses to correct."""
    from models.runtime import market_tool

    _done(market_tool.guarded(lambda: market_tool.mapping(file)))


@market.command("report")
def market_report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The market folder.", show_default=False)],
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the figures; - is stdout.", show_default=False),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", metavar="DIR", help="Write pictures.", show_default=False)
    ] = None,
) -> None:
    """How good a folder's sales are: span, gaps, duplicates, absurd prices, coverage, what was dropped."""
    from models.runtime import market_tool

    _done(market_tool.guarded(lambda: market_tool.report(folder, json, pictures)))


@market.command("generate")
def market_generate(
    into: Into,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed, the same market.")] = 1,
    cars: Annotated[
        int, typer.Option("--cars", min=100, max=5_000_000, help="How many cars are sold.")
    ] = 30_000,
    start: Annotated[str, typer.Option("--from", metavar="DATE", help="First day.")] = "2023-01-01",
    end: Annotated[str, typer.Option("--to", metavar="DATE", help="Last day.")] = "2025-06-30",
    crash: Annotated[
        str | None,
        typer.Option(
            "--crash", metavar="DATE", help="Prices fall by 30 % within a week.", show_default=False
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv", metavar="FILE", help="Keep the file the sales were taken from.", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Make a synthetic market: invented brands, real mechanisms. It says so wherever it shows."""
    from models.runtime import market_tool

    _done(
        market_tool.guarded(
            lambda: market_tool.generate(into, seed, cars, (start, end, crash), csv, as_json=json)
        )
    )


# --- value: what a car is worth (on a node: numpy and LiteRT alone) -----------------------------------

value = typer.Typer(add_completion=False, invoke_without_command=True)


@value.callback()
def value_vehicle(
    model: Annotated[Path, typer.Option("--model", metavar="FILE", help="The model.", show_default=False)],
    pack: Annotated[
        Path,
        typer.Option("--pack", metavar="FILE", help="The market pack of its series.", show_default=False),
    ],
    vehicle: Annotated[
        Path | None, typer.Option("--vehicle", metavar="FILE", help="The vehicle (JSON).", show_default=False)
    ] = None,
    vector: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="VECTOR", help="An input vector instead: value it again.", show_default=False
        ),
    ] = None,
    on: Annotated[
        str | None, typer.Option("--on", metavar="DATE", help="Day of the valuation.", show_default="today")
    ] = None,
    loan: Annotated[
        float | None,
        typer.Option("--loan", metavar="AMOUNT", help="Give the loan to value.", show_default=False),
    ] = None,
    sales: Annotated[
        Path | None,
        typer.Option(
            "--sale-table", metavar="FILE", help="Add a forced sale, by this table.", show_default=False
        ),
    ] = None,
    step: Annotated[
        str, typer.Option("--forced", metavar="STEP", help="Assumed discount: p90 or p95 of price cuts.")
    ] = "p90",
    json: Json = False,
) -> None:
    """What a vehicle is worth: a range, a bound to lend on, and why."""
    from models.runtime.value_start import Asked, leanly

    leanly(Asked(model, pack, vehicle, vector, on, loan, sales, step, json))


# --- evaluate: how good the values are ----------------------------------------------------------------

evaluate = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Score a model on data that it could not have seen."
)


@evaluate.callback()
def evaluate_any() -> None:
    """Score a model on data that it could not have seen."""


@evaluate.command("valuation")
def evaluate_valuation(
    market: Annotated[str, typer.Option("--market", help="cn, us, or a mapping file (TOML).")],
    data: Annotated[
        list[Path], typer.Option("--data", metavar="FILE", help="A file of sales; may be repeated.")
    ],
    test_from: Annotated[str, typer.Option("--test-from", metavar="DATE", help="First day that is scored.")],
    test_to: Annotated[
        str | None, typer.Option("--test-to", metavar="DATE", help="Last day; default: the last sale.")
    ] = None,
    mode: Annotated[
        str, typer.Option("--mode", help="frozen: one fit. rolling: a fit each week.")
    ] = "frozen",
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures; - is stdout.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", metavar="DIR", help="Write pictures.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=8, help="Networks in the file.")] = 5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed, the same figures.")] = 1,
    epochs: Annotated[
        int, typer.Option("--epochs", min=0, max=200, help="Passes over the sales; 0: as many as they need.")
    ] = 0,
    head: Annotated[
        bool, typer.Option("--head/--no-head", help="With or without the brands' depreciation lines.")
    ] = True,
    anchor: Annotated[
        str | None,
        typer.Option(
            "--anchor",
            help="new_price, trade_value or none: what prices are divided by. Default: the data's.",
        ),
    ] = None,
    label_lag: Annotated[
        int | None, typer.Option("--label-lag", min=0, metavar="DAYS", help="Default: 14; 0 for auctions.")
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Other methods beside it.")
    ] = True,
    bound: Annotated[
        bool, typer.Option("--bound/--no-bound", help="Calibrate and score the lower bound.")
    ] = True,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Processor cores to use.")] = 2,
) -> None:
    """Fit on what was visible, export, score with LiteRT; every figure beside other methods'."""
    from models.runtime.evaluate_tool import Asked
    from models.runtime.evaluate_tool import evaluate as work

    asked = Asked(
        market=market,
        files=data,
        test_from=test_from,
        test_to=test_to,
        mode=mode,
        json_file=json,
        pictures=pictures,
        seeds=seeds,
        seed=seed,
        epochs=epochs,
        head=head,
        anchor=anchor,
        lag=label_lag,
        baselines=baselines,
        bound=bound,
        threads=threads,
    )
    _done(work(asked))


# --- train: the network and its packs -----------------------------------------------------------------

train = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Make models, market packs and sale tables."
)


@train.command("valuation")
def train_valuation(
    folder: Annotated[
        Path, typer.Option("--market", metavar="FOLDER", help="The market folder.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The release.", show_default=False)],
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=8, help="Networks in the file.")] = 3,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed, the same model.")] = 1,
    epochs: Annotated[
        int, typer.Option("--epochs", min=0, max=200, help="Passes over the sales; 0: as many as they need.")
    ] = 0,
    before: Annotated[
        str | None,
        typer.Option(
            "--before", metavar="MONDAY", help="See nothing from this day on.", show_default="week after"
        ),
    ] = None,
    head: Annotated[
        bool, typer.Option("--head/--no-head", help="With or without the brands' depreciation lines.")
    ] = True,
    card: Annotated[
        bool,
        typer.Option("--card/--no-card", help="Test it, try it without each part, write the model card."),
    ] = True,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Processes that share each batch.")
    ] = 1,
    gpus: Annotated[bool, typer.Option("--gpus", help="All GPUs of this machine, in one process.")] = False,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Processor cores to use.")] = 2,
) -> None:
    """Fit the network, calibrate its bound, write model, packs and model card. Goes on after a crash."""
    from models.runtime.distribute_train import Asked
    from models.runtime.distribute_train import train as work

    _done(work(Asked(folder, out, seeds, seed, epochs, before, head, card, workers, gpus, threads)))


@train.command("demo")
def train_demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The release.", show_default=False)],
    compare: Annotated[
        Path | None,
        typer.Option("--compare", metavar="DIR", help="Compare with this release.", show_default=False),
    ] = None,
    card: Annotated[
        bool, typer.Option("--card/--no-card", help="Also measure and write the model card.")
    ] = True,
) -> None:
    """Make the demo model again: synthetic market, model, packs, card; 1 when it differs from --compare."""
    from models.runtime.distribute_train import demo

    _done(demo(out, compare, card=card))


@train.command("forced-sale")
def train_forced_sale(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Store histories, CSV, plain or .gz.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The table.", show_default=False)],
    currency: Annotated[str, typer.Option("--currency", help="Of the prices.")] = "CNY",
    unit: Annotated[
        float, typer.Option("--unit", min=1e-6, help="What the file's 1 is worth in it.")
    ] = 10_000.0,
    edges: Annotated[
        str | None,
        typer.Option("--bands", help="Edges of the price bands, with commas.", show_default=False),
    ] = None,
) -> None:
    """How soon cars sell and how prices are cut, from store histories: for `value --sale-table`."""
    from models.runtime.value_run import forced_sale_table, guarded

    _done(guarded(lambda: forced_sale_table(file, out, currency, unit, edges)))


# ------------------------------------------------------------------------------------------------------


def _done(code: int) -> None:
    """End with the command's exit code."""
    raise typer.Exit(code)


def main() -> None:
    """`python -m models COMMAND`."""
    app = typer.Typer(add_completion=False, no_args_is_help=True)
    app.add_typer(market, name="market")
    app.add_typer(value, name="value")
    app.add_typer(evaluate, name="evaluate")
    app.add_typer(train, name="train")
    app()


if __name__ == "__main__":
    main()

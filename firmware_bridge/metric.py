"""What a metric is: a stable name, its type, unit and labels, what it means and what to do when it is bad.

The tables stand beside what fills them; docs/metrics.md lists them, and a test holds the two together. Names
follow https://prometheus.io/docs/practices/naming/ : base units, `_total` for counters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

Type = Literal["counter", "gauge", "histogram", "info"]

PREFIX: Final = "holdfast_"
UNITS: Final = ("", "seconds", "bytes", "days")
OTHER: Final = "other"
"""The label of what is beyond a bound."""
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class Metric:
    """One family. A counter's `name` has no `_total`: its sample has it."""

    name: str
    type: Type
    meaning: str
    bad: str
    """What to do when it is bad; "-" where it only explains others."""
    labels: tuple[str, ...] = ()
    unit: str = ""
    buckets: tuple[float, ...] = ()

    @property
    def sample(self) -> str:
        """The name that a query uses; of a histogram, the part before `_bucket`, `_sum` and `_count`."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.type, "")


def table(*metrics: Metric) -> dict[str, Metric]:
    """Metrics by name. Raises ValueError for one that does not keep to the rules of this module."""
    found = {metric.name: metric for metric in metrics}
    if len(found) != len(metrics):
        raise ValueError("a metric stands twice")
    for metric in metrics:
        named = metric.name.startswith(PREFIX) and _NAME.match(metric.name)
        suffixed = not metric.unit or metric.name.endswith(f"_{metric.unit}")
        histogram = (metric.type == "histogram") == bool(metric.buckets)
        if not (named and suffixed and histogram and metric.unit in UNITS and metric.meaning and metric.bad):
            raise ValueError(
                f"{metric.name}: a metric has its prefix, its unit at the end, a meaning, a remedy"
            )
        if metric.name.endswith(("_total", "_info", "_count", "_sum", "_bucket", "_created")):
            raise ValueError(f"{metric.name}: the suffix belongs to the sample")
    return found


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a family; `labels` in the family's order."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


def bounded(values: Mapping[str, float], limit: int) -> dict[str, float]:
    """`values` with at most `limit` names: the largest, and the sum of the rest as OTHER."""
    if len(values) <= limit:
        return dict(values)
    order = sorted(values, key=lambda name: (-values[name], name))
    kept = {name: values[name] for name in order[: limit - 1]}
    rest = sum(values[name] for name in order[limit - 1 :])
    return {**kept, OTHER: kept.get(OTHER, 0) + rest}


def markdown(metrics: Iterable[Metric]) -> list[str]:
    """Rows of the page's table, heading first."""
    rows = ["| metric | type | unit | labels | meaning | when it is bad |", "|---|---|---|---|---|---|"]
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
        cells = (f"`{metric.sample}`", metric.type, metric.unit or "-", labels, metric.meaning, metric.bad)
        rows.append(f"| {' | '.join(cells)} |")
    return rows

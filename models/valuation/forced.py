"""What a pledged car brings when it must be sold: the bound, less an assumed discount, and how soon it sells.

No data holds a forced sale: the discount is the 90 or 95 % quantile of the price cuts of ordinary sales, and
that a forced sale costs as much is an assumption. The output says of each figure which of the two it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

from models.errors import Misfit, ValuationError
from models.valuation.survival import DAYS, SaleTable, Standing

Step = Literal["p90", "p95"]
STEPS: Final[tuple[Step, ...]] = ("p90", "p95")


@dataclass(frozen=True, slots=True)
class ForcedSale:
    """Amounts in the currency; `discount` a share. `standing`: the band it was read from."""

    value: float
    discount: float
    step: Step
    standing: Standing
    synthetic: bool

    def as_json(self) -> dict[str, Any]:
        """Data and assumption apart."""
        within = self.standing.as_json()["sold_within"]
        return {
            "value": round(self.value, 2),
            "assumption": {
                "discount": round(self.discount, 4),
                "is": f"the {self.step[1:]} % quantile of the price cuts of ordinary sales; "
                "that a forced sale costs as much is assumed, no forced sale was observed",
            },
            "data": {
                "band": self.standing.name, "of_this_band": self.standing.own, "cars": self.standing.n,
                "sold_within_days": within, "sold_at_least": self.standing.as_json()["sold_at_least"],
                "is": "ordinary store listings; a car withdrawn unsold counts until its withdrawal",
            },
            "synthetic": self.synthetic,
        }  # fmt: skip

    def sentence(self, currency: str) -> str:
        """For people."""
        soon, low, high = self.standing.within[DAYS.index(30)]
        sold = (
            "how soon such a car sells is not known"
            if math.isnan(soon)
            else f"of ordinary listings in this band {soon:.0%} sell within 30 days ({low:.0%} to {high:.0%})"
        )
        return (
            f"Sold in a hurry it brings {self.value:,.0f} {currency} "
            f"if a forced sale costs {self.discount:.1%}, which is an assumption; {sold}."
        )


def forced_sale(
    table: SaleTable, point: float, bound: float, currency: str, step: Step = "p90"
) -> ForcedSale:
    """The forced-sale value of a car of this point and bound. Raises ValuationError: another currency, no
    cuts."""
    if table.currency != currency:
        raise Misfit(
            f"the sale table is in {table.currency}, the value in {currency}; give a table of the same market"
        )
    found = table.of(point)
    discount = (found.cut_p90 if step == "p90" else found.cut_p95)[0]
    if math.isnan(discount):
        raise ValuationError("the sale table knows no price cuts of this band; make it from more histories")
    discount = min(max(discount, 0.0), 1.0)
    return ForcedSale(bound * (1.0 - discount), discount, step, found, table.synthetic)

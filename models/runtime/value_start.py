"""The command line of `holdfast value`, and the step into a process of its own that holds nothing else."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

PATHS: Final = ("model", "pack", "vehicle", "sales")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked. Either `vehicle` or `vector`; `on`: day of the valuation, today where None."""

    model: Path
    pack: Path
    vehicle: Path | None = None
    vector: str | None = None
    on: str | None = None
    loan: float | None = None
    sales: Path | None = None
    step: str = "p90"
    as_json: bool = False


def leanly(asked: Asked) -> NoReturn:
    """Become a process that values and nothing else: what read the command line takes memory a node lacks."""
    given = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(asked).items()}
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "models.runtime.value_run", json.dumps(given)])


def read_asked(text: str) -> Asked:
    """What `leanly` handed over."""
    given: dict[str, Any] = json.loads(text)
    for name in PATHS:
        if given.get(name) is not None:
            given[name] = Path(given[name])
    return Asked(**given)

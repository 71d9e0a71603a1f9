"""What a valuation costs a node: milliseconds of one core, memory of the process, size of what it downloads.

The network is whole (three seeds) and untrained: its weights change neither time nor size. The pack is the
largest there can be: more sales than it takes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rows import Row

ROOT: Final = Path(__file__).resolve().parent.parent.parent
CARS: Final = 7_000
"""Sales of the market; half of them are of the valued series, and a pack takes 2,500."""
TIMES: Final = 200

PROBE: Final = """
import json, sys
from models.runtime.value_run import main
code = main(sys.argv[1])
print(json.dumps([code, int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])]))
"""


def value(folder: Path, scale: float) -> Iterator[Row]:
    """One valuation with its features, reasons and JSON; the process; model and pack."""
    sys.path.insert(0, str(ROOT))
    from models.runtime.value_run import Valuer
    from models.valuation.appraise import Options
    from models.valuation.vehicle import read_vehicle
    from tests.valuation_model import model_bytes
    from tests.valuation_small import DAY, VEHICLE, pack_bytes

    model, pack, car = folder / "model", folder / "pack", folder / "car.json"
    model.write_bytes(model_bytes(3, whole=True))
    pack.write_bytes(pack_bytes(cars=max(int(CARS * scale), 900)))
    car.write_text(json.dumps(VEHICLE))
    valuer, inputs = Valuer(model, pack), read_vehicle(VEHICLE, DAY)
    spent = []
    for _ in range(max(int(TIMES * scale), 20)):
        begun = time.process_time()
        json.dumps(valuer.value(inputs, Options(50_000.0)).as_json(valuer.hashes))
        spent.append(1e3 * (time.process_time() - begun))
    spent.sort()
    median = spent[len(spent) // 2]
    yield Row("value.one_valuation", round(median, 2), "ms of one core", goal="<= 5", met=median <= 5.0)
    asked = {"model": str(model), "pack": str(pack), "vehicle": str(car), "on": "2022-11-02", "as_json": True}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(asked)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    code, peak = json.loads(done.stdout.splitlines()[-1])
    if code != 0:
        raise RuntimeError(f"the valuation ended with {code}: {done.stderr}")
    yield Row("value.process", round(peak / 1024, 1), "MB", goal="<= 60", met=peak <= 60 * 1024)
    size = model.stat().st_size + pack.stat().st_size
    yield Row("value.model_and_pack", round(size / 1024, 1), "KiB", goal="<= 1 MB", met=size <= 1_000_000)

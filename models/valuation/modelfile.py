"""The model file: a TFLite flatbuffer that any LiteRT opens, followed by what the model says about itself.

flatbuffer | CBOR map | length of the map (4 bytes, little-endian) | "HFM1"
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import cbor2

from models.errors import ValuationError
from models.valuation.conformal import Calibration

MAGIC: Final = b"HFM1"
FLATBUFFER: Final = b"TFL3"
"""File identifier of a TFLite flatbuffer, at byte 4."""
MAX_BYTES: Final = 8_000_000
"""Largest model file that is read."""


class ModelFileError(ValuationError):
    """A model file that is damaged, truncated, or not one; the text says what to do."""


@dataclass(frozen=True, slots=True)
class ModelMeta:
    """What a model says about itself. Days count from 1970-01-01; `features` must equal the pack's."""

    market: str
    currency: str
    synthetic: bool
    anchor: str
    extra: tuple[str, ...]
    features: str
    head: bool
    trained_until: int
    sales: int
    seeds: int
    seed: int
    levels: tuple[float, ...]
    lag_days: int
    calibration: Calibration | None
    calibrated_on: int | None


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model: what it says about itself, the flatbuffer for LiteRT, and the SHA-256 of the whole file."""

    meta: ModelMeta
    tflite: bytes
    sha256: str


def meta_map(meta: ModelMeta) -> dict[str, Any]:
    """The metadata as it stands in the file."""
    calibration = meta.calibration
    found: dict[str, Any] = {
        name: getattr(meta, name)
        for name in (
            "market",
            "currency",
            "synthetic",
            "anchor",
            "features",
            "head",
            "trained_until",
            "sales",
            "seeds",
            "seed",
            "lag_days",
            "calibrated_on",
        )
    }
    found["extra"], found["levels"] = list(meta.extra), list(meta.levels)
    found["calibration"] = calibration and {
        "edges": list(calibration.edges),
        "overall": calibration.overall,
        "bands": list(calibration.bands),
        "n": list(calibration.n),
        "coverage": calibration.coverage,
    }
    return {"holdfast": "model", "version": 1, **found}


def write_model(tflite: bytes, meta: ModelMeta) -> bytes:
    """The whole file."""
    tail: bytes = cbor2.dumps(meta_map(meta), canonical=True)
    return tflite + tail + struct.pack("<I", len(tail)) + MAGIC


def read_model(data: bytes) -> ModelFile:
    """The model. Raises ModelFileError: truncated, damaged, too large, or not one of ours."""
    if len(data) > MAX_BYTES:
        raise ModelFileError(f"the model has {len(data)} bytes, more than {MAX_BYTES}; fetch it again")
    if data[4:8] != FLATBUFFER:
        raise ModelFileError("the file is no TFLite model; give one made by `holdfast train valuation`")
    if data[-4:] != MAGIC or len(data) < 16:
        raise ModelFileError(
            "the model file is cut off, or not made by `holdfast train valuation`; fetch it again"
        )
    (length,) = struct.unpack("<I", data[-8:-4])
    if length > len(data) - 16:
        raise ModelFileError("the model file is damaged; fetch it again")
    try:
        found = cbor2.loads(data[-8 - length : -8])
        return ModelFile(meta_of(found), data[: -8 - length], hashlib.sha256(data).hexdigest())
    except (cbor2.CBORDecodeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ModelFileError(f"the model file is damaged ({type(error).__name__}); fetch it again") from None


def meta_of(found: Mapping[str, Any]) -> ModelMeta:
    """Metadata from its map."""
    if found["holdfast"] != "model" or found["version"] != 1:
        raise ValueError("version")
    table = found["calibration"]
    return ModelMeta(
        market=str(found["market"]),
        currency=str(found["currency"]),
        synthetic=bool(found["synthetic"]),
        anchor=str(found["anchor"]),
        extra=tuple(str(name) for name in found["extra"]),
        features=str(found["features"]),
        head=bool(found["head"]),
        trained_until=int(found["trained_until"]),
        sales=int(found["sales"]),
        seeds=int(found["seeds"]),
        seed=int(found["seed"]),
        levels=tuple(float(level) for level in found["levels"]),
        lag_days=int(found["lag_days"]),
        calibration=table
        and Calibration(
            tuple(float(edge) for edge in table["edges"]),
            float(table["overall"]),
            tuple(float(value) for value in table["bands"]),
            tuple(int(count) for count in table["n"]),
            float(table["coverage"]),
        ),
        calibrated_on=None if found["calibrated_on"] is None else int(found["calibrated_on"]),
    )

"""Runs a valuation model with LiteRT, one vehicle at a time. Needs numpy and `ai-edge-litert` alone."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from models.valuation.features import Features
from models.valuation.modelfile import ModelFileError
from models.valuation.table import Floats

INPUTS: Final = ("car", "market", "comparables", "sequence", "regions", "head")


class Runner:
    """A loaded model. Raises ModelFileError: LiteRT refuses it, or its inputs are not those of this
    software."""

    def __init__(self, tflite: bytes, threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_content=tflite, num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelFileError(
                f"LiteRT cannot load the model ({str(error)[:120]}); fetch it again"
            ) from None
        signatures = self._interpreter.get_signature_list()
        if "serving_default" not in signatures:
            raise ModelFileError("the model has no signature; give one made by `holdfast train valuation`")
        self._run = self._interpreter.get_signature_runner("serving_default")
        self.inputs = tuple(signatures["serving_default"]["inputs"])
        if not set(self.inputs) <= set(INPUTS):
            raise ModelFileError("the model's inputs are not those of this software; update one of the two")

    def one(self, features: Features, row: int = 0) -> dict[str, Floats]:
        """quantiles (7), attention (16) and parts (curve, line, comparables, delta) of one vehicle."""
        feed: dict[str, Any] = {name: getattr(features, name)[row : row + 1] for name in self.inputs}
        try:
            outputs = self._run(**feed)
        except (ValueError, RuntimeError) as error:
            raise ModelFileError(f"the model does not fit these features ({str(error)[:120]})") from None
        return {name: np.asarray(value, dtype=np.float64)[0] for name, value in outputs.items()}

    def run(self, features: Features) -> dict[str, Floats]:
        """The same for all vehicles of `features`, one after another."""
        found = [self.one(features, row) for row in range(len(features.car))]
        return {name: np.stack([row[name] for row in found]) for name in found[0]}

"""The network as a TFLite file: batch 1, unrolled, built-in operations alone, all seeds and their mean
inside."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from models.errors import ModelError
from models.runtime.litert import INPUTS, Runner
from models.runtime.net import Network
from models.runtime.train_network import predict
from models.valuation.features import Features
from models.valuation.table import Ints

TOLERANCE: Final = 1e-5
"""Largest difference of ln price between Keras and LiteRT that a released file may show."""


class ExportError(ModelError):
    """The exported file does not do what the network does."""


def export(network: Network, features: Features) -> bytes:
    """The flatbuffer. Inputs by name, as in `Features`; outputs: quantiles, attention, parts, each the
    mean over seeds."""
    shapes = {name: getattr(features, name).shape[1:] for name in INPUTS}
    used = [name for name in INPUTS if needed(network, name)]

    class Twin(tf.Module):  # type: ignore[misc]
        @tf.function(
            autograph=False,
            input_signature=[tf.TensorSpec((1, *shapes[name]), tf.float32, name=name) for name in used],
        )  # type: ignore[untyped-decorator]
        def serve(self, *inputs: Any) -> dict[str, Any]:
            wide = {
                name: tf.tile(tf.expand_dims(value, 0), [network.seeds] + [1] * len(value.shape))
                for name, value in zip(used, inputs, strict=True)
            }
            return {name: tf.reduce_mean(value, axis=0) for name, value in network(wide).items()}

    twin = Twin()
    twin.network = network
    traced = twin.serve.get_concrete_function()
    return convert(convert_variables_to_constants_v2(traced), shapes, sorted(traced.structured_outputs))


def needed(network: Network, name: str) -> bool:
    """Whether the network looks at an input at all (an ablated one does not; LiteRT drops it)."""
    parts = network.parts
    return {"market": parts.market, "sequence": parts.lstm, "regions": parts.regions}.get(name, True)


def convert(frozen: Any, shapes: dict[str, tuple[int, ...]], outputs: list[str]) -> bytes:
    """TFLite of a frozen function (variables would come out as NaN), with a signature of our own names."""
    order = [tensor.name.split(":")[0] for tensor in frozen.inputs]

    class Frozen(tf.Module):  # type: ignore[misc]
        @tf.function(
            autograph=False,
            input_signature=[tf.TensorSpec((1, *shapes[name]), tf.float32, name=name) for name in order],
        )  # type: ignore[untyped-decorator]
        def serve(self, *inputs: Any) -> dict[str, Any]:
            return dict(zip(outputs, frozen(*inputs), strict=True))

    module = Frozen()
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.serve.get_concrete_function()], module
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    found: bytes = converter.convert()
    return found


def compare(network: Network, tflite: bytes, features: Features, rows: Ints) -> float:
    """Largest difference of ln price between the network and the file over some rows. Raises ExportError
    above 1e-5."""
    runner = Runner(tflite)
    ours = predict(network, features, rows)
    worst = 0.0
    for place, row in enumerate(rows):
        theirs = runner.one(features, int(row))
        for name in ("quantiles", "parts", "attention"):
            gap = np.abs(theirs[name] - ours[name][place])
            worst = max(worst, float(gap.max()) if np.all(np.isfinite(gap)) else float("inf"))
    if not worst <= TOLERANCE:
        raise ExportError(
            f"the exported file differs from the network by {worst:.2e} of ln price, above {TOLERANCE}"
        )
    return worst

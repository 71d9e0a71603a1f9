"""Fits the network: AdamW, warm-up and cosine, averaged weights; deterministic from its seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import tensorflow as tf

from models.runtime.net import INPUTS, Network, Parts, Scaler, fit_scaler, loss_by_seed
from models.valuation.features import Features
from models.valuation.table import Floats, Ints

EPOCHS: Final = 18
LEAST_STEPS: Final = 1_100
"""Steps below which a network is not done: a small market is passed over more often."""

AVERAGE: Final = 0.995
"""Weight of the past in the running mean of the weights, which is what is kept."""


@dataclass(frozen=True, slots=True)
class Training:
    """How the network is fitted. `epochs`: 0 for `EPOCHS`, or more where sales are few; `half_life`: days in
    which a sale's weight in the loss halves."""

    seeds: int = 5
    seed: int = 1
    epochs: int = 0
    batch: int = 256
    rate: float = 2e-3
    decay: float = 1e-4
    clip: float = 1.0
    half_life: float = 540.0


Progress = Callable[[int, int, float], None]
Fit = Callable[[Features, Any, Any, Any, "Training", Parts, "Progress | None"], Network]
"""The signature of `fit_network`: another way to fit (resumable, over several machines) may stand
in its place."""


def inputs_of(features: Features, rows: Any) -> dict[str, Floats]:
    """The network's inputs of some rows."""
    return {name: getattr(features, name)[rows] for name in INPUTS}


class Optimiser:
    """AdamW over weights with a leading axis of seeds; the gradient of each seed is clipped alone."""

    def __init__(self, weights: list[Any], training: Training, steps: int) -> None:
        self.weights, self.training, self.steps = weights, training, steps
        self.first = [tf.Variable(tf.zeros_like(w)) for w in weights]
        self.second = [tf.Variable(tf.zeros_like(w)) for w in weights]
        self.mean = [tf.Variable(tf.identity(w)) for w in weights]

    def rate(self, step: Any) -> Any:
        """Warm-up over a fifteenth of the steps, then a cosine to zero."""
        part = tf.cast(step, tf.float32) / self.steps
        warm = 1.0 / 15.0
        fall = 0.5 * (1.0 + tf.cos(np.pi * (part - warm) / (1.0 - warm)))
        return self.training.rate * tf.where(part < warm, part / warm, fall)

    def apply(self, gradients: list[Any], step: Any) -> None:
        """One update."""
        rate, count = self.rate(step), tf.cast(step, tf.float32) + 1.0
        square = tf.add_n([tf.reduce_sum(g * g, axis=list(range(1, len(g.shape)))) for g in gradients])
        factor = tf.minimum(1.0, self.training.clip / tf.maximum(tf.sqrt(square), 1e-9))
        for w, g, m, v, mean in zip(self.weights, gradients, self.first, self.second, self.mean, strict=True):
            g = g * tf.reshape(factor, [-1] + [1] * (len(g.shape) - 1))
            m.assign(0.9 * m + 0.1 * g)
            v.assign(0.999 * v + 0.001 * g * g)
            up = (m / (1.0 - 0.9**count)) / (tf.sqrt(v / (1.0 - 0.999**count)) + 1e-7)
            w.assign_sub(rate * (up + self.training.decay * w))
            keep = tf.minimum(AVERAGE, (1.0 + count) / (10.0 + count))
            mean.assign(keep * mean + (1.0 - keep) * w)


def epochs_of(rows: int, training: Training) -> int:
    """Passes over the sales: as asked, or `EPOCHS`, or as many as `LEAST_STEPS` need."""
    return training.epochs or max(EPOCHS, -(-LEAST_STEPS * training.batch // max(rows, 1)))


def batches(rows: int, training: Training) -> Any:
    """(steps, seeds, batch): each seed's own order of the rows, epoch by epoch."""
    per_epoch = rows // training.batch if rows >= training.batch else 1
    size = min(training.batch, rows)
    order = []
    for epoch in range(epochs_of(rows, training)):
        draws = [
            np.random.default_rng((training.seed, number, epoch)).permutation(rows)[: per_epoch * size]
            for number in range(training.seeds)
        ]
        order.append(np.stack(draws).reshape(training.seeds, per_epoch, size).transpose(1, 0, 2))
    return np.concatenate(order).astype(np.int32)


def fit_network(
    features: Features,
    y: Floats,
    day: Ints,
    rows: Ints,
    training: Training,
    parts: Parts = Parts(),  # noqa: B008
    progress: Callable[[int, int, float], None] | None = None,
) -> Network:
    """The fitted network, its weights the running means. `rows`: those whose label may be seen."""
    scaler: Scaler = fit_scaler(features, rows)
    network = Network(scaler, training.seeds, training.seed, parts)
    held = {name: tf.constant(value) for name, value in inputs_of(features, rows).items()}
    target = tf.constant(y[rows].astype(np.float32))
    age = (day[rows].max() - day[rows]).astype(np.float64)
    weight = tf.constant((0.5 ** (age / training.half_life)).astype(np.float32))
    order = batches(len(rows), training)
    network({name: tf.gather(value, order[0][:, :2]) for name, value in held.items()})
    optimiser = Optimiser([w.value for w in network.trainable_weights], training, len(order))

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def one(index: Any, step: Any) -> Any:
        with tf.GradientTape() as tape:
            batch = {name: tf.gather(value, index) for name, value in held.items()}
            outputs = network(batch, tf.stack([training.seed, step]))
            loss = loss_by_seed(outputs, tf.gather(target, index), tf.gather(weight, index))
            total = tf.reduce_sum(loss)
        optimiser.apply(tape.gradient(total, optimiser.weights), step)
        return tf.reduce_mean(loss)

    for step, index in enumerate(order):
        loss = one(tf.constant(index), tf.constant(step, tf.int32))
        if progress is not None and (step + 1) % 25 == 0:
            progress(step + 1, len(order), float(loss))
    for w, mean in zip(optimiser.weights, optimiser.mean, strict=True):
        w.assign(mean)
    return network


def predict(network: Network, features: Features, rows: Ints, *, size: int = 1024) -> dict[str, Floats]:
    """Outputs of the network for some rows, the mean over its seeds."""
    found: list[dict[str, Floats]] = []
    for start in range(0, len(rows), size):
        inputs = inputs_of(features, rows[start : start + size])
        wide = {name: np.repeat(value[None], network.seeds, axis=0) for name, value in inputs.items()}
        outputs = network({name: tf.constant(value) for name, value in wide.items()})
        found.append({name: value.numpy().mean(axis=0) for name, value in outputs.items()})
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

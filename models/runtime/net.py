"""The valuation network: several inputs, several seeds, one model.

All seeds are trained side by side: every weight and every activation has a leading axis of seeds, so that a
step costs hardly more
than that of one seed and one file holds them all. Their outputs are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from models.valuation.features import COMPARABLE_COLUMNS, Features
from models.valuation.state import SEQUENCE_WEEKS

QUANTILES: Final = (0.05, 0.10, 0.25, 0.75, 0.90, 0.95)
"""Levels around the point; the outputs are the first three, the point, and the last three, never crossing."""

INPUTS: Final = ("car", "market", "comparables", "sequence", "regions", "head")
CLIP: Final = 4.0
"""Standard deviations at which an input is cut off."""

STEEP: Final = 0.4
"""Difference of ln price above which the loss grows no steeper: one absurd label must not steer the
network."""

TRUST: Final = 1.0
"""Where the gate begins that says how much of the attended residual is believed (logit)."""

DROP: Final = 0.15
"""Share of the trunk's first layer that training hides."""

DISTANCE: Final = COMPARABLE_COLUMNS.index("distance")
RESIDUAL: Final = COMPARABLE_COLUMNS.index("residual")
THERE: Final = COMPARABLE_COLUMNS.index("there")
ABSENT: Final = -30.0
"""Attention logit of a comparable that is not there."""


@dataclass(frozen=True, slots=True)
class Scaler:
    """Mean and 1/standard deviation of each input column, from the rows the network was fitted on."""

    mean: dict[str, Any]
    scale: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Parts:
    """What of the network is used: for the ablation. The whole network has them all."""

    lstm: bool = True
    regions: bool = True
    comparables: bool = True
    market: bool = True


def fit_scaler(features: Features, rows: Any) -> Scaler:
    """Means and spreads of the fitted rows; a constant column is switched off."""
    mean, scale = {}, {}
    for name in INPUTS[:-1]:
        values = getattr(features, name)[rows].astype(np.float64)
        flat = values.reshape(-1, values.shape[-1])
        if name == "comparables":
            flat = flat[flat[:, THERE] > 0] if np.any(flat[:, THERE] > 0) else flat[:1]
        spread = flat.std(axis=0)
        mean[name] = flat.mean(axis=0).astype(np.float32)
        scale[name] = np.where(spread > 1e-6, 1.0 / np.maximum(spread, 1e-6), 0.0).astype(np.float32)
    return Scaler(mean, scale)


class Dense(keras.layers.Layer):  # type: ignore[misc]
    """A dense layer with a leading axis of seeds: (seeds, batch..., in) to (seeds, batch..., out)."""

    def __init__(
        self, seeds: int, inputs: int, units: int, seed: int, *, zero: bool = False, bias: float = 0.0
    ) -> None:
        super().__init__()
        draw = np.random.default_rng(seed)
        limit = np.sqrt(6.0 / (inputs + units))
        start = (
            np.zeros((seeds, inputs, units)) if zero else draw.uniform(-limit, limit, (seeds, inputs, units))
        )
        self.units = units
        self.kernel = self.add_weight(
            shape=start.shape,
            initializer=keras.initializers.Constant(start.astype(np.float32)),
            name="kernel",
        )
        self.shift = self.add_weight(
            shape=(seeds, 1, units), initializer=keras.initializers.Constant(bias), name="shift"
        )

    def call(self, x: Any) -> Any:
        shape = x.shape
        flat = x if len(shape) == 3 else tf.reshape(x, (shape[0], -1, shape[-1]))
        y = tf.raw_ops.AddV2(x=tf.matmul(flat, self.kernel), y=self.shift)
        if len(shape) == 3:
            return y
        lead = [shape[0], -1, *shape[2:-1], self.units]
        return tf.reshape(y, lead)


class Recurrent(keras.layers.Layer):  # type: ignore[misc]
    """LSTM with a leading axis of seeds, unrolled over its weeks; gives the state after each week."""

    def __init__(self, seeds: int, inputs: int, units: int, seed: int) -> None:
        super().__init__()
        draw = np.random.default_rng(seed)
        self.units = units
        self.inner = Dense(seeds, inputs, 4 * units, seed + 1)
        square = np.stack(
            [
                np.concatenate([np.linalg.qr(draw.normal(size=(units, units)))[0] for _ in range(4)], axis=1)
                for _ in range(seeds)
            ]
        )
        self.kernel = self.add_weight(
            shape=square.shape,
            initializer=keras.initializers.Constant(square.astype(np.float32)),
            name="recurrent",
        )
        forget = np.zeros((seeds, 1, 4 * units), np.float32)
        forget[:, :, units : 2 * units] = 1.0
        self.shift = self.add_weight(
            shape=forget.shape, initializer=keras.initializers.Constant(forget), name="gates"
        )

    def call(self, x: Any) -> Any:
        gates = tf.unstack(self.inner(x), num=SEQUENCE_WEEKS, axis=2)
        hidden, cell, states = None, None, []
        for gate in gates:
            total = tf.raw_ops.AddV2(x=gate, y=self.shift)
            if hidden is not None:
                total = tf.raw_ops.AddV2(x=total, y=tf.matmul(hidden, self.kernel))
            i, f, g, o = tf.split(total, 4, axis=-1)
            fresh = tf.sigmoid(i) * tf.tanh(g)
            cell = fresh if cell is None else tf.raw_ops.AddV2(x=tf.sigmoid(f) * cell, y=fresh)
            hidden = tf.sigmoid(o) * tf.tanh(cell)
            states.append(hidden)
        return tf.stack(states, axis=2)


def weighted(weights: Any, values: Any) -> Any:
    """(seeds, batch, k) weights over (seeds, batch, k, v) values."""
    return tf.reduce_sum(tf.expand_dims(weights, -1) * values, axis=2)


class Network(keras.Model):  # type: ignore[misc]
    """Inputs with leading axes (seeds, batch) to a dictionary: quantiles (7), attention (16) and parts
    (4), by seed."""

    def __init__(self, scaler: Scaler, seeds: int, seed: int, parts: Parts = Parts()) -> None:
        super().__init__()
        self.seeds, self.parts = seeds, parts
        self.drop_rate: Any = DROP
        self.trust_shift: Any = 0.0
        self.shift = {name: tf.constant(value) for name, value in scaler.mean.items()}
        self.factor = {name: tf.constant(value) for name, value in scaler.scale.items()}
        sizes = {name: len(value) for name, value in scaler.mean.items()}
        context = sizes["car"] + (sizes["market"] if parts.market else 0)
        start = iter(range(seed * 1000, seed * 1000 + 999, 7))

        def dense(inputs: int, units: int, *, zero: bool = False, bias: float = 0.0) -> Dense:
            return Dense(seeds, inputs, units, next(start), zero=zero, bias=bias)

        self.context = dense(context, 32)
        trunk = context
        if parts.lstm:
            self.recurrent = Recurrent(seeds, sizes["sequence"], 24, next(start))
            self.week_key, self.week_score = dense(24, 16), dense(16, 1)
            trunk += 24
        if parts.regions:
            self.region_query, self.region_key, self.region_value = dense(32, 16), dense(4, 16), dense(4, 12)
            trunk += 12
        if parts.comparables:
            self.query, self.sale, self.key = dense(32, 24), dense(sizes["comparables"], 32), dense(32, 24)
            self.near, self.near_score = dense(1, 16), dense(16, 1)
            self.correction = dense(32, 1, zero=True)
            self.trust = dense(32, 1, zero=True, bias=TRUST)
            trunk += 33
        self.trunk_1, self.trunk_2 = dense(trunk, 112), dense(112, 64)
        self.delta = dense(64, 1, zero=True)
        self.spread = dense(64, 6, bias=-3.0)

    def scaled(self, inputs: Mapping[str, Any], name: str) -> Any:
        """z-scores, cut at four standard deviations."""
        centred = tf.raw_ops.Sub(x=inputs[name], y=self.shift[name])
        return tf.clip_by_value(centred * self.factor[name], -CLIP, CLIP)

    def call(self, inputs: Mapping[str, Any], drop: Any = None) -> dict[str, Any]:
        """`drop`: (seed, step) of the dropout, None outside training."""
        raw = inputs["comparables"]
        context = self.scaled(inputs, "car")
        if self.parts.market:
            context = tf.concat([context, self.scaled(inputs, "market")], axis=-1)
        summary = tf.nn.relu(self.context(context))
        pieces = [context]
        if self.parts.lstm:
            states = self.recurrent(self.scaled(inputs, "sequence"))
            score = tf.nn.softmax(tf.squeeze(self.week_score(tf.tanh(self.week_key(states))), -1))
            pieces.append(weighted(score, states))
        if self.parts.regions:
            places = self.scaled(inputs, "regions")
            query = tf.expand_dims(self.region_query(summary), 2)
            score = tf.nn.softmax(tf.reduce_sum(query * self.region_key(places), -1) * 0.25)
            pieces.append(weighted(score, self.region_value(places)))
        if self.parts.comparables:
            attention, attended, view = self.compare(self.scaled(inputs, "comparables"), raw, summary)
            pieces += [view, attended * 5.0]
        else:
            attention, attended = raw[..., THERE], tf.zeros_like(context[..., :1])
        hidden = tf.nn.relu(self.trunk_1(tf.concat(pieces, axis=-1)))
        if drop is not None:
            noise = tf.random.stateless_uniform(tf.shape(hidden), drop)
            hidden = hidden * tf.cast(noise >= self.drop_rate, tf.float32) / (1.0 - self.drop_rate)
        hidden = tf.nn.relu(self.trunk_2(hidden))
        return self.outputs_of(inputs, attention, attended, hidden)

    def compare(self, sales: Any, raw: Any, summary: Any) -> tuple[Any, Any, Any]:
        """Attention over the comparables: weights, attended residual, and what else they say."""
        seen = tf.nn.relu(self.sale(sales))
        far = raw[..., DISTANCE : DISTANCE + 1]
        logits = tf.reduce_sum(tf.expand_dims(self.query(summary), 2) * self.key(seen), -1) * 0.2
        near = tf.squeeze(self.near_score(tf.nn.relu(self.near(far))), -1)
        logits = tf.raw_ops.AddV2(x=logits, y=tf.raw_ops.Sub(x=near, y=2.0 * tf.squeeze(far, -1)))
        there = raw[..., THERE]
        logits = tf.maximum(logits, -25.0)
        logits = tf.where(there > 0.5, logits, ABSENT * tf.ones_like(logits))
        attention = tf.nn.softmax(logits)
        own = raw[..., RESIDUAL] + tf.squeeze(self.correction(seen), -1)
        attended = tf.reduce_sum(attention * own * raw[..., THERE], -1, keepdims=True)
        attended = attended * tf.sigmoid(self.trust(summary) + self.trust_shift)
        return attention, attended, weighted(attention, seen)

    def outputs_of(
        self, inputs: Mapping[str, Any], attention: Any, attended: Any, hidden: Any
    ) -> dict[str, Any]:
        """Base curve + the brand's line + attended residual + delta, and quantiles around it by cumulative
        softplus."""
        curve = inputs["car"][..., :1]
        line = tf.reduce_sum(inputs["head"][..., :3] * inputs["head"][..., 3:], -1, keepdims=True)
        delta = self.delta(hidden)
        point = tf.raw_ops.AddV2(x=curve, y=line)
        point = tf.raw_ops.AddV2(x=point, y=attended)
        point = tf.raw_ops.AddV2(x=point, y=delta)
        step = tf.nn.softplus(self.spread(hidden))
        s = [step[..., i : i + 1] for i in range(6)]
        q25, q75 = point - s[0], tf.raw_ops.AddV2(x=point, y=s[3])
        q10, q90 = q25 - s[1], tf.raw_ops.AddV2(x=q75, y=s[4])
        q05, q95 = q10 - s[2], tf.raw_ops.AddV2(x=q90, y=s[5])
        return {
            "quantiles": tf.concat([q05, q10, q25, point, q75, q90, q95], axis=-1),
            "attention": attention,
            "parts": tf.concat([curve, line, attended, delta], axis=-1),
        }


def relative_error(gap: Any) -> Any:
    """|predicted / true - 1| of a difference of ln prices: what is reported is what is fitted. Straight
    above `STEEP`."""
    curved = tf.exp(tf.minimum(gap, STEEP)) - 1.0
    return tf.abs(tf.where(gap > STEEP, (gap - STEEP + 1.0) * float(np.exp(STEEP)) - 1.0, curved))


def loss_by_seed(outputs: Mapping[str, Any], y: Any, weight: Any) -> Any:
    """(seeds,): weighted mean of the relative error of the price plus 0.6 of the mean pinball loss of the
    six quantiles."""
    quantiles = outputs["quantiles"]
    point = relative_error(quantiles[..., 3] - y)
    others = tf.concat([quantiles[..., :3], quantiles[..., 4:]], axis=-1)
    error = tf.expand_dims(y, -1) - others
    level = tf.constant(QUANTILES, dtype=tf.float32)
    pinball = tf.reduce_mean(tf.maximum(level * error, (level - 1.0) * error), -1)
    return tf.reduce_sum(weight * (point + 0.6 * pinball), -1) / tf.reduce_sum(weight, -1)

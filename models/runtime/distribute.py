"""Fits the network over several processors: GPUs of one process, or N worker processes, by `tf.distribute`.

A batch is cut into a fixed number of shards, whoever computes them; each shard has its own noise, and the
gradients are added up in double precision. So the result is that of one process, whatever the number of
workers: equal to within `TOLERANCE`, and to the bit on one kind of processor with one thread. Every worker
reads its rows alone from the run's folder, which all of them must see; the first one writes a checkpoint
there, by one rename, from which all of them go on after a crash.

    RUN/data/*.npy      inputs, targets and weights of the rows, mapped into memory
    RUN/run.json        how it is fitted, with a hash that a checkpoint must carry
    RUN/state.npz       the last checkpoint
    RUN/weights.npz     the result: the averaged weights
    RUN/progress.json   step, steps, loss, seconds left
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow as tf

from models.errors import ModelError
from models.runtime.net import INPUTS, Network, Parts, Scaler, fit_scaler, loss_by_seed
from models.runtime.train_network import Optimiser, Training, batches
from models.valuation.features import Features
from models.valuation.table import Floats, Ints

TOLERANCE: Final = 1e-5
"""Most that ln of a price may differ between one process and several: what the order of additions does."""
SHARDS: Final = 4
"""Parts of a batch: as many workers may share it."""
CHECKPOINT_S: Final = 30.0
"""Seconds of work that a crash may cost."""


DAMAGED: Final = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""What numpy raises on a file of arrays that is cut off or overwritten."""


class DistributeError(ModelError):
    """A distributed training that cannot be run as asked; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Run:
    """How a run is fitted. `every_s`: seconds between checkpoints; 0 writes one after every step."""

    training: Training
    parts: Parts
    rows: int
    shards: int = SHARDS
    every_s: float = CHECKPOINT_S

    def to_json(self) -> dict[str, Any]:
        """As it stands in run.json."""
        return {
            "training": asdict(self.training), "parts": asdict(self.parts), "rows": self.rows,
            "shards": self.shards, "every_s": self.every_s,
        }  # fmt: skip

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Run:
        """Raises DistributeError: written by another version."""
        try:
            return cls(
                Training(**raw["training"]), Parts(**raw["parts"]), raw["rows"], raw["shards"], raw["every_s"]
            )
        except (KeyError, TypeError) as error:
            raise DistributeError(f"run.json cannot be read ({error}); prepare the run again") from None


# --- the run's folder ------------------------------------------------------------------------------------


def prepare(
    folder: Path,
    features: Features,
    y: Floats,
    day: Ints,
    rows: Ints,
    training: Training,
    parts: Parts = Parts(),  # noqa: B008
    *,
    shards: int = SHARDS,
    every_s: float = CHECKPOINT_S,
) -> Run:
    """Write what the workers need. `rows`: those whose label may be seen. The same run again is left as it
    is."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    scaler = fit_scaler(features, rows)
    age = (day[rows].max() - day[rows]).astype(np.float64)
    arrays = {name: getattr(features, name)[rows].astype(np.float32) for name in INPUTS}
    arrays["y"] = y[rows].astype(np.float32)
    arrays["weight"] = (0.5 ** (age / training.half_life)).astype(np.float32)
    for name, value in scaler.mean.items():
        arrays[f"mean-{name}"], arrays[f"scale-{name}"] = value, scaler.scale[name]
    for name, array in arrays.items():
        with _replacing(data / f"{name}.npy") as part, part.open("wb") as file:
            np.save(file, np.ascontiguousarray(array))
    run = Run(training, parts, len(rows), shards, every_s)
    digest = hashlib.sha256(json.dumps(run.to_json(), sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    _write_json(folder / "run.json", {**run.to_json(), "hash": digest.hexdigest()})
    return run


class _replacing:
    """A file that is there as a whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path, self.part = path, path.with_name(f"{path.name}.part")

    def __enter__(self) -> Path:
        return self.part

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            with self.part.open("rb") as file:
                os.fsync(file.fileno())
            self.part.replace(self.path)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with _replacing(path) as part:
        part.write_text(json.dumps(value, sort_keys=True) + "\n", "utf-8")


def read_run(folder: Path) -> tuple[Run, str]:
    """(run, hash). Raises DistributeError: there is none."""
    try:
        raw = json.loads((folder / "run.json").read_text("utf-8"))
        return Run.from_json(raw), str(raw["hash"])
    except (OSError, ValueError, KeyError) as error:
        raise DistributeError(f"{folder} holds no run ({error}); prepare it first") from None


def _mapped(folder: Path, name: str) -> Any:
    try:
        return np.load(folder / "data" / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise DistributeError(
            f"{folder}/data/{name}.npy cannot be read ({error}); prepare it again"
        ) from None


def read_scaler(folder: Path) -> Scaler:
    """The scaler of the run's rows."""
    names = INPUTS[:-1]
    return Scaler(
        {name: np.asarray(_mapped(folder, f"mean-{name}")) for name in names},
        {name: np.asarray(_mapped(folder, f"scale-{name}")) for name in names},
    )


def load_network(folder: Path) -> Network:
    """The fitted network of a run that ended. Raises DistributeError: it did not."""
    run, digest = read_run(folder)
    network = Network(read_scaler(folder), run.training.seeds, run.training.seed, run.parts)
    few = {name: np.asarray(_mapped(folder, name)[:2]) for name in INPUTS}
    network({name: tf.constant(np.repeat(rows[None], run.training.seeds, 0)) for name, rows in few.items()})
    try:
        with np.load(folder / "weights.npz", allow_pickle=False) as saved:
            if str(saved["hash"]) != digest:
                raise DistributeError(f"{folder}/weights.npz is of another run; train again")
            for number, weight in enumerate(network.trainable_weights):
                weight.assign(saved[f"mean-{number}"])
    except DAMAGED as error:
        raise DistributeError(f"{folder}/weights.npz cannot be read ({error}); train again") from None
    return network


# --- training -------------------------------------------------------------------------------------------


def gpu_strategy() -> Any:
    """MirroredStrategy over this process's GPUs. Raises DistributeError with the reason where there are not
    two."""
    found = tf.config.list_logical_devices("GPU")
    if len(found) < 2:
        raise DistributeError(f"several GPUs are needed, this process sees {len(found)}")
    return tf.distribute.MirroredStrategy([device.name for device in found])


def worker_strategy() -> Any:
    """MultiWorkerMirroredStrategy as TF_CONFIG says; to be made before anything else of TensorFlow."""
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=tf.distribute.experimental.CommunicationImplementation.RING, timeout_seconds=120.0
    )
    return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)


class Trainer:
    """One process of a run: all of it, or one worker's share."""

    def __init__(self, folder: Path, strategy: Any | None = None) -> None:
        tf.config.experimental.enable_op_determinism()
        self.folder = folder
        self.run, self.hash = read_run(folder)
        self.strategy = strategy if strategy is not None else tf.distribute.get_strategy()
        replicas = self.strategy.num_replicas_in_sync
        if self.run.shards % replicas:
            raise DistributeError(
                f"{replicas} replicas cannot share {self.run.shards} shards evenly; choose a number of them "
                f"that divides {self.run.shards}, or prepare the run with other shards"
            )
        self.local = self.run.shards // replicas
        cluster = getattr(self.strategy, "cluster_resolver", None)
        self.task: int | None = None if cluster is None else cluster.task_id
        self.first = not self.task
        self.arrays = {name: _mapped(folder, name) for name in (*INPUTS, "y", "weight")}
        self.order = batches(self.run.rows, self.run.training)
        self.size = self.order.shape[2] - self.order.shape[2] % self.run.shards
        if self.size == 0:
            raise DistributeError("a batch has fewer rows than shards; prepare the run with fewer shards")
        with self.strategy.scope():
            training = self.run.training
            self.network = Network(read_scaler(folder), training.seeds, training.seed, self.run.parts)
            self.network(self._shard(0, 0)[0])
            self.weights = [weight.value for weight in self.network.trainable_weights]
            self.optimiser = Optimiser(self.weights, training, len(self.order))
        self.one = tf.function(self._one)

    def _shard(self, step: int, shard: int) -> tuple[dict[str, Any], Any, Any, Any, Any]:
        """(inputs, y, weight, total weight of the batch, noise seed) of one shard of one step."""
        index = self.order[step][:, : self.size]
        total = self.arrays["weight"][index].sum(axis=1, dtype=np.float64).astype(np.float32)
        own = index[:, shard :: self.run.shards]
        inputs = {name: tf.constant(self.arrays[name][own]) for name in INPUTS}
        noise = tf.constant([self.run.training.seed, step * self.run.shards + shard], tf.int32)
        return (
            inputs,
            tf.constant(self.arrays["y"][own]),
            tf.constant(self.arrays["weight"][own]),
            tf.constant(total),
            noise,
        )

    def _replica_batch(self, step: int, replica: int) -> Any:
        shards = [self._shard(step, replica * self.local + number) for number in range(self.local)]
        return tf.nest.map_structure(lambda *parts: tf.stack(parts), *shards)

    def _batch(self, step: int) -> Any:
        """The step's rows, each replica its own. A process of a cluster has one replica: its place in it."""
        if self.task is not None or self.strategy.num_replicas_in_sync == 1:
            return self._replica_batch(step, self.task or 0)
        parts = [self._replica_batch(step, number) for number in range(self.strategy.num_replicas_in_sync)]
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )

    def _gradients(self, batch: Any) -> Any:
        """Gradients of the whole batch's loss, summed over this replica's shards, and the loss: one vector in
        double precision."""
        total_size = sum(math.prod(weight.shape) for weight in self.weights)
        found = tf.zeros([total_size + 1], tf.float64)
        # One shard in the loop too: two workers compute exactly what one process does.
        for number in tf.range(self.local) if self.run.shards > 1 else (0,):
            inputs, y, weight, total, noise = tf.nest.map_structure(lambda part: part[number], batch)  # noqa: B023
            with tf.GradientTape() as tape:
                share = tf.reduce_sum(weight, -1) / total
                value = tf.reduce_sum(loss_by_seed(self.network(inputs, noise), y, weight) * share)
            flat = [tf.reshape(g, [-1]) for g in tape.gradient(value, self.weights)]
            found += tf.cast(tf.concat([*flat, tf.reshape(value, [1])], 0), tf.float64)
        return found

    def _one(self, batch: Any, step: Any) -> Any:
        """One step of all replicas; the mean loss of the seeds."""
        vector = self.strategy.run(self._gradients, args=(batch,))
        summed = tf.cast(self.strategy.reduce(tf.distribute.ReduceOp.SUM, vector, axis=None), tf.float32)
        sizes = [math.prod(weight.shape) for weight in self.weights]
        parts = tf.split(summed, [*sizes, 1])
        gradients = [tf.reshape(g, w.shape) for g, w in zip(parts[:-1], self.weights, strict=True)]
        self.optimiser.apply(gradients, step)
        return parts[-1][0] / self.run.training.seeds

    # --- state ---

    def _groups(self) -> dict[str, list[Any]]:
        best = self.optimiser
        return {"weight": self.weights, "first": best.first, "second": best.second, "mean": best.mean}

    def save(self, step: int) -> None:
        """Write the checkpoint after `step` steps."""
        arrays = {
            f"{name}-{number}": variable.numpy()
            for name, group in self._groups().items()
            for number, variable in enumerate(group)
        }
        with _replacing(self.folder / "state.npz") as part, part.open("wb") as file:
            np.savez(file, **arrays, step=np.array(step), hash=np.array(self.hash))

    def restore(self) -> int:
        """Steps done by the last checkpoint of this very run; 0: none."""
        try:
            with np.load(self.folder / "state.npz", allow_pickle=False) as saved:
                if str(saved["hash"]) != self.hash:
                    return 0
                for name, group in self._groups().items():
                    for number, variable in enumerate(group):
                        variable.assign(saved[f"{name}-{number}"])
                return int(saved["step"])
        except FileNotFoundError:
            return 0
        except DAMAGED as error:
            raise DistributeError(
                f"{self.folder}/state.npz cannot be read ({error}); delete it to begin again"
            ) from None

    def train(self, progress: Callable[[Progress], None] | None = None) -> None:
        """Fit until the end, from the last checkpoint on; the first worker writes the result."""
        done = self.restore()
        begun = saved = time.monotonic()
        start, steps = done, len(self.order)
        for step in range(done, steps):
            batch = self._batch(step)
            loss = float(self.one(batch, tf.constant(step, tf.int32)))
            now = time.monotonic()
            if self.first:
                left = (now - begun) / (step + 1 - start) * (steps - step - 1)
                if now - saved >= self.run.every_s or step + 1 == steps:
                    self.save(step + 1)
                    saved = now
                    _write_json(self.folder / "progress.json", asdict(Progress(step + 1, steps, loss, left)))
                if progress is not None:
                    progress(Progress(step + 1, steps, loss, left))
        if self.first:
            means = {f"mean-{number}": mean.numpy() for number, mean in enumerate(self.optimiser.mean)}
            with _replacing(self.folder / "weights.npz") as part, part.open("wb") as file:
                np.savez(file, **means, hash=np.array(self.hash))


@dataclass(frozen=True, slots=True)
class Progress:
    """`step` of `steps` done; mean loss of the step; seconds left at the pace so far."""

    step: int
    steps: int
    loss: float
    left_s: float

    def line(self) -> str:
        """For people."""
        return f"step {self.step} of {self.steps}, loss {self.loss:.4f}, {self.left_s:.0f} s left"


def finished(folder: Path) -> bool:
    """Whether the run of the folder has ended."""
    try:
        with np.load(folder / "weights.npz", allow_pickle=False) as saved:
            return str(saved["hash"]) == read_run(folder)[1]
    except DAMAGED:
        return False


def features_of_folder(folder: Path) -> Features:
    """The run's inputs as features, for predictions; `chosen` is not kept and empty."""
    inputs = {name: np.asarray(_mapped(folder, name)) for name in INPUTS}
    empty = np.zeros((len(inputs["car"]), 0), np.int32)
    return Features(**{f.name: inputs.get(f.name, empty) for f in fields(Features)})

"""`fit_network` over several processors, and after a crash from where it was; same arguments and network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from models.runtime import distribute
from models.runtime.distribute_run import launch
from models.runtime.net import Network, Parts
from models.runtime.train_network import Fit, Training
from models.valuation.features import Features
from models.valuation.table import Floats, Ints


def fitter(
    work: Path,
    workers: int,
    *,
    gpus: bool,
    shards: int | None = None,
    tell: Callable[[str], None] = print,
) -> Fit:
    """A `fit_network` that keeps its checkpoints under `work`, one folder a fit.

    `workers`: processes on this machine. `gpus`: all GPUs of this process instead. `shards`: parts of a
    batch; the result depends on them, not on who computes them; default: one a worker.
    """

    def fit(
        features: Features,
        y: Floats,
        day: Ints,
        rows: Ints,
        training: Training,
        parts: Parts = Parts(),  # noqa: B008
        progress: Callable[[int, int, float], None] | None = None,
    ) -> Network:
        folder = work / name_of(y, day, rows, training, parts)
        strategy = distribute.gpu_strategy() if gpus else None
        count = shards or (strategy.num_replicas_in_sync if strategy is not None else workers)
        distribute.prepare(folder, features, y, day, rows, training, parts, shards=count)
        if not distribute.finished(folder):
            if workers > 1 and not gpus:
                launch(folder, workers, tell)
            else:
                trainer = distribute.Trainer(folder, strategy)
                trainer.train(None if progress is None else lambda p: progress(p.step, p.steps, p.loss))
        return distribute.load_network(folder)

    return fit


def name_of(y: Floats, day: Ints, rows: Ints, training: Training, parts: Parts) -> str:
    """The folder of a fit: 16 digits of the hash of what it is fitted on and how."""
    digest = hashlib.sha256(json.dumps([asdict(training), asdict(parts)], sort_keys=True).encode())
    for array in (y, day, rows):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]

"""Training over several processes: the result of one, also when some are killed; checkpoints; GPUs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not here")

import tensorflow as tf

from models.errors import ModelError
from models.runtime import distribute
from models.runtime.distribute_fit import fitter, name_of
from models.runtime.distribute_run import RESTARTS, launch, main
from models.runtime.net import Parts
from models.runtime.train_network import Training, fit_network, predict
from models.valuation.features import COMPARABLE_COLUMNS, COMPARABLES, MARKET_COLUMNS, Features
from models.valuation.state import REGIONS, SEQUENCE_WEEKS
from models.valuation.table import Floats, Ints

pytestmark = [pytest.mark.train, pytest.mark.timeout(900)]
"""Each process loads TensorFlow: a minute and more where others use the processors too."""
ROOT = Path(__file__).resolve().parent.parent
CARS = 96
PARTS = Parts(lstm=False, regions=False)
"""The parts that cost most to trace are left out: what is tested is the same for them."""
TRAINING = Training(seeds=2, epochs=12, batch=32)
STEPS = 36
ROWS: Ints = np.arange(CARS, dtype=np.int32)


def cars() -> tuple[Features, Floats, Ints]:
    """Features, ln of price over anchor and days of invented cars."""
    draw = np.random.default_rng(5)

    def normal(*shape: int) -> Any:
        return draw.normal(size=(CARS, *shape)).astype(np.float32)

    sales = normal(COMPARABLES, len(COMPARABLE_COLUMNS))
    sales[..., -1], sales[..., 15] = 1.0, np.abs(sales[..., 15])
    features = Features(
        normal(28), normal(len(MARKET_COLUMNS)), sales, normal(SEQUENCE_WEEKS, 10), normal(REGIONS, 4),
        normal(6) * 0.1, np.zeros((CARS, COMPARABLES), np.int32),
    )  # fmt: skip
    return features, normal().astype(np.float64) * 0.1 - 0.5, draw.integers(100, 300, CARS).astype(np.int32)


def prepared(folder: Path, shards: int = 2, training: Training = TRAINING) -> Path:
    features, y, day = cars()
    distribute.prepare(folder, features, y, day, ROWS, training, PARTS, shards=shards, every_s=0.0)
    return folder


def values(folder: Path) -> Floats:
    return predict(distribute.load_network(folder), cars()[0], ROWS)["quantiles"]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, never interrupted."""
    folder = prepared(tmp_path_factory.mktemp("single") / "run")
    distribute.Trainer(folder).train()
    return folder


def step_of(folder: Path) -> int:
    """The step of the last checkpoint; 0 before the first."""
    try:
        return int(json.loads((folder / "progress.json").read_text())["step"])
    except (OSError, ValueError):
        return 0


def wait_for_step(folder: Path, step: int) -> None:
    """Until the run has done some steps, but not all of them."""
    deadline = time.monotonic() + 300.0
    while step_of(folder) < step:
        assert time.monotonic() < deadline, "the workers never began"
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")


def test_two_workers_one_of_them_killed_give_the_result_of_one_process(single: Path, tmp_path: Path) -> None:
    folder = prepared(tmp_path / "run")
    killed: list[int] = []

    def kill_one(pids: list[int]) -> None:
        if not killed:
            wait_for_step(folder, 3)
            os.kill(pids[1], signal.SIGKILL)
            killed.append(step_of(folder))

    restarts = launch(folder, 2, lambda _line: None, started=kill_one)
    assert restarts == 1 and 3 <= killed[0] < STEPS
    assert np.abs(values(folder) - values(single)).max() <= distribute.TOLERANCE


def test_a_run_killed_in_the_middle_goes_on_and_ends_the_same_to_the_bit(
    single: Path, tmp_path: Path
) -> None:
    folder = prepared(tmp_path / "run")
    command = [sys.executable, "-m", "models.runtime.distribute_run", str(folder)]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for_step(folder, 3)
    finally:
        first.kill()
        first.wait()
    done = step_of(folder)
    assert 3 <= done < STEPS and not distribute.finished(folder)
    lines: list[str] = []
    distribute.Trainer(folder).train(lambda progress: lines.append(progress.line()))
    assert done - 1 <= STEPS - len(lines) <= done + 1  # the checkpoint may be one step ahead of its notice
    assert lines[-1].startswith(f"step {STEPS} of {STEPS}, loss ") and lines[-1].endswith(" 0 s left")
    assert distribute.finished(folder)
    assert np.array_equal(values(folder), values(single))


def test_one_shard_is_the_network_of_fit_network(tmp_path: Path) -> None:
    features, y, day = cars()
    training = Training(seeds=2, epochs=2, batch=32)
    fit = fitter(tmp_path, 1, gpus=False)
    ours = predict(fit(features, y, day, ROWS, training, PARTS, None), features, ROWS)
    theirs = predict(fit_network(features, y, day, ROWS, training, PARTS), features, ROWS)
    assert np.abs(ours["quantiles"] - theirs["quantiles"]).max() <= distribute.TOLERANCE
    folder = tmp_path / name_of(y, day, ROWS, training, PARTS)
    before = (folder / "weights.npz").stat().st_mtime_ns
    fit(features, y, day, ROWS, training, PARTS, None)
    assert (folder / "weights.npz").stat().st_mtime_ns == before  # a finished fit is not run again


MIRRORED = """
import sys, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from pathlib import Path
from models.runtime.distribute import Trainer
Trainer(Path(sys.argv[1]), tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])).train()
"""


def test_mirrored_replicas_of_one_process_give_its_result_too(single: Path, tmp_path: Path) -> None:
    folder = prepared(tmp_path / "run")
    subprocess.run([sys.executable, "-c", MIRRORED, str(folder)], check=True, stderr=subprocess.DEVNULL)
    assert np.abs(values(folder) - values(single)).max() <= distribute.TOLERANCE


def test_several_gpus_are_used_or_the_reason_is_given(single: Path, tmp_path: Path) -> None:
    count = len(tf.config.list_physical_devices("GPU"))
    if count < 2:
        with pytest.raises(
            distribute.DistributeError, match=f"several GPUs are needed, this process sees {count}"
        ):
            distribute.gpu_strategy()
        pytest.skip(f"MirroredStrategy over GPUs needs two of them; this machine has {count}")
    folder = prepared(tmp_path / "run")
    distribute.Trainer(folder, distribute.gpu_strategy()).train()
    assert np.abs(values(folder) - values(single)).max() <= 10 * distribute.TOLERANCE


def test_a_checkpoint_of_another_run_is_not_taken_over(single: Path, tmp_path: Path) -> None:
    folder = prepared(tmp_path / "run", training=Training(seeds=2, seed=9, epochs=12, batch=32))
    (folder / "state.npz").write_bytes((single / "state.npz").read_bytes())
    (folder / "weights.npz").write_bytes((single / "weights.npz").read_bytes())
    assert distribute.Trainer(folder).restore() == 0
    assert not distribute.finished(folder)
    with pytest.raises(distribute.DistributeError, match="another run"):
        distribute.load_network(folder)


def test_a_damaged_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(distribute.DistributeError, match="prepare it first"):
        distribute.Trainer(tmp_path)
    folder = prepared(tmp_path / "run")
    (folder / "state.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(distribute.DistributeError, match="delete it to begin again"):
        distribute.Trainer(folder).restore()
    (folder / "data" / "y.npy").write_bytes(b"")
    with pytest.raises(distribute.DistributeError, match=r"y\.npy cannot be read"):
        distribute.Trainer(folder)


def test_workers_that_always_die_are_given_up_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    with pytest.raises(ModelError, match="holds no run"):
        launch(tmp_path, 2, lines.append)
    (tmp_path / "run.json").write_text("{}")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ModelError, match=f"{RESTARTS + 1} times"):
        launch(tmp_path, 2, lines.append)
    assert len(lines) == RESTARTS + 1


def test_the_command_line_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--hosts", "a:1,b:2"]) == 1
    assert "say which of them" in capsys.readouterr().err
    assert main([str(tmp_path), "--hosts", "a:1", "--task", "3"]) == 1
    assert "not one of the 1 hosts" in capsys.readouterr().err

"""Starts the worker processes of a distributed training and stands by them.

`python -m models.runtime.distribute_run RUN --workers N` starts N processes on this machine. Over several
machines each starts its own: `... RUN --hosts a:4000,b:4000 --task 0` on a, `--task 1` on b, with RUN on a
disk that all of them see. The workers speak gRPC without encryption or passwords: only a private network may
lie between them.

When a worker dies, the others are ended and all begin again at the last checkpoint, a few times.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from models.errors import ModelError

RESTARTS: Final = 3
"""Crashes that are forgiven; more of them have a cause that does not go away."""
POLL_S: Final = 0.2
END_S: Final = 5.0
"""Seconds a worker has to end before it is killed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line above. 0 done, 1 failed, 2 cannot be meant."""
    parser = argparse.ArgumentParser(prog="distribute_run")
    parser.add_argument("run", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--hosts", default="")
    parser.add_argument("--task", type=int)
    parser.add_argument("--gpus", action="store_true", help="one process, all its GPUs")
    given = parser.parse_args(arguments)
    hosts = [host for host in given.hosts.split(",") if host]
    try:
        if given.task is not None:
            _work(given.run, hosts, given.task)
        elif hosts:
            raise ModelError("with --hosts say which of them this one is: --task 0 to the last")
        elif given.gpus or given.workers == 1:
            _alone(given.run, gpus=given.gpus)
        else:
            launch(given.run, given.workers, print)
    except ModelError as error:
        print(f"holdfast: {error}", file=sys.stderr)
        return 1
    return 0


def _quiet() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _alone(run: Path, *, gpus: bool) -> None:
    _quiet()
    from models.runtime import distribute

    strategy = distribute.gpu_strategy() if gpus else None
    distribute.Trainer(run, strategy).train(_say)


def _work(run: Path, hosts: Sequence[str], task: int) -> None:
    if not 0 <= task < len(hosts):
        raise ModelError(f"task {task} is not one of the {len(hosts)} hosts")
    _quiet()
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": {"worker": list(hosts)}, "task": {"type": "worker", "index": task}}
    )
    from models.runtime import distribute

    distribute.Trainer(run, distribute.worker_strategy()).train(_say if task == 0 else None)


def _say(progress: Any) -> None:
    """Progress for people, on stderr, every step of a small run, every second of a long one."""
    now = time.monotonic()
    if progress.step == progress.steps or now - _said[0] >= 1.0:
        _said[0] = now
        print(progress.line(), file=sys.stderr, flush=True)


_said: Final = [0.0]


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def launch(
    run: Path,
    workers: int,
    say: Callable[[str], None],
    *,
    started: Callable[[list[int]], None] | None = None,
) -> int:
    """Run N workers on this machine until the training has ended; the number of restarts.

    `started` is told the process ids each time. Raises ModelError: workers died more than `RESTARTS` times.
    """
    if not (run / "run.json").exists():
        raise ModelError(f"{run} holds no run; prepare it first")
    for attempt in range(RESTARTS + 1):
        hosts = ",".join(f"127.0.0.1:{port}" for port in free_ports(workers))
        command = [
            sys.executable,
            "-m",
            "models.runtime.distribute_run",
            str(run),
            "--hosts",
            hosts,
            "--task",
        ]
        processes = [subprocess.Popen([*command, str(task)]) for task in range(workers)]
        try:
            if started is not None:
                started([process.pid for process in processes])
            if _wait(processes):
                return attempt
        finally:
            _end(processes)
        say(f"a worker ended too early; all begin again at the last checkpoint ({attempt + 1} of {RESTARTS})")
    raise ModelError(f"workers ended too early {RESTARTS + 1} times; look at what they wrote above")


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> bool:
    """Whether all of them ended well; False as soon as one did not."""
    while True:
        codes = [process.poll() for process in processes]
        if any(code not in (None, 0) for code in codes):
            return False
        if all(code == 0 for code in codes):
            return True
        time.sleep(POLL_S)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + END_S
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())

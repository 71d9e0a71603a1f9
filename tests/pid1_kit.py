"""A real systemd as process 1 of namespaces of its own: the machine's files below, our installation above.

Nothing of the host is changed: what is written goes to a tmpfs that ends with the namespaces. Needs root,
unshare, overlayfs and cgroup v2. The end is SIGKILL to process 1, from outside; the kernel ends the rest
of its namespace.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SYSTEMD = Path("/lib/systemd/systemd")
BOOT_S = 20.0
WAIT_S = 30.0
NEEDED = ("unshare", "nsenter", "chroot", "systemctl", "systemd-sysusers", "systemd-tmpfiles", "make")

_SCRIPT = """
set -eu
mount --make-rprivate /
mkdir -p "$HOME_/t" && mount -t tmpfs -o mode=755 tmpfs "$HOME_/t" && cd "$HOME_/t"
mkdir up work root && cp -a "$HOME_/over/." up/ && chown -R 0:0 up && chmod 755 up
mount -t overlay overlay -o "lowerdir=/,upperdir=up,workdir=work" root
cd root
mount -t proc proc proc
mount --rbind /dev dev
: >"$HOME_/console" && mount --bind "$HOME_/console" dev/console
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run && mount --make-shared run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir -p opt/hf/python opt/hf/site opt/hf/src opt/hf/shared
mount --bind "$PYTHON_HOME" opt/hf/python
mount --bind "$SITE" opt/hf/site
mount --bind "$SOURCE" opt/hf/src
mount --bind "$HOME_/shared" opt/hf/shared
# Only what we start: no generators, and nothing of the machine's own boot.
rm -rf lib/systemd/system-generators/* usr/lib/systemd/system/*.wants etc/systemd/system/*.wants
chroot . systemd-sysusers
chroot . systemd-tmpfiles --create holdfast-node.conf
chroot . /bin/sh -eu /opt/hf/shared/prepare
# Not chroot: the kernel gives no user namespace (PrivateUsers=) to a process below one.
pivot_root . mnt && cd / && umount -l mnt
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system \
  --unit=holdfast.target --log-level=info --log-target=console --show-status=no </dev/null
"""


def why_not() -> str:
    """Why no process 1 can be had here; empty when it can."""
    if os.geteuid() != 0:
        return "only root may make the namespaces"
    if not SYSTEMD.exists():
        return f"{SYSTEMD} is not there (Debian: systemd)"
    missing = [tool for tool in NEEDED if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: util-linux, systemd, make)"
    probe = (
        "mount --make-rprivate / && mount -t cgroup2 none /mnt && mount -t tmpfs none /tmp && cd /tmp && "
        "mkdir u w m && mount -t overlay none -o lowerdir=/,upperdir=u,workdir=w m"
    )
    done = subprocess.run(
        ["unshare", "-m", "-p", "-f", "-u", "-i", "-C", "sh", "-c", probe],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else f"namespaces or mounts are refused: {done.stderr.strip()[:200]}"


class Pid1:
    """One machine: `over` is laid over the host's files."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.over = home / "over"
        self.shared = home / "shared"
        """Both sides see this folder, at /opt/hf/shared inside; sockets in it too."""
        for folder in (self.over, self.shared):
            folder.mkdir(mode=0o755)
        self._process: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def install(self) -> None:
        """`make install` of a node, with an environment that uses the tests' own libraries."""
        made = subprocess.run(
            ["make", "-s", "-C", ROOT, "install", f"DESTDIR={self.over}", "INSTALL_ENV=0"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        bin_ = self.over / "opt/holdfast/bin"
        bin_.mkdir(parents=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        (self.shared / "main.py").write_text(
            "import sys\n"
            "sys.path += ['/opt/hf/src', '/opt/hf/site']\n"
            "sys.dont_write_bytecode = True\n"
            "from firmware_bridge.__main__ import main\n"
            "sys.exit(main())\n",
            "utf-8",
        )
        program = bin_ / "holdfast"
        program.write_text(
            "#!/bin/sh\n"
            "export LD_LIBRARY_PATH=/opt/hf/python/lib\n"  # an interpreter that was built for another folder
            f'exec /opt/hf/python/bin/{version} -I /opt/hf/shared/main.py "$@"\n',
            "utf-8",
        )
        program.chmod(0o755)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file of the machine, root's."""
        file = self.over / path.lstrip("/")
        for folder in reversed([f for f in file.parents if not f.exists()]):
            folder.mkdir(mode=0o755)
        file.write_text(text, "utf-8")
        file.chmod(mode)

    def start(self, prepare: str) -> None:
        """Run the shell script `prepare` in the machine, boot it, and wait until the target is reached."""
        (self.shared / "prepare").write_text(prepare, "utf-8")
        environment = {
            **os.environ, "HOME_": str(self.home), "PYTHON_HOME": sys.base_prefix, "SOURCE": str(ROOT),
            "SITE": next(p for p in sys.path if p.endswith("site-packages")),
        }  # fmt: skip
        self._process = subprocess.Popen(
            ["unshare", "--kill-child", "-m", "-p", "-f", "-u", "-i", "-C", "sh", "-c", _SCRIPT],
            env=environment, stdin=subprocess.DEVNULL, stdout=(self.home / "out").open("wb"),
            stderr=subprocess.STDOUT, preexec_fn=self._enter_group,
        )  # fmt: skip
        self.until(self._child, BOOT_S)
        self.until(lambda: self.systemctl("is-active", "holdfast.target").stdout.strip() == "active", BOOT_S)

    def _enter_group(self) -> None:
        """Into a control group of its own, so that systemd does not take over the host's."""
        mine = _cgroup2() / f"holdfast-test-{os.getpid()}"
        mine.mkdir()
        (mine / "cgroup.procs").write_text("0")

    def _child(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.said()
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for child in map(int, children):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    self.pid = child
                    return True
        return False

    def said(self) -> str:
        """What preparation and systemd said."""
        files = [self.home / "out", self.home / "console"]
        return "\n".join(file.read_text("utf-8", "replace") for file in files if file.exists())[-6000:]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in the machine, as root."""
        return subprocess.run(
            ["nsenter", "-t", str(self.pid), "-m", "-p", "-u", "-i", "-C", *command],
            capture_output=True, text=True, check=False, timeout=WAIT_S,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )  # fmt: skip

    def systemctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """systemctl in the machine."""
        return self.run("systemctl", *words)

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.systemctl("show", "-P", name, unit).stdout.strip()

    def main_pid(self, unit: str) -> int:
        """The unit's main process, as the host counts."""
        inside = self.show(unit, "MainPID")
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                text = status.read_text("ascii")
            except OSError:
                continue
            spaces = next(line for line in text.splitlines() if line.startswith("NSpid")).split()[1:]
            if len(spaces) > 1 and spaces[-1] == inside and self._mine(status.parent):
                return int(status.parent.name)
        raise AssertionError(self.said())

    def _mine(self, process: Path) -> bool:
        """Whether the process is in this machine's process namespace."""
        return os.readlink(process / "ns/pid") == os.readlink(f"/proc/{self.pid}/ns/pid")

    def path(self, inside: str) -> Path:
        """A file of the machine, seen from outside."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def until(self, done: Callable[[], bool], seconds: float = WAIT_S) -> None:
        """Wait for `done`; fails with what systemd said."""
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, self.said()
            time.sleep(0.05)

    def close(self) -> None:
        """The end of the machine."""
        process = self._process
        if process is None:
            return
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait(WAIT_S)
        for group in _cgroup2().glob("holdfast-test-*"):
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)


def _cgroup2() -> Path:
    """Where this host has cgroup v2."""
    unified = Path("/sys/fs/cgroup/unified")
    return unified if unified.is_dir() else Path("/sys/fs/cgroup")

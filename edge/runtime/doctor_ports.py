"""Doctor, the ports: are they there, whose are they, may we read them, and who else does.

No port is opened: opening one resets many boards, and takes it from the running edge.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
import stat
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import serialx

from edge.config import Config, Port
from edge.status import AMBIGUOUS, BUSY, NO_DEVICE, PERMISSION, USAGE, Finding, Level

BY_ID: Final = Path("/dev/serial/by-id")
BY_PATH: Final = Path("/dev/serial/by-path")
GPSD_DEFAULTS: Final = Path("/etc/default/gpsd")
UDEV_DATA: Final = Path("/run/udev/data")
TTY_DRIVERS: Final = Path("/proc/tty/drivers")
SYS_CHAR: Final = Path("/sys/dev/char")
MEMORY_MAJOR: Final = 1
"""Of /dev/null and its like (Documentation/admin-guide/devices.txt of Linux)."""
GRABBERS: Final = {
    "gpsd": "systemctl disable --now gpsd.socket gpsd.service",
    "ModemManager": "systemctl disable --now ModemManager.service, or install 70-holdfast.rules",
}
"""Programs that take serial ports by themselves, and what stops them."""
_PEER: Final = struct.Struct("3i")
_TOOL_S: Final = 10
"""Seconds for systemctl."""

Devices = Callable[[], Sequence[serialx.SerialPortInfo]]


@dataclass(frozen=True, slots=True)
class Who:
    """The user under which the edge runs."""

    name: str
    uid: int
    groups: frozenset[int]

    def may(self, path: Path, want: int) -> bool:
        """Whether mode and owner of `path` let this user read (4), write (2), enter (1)."""
        found = path.stat()
        if self.uid == 0:
            return True
        shift = 6 if found.st_uid == self.uid else 3 if found.st_gid in self.groups else 0
        return found.st_mode >> shift & want == want


def service_user(state: Path) -> Who:
    """Who owns the state folder, when root asks; else who asks. The unit's groups count."""
    uid = os.geteuid()
    if uid == 0 and state.is_dir():
        uid = state.stat().st_uid
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Who(str(uid), uid, frozenset(os.getgroups()))
    groups = set(os.getgrouplist(entry.pw_name, entry.pw_gid))
    for name in unit_property("SupplementaryGroups").split():
        try:
            groups.add(grp.getgrnam(name).gr_gid)
        except KeyError:
            continue
    return Who(entry.pw_name, uid, frozenset(groups))


def unit_property(name: str, unit: str = "holdfast-edge.service") -> str:
    """A property of a systemd unit; "" where there is no systemd."""
    if not Path("/run/systemd/system").is_dir():
        return ""
    try:
        done = subprocess.run(
            ["systemctl", "show", "--value", "-p", name, unit],
            capture_output=True, text=True, timeout=_TOOL_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def edge_process(facts: str) -> int | None:
    """Process id of the edge that listens on facts.sock; None where none does."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(2)
            connection.connect(facts)
            found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    except OSError:
        return None
    return int(_PEER.unpack(found)[0])


def openers(device: int) -> list[tuple[int, str]]:
    """(process id, name) of whoever has the device `device` (st_rdev) open, as far as we may see."""
    found, own = [], str(os.getpid())
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or process.name == own:
            continue
        try:
            for descriptor in (process / "fd").iterdir():
                one = descriptor.stat()
                if stat.S_ISCHR(one.st_mode) and one.st_rdev == device:
                    found.append((int(process.name), (process / "comm").read_text().strip()))
                    break
        except OSError:
            continue  # gone, or another user's
    return found


def is_tty(device: int) -> bool:
    """Whether the kernel has a terminal at the device number `device` (st_rdev), which a serial port is.

    Not opened: /proc/tty/drivers has the numbers, proc(5). Without it, and for what it does not list, sysfs.
    """
    major, minor = os.major(device), os.minor(device)
    try:
        lines = TTY_DRIVERS.read_text("ascii", "replace").splitlines()
    except OSError:
        return major != MEMORY_MAJOR
    for line in lines:
        parts = line.split()
        first, _, last = parts[3].partition("-") if len(parts) >= 4 else ("", "", "")
        if parts[2:3] == [str(major)] and first.isdigit() and int(first) <= minor <= int(last or first):
            return True
    return (SYS_CHAR / f"{major}:{minor}" / "subsystem").resolve().name == "tty"


def identity(device: serialx.SerialPortInfo) -> str:
    """What a device says of itself, and its lasting names."""
    usb = f"{device.vid:04x}:{device.pid:04x}" if device.vid is not None and device.pid is not None else ""
    names = [usb, device.manufacturer or "", device.product or ""]
    if device.serial_number:
        names.append(f"serial {device.serial_number}")
    names += [str(link) for link in links(device.resolved_device)]
    said = ", ".join(name for name in names if name)
    return f"{device.device} ({said})" if said else str(device.device)


def links(device: str) -> list[Path]:
    """The names of udev that lead to a device and outlast replugging: by-id, then by-path."""
    real = os.path.realpath(device)
    found = []
    for folder in (BY_ID, BY_PATH):
        if folder.is_dir():
            found += [link for link in sorted(folder.iterdir()) if os.path.realpath(link) == real]
    return found


def check_ports(config: Config, who: Who, devices: Devices = serialx.list_serial_ports) -> list[Finding]:
    """Every port of the configuration, or what could be one."""
    there = [one for one in devices() if one.vid is not None or not str(one.device).startswith("/dev/ttyS")]
    if not config.ports:
        return [_unconfigured(there)] if config.chirpstack is None else []
    edge = edge_process(config.path("facts.sock"))
    found = []
    for port in config.ports:
        found += _check_port(port, who, there, edge)
    return [*found, *_grabbers(config)]


def _unconfigured(there: Sequence[serialx.SerialPortInfo]) -> Finding:
    named = "; ".join(identity(one) for one in there)
    if not there:
        return Finding("ports", Level.ERROR, "no port is configured, and no serial device is attached",
                       "plug the receiver in, then run this again", NO_DEVICE)  # fmt: skip
    if len(there) == 1:
        text = f"no port is configured; there is one device: {named}"
        return Finding("ports", Level.WARNING, text, "add a [[port]] with its lasting name to node.toml")
    return Finding("ports", Level.ERROR, f"no port is configured, and there are several devices: {named}",
                   "say in node.toml which is which: unplug one and run this again to tell them apart",
                   AMBIGUOUS)  # fmt: skip


def _check_port(
    port: Port, who: Who, there: Sequence[serialx.SerialPortInfo], edge: int | None
) -> list[Finding]:
    path = Path(port.path)
    try:
        found = path.stat()
    except OSError as error:
        named = "; ".join(identity(one) for one in there)
        then = (
            f"plug it in, or set path to one of these: {named}"
            if named
            else "plug it in: no device is attached"
        )
        return [_error(port, f"{path} is not there ({error.strerror})", then, NO_DEVICE)]
    if not stat.S_ISCHR(found.st_mode) or not is_tty(found.st_rdev):
        return [_error(port, f"{path} is no serial device", "set path to one of /dev/serial/by-id/*", USAGE)]
    findings = []
    if not who.may(path, 6):
        findings.append(_forbidden(port, path, found, who))
    findings += [_taken(port, process, name) for process, name in openers(found.st_rdev) if process != edge]
    findings += _name(port, path, there)
    if not findings:
        own = next(
            (identity(one) for one in there if one.resolved_device == os.path.realpath(path)), port.path
        )
        reader = "; the edge reads it" if edge is not None else ""
        findings.append(Finding("ports", Level.OK, f"port {port.name}: {own}{reader}"))
    return findings


def _error(port: Port, text: str, then: str, code: int) -> Finding:
    return Finding("ports", Level.ERROR, f"port {port.name}: {text}", then, code)


def _forbidden(port: Port, path: Path, found: os.stat_result, who: Who) -> Finding:
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = str(found.st_gid)
    text = f"user {who.name} may not open {path}: it is group {group}'s, mode {stat.S_IMODE(found.st_mode):o}"
    then = f"sudo usermod -aG {group} {who.name}, then log in again or restart the service"
    if not found.st_mode & 0o060:
        then = f"sudo chmod 660 {path} now, and a udev rule (70-holdfast.rules) for ever"
    return Finding("dialout", Level.ERROR, f"port {port.name}: {text}", then, PERMISSION)


def _taken(port: Port, process: int, name: str) -> Finding:
    then = GRABBERS.get(name, f"stop it: kill {process}, or take {port.path} out of its configuration")
    return _error(port, f"{name} (process {process}) has {port.path} open", then, BUSY)


def _name(port: Port, path: Path, there: Sequence[serialx.SerialPortInfo]) -> list[Finding]:
    """Whether the name of a port outlasts replugging."""
    info = next((one for one in there if one.resolved_device == os.path.realpath(path)), None)
    lasting = [link for link in links(port.path) if info is None or not _shared(info) or link.parent != BY_ID]
    if path.parent == BY_ID and info is not None and _shared(info):
        text = f"port {port.name}: {path.name} is no name of one device: such adapters have no serial number"
        then = f"set path to {lasting[0]}" if lasting else "set path to one of /dev/serial/by-path/*"
        return [Finding("ports", Level.WARNING, text, then)]
    if path.parent == Path("/dev") and path.name.startswith(("ttyUSB", "ttyACM")) and lasting:
        text = f"port {port.name}: {path} may be another device after replugging"
        return [Finding("ports", Level.WARNING, text, f"set path to {lasting[0]}")]
    return []


def _shared(info: serialx.SerialPortInfo) -> bool:
    return serialx.is_non_unique_serial(info.serial_number)


def _grabbers(config: Config) -> list[Finding]:
    """Programs that are not at our ports now, and may come."""
    names = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                names.add((process / "comm").read_text().strip())
            except OSError:
                continue
    found = []
    usb = [
        port
        for port in config.ports
        if Path(os.path.realpath(port.path)).name.startswith(("ttyUSB", "ttyACM"))
    ]
    if "ModemManager" in names and (open_to := [port.name for port in usb if not _ignored(port)]):
        text = f"ModemManager runs and may probe {', '.join(open_to)}"
        found.append(Finding("grabbers", Level.WARNING, text, GRABBERS["ModemManager"]))
    try:
        defaults = GPSD_DEFAULTS.read_text("utf-8", "replace")
    except OSError:
        defaults = ""
    named = [port.path for port in config.ports if port.path in defaults]
    automatic = 'USBAUTO="true"' in defaults and bool(usb)
    if "gpsd" in names and (named or automatic):
        text = f"gpsd runs and takes {', '.join(named) or 'USB ports by itself'} ({GPSD_DEFAULTS})"
        found.append(Finding("grabbers", Level.WARNING, text, GRABBERS["gpsd"]))
    return found or [Finding("grabbers", Level.OK, "neither gpsd nor ModemManager is after these ports")]


def _ignored(port: Port) -> bool:
    """udev told ModemManager to leave the device alone."""
    try:
        device = Path(port.path).stat().st_rdev
        data = (UDEV_DATA / f"c{os.major(device)}:{os.minor(device)}").read_text("utf-8", "replace")
    except OSError:
        return False
    return "E:ID_MM_DEVICE_IGNORE=1" in data

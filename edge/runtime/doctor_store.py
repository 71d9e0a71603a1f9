"""Doctor, what lies on this machine: the disk, the outbox, and what systemd says of the services."""

from __future__ import annotations

import os
import stat
from datetime import datetime
from pathlib import Path
from typing import Final

from edge.config import Config
from edge.runtime.doctor_ports import Who, unit_property
from edge.runtime.outbox_look import Look, look
from edge.status import FAILURE, PERMISSION, USAGE, Finding, Level, span

LOW_BYTES: Final = 64 << 20
"""Less free than this is worth a word: a day of a busy node, and its WAL."""
NO_ROOM_BYTES: Final = 4 << 20
"""Less free than this and the outbox gives up its reserve."""
LOW_INODES: Final = 100
OLD_S: Final = 86_400
"""A segment that waits for a day has missed a night in the garage with a network."""
MB: Final = 1e6


def check_disk(config: Config, who: Who) -> list[Finding]:
    """The state folder: there, ours, private, writable, with room."""
    state = Path(config.state_dir)
    if not state.is_dir():
        then = f"install -d -m 700 -o {who.name} {state}, or correct [state] dir"
        return [Finding("state", Level.ERROR, f"the state folder {state} does not exist", then, USAGE)]
    found = []
    mode = stat.S_IMODE(state.stat().st_mode)
    if mode & 0o077:
        text = f"the state folder {state} has mode {mode:o}: others can look into it"
        found.append(Finding("state", Level.WARNING, text, f"chmod 700 {state}"))
    if not who.may(state, 7):
        text = f"user {who.name} may not write into {state}"
        found.append(Finding("state", Level.ERROR, text, f"chown -R {who.name} {state}", PERMISSION))
    disk = os.statvfs(state)
    free = disk.f_bavail * disk.f_frsize
    if disk.f_flag & os.ST_RDONLY:
        text = f"{state} is mounted read-only, as a worn card is after an error"
        then = "see `dmesg | grep -i error`, then mount it writable or replace the card; no restart is needed"
        return [*found, Finding("disk", Level.ERROR, text, then, FAILURE)]
    if free < NO_ROOM_BYTES:
        text = f"the disk of {state} is full: {free / MB:.1f} MB free"
        return [
            *found,
            Finding(
                "disk", Level.ERROR, text, "free some: `du -xh / | sort -h | tail`; no restart is needed"
            ),
        ]
    wanted = max(config.outbox.max_bytes - _size(state), 0) + LOW_BYTES
    if disk.f_files and disk.f_favail < LOW_INODES:
        found.append(
            Finding(
                "disk", Level.WARNING, f"only {disk.f_favail} files more can be made", "remove small files"
            )
        )
    if free < wanted:
        text = f"{free / MB:,.0f} MB free; an outbox at its bound needs {wanted / MB:,.0f} MB"
        found.append(Finding("disk", Level.WARNING, text, "free some, or lower [outbox] max_bytes"))
    return found or [Finding("disk", Level.OK, f"{state}: {free / MB:,.0f} MB free")]


def _size(state: Path) -> int:
    try:
        return (state / "outbox.db").stat().st_size
    except OSError:
        return 0


def check_outbox(config: Config, now: datetime) -> list[Finding]:
    """Whether the outbox is whole, and how much waits for how long."""
    try:
        seen = look(Path(config.state_dir))
    except PermissionError as error:
        text = f"{error.filename} cannot be read by this user"
        return [Finding("outbox", Level.WARNING, text, "run this as root: sudo holdfast doctor")]
    if seen is None:
        return [Finding("outbox", Level.NOTE, "no outbox yet: the edge makes it at its first start")]
    return judge_outbox(seen, config, now)


def judge_outbox(seen: Look, config: Config, now: datetime) -> list[Finding]:
    """What of an outbox a person should know."""
    found = []
    if seen.damage:
        then = (
            "the edge sets it aside at its next start and saves what can be read; then `holdfast outbox fsck`"
        )
        found.append(
            Finding("outbox", Level.ERROR, f"{seen.path.name} is damaged: {seen.damage}", then, FAILURE)
        )
    if seen.set_aside:
        text = f"{len(seen.set_aside)} damaged outbox kept: {', '.join(seen.set_aside)}"
        then = f"`holdfast outbox export {seen.path.parent / seen.set_aside[0]} FOLDER`, then move it away"
        found.append(Finding("quarantine", Level.WARNING, text, then))
    age = None if seen.oldest_ns is None else now.timestamp() - seen.oldest_ns / 1e9
    text = f"{seen.segments:,} segments wait ({seen.bytes / MB:.1f} MB, with alarms: {seen.alarms})"
    if age is not None:
        text += f", the oldest for {span(max(age, 0))}"
    if seen.bytes > 0.8 * config.outbox.max_bytes:
        then = "bring the node online, or raise [outbox] max_bytes: telemetry is thinned at the bound"
        found.append(Finding("outbox", Level.WARNING, text, then))
    elif age is not None and age > OLD_S and config.uplink is not None:
        found.append(
            Finding("outbox", Level.WARNING, text, "see the broker's line; is holdfast-uplink running?")
        )
    elif not seen.damage:
        found.append(Finding("outbox", Level.OK, text))
    return found


# ---- systemd ----------------------------------------------------------------------------------------


def check_units(config: Config) -> list[Finding]:
    """What systemd says of the services of this node; nothing where there is no systemd."""
    if not Path("/run/systemd/system").is_dir():
        return [Finding("units", Level.NOTE, "no systemd here: nothing starts the node again by itself")]
    kind = "roadside" if config.node.kind == "roadside" else "edge"
    wanted = [f"holdfast-{kind}.service", *(["holdfast-uplink.service"] if config.uplink else [])]
    found = [_unit(name) for name in wanted]
    timer = unit_property("ActiveState", "holdfast-renew.timer")
    if timer != "active":
        text = "the certificates are not renewed by themselves: holdfast-renew.timer is not active"
        found.append(Finding("units", Level.WARNING, text, "systemctl enable --now holdfast-renew.timer"))
    return found


def _unit(name: str) -> Finding:
    if unit_property("LoadState", name) != "loaded":
        return Finding("units", Level.WARNING, f"{name} is not installed", "make install, from the release")
    state, result = unit_property("ActiveState", name), unit_property("Result", name)
    if state != "active":
        reason = f" ({result})" if result not in ("", "success") else ""
        then = f"systemctl enable --now {name}; why it ended: journalctl -u {name} -n 50"
        return Finding("units", Level.ERROR, f"{name} is {state or 'not running'}{reason}", then, FAILURE)
    restarts = unit_property("NRestarts", name)
    if restarts not in ("", "0"):
        text = f"{name} runs and was restarted {restarts} times"
        then = f"journalctl -u {name} says why; `Result=watchdog` means that a port's driver hung"
        return Finding("units", Level.WARNING, text, then)
    watchdog = unit_property("WatchdogUSec", name)
    return Finding("units", Level.OK, f"{name} runs, watched every {watchdog or '?'}")

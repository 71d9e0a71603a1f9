"""Silent: a source that must speak does not, and neither announced sleep nor a fault of its port explains it.

An absent port and a port at the wrong speed are a technician's matter and are reported as such; they never
become an incident here.
"""

from __future__ import annotations

from models.incident import Claim, Ground, duration, ground
from models.ports import Port
from models.scene import Scene

_S = 1_000_000_000


def claim(scene: Scene, now: int, expects_board: bool) -> Claim | None:
    """The claim, None while everything that must speak speaks."""
    found: list[tuple[float, Ground]] = []
    boards = scene.ports.boards()
    for port in boards:
        silent_s = scene.watch_s - port.heard_watch_s
        if port.fault is None and _overdue(scene, port, silent_s, now):
            text = f"the board at {port.name} has been silent for {duration(silent_s)}"
            if port.due_s is not None:
                text += f", {duration(port.due_s)} were announced"
            found.append((silent_s, ground(f"board {port.name}", "radio", 0.5, text)))
    limits = scene.limits
    for port in scene.ports.receivers():
        silent_s = scene.watch_s - port.heard_watch_s
        if (
            port.fault is None
            and silent_s >= limits.gnss_silent_s
            and scene.motion.shaken_for_s(now) >= limits.void_s
        ):
            text = f"the receiver at {port.name} has been silent for {duration(silent_s)} in a drive"
            found.append((silent_s, ground(f"receiver {port.name}", "position", 0.5, text)))
    if expects_board and not boards and _never_spoke(scene, now):
        text = f"the board that belongs here has not spoken in {duration(scene.watch_s)}"
        found.append((scene.watch_s, ground("no board", "radio", 0.4, text)))
    if not found:
        return None
    longest = max(silent_s for silent_s, _ in found)
    news = " and ".join(item.evidence.text for _, item in found[:3])
    sentence = f"{news[0].upper()}{news[1:]}; nothing announced it and the port is in order."
    return Claim(now - round(longest * _S), sentence, tuple(item for _, item in found))


def _overdue(scene: Scene, port: Port, silent_s: float, now: int) -> bool:
    limits = scene.limits
    if port.due_s is not None:
        return silent_s >= port.due_s + limits.board_grace_s
    # It never announced anything: it must speak only while the vehicle evidently drives.
    return silent_s >= limits.never_spoke_s and _drives(scene, now)


def _never_spoke(scene: Scene, now: int) -> bool:
    return scene.watch_s >= scene.limits.never_spoke_s and _drives(scene, now) and not scene.ports.any_fault()


def _drives(scene: Scene, now: int) -> bool:
    track, limits = scene.track, scene.limits
    fresh = track.place is not None and now - track.place_ns <= limits.path_gap_s * _S
    return fresh and track.speed_mps >= limits.moving_mps and track.odometer_m >= limits.tow_far_m

"""Removed or opened: the case is open, the supply is cut and nothing follows, or the tyres stayed behind."""

from __future__ import annotations

from models.incident import Claim, Ground, duration, ground, metres
from models.scene import Scene

_S = 1_000_000_000


def claim(scene: Scene, now: int) -> Claim | None:
    """The claim, None while the evidence does not suffice."""
    supply, limits = scene.supply, scene.limits
    opened, cut = supply.case_open_ns, supply.cut_ns
    if opened is not None:
        held = (now - opened) / _S >= limits.case_hold_s
        if held or supply.case_reports >= 2 or cut is not None:
            since = opened if cut is None else min(opened, cut)
            return Claim(since, _sentence(scene, now), grounds(scene, now))
    if cut is not None and silence_s(scene) >= supply.next_report_s + limits.cut_silence_s:
        return Claim(cut, _sentence(scene, now), grounds(scene, now))
    return _lost_tyres(scene, now)


def ending(scene: Scene, now: int, opened_ns: int) -> str | None:
    """Why an open incident ends, None while it does not."""
    supply, tyres = scene.supply, scene.tyres
    sound = supply.sound_since_ns
    if sound is None or supply.heard_ns is None or not supply.fresh(now):
        return None
    shut_s = (supply.heard_ns - sound) / _S
    if shut_s < scene.limits.case_shut_s or _lost_tyres(scene, now) is not None:
        return None
    if tyres.known() and (tyres.heard_ns or 0) <= max(opened_ns, sound):
        return None  # closed again, but not shown to be in its own car again
    return f"The case is closed and supplied again for {duration(shut_s)}."


def grounds(scene: Scene, now: int) -> tuple[Ground, ...]:
    """What speaks for tampering now."""
    supply, motion, limits = scene.supply, scene.motion, scene.limits
    out: list[Ground] = []
    if supply.case_open_ns is not None:
        out.append(ground("case", "case", 0.7, "the tracker's case is open"))
    if supply.cut_ns is not None:
        out.append(ground("cut", "supply", 0.6, f"its supply is cut ({supply.volts:.1f} V)"))
    silent_s = silence_s(scene)
    if silent_s >= max(limits.board_silent_s, supply.next_report_s):
        out.append(ground("silence", "radio", 0.4, f"the board has been silent for {duration(silent_s)}"))
    if motion.struck(now):
        out.append(ground("shock", "vibration", 0.3, f"blows of up to {motion.shock_peak_mps2:.1f} m/s²"))
    sky = scene.sky
    if sky.talk_ns is not None and now - sky.talk_ns > limits.talk_gap_s * _S:
        out.append(ground("receiver", "position", 0.2, "the receiver is silent too"))
    return tuple(out)


def silence_s(scene: Scene) -> float:
    """Watched seconds since any board spoke, 0 where none ever did or its port has a fault."""
    boards = [port for port in scene.ports.boards() if port.fault is None]
    return min((scene.watch_s - port.heard_watch_s for port in boards), default=0.0)


def _sentence(scene: Scene, now: int) -> str:
    supply = scene.supply
    parts = []
    if supply.case_open_ns is not None:
        parts.append("the tracker's case was opened")
    if supply.cut_ns is not None:
        parts.append(f"its supply was cut ({supply.volts:.1f} V)")
    silent_s = silence_s(scene)
    if silent_s >= max(scene.limits.board_silent_s, supply.next_report_s):
        parts.append(f"the board has been silent for {duration(silent_s)}")
    first = " and ".join(parts) if len(parts) < 3 else f"{parts[0]}, {parts[1]} and {parts[2]}"
    if len(parts) > 1:
        likely = "most likely it is being removed"
    else:
        likely = f"the supply is still there ({supply.volts:.1f} V)"
    return f"{first[0].upper()}{first[1:]}; {likely}."


def _lost_tyres(scene: Scene, now: int) -> Claim | None:
    """Driven under an engine since it was parked, board well, and none of the tyres it knows was heard."""
    limits, tyres, moved = scene.limits, scene.tyres, scene.parking.moved_ns
    if moved is None or (now - moved) / _S < limits.lost_tyres_s or not tyres.judgeable():
        return None
    road_m = scene.parking.road_m(scene.track)
    if road_m < limits.lost_tyres_m or (tyres.heard_ns or 0) >= moved:
        return None
    if not scene.board_alive(now) or not scene.supply.engine_since(moved):
        return None
    text = f"none of {tyres.known()} tyre sensors heard over {metres(road_m)} under an engine"
    return Claim(
        moved,
        f"The tracker travelled {metres(road_m)} in {duration((now - moved) / _S)} and heard none of its "
        f"{tyres.known()} tyre sensors; most likely it was moved to another vehicle.",
        (
            ground("lost_tyres", "tyres", 0.5, text),
            ground("travel", "position", 0.3, f"{metres(road_m)} of road since it was parked"),
        ),
    )

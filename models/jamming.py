"""Jammed: the receiver lives, sees its satellites' places and hears none of them, and no roof explains it.

A tunnel and a garage do the same to the signals; they are entered while driving, fade in over seconds, and
are left again or parked in. In doubt this waits longer and says less. Without a vibration sensor only the
receiver's own jamming indicator counts.
"""

from __future__ import annotations

from models.incident import Claim, Ground, duration, ground
from models.scene import Scene

_S = 1_000_000_000


def claim(scene: Scene, now: int) -> Claim | None:
    """The claim, None while the evidence does not suffice."""
    sky, limits = scene.sky, scene.limits
    void = sky.void_since_ns
    if void is None or not sky.speaking(now) or (now - void) / _S < limits.void_s:
        return None
    if sky.flag_since_ns is not None:
        return _flagged(scene, now, void)
    dead = sky.dead_since_ns
    if dead is None or not scene.motion.alive(now):
        return None
    since = max(void, dead)
    gone_s = (now - since) / _S
    if _stood(scene, dead):
        handled = scene.motion.struck(now) or scene.motion.tilted_ns is not None
        if gone_s < (limits.handled_jam_s if handled else limits.stand_jam_s):
            return None
        return _deaf(scene, now, since, "although it stood under an open sky", 0.4)
    driven_s = min(gone_s, scene.motion.shaken_for_s(now))
    if driven_s >= limits.drive_jam_s:
        return _deaf(scene, now, since, "while it drove on, longer than most tunnels", 0.3)
    if sky.sudden and driven_s >= limits.sudden_jam_s:
        return _deaf(scene, now, since, "at one blow while it drove on, where a tunnel fades", 0.3)
    return None


def ending(scene: Scene, now: int) -> str | None:
    """Why an open incident ends, None while it does not."""
    sky = scene.sky
    if sky.void_since_ns is not None or sky.fix_ns is None or sky.fixed_since_ns is None:
        return None
    if sky.fix_ns - sky.fixed_since_ns < scene.limits.clear_s * _S or sky.flag_since_ns is not None:
        return None
    return "The receiver has positions again and hears its satellites."


def _stood(scene: Scene, dead: int) -> bool:
    """It stood when the signals went: the last fixes say so, and no shaking came before."""
    still = scene.parking.still_since_ns
    return still is not None and dead - still >= 30 * _S


def _flagged(scene: Scene, now: int, void: int) -> Claim:
    grounds = _void(scene, now, void)
    grounds.append(ground("flag", "radio", 0.7, "the receiver's own jamming indicator is set"))
    sentence = (
        f"No position for {duration((now - void) / _S)} although the receiver works: "
        "its own indicator says that it is being jammed."
    )
    return Claim(void, sentence, tuple(grounds))


def _deaf(scene: Scene, now: int, since: int, how: str, weight: float) -> Claim:
    gone = duration((now - since) / _S)
    grounds = _void(scene, now, since)
    grounds.append(ground("deaf", "radio", weight, f"satellites in view, none heard for {gone}, {how}"))
    if scene.motion.shaken(now):
        text = f"shaken at {scene.motion.rms_mps2:.2f} m/s² rms: it is not parked under a roof"
        grounds.append(ground("moving", "vibration", 0.2, text))
    sentence = (
        f"No satellite heard for {gone} although the receiver works, {how}; most likely it is being jammed."
    )
    return Claim(since, sentence, tuple(grounds))


def _void(scene: Scene, now: int, since: int) -> list[Ground]:
    return [ground("void", "position", 0.2, f"no position for {duration((now - since) / _S)}")]

"""Moved without wheels: the place changes or the car is hauled up a ramp, and no tyre turns.

Never from one sensor: the tyres must be known and standing, and position, tilt with shocks, or both must
say that the vehicle is being moved. Four ways, from quick to slow:

    hauled   steep tilt held, repeated shocks, steady shaking, supply at rest: on a ramp, before it travels
    carried  a ramp was seen, then 30 m by fixes and Doppler alike, supply at rest
    driven   200 m and longer than tyre sensors need to report rolling, supply at rest
    denied   the same with a charging supply or none known: two proven sensors still say 'standing'
"""

from __future__ import annotations

from models.incident import Claim, Ground, duration, ground, metres
from models.scene import Scene

_S = 1_000_000_000


def claim(scene: Scene, now: int) -> Claim | None:
    """The claim, None while the evidence does not suffice."""
    parking, tyres, motion, limits = scene.parking, scene.tyres, scene.motion, scene.limits
    if parking.anchor is None or (parking.moved_ns is None and motion.tilted_ns is None):
        return None
    if not tyres.judgeable() or tyres.warmed or scene.rolls:
        return None
    if scene.supply.case_open_ns is not None and parking.moved_ns is None:
        return None  # somebody handles the device: its tilt is not the car's
    way_m = parking.confirmed_m(scene.track)
    moved = parking.moved_ns
    moved_s = 0.0 if moved is None else (now - moved) / _S
    begin = _begin(scene)
    off = scene.engine_off(now, begin if moved is None else moved)
    if motion.tilted_ns is not None and off:
        if moved is not None and way_m >= limits.tow_m and motion.tilted_within(moved, limits.tilt_age_s):
            return _moved(scene, now, begin, way_m, moved_s)
        if motion.steep_now() and motion.struck(now) and motion.busy >= limits.busy_share:
            return _hauled(scene, now, begin)
    if moved is None or way_m < limits.tow_far_m:
        return None
    if off and moved_s >= limits.roll_wait_s:
        return _moved(scene, now, begin, way_m, moved_s)
    asked = moved + round(limits.roll_wait_s * _S)
    if moved_s >= limits.roll_fresh_s and tyres.still_since(asked, proven=True) >= limits.tyres_needed:
        return _moved(scene, now, begin, way_m, moved_s)
    return None


def restate(scene: Scene, now: int, since_ns: int) -> Claim | None:
    """What an open incident says now; None while nothing is worth saying."""
    parking, moved = scene.parking, scene.parking.moved_ns
    way_m = parking.confirmed_m(scene.track)
    if parking.anchor is None or moved is None or way_m < scene.limits.tow_m:
        return None
    return _moved(scene, now, since_ns, way_m, (now - moved) / _S)


def ending(scene: Scene, now: int) -> str | None:
    """Why an open incident ends, None while it does not."""
    if scene.rolls or scene.tyres.warmed:
        return "Its own wheels turn again: tyre sensors report rolling, so it is being driven."
    parking, motion, limits = scene.parking, scene.motion, scene.limits
    still = parking.still_since_ns
    back = (
        parking.anchor is not None
        and parking.distance_m < limits.returned_m
        and (parking.moved_ns is not None or parking.shift_m < limits.shift_m)
        and still is not None
        and now - still >= limits.returned_s * _S
        and now - scene.track.place_ns <= limits.supply_fresh_s * _S
    )
    rest = (
        motion.alive(now)
        and motion.tilt_deg < limits.tilt_deg
        and motion.calm_for_s(now) >= limits.returned_s
    )
    if back and rest:
        return f"It stands level at its place again, still for {duration(limits.returned_s)}."
    return None


def _begin(scene: Scene) -> int:
    """First observation that belongs to the movement: shaking, tilt or speed, within the episode."""
    parking, motion = scene.parking, scene.motion
    signs = [t for t in (parking.moved_ns, motion.tilted_ns, motion.shaken_since_ns) if t is not None]
    return min((t for t in signs if t >= parking.since_ns), default=parking.since_ns)


def _hauled(scene: Scene, now: int, begin: int) -> Claim:
    motion = scene.motion
    sentence = (
        f"Being lifted or winched for {duration((now - begin) / _S)} without a wheel turning: tilted "
        f"{motion.tilt_max_deg:.0f} degrees from where it was parked, repeated shocks, "
        f"{scene.tyres.known()} tyres standing, no engine ({scene.supply.volts:.1f} V); "
        "most likely onto a flatbed."
    )
    return Claim(begin, sentence, _grounds(scene, now, 0.0))


def _moved(scene: Scene, now: int, begin: int, way_m: float, moved_s: float) -> Claim:
    motion, tyres = scene.motion, scene.tyres
    how = [f"{tyres.known()} tyres cold and unchanged"]
    if scene.engine_off(now, scene.parking.moved_ns or begin):
        how.append(f"no engine ({scene.supply.volts:.1f} V)")
    if motion.tilted_ns is not None:
        how.append(f"a tilt of {motion.tilt_max_deg:.0f} degrees before it moved")
    if motion.shaken(now):
        how.append("transport vibration")
    sentence = (
        f"Moved {metres(way_m)} in {duration(moved_s)} without a wheel turning: {', '.join(how)}; "
        "most likely on a flatbed."
    )
    return Claim(begin, sentence, _grounds(scene, now, way_m), way_m)


def _grounds(scene: Scene, now: int, way_m: float) -> tuple[Ground, ...]:
    motion, tyres, parking = scene.motion, scene.tyres, scene.parking
    out = [
        ground(
            "tyres", "tyres", 0.5,
            f"{tyres.known()} of {len(tyres)} enrolled tyre sensors heard, none rolled since it was parked",
        )
    ]  # fmt: skip
    if way_m > 0:
        text = f"{metres(way_m)} from where it was parked, by fixes and by Doppler speed"
        out.append(ground("position", "position", 0.6, text))
    if parking.moved_ns is not None:
        asked = parking.moved_ns + round(scene.limits.roll_wait_s * _S)
        still = tyres.still_since(asked, proven=False)
        if still:
            out.append(
                ground("tyres_said", "tyres", 0.7, f"{still} tyre sensors said 'standing' while it moved")
            )
    if motion.tilted_ns is not None:
        text = f"tilted up to {motion.tilt_max_deg:.0f} degrees against the parked position"
        out.append(ground("tilt", "vibration", 0.5, text))
    if motion.struck(now):
        out.append(
            ground("shock", "vibration", 0.4, f"repeated shocks up to {motion.shock_peak_mps2:.1f} m/s²")
        )
    if way_m > 0 and motion.shaken(now):
        out.append(
            ground("transport", "vibration", 0.3, f"shaken at {motion.rms_mps2:.2f} m/s² rms as in transport")
        )
    if scene.engine_off(now, parking.moved_ns or parking.since_ns):
        out.append(ground("supply", "supply", 0.3, f"supply at rest, {scene.supply.volts:.1f} V: no engine"))
    return tuple(out)

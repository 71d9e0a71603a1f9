"""Every threshold of the detector, with its unit, its range and its reason. Nothing else holds a number."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from models.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """Thresholds. All are finite and above 0; raises ConfigError where two contradict each other."""

    # The place: what a fix must satisfy to move it.
    fix_noise_m: float = 30.0
    """Two good fixes of a standing car differ by this much between houses."""
    reach_factor: float = 1.5
    """A fix may lie this much farther than its Doppler speed explains: speed changes between fixes."""
    unknown_speed_mps: float = 60.0
    """Assumed for a receiver that gives no speed: faster than any pledged vehicle."""
    path_gap_s: float = 10.0
    """A longer pause between fixes hides a stretch of road; a shorter one does not."""
    relocate_fixes: int = 5
    """So many fixes that agree with one another before a new place is believed at all."""
    relocate_gap_s: float = 30.0
    """After a hidden stretch they must also persist this long: reflections last seconds."""
    relocate_denied_s: float = 300.0
    """Without one, while Doppler says standing: believed as a place after this, never as a movement."""
    path_share: float = 0.5
    """Doppler's road must be at least this share of the distance moved; a glitch has none at all."""

    # Standing and moving.
    still_mps: float = 0.5
    """Doppler noise of a standing car is below this."""
    moving_mps: float = 1.5
    """Above it nobody pushes a car for long."""
    moving_fixes: int = 3
    """So many in a row: one noisy Doppler value moves nothing."""
    park_s: float = 120.0
    """Longer than most traffic lights; an earlier tow is seen by its second stop."""
    board_silent_s: float = 10.0
    """A driving board reports every second or so; this long without a byte corroborates tampering."""

    # Vibration. RMS over all axes, gravity removed.
    shaken_mps2: float = 0.10
    """A parked car in wind and passing lorries stays below; any drive is above."""
    shock_mps2: float = 2.5
    """Peak: rope jerks and dropped decks, not a slammed door (about 1)."""
    shocks: int = 3
    """So many windows with a shock within `shock_window_s`."""
    shock_window_s: float = 60.0
    tilt_deg: float = 4.0
    """Against the parked position. A jack lifts one corner by 2 to 4 degrees."""
    steep_deg: float = 7.0
    """Beyond any jack: a ramp or a lifted axle."""
    tilt_hold_s: float = 10.0
    """Braking and passing jolts are shorter."""

    # Tow.
    engine_v: float = 13.2
    """Above it an alternator or converter charges; a battery at rest stays below 12.9 V."""
    supply_fresh_s: float = 180.0
    """Age at which a supply figure says nothing about now; parked boards report every 60 s."""
    tilt_age_s: float = 1800.0
    """A ramp this long before the movement belongs to it: loading and lashing take less."""
    busy_share: float = 0.8
    """Share of the last half minute that is shaken while a winch runs; work with a jack comes in bursts."""
    shift_m: float = 5.0
    """Averaged over `shift_fixes`, the place of a standing car stays within this of its anchor."""
    shift_fixes: int = 8
    tow_m: float = 30.0
    """Smallest displacement that opens after the tilt of a ramp was seen."""
    tow_far_m: float = 200.0
    """Smallest displacement that opens without it: farther than a car is pushed."""
    roll_wait_s: float = 100.0
    """Tyre sensors need up to 60..90 s after standstill to report rolling; silence before says nothing."""
    roll_fresh_s: float = 180.0
    """With the engine's sign seen, only sensors that still say 'standing' after this long convince."""
    warm_degc: float = 4.0
    warm_kpa: float = 6.0
    """A tyre that gained this much since the movement began has rolled, whatever its switch says."""
    tyres_needed: int = 2
    """One sensor may be dead or a neighbour's."""
    returned_m: float = 40.0
    returned_s: float = 300.0
    """Back at its place for this long: it was moved in the yard, and the incident closes."""

    # Tamper.
    cut_v: float = 5.0
    """No board runs from such a supply: the line is cut, a back-up speaks."""
    case_hold_s: float = 3.0
    """A switch bounces for milliseconds; nothing said otherwise for this long is an opened case."""
    case_shut_s: float = 60.0
    """Closed and supplied again for this long closes the incident."""
    cut_silence_s: float = 30.0
    """Supply cut and then nothing: the back-up is gone too."""
    lost_tyres_s: float = 600.0
    lost_tyres_m: float = 5000.0
    """Rolling sensors speak once a minute: this long and far since it was parked without any of them, and
    with the engine's sign, is another vehicle."""

    # Region.
    fence_margin_m: float = 10.0
    """Outside by more than the circle and this; coming back counts this much inside."""
    fence_fixes: int = 3
    fence_span_s: float = 2.0
    """So many fixes over this time: an exit persists, a reflection of one second does not."""

    # Radio.
    void_s: float = 20.0
    """Shorter losses are bridges and trees; with the receiver's own jamming flag this suffices."""
    snr_dead_dbhz: float = 20.0
    """Nothing above it: the receiver hears no satellite it could use."""
    snr_good_dbhz: float = 33.0
    """An open sky, seconds before."""
    stand_jam_s: float = 600.0
    """Signals gone while standing under an open sky: longer than a car wash or a loading bay's visit."""
    handled_jam_s: float = 60.0
    """The same while the vehicle is also being struck or tilted: thieves bring jammers."""
    sudden_jam_s: float = 150.0
    """Gone at once, in one second, while driving: portals fade, and most tunnels are shorter."""
    drive_jam_s: float = 300.0
    """Gone while driving, however it began: longer than all but a few dozen road tunnels take."""
    sudden_s: float = 2.5
    """From a good sky to none within this: a portal takes its signals one after another over seconds."""
    clear_s: float = 10.0
    """Fixes again for this long end a jamming incident."""
    talk_gap_s: float = 90.0
    """A receiver that pauses longer was asleep: what it says next begins anew."""

    # Silence, in time in which this detector was watching.
    board_grace_s: float = 120.0
    """After the announced report: two lost frames and a slow line."""
    never_spoke_s: float = 600.0
    gnss_silent_s: float = 600.0
    """Real drives have gaps of minutes; ten while the board still feels the road are a fault or a hand."""
    watch_step_s: float = 100.0
    """One call may add no more than this to a silence: a suspended host has not been watching."""

    # What is told.
    update_s: float = 30.0
    """An open incident speaks no more often than this, and only when something material is new."""
    max_updates: int = 20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"limit {field.name} is {value!r}; it must be a finite number above 0")
        for low, high in (
            ("still_mps", "moving_mps"), ("tilt_deg", "steep_deg"), ("tow_m", "tow_far_m"),
            ("cut_v", "engine_v"), ("snr_dead_dbhz", "snr_good_dbhz"), ("void_s", "stand_jam_s"),
            ("shift_m", "tow_m"), ("watch_step_s", "board_grace_s"), ("case_hold_s", "case_shut_s"),
        ):  # fmt: skip
            if getattr(self, low) >= getattr(self, high):
                raise ConfigError(f"limit {low} must be below {high}")
        if self.path_share > 1 or self.busy_share > 1:
            raise ConfigError("limits path_share and busy_share are shares: at most 1")

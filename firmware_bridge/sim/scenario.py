"""Scenarios by name: what happens, what every device says meanwhile, and when it truly began.

`default` is the story of the demo. The others are short, one for each incident that must be found and
one for each harmless thing that must not be taken for one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from firmware_bridge.sim.board import RoadsideBoard, VehicleBoard
from firmware_bridge.sim.motion import (
    START_LAT_DEG,
    START_LON_DEG,
    Kind,
    Phase,
    Sky,
    SkyWindow,
    State,
    Vehicle,
    distance_m,
)
from firmware_bridge.sim.nmea_writer import Receiver
from firmware_bridge.sim.script import (
    BOARD,
    GNSS,
    NS,
    ROADSIDE,
    Chunk,
    Home,
    PhaseMark,
    PortSpec,
    Script,
    Truth,
)
from firmware_bridge.sim.tyres import IDS, TyreSet
from firmware_bridge.wire.stamp import ClockKind

EPOCH_WALL_NS: Final = 1_796_229_000 * NS
"""2026-12-02T16:30:00Z, an invented winter evening after this software was built."""
SEED: Final = 20261202
BURST_S: Final = 3
"""In parked watch the receiver is on for so many seconds of each minute."""
_EPOCH_DELAY_NS: Final = 90_000_000
"""From the second to its sentences."""
REGION_M: Final = 60_000.0
"""Radius of the region the vehicle is allowed in, where the scenario is not about leaving it."""
_SHUT_S: Final = 3
"""From the first screw of the case to the cut supply."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A scenario before it is played."""

    phases: tuple[Phase, ...]
    incidents: tuple[tuple[Kind, str, str], ...] = ()
    """(phase kind whose beginning it is, cause, text)."""
    windows: tuple[SkyWindow, ...] = ()
    region_m: float = REGION_M
    roadside_s: int | None = None
    """Second at which the vehicle passes the roadside node; None where there is no such node."""


def _drive(minutes: float, text: str = "driving") -> Phase:
    return Phase(Kind.DRIVE, round(minutes * 60), text)


def _tow(winch_s: int, carried_s: int) -> tuple[Phase, ...]:
    return (
        Phase(Kind.WINCHED, winch_s, "winched onto a flatbed"),
        Phase(Kind.CARRIED, carried_s, "driven off on the flatbed"),
    )


def _pulled(silence_s: int) -> tuple[Phase, ...]:
    return (
        Phase(Kind.OPENED, _SHUT_S, "the tracker's case is opened"),
        Phase(Kind.GONE, silence_s, "the tracker is cut off"),
    )


_WINCHED: Final = (Kind.WINCHED, "moved_without_wheels", "the winch takes up the rope and lifts the vehicle")
_OPENED: Final = (Kind.OPENED, "removed_or_opened", "the tracker's case is opened, then its supply is cut")


def _default() -> Plan:
    return Plan(
        phases=(
            _drive(12, "driving home"),
            Phase(Kind.PARKED, 8 * 3600, "parked overnight"),
            *_tow(300, 900),
            Phase(Kind.PARKED, 300, "standing on the flatbed in a yard"),
            *_pulled(300),
        ),
        incidents=(_WINCHED, _OPENED),
        roadside_s=720 + 8 * 3600 + 300 + 420,
    )


def _quiet() -> Plan:
    parked = Phase(Kind.PARKED, 2400, "parked; a lorry passes", bumps_s=(600, 601, 1500))
    return Plan((_drive(6), parked, _drive(6, "driving on")))


def _tow_plan() -> Plan:
    parked = Phase(Kind.PARKED, 1200, "parked")
    return Plan((_drive(4), parked, *_tow(240, 300)), incidents=(_WINCHED,))


def _pulled_plan() -> Plan:
    parked = Phase(Kind.PARKED, 600, "parked")
    return Plan((_drive(3), parked, *_pulled(300)), incidents=(_OPENED,))


def _jammed() -> Plan:
    return Plan((_drive(15),), windows=(SkyWindow(180, 780, Sky.JAMMED),))


def _tunnel() -> Plan:
    return Plan((_drive(8),), windows=(SkyWindow(225, 315, Sky.TUNNEL),))


def _left_region() -> Plan:
    return Plan((_drive(8),), region_m=2500.0)


PLANS: Final[dict[str, Callable[[], Plan]]] = {
    "default": _default,
    "quiet": _quiet,
    "tow": _tow_plan,
    "pulled": _pulled_plan,
    "jammed": _jammed,
    "tunnel": _tunnel,
    "left-region": _left_region,
}


def scenario(name: str, seed: int = SEED) -> Script:
    """The scenario `name`, one of `PLANS`. Raises KeyError for any other name."""
    plan = PLANS[name]()
    marks: list[PhaseMark] = []
    t_s = 0
    for phase in plan.phases:
        marks.append(PhaseMark(t_s, phase.kind.value, phase.text))
        t_s += phase.duration_s
    ports = [PortSpec(GNSS, "nmea", 9600, "vehicle"), PortSpec(BOARD, "board", 460_800, "vehicle")]
    if plan.roadside_s is not None:
        ports.append(PortSpec(ROADSIDE, "board", 460_800, "roadside"))
    return Script(
        name=name,
        kind=ClockKind.SIMULATED,
        epoch_wall_ns=EPOCH_WALL_NS,
        duration_s=float(t_s),
        ports=tuple(ports),
        play=lambda: _play(plan, seed),
        phases=tuple(marks),
        truths=_truths(plan),
        simulated_parts=("position", "vibration", "tyres", "supply"),
        tyres={wheel: sensor.hex() for wheel, sensor in IDS.items()},
        home=Home(START_LAT_DEG, START_LON_DEG, plan.region_m),
    )


def air_degc(t_s: float) -> float:
    """Air temperature of the scenario: 6 degrees at its start, 1 degree in the small hours."""
    hours = t_s / 3600.0
    return 3.5 + 2.5 * math.cos(math.pi * min(hours, 12.0) / 10.0)


def _truths(plan: Plan) -> tuple[Truth, ...]:
    found: list[Truth] = []
    t_s = 0
    for phase in plan.phases:
        found += [
            Truth(float(t_s), cause, text) for kind, cause, text in plan.incidents if kind is phase.kind
        ]
        t_s += phase.duration_s
    for window in plan.windows:
        if window.sky is Sky.JAMMED:
            text = "a jammer drowns every satellite"
            found.append(Truth(float(window.start_s), "jammed", text))
    for state in Vehicle(plan.phases).states() if plan.region_m < REGION_M else ():
        if distance_m(START_LAT_DEG, START_LON_DEG, state.lat_deg, state.lon_deg) > plan.region_m:
            found.append(Truth(float(state.t_s), "left_region", "the vehicle crosses the edge of its region"))
            break
    return tuple(sorted(found, key=lambda truth: truth.t_s))


def _roadside_place(plan: Plan) -> tuple[float, float] | None:
    if plan.roadside_s is None:
        return None
    for state in Vehicle(plan.phases).states():
        if state.t_s == plan.roadside_s:
            return state.lat_deg, state.lon_deg
    return None


class _Cast:
    """Everybody who speaks in a scenario."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self._receiver = Receiver(seed, EPOCH_WALL_NS)
        self._tyres = TyreSet(seed, air_degc(0))
        self._board = VehicleBoard(seed)
        self._place = _roadside_place(plan)
        self._roadside = RoadsideBoard() if self._place else None

    def second(self, state: State) -> list[Chunk]:
        """All chunks of one second in order of time."""
        start_ns = state.t_s * NS
        heard = self._tyres.step(state.t_s, state.wheels_mps, air_degc(state.t_s))
        was_awake = self._board.awake
        chunks = [Chunk(t_ns, BOARD, data) for t_ns, data in self._board.second(state, heard)]
        listening = was_awake and self._board.awake  # switched on by the board, a second to start
        if not self._board.dead and (listening or state.t_s == 0 or state.t_s % 60 < BURST_S):
            chunks.append(Chunk(start_ns + _EPOCH_DELAY_NS, GNSS, self._receiver.second(state)))
        if self._roadside and self._place:
            away_m = distance_m(state.lat_deg, state.lon_deg, *self._place)
            near = [self._tyres.transmission(wheel, 0.6) for wheel in IDS]
            chunks += [
                Chunk(t_ns, ROADSIDE, data) for t_ns, data in self._roadside.second(state.t_s, away_m, near)
            ]
        return sorted(chunks, key=lambda chunk: chunk.t_ns)


def _play(plan: Plan, seed: int) -> Iterator[Chunk]:
    cast = _Cast(plan, seed)
    for state in Vehicle(plan.phases, plan.windows).states():
        yield from cast.second(state)

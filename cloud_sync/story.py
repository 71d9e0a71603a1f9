"""One incident as a good duty officer tells it: what is certain, what is not, what to do first. Pure.

`tell(facts)` gives at most MAX_KNOWN, MAX_UNKNOWN and MAX_NEXT sentences as codes of the words with
parameters. Times in parameters are ISO 8601 in UTC: whoever shows them puts them into the reader's form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cloud_sync.casework import WAITING, State, Verb
from cloud_sync.incidents import iso_utc
from models.verdict import Cause

Param = str | int | float | None
Said = tuple[str, dict[str, Param]]
"""(code, parameters)"""

CODES: Final[dict[str, tuple[str, ...]]] = {
    # -- known ------------------------------------------------------------------------------------
    "story.known.logged": ("device", "index"),  # signed by the device, entry `index` of the log
    "story.known.signed": ("device",),  # signed, not yet in the log
    "story.known.began": ("at", "unc_s", "source"),  # source: gnss, network, clock
    "story.known.began_received": ("at",),  # the device knew no time; `at` is the receipt
    "story.known.sensors": ("n", "percent"),  # n independent sensors; .one: only one
    "story.known.sighted": ("node", "n", "at"),  # a roadside node heard n of its tyre sensors, last `at`
    "story.known.position": ("at", "minutes"),  # the last known place, its age in minutes
    "story.known.ended": ("at",),  # the device itself has closed it
    "story.known.confirmed": ("author", "at"),
    "story.known.refuted": ("author", "at"),
    "story.known.assigned": ("assignee",),
    "story.known.pledged": ("state",),  # state: PLEDGED, ALERT, DEFAULT, DISPOSAL
    "story.known.complete": ("at",),  # nothing of its record is missing up to `at`
    # -- unknown ----------------------------------------------------------------------------------
    "story.unknown.driver": (),  # whether its driver is aboard
    "story.unknown.who_opened": (),  # who opened the device, a workshop or a thief
    "story.unknown.agreed": (),  # whether the trip beyond the region was agreed
    "story.unknown.jammer": (),  # whether the jammer means this car or only passed by
    "story.unknown.silence": (),  # flat battery, dead spot, cut aerial: not to be told apart from here
    "story.unknown.place": (),  # no position came with it
    "story.unknown.place_now": ("minutes",),  # the last position is so old
    "story.unknown.tyres_since": ("at",),  # no tyre data since `at`
    "story.unknown.tyres_none": (),  # no tyre sensors are enrolled
    "story.unknown.after": ("at", "due"),  # nothing heard since `at`; a heartbeat was due at `due`
    "story.unknown.one_sensor": (),  # one sensor alone: it may be a fault
    "story.unknown.clock": ("minutes",),  # when exactly: the device's clock may be off by so much
    "story.unknown.missing": ("n",),  # segments of its record that have not arrived
    "story.unknown.erased": (),  # parts of its record were erased
    # -- next -------------------------------------------------------------------------------------
    "story.next.not_live": ("clock",),  # replay or simulated: nobody is sent anywhere
    "story.next.acknowledge": (),  # take it, so that nobody does it twice
    "story.next.acknowledge_late": ("minutes",),  # nobody took it for so long
    "story.next.ask_assignee": ("assignee",),
    "story.next.call_borrower": (),  # a transport that they ordered explains it
    "story.next.call_region": (),  # call the borrower: was the trip agreed with the lender
    "story.next.call_opened": (),  # call the borrower: is it in a workshop
    "story.next.call_silent": (),  # call the borrower: is it parked below ground, is the battery off
    "story.next.send": ("place", "distance", "minutes"),  # to the last place: metres from a name, None in it
    "story.next.send_coarse": ("minutes",),  # the same where no name is known: see the map
    "story.next.exact": (),  # ask for the exact position when somebody is on the way; it is audited
    "story.next.start_at_node": ("node", "at"),  # begin the search where a roadside node heard it last
    "story.next.old_position": ("at", "minutes"),  # do not rely on the position of `at`
    "story.next.neighbours": (),  # see whether other cars near it are jammed too
    "story.next.wait": ("at",),  # its next heartbeat is due at `at`; before it, silence says nothing
    "story.next.technician": (),  # have the device looked at
    "story.next.refute": (),  # refute it if it was a declared transport or work
    "story.next.verdict": (),  # the device ended it: say whether it was true
    "story.next.report": (),  # report it, hand over the bundle of evidence
    "story.next.close": (),  # nothing is left: close it
    "story.next.reopen": (),  # it is closed; reopen it if something new comes up
}
"""All codes with their parameters: `words/<language>/story.json` has a text for each."""

MAX_KNOWN: Final = 6
MAX_UNKNOWN: Final = 4
MAX_NEXT: Final = 4
"""Nobody does a fifth thing first."""
OLD_POSITION_MS: Final = 30 * 60_000
"""Half an hour on the road is 40 km: a position so old does not say where to look."""
LATE_MS: Final = 10 * 60_000
"""An incident that nobody took for so long is said to be late."""
UNSURE_CLOCK_MS: Final = 60_000
"""Error bars below a minute change nothing that an operator does."""
SURE: Final = 0.6
"""Below it, or with one sensor, a fault is as likely (projection.ALERT_CONFIDENCE)."""
SIGHTINGS_SHOWN: Final = 2


@dataclass(frozen=True, slots=True)
class Seen:
    """A roadside node heard tyre sensors of this vehicle."""

    node: str
    sensors: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a person decided."""

    true: bool
    author: str
    wall_ms: int


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the story is made of. Times are milliseconds since 1970."""

    now_ms: int
    device: str
    cause: Cause
    confidence: float
    sensors: int
    """Different sensors among the evidence."""
    began_ms: int
    unc_ms: int | None
    """Half-width; None where the receipt stands in for the device's time."""
    source: str
    """gnss, network, clock or received."""
    ended_ms: int | None
    """When the device closed it."""
    log_index: int | None
    state: State
    assignee: str | None
    verdict: Verdict | None
    clock: str
    """live, replay or simulated."""
    title_state: str | None
    """None: no title is bound to the vehicle."""
    pledged: bool
    placed: bool
    """A position exists."""
    place: str | None
    """Name of the last place, of the operator's own list."""
    distance_m: int | None
    """How far it is from there; None within that place's radius, or without a name."""
    place_ms: int | None
    sightings: tuple[Seen, ...]
    tyres: int
    """Enrolled tyre sensors."""
    tyres_ms: int | None
    """Last event with tyre data."""
    heard_ms: int | None
    """Receipt of the newest segment."""
    due_ms: int | None
    """When the next announced heartbeat must have arrived."""
    missing: int
    """Segments known to exist that are not here."""
    erased: int
    complete_ms: int | None
    """Time of the last sealed segment."""
    may: tuple[Verb, ...]
    """What the reader may do."""
    exact: bool = False
    """The reader may ask for the exact position."""

    @property
    def position_age_ms(self) -> int | None:
        """Age of the last position; None where there is none."""
        return None if self.place_ms is None else max(0, self.now_ms - self.place_ms)

    @property
    def position_old(self) -> bool:
        """Whether the last position no longer says where the vehicle is."""
        age = self.position_age_ms
        return age is not None and age > OLD_POSITION_MS

    @property
    def overdue(self) -> bool:
        """Whether an announced heartbeat did not come."""
        return self.due_ms is not None and self.now_ms > self.due_ms


@dataclass(frozen=True, slots=True)
class Told:
    """The story, each list in the order in which it is to be read."""

    known: tuple[Said, ...]
    unknown: tuple[Said, ...]
    next: tuple[Said, ...]


def tell(facts: Facts) -> Told:
    """The story of `facts`."""
    return Told(
        tuple(_known(facts))[:MAX_KNOWN],
        tuple(_unknown(facts))[:MAX_UNKNOWN],
        tuple(_next(facts))[:MAX_NEXT],
    )


def _say(code: str, **params: Param) -> Said:
    return code, params


def _minutes(ms: int) -> int:
    return max(0, ms) // 60_000


def _known(f: Facts) -> Iterator[Said]:
    if f.verdict is not None:
        code = "story.known.confirmed" if f.verdict.true else "story.known.refuted"
        yield _say(code, author=f.verdict.author, at=iso_utc(f.verdict.wall_ms))
    if f.log_index is None:
        yield _say("story.known.signed", device=f.device)
    else:
        yield _say("story.known.logged", device=f.device, index=f.log_index)
    if f.unc_ms is None:
        yield _say("story.known.began_received", at=iso_utc(f.began_ms))
    else:
        unc_s = round(f.unc_ms / 1000, 1)
        yield _say("story.known.began", at=iso_utc(f.began_ms), unc_s=unc_s, source=f.source)
    yield _say("story.known.sensors", n=max(1, f.sensors), percent=round(f.confidence * 100))
    if f.ended_ms is not None:
        yield _say("story.known.ended", at=iso_utc(f.ended_ms))
    for seen in _newest(f.sightings):
        yield _say("story.known.sighted", node=seen.node, n=seen.sensors, at=iso_utc(seen.last_ms))
    if f.pledged:
        yield _say("story.known.pledged", state=f.title_state)
    if f.assignee is not None and f.state is State.ASSIGNED:
        yield _say("story.known.assigned", assignee=f.assignee)
    if f.place_ms is not None:
        yield _say("story.known.position", at=iso_utc(f.place_ms), minutes=_minutes(f.now_ms - f.place_ms))
    if not f.missing and not f.erased and f.complete_ms is not None:
        yield _say("story.known.complete", at=iso_utc(f.complete_ms))


def _newest(sightings: tuple[Seen, ...]) -> list[Seen]:
    return sorted(sightings, key=lambda seen: (-seen.last_ms, seen.node))[:SIGHTINGS_SHOWN]


_OPEN_QUESTION: Final[dict[Cause, str]] = {
    Cause.MOVED_WITHOUT_WHEELS: "story.unknown.driver",
    Cause.REMOVED_OR_OPENED: "story.unknown.who_opened",
    Cause.LEFT_REGION: "story.unknown.agreed",
    Cause.JAMMED: "story.unknown.jammer",
    Cause.SILENT: "story.unknown.silence",
}
"""What no sensor of the device can say."""


def _unknown(f: Facts) -> Iterator[Said]:
    if f.confidence < SURE or f.sensors < 2:
        yield _say("story.unknown.one_sensor")
    if not f.placed:
        yield _say("story.unknown.place")
    elif f.position_old and f.ended_ms is None and f.position_age_ms is not None:
        yield _say("story.unknown.place_now", minutes=_minutes(f.position_age_ms))
    if f.verdict is None:
        yield _say(_OPEN_QUESTION[f.cause])
    if f.overdue and f.heard_ms is not None and f.due_ms is not None:
        yield _say("story.unknown.after", at=iso_utc(f.heard_ms), due=iso_utc(f.due_ms))
    if f.missing:
        yield _say("story.unknown.missing", n=f.missing)
    if f.erased:
        yield _say("story.unknown.erased")
    if f.cause in (Cause.MOVED_WITHOUT_WHEELS, Cause.REMOVED_OR_OPENED):
        if not f.tyres:
            yield _say("story.unknown.tyres_none")
        elif f.tyres_ms is not None and f.ended_ms is None and f.now_ms - f.tyres_ms > OLD_POSITION_MS:
            yield _say("story.unknown.tyres_since", at=iso_utc(f.tyres_ms))
    if f.unc_ms is not None and f.unc_ms > UNSURE_CLOCK_MS:
        yield _say("story.unknown.clock", minutes=-(-f.unc_ms // 60_000))


_CALL: Final[dict[Cause, str]] = {
    Cause.MOVED_WITHOUT_WHEELS: "story.next.call_borrower",
    Cause.REMOVED_OR_OPENED: "story.next.call_opened",
    Cause.LEFT_REGION: "story.next.call_region",
    Cause.SILENT: "story.next.call_silent",
}
"""The first call costs a minute and explains most incidents."""


def _next(f: Facts) -> Iterator[Said]:
    if f.clock != "live":
        yield _say("story.next.not_live", clock=f.clock)
    if f.state is State.CLOSED:
        if f.verdict is None and Verb.CONFIRM in f.may:
            yield _say("story.next.verdict")
        elif Verb.REOPEN in f.may:
            yield _say("story.next.reopen")
        return
    if f.state is State.REFUTED:
        if Verb.CLOSE in f.may:
            yield _say("story.next.close")
        return
    if f.state in WAITING and Verb.ACKNOWLEDGE in f.may:
        waited = f.now_ms - f.began_ms
        if waited > LATE_MS:
            yield _say("story.next.acknowledge_late", minutes=_minutes(waited))
        else:
            yield _say("story.next.acknowledge")
    elif f.state is State.ASSIGNED:
        yield _say("story.next.ask_assignee", assignee=f.assignee)
    if f.state is State.CONFIRMED:
        yield _say("story.next.report")
    if f.ended_ms is not None:
        if f.may:
            yield _say("story.next.close" if f.verdict is not None else "story.next.verdict")
        return
    yield from _in_the_field(f)


def _in_the_field(f: Facts) -> Iterator[Said]:
    """What to do about an incident that goes on."""
    if f.cause is Cause.SILENT and not f.overdue and f.due_ms is not None:
        yield _say("story.next.wait", at=iso_utc(f.due_ms))
    if f.verdict is None and f.cause in _CALL:
        yield _say(_CALL[f.cause])
    if f.clock == "live":
        yield from _where_to(f)
    elif f.cause is Cause.JAMMED:
        yield _say("story.next.neighbours")
    if f.cause in (Cause.SILENT, Cause.REMOVED_OR_OPENED):
        yield _say("story.next.technician")
    elif f.verdict is None and Verb.REFUTE in f.may:
        yield _say("story.next.refute")


def _where_to(f: Facts) -> Iterator[Said]:
    """Where somebody is to go; nobody is sent after data that is not live."""
    if f.state is State.CONFIRMED and f.placed and f.exact:
        yield _say("story.next.exact")
    newest = _newest(f.sightings)
    fresher = bool(newest) and (f.place_ms is None or newest[0].last_ms > f.place_ms)
    if fresher:
        yield _say("story.next.start_at_node", node=newest[0].node, at=iso_utc(newest[0].last_ms))
    if f.cause is Cause.JAMMED:
        yield _say("story.next.neighbours")
    age = f.position_age_ms
    if f.position_old and f.place_ms is not None and age is not None:
        yield _say("story.next.old_position", at=iso_utc(f.place_ms), minutes=_minutes(age))
    elif age is not None and f.cause is not Cause.SILENT:
        if f.place is not None:
            yield _say("story.next.send", place=f.place, distance=f.distance_m, minutes=_minutes(age))
        else:
            yield _say("story.next.send_coarse", minutes=_minutes(age))

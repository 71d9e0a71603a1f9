"""The shapes of the API, version 1: what every route takes and gives.

Times are ISO 8601 in UTC with milliseconds and a `Z`. Positions are WGS-84 degrees on a grid of 0.01 (about a
kilometre), except in `ExactPlace`. Texts for people come as a code with parameters (`Said`), which the page
and the messages put into words (`cloud_sync/page/words`), or as the signed English sentence of a device with
its Chinese rendering beside it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_NAME_CHARS = 80
MAX_NOTE_CHARS = 2000
"""A note of a person: a paragraph or two. It is signed and logged."""

DeviceName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
BranchName = Annotated[str, Field(pattern=r"^[\w][\w .()-]{0,62}$")]
"""Letters of any script."""
Cause = Literal["moved_without_wheels", "removed_or_opened", "left_region", "jammed", "silent"]
VehicleState = Literal["incident", "overdue", "attention", "ok"]
"""incident: one is open; overdue: an announced heartbeat did not come; attention: see `reasons`."""
CaseState = Literal["open", "escalated", "acknowledged", "assigned", "confirmed", "refuted", "closed"]
CaseVerb = Literal["acknowledge", "assign", "escalate", "note", "confirm", "refute", "close", "reopen"]
Role = Literal["operator", "auditor", "technician", "partner"]
Scope = Literal[
    "read:fleet", "read:incidents", "write:incidents", "read:exact", "read:titles", "read:log",
    "read:evidence", "read:audit", "write:fleet", "manage",
]  # fmt: skip
ClockKind = Literal["live", "replay", "simulated"]
Language = Literal["en", "zh"]


class Model(BaseModel):
    """Unknown names in a request are refused: a mistyped filter must not mean 'everything'."""

    model_config = ConfigDict(extra="forbid")


class Problem(Model):
    """RFC 9457: what went wrong and what to do, as application/problem+json."""

    type: str
    """urn:holdfast:problem:<code>"""
    title: str
    status: int
    detail: str
    code: str
    """Key `problem.<code>` of the words."""
    remedy: str = ""


class Said(Model):
    """A sentence as a key of the words and its parameters."""

    code: str
    params: dict[str, str | int | float | None] = {}


class Moment(Model):
    """A time with its error bars."""

    at: str
    unc_ms: int | None = None
    """Half-width; None where the device did not know the time and the receipt stands in."""
    source: Literal["gnss", "network", "clock", "received"] = "received"
    """What the device's clock went by; `received`: the collector's time of receipt."""


class Place(Model):
    """A coarse position and the nearest name of the operator's own list."""

    lat: float
    lon: float
    name: str | None = None
    distance_m: int | None = None
    """From the named place, to the nearest 100 m; None inside it."""
    at: Moment | None = None
    unc_m: int | None = None
    """Half-width (metres) of the fix and of the grid together, where the device said how good its fix was."""


class ExactPlace(Model):
    """A position as the incident tells it (0.0001 degrees, about 11 m). Every answer of it is audited."""

    lat: float
    lon: float
    at: Moment
    audit: int
    """Number of the audit entry that this reading made."""


class EvidenceLine(Model):
    """One observation."""

    sensor: str
    text: str
    text_zh: str


class IncidentRow(Model):
    """An incident in a list."""

    id: str
    """<device>.<run, 32 hexadecimal digits>.<number>"""
    device: str
    name: str
    branch: str | None
    cause: Cause
    state: CaseState
    device_open: bool
    """The device itself has not closed it."""
    severity: int
    """0 .. 1000: the order of 'worst first'."""
    confidence: float
    sentence: str
    sentence_zh: str
    opened: Moment
    updated_at: str
    closed_at: str | None
    assignee: str | None
    version: int
    """Number of actions so far; an action names the one it was decided upon."""
    clock: ClockKind
    place: Place | None
    place_of: Literal["incident", "vehicle"] | None
    """Whose place that is: told by the incident itself, or the newest of its vehicle (see its age)."""
    title_state: str | None


class Act(Model):
    """One step in the life of an incident; each is a signed statement in the log."""

    number: int
    action: Literal[
        "open", "acknowledge", "assign", "escalate", "note", "confirm", "refute", "close", "reopen",
    ]  # fmt: skip
    at: str
    author: str
    """Account, or `device`, or `rule` for an automatic escalation."""
    assignee: str | None = None
    note: str = ""
    statement: str | None
    """SHA-256 (hex) of the logged statement; None for what the device's own segment says."""
    log_index: int | None


class Point(Model):
    """A sample of a lane of the time line."""

    at: str
    value: float | str | None
    text: str = ""


class Lane(Model):
    """One sensor's row on the time line."""

    lane: Literal["position", "speed", "tyres", "vibration", "tilt", "supply", "case", "radio", "device"]
    unit: str
    points: list[Point]


class Timeline(Model):
    """What the sensors said around an incident, thinned to at most a few hundred points a lane."""

    from_at: str
    to_at: str
    lanes: list[Lane]
    track: list[Place]
    """The coarse track, oldest first."""
    marks: list[Point]
    """Incidents opened and closed, ports lost, runs started."""
    missing: list[Said]
    """What of this window did not arrive, was dropped on purpose or erased."""


class Story(Model):
    """One incident as an operator reads it."""

    incident: IncidentRow
    evidence: list[EvidenceLine]
    known: list[Said]
    unknown: list[Said]
    next: list[Said]
    """What to do, most urgent first."""
    may: list[CaseVerb]
    """Actions this account may take now."""
    assignable: list[str]
    """Names of accounts that it can be assigned to; none for an account that cannot assign."""
    acts: list[Act]
    segment: str
    """SHA-256 (hex) of the segment that opened it."""
    log_index: int | None
    title: str | None
    exact_place: bool
    """An exact position exists; ask for it with a purpose."""
    now: str


class ActRequest(Model):
    """An action upon an incident."""

    action: CaseVerb
    version: int = Field(ge=0, le=1_000_000)
    """`IncidentRow.version` as it was shown; 409 when somebody else acted since."""
    note: str = Field(default="", max_length=MAX_NOTE_CHARS)
    assignee: str | None = Field(default=None, max_length=MAX_NAME_CHARS)


class PurposeRequest(Model):
    """Why an exact position or a bundle is wanted; stands in the audit."""

    purpose: str = Field(min_length=3, max_length=200)


class IncidentList(Model):
    """A page of incidents."""

    items: list[IncidentRow]
    next: str | None
    total: int
    counts: dict[str, int]
    """By state, within the filter but for the state itself."""
    now: str


class Outbox(Model):
    """What the device owes the cloud, by its last heartbeat."""

    segments: int
    bytes: int


class VehicleRow(Model):
    """A vehicle (or roadside node) in a list."""

    device: str
    kind: Literal["vehicle", "roadside"]
    """A roadside node is known by the tyre sensors that it heard; one that heard none yet is a vehicle."""
    name: str
    branch: str | None
    state: VehicleState
    rank: int
    """0 .. 2000: the order of 'worst first'."""
    reasons: list[Said]
    incident: str | None
    """Id of the worst open incident."""
    cause: Cause | None
    open_incidents: int
    place: Place | None
    last_heard: str | None
    """Receipt of its newest segment."""
    last_event: Moment | None
    next_due: str | None
    """When the next announced heartbeat must have arrived."""
    power_state: Literal["driving", "parked_watch", "low_battery", "unknown"]
    supply_v: float | None
    outbox: Outbox | None
    certificate_days: int | None
    clock: ClockKind
    """Whose time it lives in. Its own times (`last_event`, `next_due`, `place.at`) are of that clock;
    `last_heard` and `now` are the collector's. Of anything but `live` nothing is happening now."""
    title_state: str | None
    complete: bool
    """Nothing is missing up to its last segment."""


class VehicleList(Model):
    """A page of vehicles."""

    items: list[VehicleRow]
    next: str | None
    total: int
    """Of all that match, roadside nodes included."""
    nodes: int
    """How many of `total` are roadside nodes and no vehicles."""
    counts: dict[str, int]
    now: str


class FleetMap(Model):
    """All vehicles for the map, compact: [device, lat, lon, state index, name]; states as in `states`."""

    states: list[str]
    items: list[tuple[str, float, float, int, str]]
    unplaced: int
    now: str


class VehicleDetail(Model):
    """One vehicle."""

    vehicle: VehicleRow
    note: str
    tokens: list[str]
    tyres: list[str]
    software: str | None
    run: str | None
    runs: int
    segments: int
    events: int
    certificate_until: str | None
    loss_window_ms: int | None
    incidents: list[IncidentRow]
    alarms: list[Said]
    now: str


class VehicleChange(Model):
    """What an operator writes on a vehicle's card."""

    name: str | None = Field(default=None, max_length=MAX_NAME_CHARS)
    branch: BranchName | Literal[""] | None = None
    """"" takes the vehicle out of its branch."""
    note: str | None = Field(default=None, max_length=MAX_NOTE_CHARS)


class Month(Model):
    """One device's record in one month (UTC)."""

    month: str
    segments: int
    events: int
    missing: int
    """Segments that are known to exist and are not here, without a tombstone."""
    tombstones: int
    dropped: int
    """Events that the device dropped on purpose, as signed tombstones say."""
    erased: int
    forks: int
    complete: bool
    sentences: list[Said]


class Completeness(Model):
    """A device's record, month by month, oldest first."""

    device: str
    months: list[Month]
    up_to: Moment | None
    """Completeness is stated up to the last sealed segment, at this time."""
    now: str


class MonthRow(Model):
    """One device in one month's list."""

    device: str
    name: str
    branch: str | None
    month: Month


class CompletenessList(Model):
    """All devices in one month, the worst first."""

    month: str
    months: list[str]
    items: list[MonthRow]
    next: str | None
    total: int
    now: str


class TitleRow(Model):
    """A title."""

    token: str
    state: str
    locked: bool
    since: str
    registry: str
    lender: str | None
    guarantor: str | None
    devices: list[str]


class TitleStep(Model):
    """One transition of a title."""

    number: int
    function: str
    state: str
    org: str
    role: str
    at: str
    events: list[str]
    statement: str
    log_index: int | None


class TitleDetail(Model):
    """A title with its words and transitions."""

    title: TitleRow
    owner: str | None
    loan: str | None
    uri: str
    evidence: list[str]
    steps: list[TitleStep]


class TitleList(Model):
    """A page of titles."""

    items: list[TitleRow]
    next: str | None
    total: int
    counts: dict[str, int]
    now: str


class LogState(Model):
    """The transparency log."""

    origin: str | None
    size: int
    root: str
    """Hexadecimal, of the newest signed checkpoint."""
    checkpoint: str
    """The signed note itself."""
    made_at: str | None
    pending: int
    log_key: str
    """Ed25519 public key, base64."""
    cosigners: list[str]
    now: str


class LogEntry(Model):
    """A row of the log; what it is stands only in those of one's own tenant."""

    index: int
    hash: str
    kind: Literal["segment", "statement", "other tenant"]
    type: str | None
    device: str | None
    at: str | None
    erased: bool


class LogEntries(Model):
    """A page of the log, newest first."""

    items: list[LogEntry]
    next: str | None
    now: str


class LogProof(Model):
    """RFC 9162 inclusion proof, for the browser to compute the root itself."""

    index: int
    size: int
    entry: str
    proof: list[str]
    root: str
    checkpoint: str


class AuditRow(Model):
    """Who read or changed what."""

    number: int
    at: str
    account: str
    action: str
    device: str | None
    what: str
    purpose: str
    statement: str | None
    log_index: int | None
    awaiting_checkpoint: bool
    """It is a signed statement that no signed checkpoint covers yet: nobody can prove it so far."""


class AuditList(Model):
    """A page of the audit, newest first."""

    items: list[AuditRow]
    next: str | None
    now: str


class AlarmRow(Model):
    """An alarm of the collector's own, or a group of refused messages."""

    device: str
    kind: str
    count: int
    last_at: str
    detail: str
    remedy: str


class AlarmList(Model):
    """Alarms and quarantine, newest first."""

    alarms: list[AlarmRow]
    quarantine: list[AlarmRow]
    next: str | None
    left_out: int
    """Groups after this page."""
    now: str


class NamedPlace(Model):
    """A place of the operator's own list."""

    name: str
    lat: float
    lon: float
    radius_m: float
    kind: str


class PlaceList(Model):
    """Named places within a box, at most a few thousand."""

    items: list[NamedPlace]
    more: bool


class MapSettings(Model):
    """What stands behind the markers."""

    tiles: str | None
    """URL template of a licensed source, or None: the neutral grid."""
    attribution: str
    datum: Literal["wgs84", "gcj02", "bd09"]
    """Of that source; applied at display only."""
    outline: bool
    """An outline set is there; never shown in Chinese."""


class Account(Model):
    """An account as others see it."""

    id: int
    name: str
    role: Role
    manages: bool
    """May manage accounts, tokens and rules."""
    branches: list[str]
    """Only these; empty means all."""
    language: Language
    email: str | None
    disabled: bool
    last_seen: str | None


class Session(Model):
    """Who is here, and what the page needs to know."""

    account: Account
    tenant: str
    scopes: list[Scope]
    csrf: str
    """To be sent as X-CSRF-Token with everything that is not GET."""
    clocks: list[ClockKind]
    """Kinds of clock in the store; anything but `live` is marked large."""
    map: MapSettings
    branches: list[str]
    accounts: list[str]
    """Names in whose hands an incident may be; `Story.assignable` says who may take a given one."""
    version: str
    now: str


class Entry(Model):
    """What the page may know before anybody is logged in."""

    oidc: str | None
    """Name of the identity provider, or None."""
    first: bool
    """No account exists yet: the first one is made with the link that `holdfast serve` printed."""
    version: str


class LoginRequest(Model):
    """Local login."""

    name: str = Field(min_length=1, max_length=MAX_NAME_CHARS)
    password: str = Field(min_length=1, max_length=256)


class EnterRequest(Model):
    """Uses a one-time link: sets the name (first account only) and the password."""

    token: str = Field(min_length=16, max_length=128)
    name: str | None = Field(default=None, min_length=1, max_length=MAX_NAME_CHARS)
    password: str = Field(min_length=12, max_length=256)
    language: Language = "en"


class AccountRequest(Model):
    """A new account; the answer holds the one-time link with which its owner sets a password."""

    name: str = Field(min_length=1, max_length=MAX_NAME_CHARS, pattern=r"^[\w][\w .@+-]*$")
    role: Role
    manages: bool = False
    branches: list[BranchName] = Field(default=[], max_length=50)
    language: Language = "en"
    email: str | None = Field(default=None, max_length=254)


class AccountChange(Model):
    """Changes of an account; what is not named stays."""

    role: Role | None = None
    manages: bool | None = None
    branches: list[BranchName] | None = Field(default=None, max_length=50)
    language: Language | None = None
    email: str | None = Field(default=None, max_length=254)
    disabled: bool | None = None
    new_link: bool = False
    """Make a new one-time link (a forgotten password)."""


class AccountMade(Model):
    """An account and its link, shown once."""

    account: Account
    link: str | None


class AccountList(Model):
    """All accounts of the tenant."""

    items: list[Account]


class TokenRow(Model):
    """An API token without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    account: str
    made_at: str
    expires_at: str
    last_used: str | None


class TokenRequest(Model):
    """A new API token."""

    name: str = Field(min_length=1, max_length=MAX_NAME_CHARS)
    scopes: list[Scope] = Field(min_length=1, max_length=10)
    days: int = Field(ge=1, le=366)


class TokenMade(Model):
    """A token and its secret, shown once."""

    token: TokenRow
    secret: str


class TokenList(Model):
    """Tokens of the tenant (of oneself without `manage`)."""

    items: list[TokenRow]


Weekday = Annotated[int, Field(ge=0, le=6)]
Clock = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


class QuietHours(Model):
    """Local times within which only severe incidents are told at once."""

    start: Clock
    end: Clock
    zone: str = Field(default="UTC", max_length=64)
    """IANA name."""
    days: list[Weekday] = Field(default=[0, 1, 2, 3, 4, 5, 6], max_length=7)
    """Monday is 0; the day on which the hours begin."""
    except_severity: int = Field(default=700, ge=0, le=1001)
    """Incidents at least so severe are told all the same; 1001: none."""


class RuleBody(Model):
    """Who is told of what."""

    name: str = Field(min_length=1, max_length=MAX_NAME_CHARS)
    branches: list[BranchName] = Field(default=[], max_length=50)
    """Empty: all."""
    causes: list[Cause] = Field(default=[], max_length=5)
    min_severity: int = Field(default=0, ge=0, le=1000)
    overdue: bool = False
    """Tells also of vehicles that were not heard when they were due and have no open incident, each once for
    each time at which it was due, whatever `causes` and `min_severity` say."""
    emails: list[Annotated[str, Field(max_length=254)]] = Field(default=[], max_length=20)
    webhooks: list[int] = Field(default=[], max_length=20)
    language: Language = "en"
    quiet: QuietHours | None = None
    escalate_after_s: int | None = Field(default=None, ge=60, le=86_400)
    """Not acknowledged for so long: the incident is escalated and `escalate_to` told."""
    escalate_to: list[Annotated[str, Field(max_length=254)]] = Field(default=[], max_length=20)
    digest_after: int = Field(default=5, ge=1, le=1000)
    """More incidents than this within `digest_s` come as one message."""
    digest_s: int = Field(default=300, ge=10, le=86_400)
    enabled: bool = True


class Rule(RuleBody):
    """A rule that exists."""

    id: int


class RuleList(Model):
    """All rules of the tenant."""

    items: list[Rule]
    mail: bool
    """There is a mail server ([smtp] in serve.toml); without one no e-mail of a rule leaves."""


class WebhookRequest(Model):
    """A target of CloudEvents."""

    name: str = Field(min_length=1, max_length=MAX_NAME_CHARS)
    url: str = Field(min_length=8, max_length=500)


class Webhook(WebhookRequest):
    """A target that exists."""

    id: int
    waiting: int
    dead: int
    last_error: str | None


class WebhookMade(Model):
    """A target and its signing secret (Standard Webhooks, `whsec_...`), shown once."""

    webhook: Webhook
    secret: str


class WebhookList(Model):
    """All targets of the tenant."""

    items: list[Webhook]


class Delivery(Model):
    """One message on its way."""

    id: int
    channel: Literal["webhook", "email"]
    target: str
    subject: str
    state: Literal["waiting", "delivered", "dead"]
    attempts: int
    made_at: str
    next_at: str | None
    delivered_at: str | None
    error: str | None


class DeliveryList(Model):
    """A page of messages, newest first."""

    items: list[Delivery]
    next: str | None
    now: str


class Label(Model):
    """A verdict of a person, for the models."""

    incident: str
    cause: Cause
    true: bool
    at: str
    author: str
    opened_at: str
    confidence: float
    segment: str
    statement: str


class LabelList(Model):
    """All verdicts of the tenant, oldest first."""

    items: list[Label]
    next: str | None


class LiveHello(Model):
    """First event of the live stream (`hello`)."""

    feed: int
    now: str


Json = dict[str, Any]

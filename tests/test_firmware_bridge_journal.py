"""The one logger: kinds and fields, journald's datagrams, readable lines, limits, what no log may hold."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import socket
import string
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cloud_sync import __main__ as cloud_cli
from cloud_sync.runtime.kinds import BROKER_KINDS, COLLECT_KINDS, SERVE_KINDS
from edge import __main__ as edge_cli
from edge.runtime.kinds import EDGE_KINDS, UPLINK_KINDS
from edge.runtime.log import Log
from firmware_bridge import logline
from firmware_bridge.logline import FIELDS, MAX_TEXT, OWN_KINDS, WITHHELD, Kind, Rates, clean, table
from firmware_bridge.runtime import journal
from firmware_bridge.runtime.journal import Journal, Teller
from provisioning import __main__ as provisioning_cli
from provisioning.claim import grouped, make_code
from provisioning.runtime.kinds import CA_KINDS

ROOT = Path(__file__).resolve().parent.parent
KINDS = {
    **OWN_KINDS, **EDGE_KINDS, **UPLINK_KINDS, **CA_KINDS, **COLLECT_KINDS, **BROKER_KINDS, **SERVE_KINDS,
}  # fmt: skip
TABLES = (OWN_KINDS, EDGE_KINDS, UPLINK_KINDS, CA_KINDS, COLLECT_KINDS, BROKER_KINDS, SERVE_KINDS)
VIN = "LSVAU2180N2183294"
POSITION = "31.230416, 121.473701"


class FakeJournald:
    """A datagram socket where journald's would be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(5)

    def entry(self) -> dict[str, str]:
        """The fields of the next datagram, read as journald does."""
        data, found = self.socket.recv(1 << 20), {}
        while data:
            line, _, rest = data.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if equals:
                data = rest
            else:
                (size,) = struct.unpack("<Q", rest[:8])
                value, data = rest[8 : 8 + size], rest[8 + size + 1 :]
            found[name.decode()] = value.decode()
        return found


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[FakeJournald]:
    made = FakeJournald(tmp_path / "socket")
    yield made
    made.socket.close()


@pytest.fixture
def stderr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.TextIOWrapper]:
    """A file that stands for a stderr which systemd has connected to the journal."""
    with (tmp_path / "stderr").open("w+", encoding="utf-8") as file:
        found = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        monkeypatch.delenv("HOLDFAST_LOG_FORMAT", raising=False)
        yield file


def test_each_kind_stands_once_and_says_what_it_may() -> None:
    assert sum(map(len, TABLES)) == len(KINDS)
    assert len({kind.message_id for kind in KINDS.values()}) == len(KINDS)
    for kind in KINDS.values():
        fields = {name: "x" for name in FIELDS}
        text = kind.text.format_map(fields) + kind.remedy.format_map(fields)
        assert "{" not in text, "a field of its text is not in the list"
        assert kind.by == "" or kind.by in FIELDS
        assert not kind.remedy.endswith(".") and not kind.text.endswith(".")


def test_a_message_id_is_a_uuid_that_stays() -> None:
    assert EDGE_KINDS["store_failed"].message_id == "af2341dddb7488b59fe07cadabfe237b"
    assert all(kind.message_id[12] == "8" and kind.message_id[16] in "89ab" for kind in KINDS.values())


def test_a_table_refuses_what_cannot_be_meant() -> None:
    with pytest.raises(ValueError, match="once"):
        table(Kind("a", "info", "x"), Kind("a", "info", "y"))
    with pytest.raises(ValueError, match="debug, info"):
        table(Kind("a", "loud", "x"))


def test_under_systemd_a_line_is_a_datagram_with_fields(
    journald: FakeJournald, stderr: io.TextIOWrapper
) -> None:
    out = Journal("holdfast-edge", "info", stderr, journal=journald.path, common={"device": "car-1"})
    out.say(EDGE_KINDS["port_task_hangs"], {"ports": "gnss"})
    entry = journald.entry()
    assert entry["MESSAGE"].startswith("no sign of life from the tasks of gnss")
    assert "change cable" in entry["MESSAGE"]
    assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"]) == ("3", "holdfast-edge")
    assert entry["MESSAGE_ID"] == EDGE_KINDS["port_task_hangs"].message_id
    assert (entry["HOLDFAST_KIND"], entry["HOLDFAST_DEVICE"]) == ("port_task_hangs", "car-1")
    assert entry["HOLDFAST_PORTS"] == "gnss"
    out.close()
    assert stderr.tell() == 0, "nothing on stderr beside it"


def test_an_exception_goes_along_with_its_trace(journald: FakeJournald, stderr: io.TextIOWrapper) -> None:
    out = Journal("holdfast-serve", "info", stderr, journal=journald.path)
    logger = logging.getLogger("test.journal.trace")
    logger.addHandler(out)
    try:
        int("a")
    except ValueError as error:
        Teller("test.journal.trace", SERVE_KINDS)(
            "serve_fault", reason="9f", error=repr(error), exc_info=error
        )
    logger.removeHandler(out)
    entry = journald.entry()
    assert entry["HOLDFAST_REASON"] == "9f" and "ValueError" in entry["HOLDFAST_ERROR"]
    assert (
        entry["HOLDFAST_TRACE"].splitlines()[0].startswith("Traceback")
        and 'int("a")' in entry["HOLDFAST_TRACE"]
    )
    out.close()


def test_the_longest_line_still_fits_into_a_datagram(
    journald: FakeJournald, stderr: io.TextIOWrapper
) -> None:
    out = Journal("holdfast-edge", "info", stderr, journal=journald.path)
    wide = {name: "\U0001f697" * 5000 for name in FIELDS if name not in ("error", "where")}
    out.say(EDGE_KINDS["fault"], {"error": "é" * 10_000, "where": "w", **wide}, trace="t" * 50_000)
    entry = journald.entry()
    assert len(entry["MESSAGE"]) <= MAX_TEXT and len(entry["HOLDFAST_ERROR"]) == logline.MAX_VALUE
    assert len([name for name in entry if name.startswith("HOLDFAST_")]) <= logline.MAX_FIELDS + 2
    out.close()


def test_without_a_journal_at_the_socket_the_line_goes_to_stderr_with_its_priority(
    tmp_path: Path, stderr: io.TextIOWrapper
) -> None:
    out = Journal("holdfast-edge", "info", stderr, journal=tmp_path / "nobody")
    out.say(EDGE_KINDS["store_failed"], {"error": "disk full", "pending": 7})
    out.close()
    stderr.seek(0)
    line = stderr.read()
    assert line.startswith("<3>") and json.loads(line[3:])["pending"] == 7


def test_a_full_journal_never_blocks_and_its_losses_are_told(
    journald: FakeJournald, stderr: io.TextIOWrapper
) -> None:
    out = Journal("holdfast-serve", "info", stderr, journal=journald.path)
    kind = Kind("many", "info", "{detail}", burst=100_000)
    for number in range(10_000):  # net.unix.max_dgram_qlen holds far fewer
        out.say(kind, {"detail": "x", "number": number})
    held = 0
    journald.socket.settimeout(0)
    try:
        while True:
            journald.entry()
            held += 1
    except BlockingIOError:
        pass
    assert 0 < held < 10_000
    journald.socket.settimeout(5)
    out.say(kind, {"detail": "after"})
    assert journald.entry()["MESSAGE"] == "after"
    told = journald.entry()
    assert told["HOLDFAST_KIND"] == "log_lost" and int(told["HOLDFAST_COUNT"]) == 10_000 - held
    out.close()


@pytest.mark.parametrize("variable", ["", "1:2", "x", "1:2:3", None])
def test_a_stream_that_is_not_the_journals_is_not_taken_for_it(variable: str | None, tmp_path: Path) -> None:
    with (tmp_path / "f").open("w") as file:
        assert not journal.is_journal(file, variable)
    assert not journal.is_journal(io.StringIO(), variable)


def test_outside_a_line_is_read_by_people_or_by_programs() -> None:
    plain, lines = io.StringIO(), io.StringIO()
    for out, form in ((plain, "text"), (lines, "json")):
        made = Journal("holdfast-edge", stream=out, form=form)  # type: ignore[arg-type]
        made.say(EDGE_KINDS["thinned"], {"segments": 3, "events": 150, "path": "/var"})
    text = plain.getvalue()
    assert text.count("\n") == 1
    assert " warning holdfast-edge thinned: 3 sealed segments with 150 events were dropped" in text
    assert text.endswith(" [path=/var]\n")
    value = json.loads(lines.getvalue())
    assert value["kind"] == "thinned" and value["segments"] == 3 and value["from"] == "holdfast-edge"
    assert set(value) == {"time", "level", "from", "kind", "text", "segments", "events", "path"}


def test_the_form_is_chosen_by_variable_and_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_LOG_FORMAT", "text")  # so that it is put back
    monkeypatch.delenv("HOLDFAST_LOG_FORMAT")
    journal.choose(None)
    assert "HOLDFAST_LOG_FORMAT" not in os.environ
    journal.choose("json")
    out = io.StringIO()
    Log("info", out).say("sealed_after_crash", segments=1)
    assert json.loads(out.getvalue())["text"] == "1 segments were sealed after a crash"
    with pytest.raises(ValueError, match="auto, text, json"):
        journal.choose("xml")


@pytest.mark.parametrize(
    ("app", "args"),
    [
        (edge_cli.edge, ["--config", "x"]), (edge_cli.roadside, ["--config", "x"]),
        (edge_cli.uplink, ["--config", "x"]), (cloud_cli.collect, ["--config", "x"]),
        (cloud_cli.broker, ["--config", "x"]), (cloud_cli.serve, ["--config", "x"]),
        (provisioning_cli.ca, ["serve", "x"]),
    ],
)  # fmt: skip
def test_every_daemon_takes_the_form_of_its_lines(app: typer.Typer, args: list[str]) -> None:
    done = CliRunner().invoke(app, [*args, "--log-format", "xml"])
    said = " ".join(done.output.replace("│", " ").split())
    assert done.exit_code == 2 and "'xml' is no form of log lines: auto, text, json" in said


def test_levels() -> None:
    out = io.StringIO()
    log = Log("error", out, form="text")
    log.say("thinned", segments=1, events=1)
    assert out.getvalue() == ""
    log.say("thinned", level="error", segments=1, events=1)
    log.journal.set_level("debug")
    log.say("sealed_after_crash", segments=1)
    assert out.getvalue().count("\n") == 2
    with pytest.raises(KeyError):
        log.journal.set_level("loud")
    log.say("nobody_knows_this_kind", level="error", task="x")
    assert "nobody_knows_this_kind" in out.getvalue(), "said by its name: a log must not end the node"


def test_a_library_is_bounded_and_cleaned_too() -> None:
    out = io.StringIO()
    made = Journal("holdfast-uplink", stream=out, form="json")
    for name in ("lib.a", "lib.b"):
        for number in range(20):
            record = logging.LogRecord(
                name, 30, "", 1, "position %s of %s: %d", (POSITION, VIN, number), None
            )
            made.handle(record)
    made.handle(logging.LogRecord("lib.a", 40, "", 1, "%d", ("not a number",), None))
    made.close()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert {line["kind"] for line in lines} == {"library"}
    assert [line["task"] for line in lines].count("lib.a") == logline.BURST + 1
    assert POSITION not in out.getvalue() and VIN not in out.getvalue()
    assert [line["count"] for line in lines if "count" in line] == [16, 15]


def test_a_stderr_that_is_gone_ends_nothing() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    Log("info", Gone()).say("sealed_after_crash", segments=1)


# --- limits ---------------------------------------------------------------------------------------------


def test_what_was_left_out_is_told_when_it_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    now, out = [1000.0], io.StringIO()
    monkeypatch.setattr(journal.time, "monotonic", lambda: now[0])
    made = Journal("holdfast-edge", stream=out, form="text")
    for _ in range(logline.BURST + 127):
        made.say(EDGE_KINDS["store_failed"], {"error": "disk full", "pending": 1})
    assert out.getvalue().count("\n") == logline.BURST
    now[0] += 60 / logline.PER_MINUTE
    made.say(EDGE_KINDS["store_failed"], {"error": "disk full", "pending": 1})
    assert out.getvalue().endswith("(127 more of this kind were not written)\n")


def test_what_was_left_out_is_told_with_the_next_line_of_another_kind_or_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, out = [0.0], io.StringIO()
    monkeypatch.setattr(journal.time, "monotonic", lambda: now[0])
    made = Journal("holdfast-edge", stream=out, form="json")
    for _ in range(10):
        made.say(EDGE_KINDS["thinned"], {"segments": 1, "events": 1})
    now[0] = 100.0
    made.say(EDGE_KINDS["sealed_after_crash"], {"segments": 1})
    for _ in range(20):
        made.say(EDGE_KINDS["thinned"], {"segments": 1, "events": 1})
    made.close()
    counts = [json.loads(line).get("count") for line in out.getvalue().splitlines()]
    assert [count for count in counts if count] == [5, 16]


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 30), st.sampled_from("ab")), max_size=200))
def test_no_kind_exceeds_its_rate_and_no_line_is_uncounted(steps: list[tuple[float, str]]) -> None:
    kinds = {name: Kind(name, "info", "", burst=3, per_minute=6) for name in "ab"}
    rates, now, written, told = Rates(), 0.0, dict.fromkeys("ab", 0), 0
    for wait, name in steps:
        now += wait
        count = rates.admit(kinds[name], now)
        if count is not None:
            written[name] += 1
            told += count
    told += sum(count for _, _, count in rates.owed(now, all_=True))
    assert all(number <= 3 + now * 6 / 60 + 1e-6 for number in written.values())
    assert sum(written.values()) + told == len(steps)


def test_a_field_of_many_values_cannot_grow_the_limits() -> None:
    rates, kind = Rates(), Kind("a", "info", "", by="task")
    admitted = sum(rates.admit(kind, 0.0, str(n)) is not None for n in range(10 * logline.MAX_PARTS))
    assert admitted <= logline.MAX_PARTS + logline.BURST


# --- what never stands in a log ---------------------------------------------------------------------------


CODE = make_code(b"thirteen byte")
SECRETS = [
    VIN, VIN.lower(), POSITION, "31.2304/121.4737", "121.47370,31.23041", "lat=31.23 lon: 121.47",
    '"latitude": 31.230416', "$GNRMC,120000,A,3113.8250,N,12128.4221,E,0.0",
    CODE, f"HF1:0102030405060708:T1:{CODE}",
    grouped(CODE), f"claim:{CODE}", "Bearer hft_0123456789abcdef", "Basic Y2xhaW06YWJjZGVm",
    "https://holdfast.example/#/enter/q1w2e3r4t5y6u7i8", "amqps://user:pa55word@host",
    "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----",
]  # fmt: skip
TELLTALES = [
    VIN[:12], VIN[:12].lower(), "31.23", "121.47", "3113.82", CODE[:10], grouped(CODE)[:11],
    "0123456789abcdef", "Y2xhaW06", "q1w2e3r4", "pa55word", "MIGHAgEA",
]  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("form", ["text", "json", "auto"])
def test_no_secret_vin_or_position_in_any_line(
    secret: str, form: str, journald: FakeJournald, stderr: io.TextIOWrapper
) -> None:
    out = Journal("holdfast-edge", stream=stderr, form=form, journal=journald.path)  # type: ignore[arg-type]
    out.say(
        EDGE_KINDS["fault"], {"task": "t", "error": f"cannot read {secret}!", "where": secret}, trace=secret
    )
    stderr.seek(0)
    said = "".join(journald.entry().values()) if form == "auto" else stderr.read()
    assert WITHHELD in said
    assert not [part for part in TELLTALES if part in said]


def test_a_field_by_the_name_of_a_secret_has_no_value() -> None:
    out = io.StringIO()
    names = ("password", "lat", "vin", "token", "code")
    Journal("x", stream=out, form="json").say(EDGE_KINDS["thinned"], dict.fromkeys(names, "hush"))
    assert "hush" not in out.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "a1" * 32, "127.0.0.1:8883", "2026-11-25T09:12:13Z", "size 1.234, 5", "0.123 s, 4.56 s",
        "urn:holdfast:fund:car-1", "70B3D57ED005A1B2", "3.14159 of 7", "fund/car-0017",
        "/dev/serial/by-path/pci-0000:00:14.0-usb-0:1:1.0",
        "sha256 " + "ab12" * 16,
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert clean(text, 1000) == text


@settings(deadline=None)
@given(st.text(max_size=300))
def test_a_line_is_one_line_and_printable(text: str) -> None:
    assert clean(text, 100).isprintable() and len(clean(text, 100)) <= 100


# --- who logs, and how --------------------------------------------------------------------------------------


def calls() -> Iterator[tuple[Path, ast.Call, str]]:
    """Every call in the packages by the name that is called."""
    for package in ("firmware_bridge", "models", "provisioning", "edge", "cloud_sync"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Call):
                    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                    yield file, node, name


def test_every_line_is_of_a_known_kind_with_known_fields() -> None:
    seen: set[str] = set()
    for file, node, name in calls():
        if (
            "runtime" not in file.parts
            or name not in ("say", "_say")
            or not node.args
            or not isinstance(node.args[0], ast.Constant)
        ):
            continue
        kind = node.args[0].value
        if file.name == "children.py" or kind not in KINDS:
            assert not node.keywords, f"{file}:{node.lineno}: {kind!r} is not in a table of kinds"
            continue
        given_ = {word.arg for word in node.keywords} - {"level", "exc_info"}
        needed = {part for _, part, _, _ in string.Formatter().parse(KINDS[kind].text) if part is not None}
        assert given_ <= FIELDS.keys(), f"{file}:{node.lineno}: {given_ - FIELDS.keys()}"
        assert needed - given_ <= {"set_aside", "tenant", "device"}, (
            f"{file}:{node.lineno}: {needed - given_}"
        )
        seen.add(kind)
    indirect = {"library", "log_lost", "enrolled", "renewed", "reloaded", "reload_refused"}
    assert KINDS.keys() - seen <= indirect, "a kind that nobody says"


def test_nobody_logs_past_the_kinds() -> None:
    levels = {"debug", "info", "warning", "error", "exception", "critical"}
    for file, node, name in calls():
        owner = getattr(node.func, "value", None)
        if name in levels and isinstance(owner, ast.Name):
            assert owner.id.lower().strip("_") not in ("log", "logger", "logging"), f"{file}:{node.lineno}"


def test_a_daemon_writes_to_the_journal_that_systemd_gave_it(tmp_path: Path) -> None:
    """A real process: its stderr is what JOURNAL_STREAM names, and its lines arrive as datagrams."""
    journald = FakeJournald(tmp_path / "socket")
    config = tmp_path / "node.toml"
    config.write_text("[node]\n", "utf-8")
    script = (
        "import os, pathlib, sys\n"
        "found = os.fstat(2)\n"
        "os.environ['JOURNAL_STREAM'] = f'{found.st_dev}:{found.st_ino}'\n"
        "from firmware_bridge.runtime import journal\n"
        "journal.Journal.__init__.__kwdefaults__['journal'] = pathlib.Path(sys.argv[1])\n"
        "from edge.runtime import uplinkd\n"
        "sys.exit(uplinkd.run(pathlib.Path(sys.argv[2])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(journald.path), str(config)],
        capture_output=True, text=True, check=False, timeout=60,
        env={name: value for name, value in os.environ.items() if name != "HOLDFAST_LOG_FORMAT"},
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr == ""
    entry = journald.entry()
    assert (entry["SYSLOG_IDENTIFIER"], entry["HOLDFAST_KIND"]) == ("holdfast-uplink", "uplink_not_started")
    assert "node.toml" in entry["MESSAGE"]
    journald.socket.close()

"""`holdfast verify BUNDLE --trust trust.json [--json]`: check evidence; no network, store or collector."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud_sync.errors import BundleError
from cloud_sync.evidence.bundle import MAX_BUNDLE_BYTES
from cloud_sync.evidence.keys import FOREIGN
from cloud_sync.evidence.lines import NO_TIME
from cloud_sync.evidence.verify import Report
from cloud_sync.evidence.verify import verify as check
from edge.errors import ConfigError
from edge.trust import Trust

EXIT_USAGE: Final = 2
EXIT_FAILED: Final = 40
MAX_CRL_BYTES: Final = 16 << 20
"""A revocation list of about 400,000 certificates."""
_MOMENTS: Final = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]
_SHOWN: Final = 80
"""Lines of runs, and of incidents and statements, on the screen; --json has all of them."""

verify = typer.Typer(add_completion=False, help="Check an evidence bundle offline.")


@verify.command()
def run(
    bundle: Annotated[Path, typer.Argument(help="The .hfb file.")],
    trust: Annotated[
        Path | None,
        typer.Option(
            help="trust.json from a source you believe. Without it nothing says whose keys these are."
        ),
    ] = None,
    crl: Annotated[
        list[Path] | None,
        typer.Option(help="Revocation list of the device CA (crl/event.crl); the bundle's own count too."),
    ] = None,
    at: Annotated[
        datetime | None,
        typer.Option(help="Verify as at this moment (UTC); now, if left out.", formats=_MOMENTS),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check BUNDLE. Exit code 0 when everything in it holds (with --trust: under the keys you gave, which
    must be those it names itself), 40 when anything fails, 2 when a file cannot be read."""
    keys = None if trust is None else _trust(trust)
    try:
        if bundle.stat().st_size > MAX_BUNDLE_BYTES:
            raise BundleError(f"larger than {MAX_BUNDLE_BYTES} bytes: not a bundle of ours")
        report = check(bundle.read_bytes(), keys, _moment(at), [_crl(path) for path in crl or ()])
    except OSError as error:
        typer.echo(f"verify: cannot read {bundle}: {error.strerror}", err=True)
        raise typer.Exit(EXIT_USAGE) from error
    except BundleError as error:
        if as_json:
            typer.echo(json.dumps({"ok": False, "trusted": False, "complete": False, "error": str(error)}))
        typer.echo(f"verify: FAILED: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from error
    typer.echo(json.dumps(to_json(report), ensure_ascii=False) if as_json else text(report))
    raise typer.Exit(0 if report.ok else EXIT_FAILED)


def to_json(report: Report) -> dict[str, object]:
    """`report` as JSON values."""
    value = dataclasses.asdict(report)
    value["runs"] = [{**dataclasses.asdict(run), "run": run.run.hex()} for run in report.runs]
    value["ok"], value["complete"] = report.ok, report.complete
    if report.failures:
        value["error"] = report.failures[0]
    return value


def text(report: Report) -> str:
    """`report` for a person: the verdict first and last. Signs that would steer a terminal are replaced."""
    verdict = _verdict(report)
    out = [verdict, *(_checked(report) if report.checked else _unchecked(report))]
    out += [f"FAILED: {sentence}" for sentence in report.failures if sentence != FOREIGN]
    out += [f"Not proven: {sentence}" for sentence in report.unproven]
    out.append(verdict)
    return "\n".join("".join(sign if sign.isprintable() else "\ufffd" for sign in line) for line in out)


def _verdict(report: Report) -> str:
    if report.foreign:
        return f"{FOREIGN}. VERIFICATION FAILED: do not rely on this bundle."
    if not report.ok:
        return "VERIFICATION FAILED: do not rely on this bundle."
    if not report.trusted:
        return "Consistent in itself, but NOT TRUSTED: no --trust file was given."
    return "Verified under the keys of the trust file." + (" Complete." if report.complete else "")


def _unchecked(report: Report) -> list[str]:
    return [
        (
            f"It says that it is a bundle of {report.scope}: {report.tenant}/{report.device}, log "
            f"{report.origin}, with {report.segments} segments and {report.statements} statements of the "
            "cloud. None of that was checked."
        )
    ]


def _checked(report: Report) -> list[str]:
    out = [
        (
            f"Bundle of {report.scope}: {report.tenant}/{report.device}, log {report.origin}, "
            f"checkpoint of {report.log_size} entries"
        ),
        (
            f"{report.segments} segments ({report.erased} erased), {report.events} events, "
            f"{report.statements} statements of the cloud; made under: {_clocks(report)}"
        ),
    ]
    if report.by_time:
        out.append(
            f"{report.by_time} segments are of a certificate that has ended or was revoked since; the log's "
            "signed time shows them from before"
        )
    for run in report.runs[:_SHOWN]:
        out.append(
            f"  run {run.run.hex()[:8]}: segments {run.first} to {run.last} without a gap; dropped on "
            f"purpose {run.thinned} events, lost {run.lost}; before it: {run.before}"
            if not run.gaps and not run.broken
            else f"  run {run.run.hex()[:8]}: the chain does NOT close"
        )
    lines = _timeline(report)
    out += lines[:_SHOWN]
    if len(lines) > _SHOWN:
        out.append(f"  and {len(lines) - _SHOWN} more: --json has all of them")
    return out


def _timeline(report: Report) -> list[str]:
    """Incidents and statements by time, an incident before what it led to; those without a time last."""
    told = [
        f"{line.at or NO_TIME}  incident {line.incident} {line.action}: {line.sentence}"
        for line in report.incidents
    ]
    return [f"  {line}" for line in sorted([*told, *report.titles], key=_when)]


def _when(line: str) -> str:
    """Sorts: times are ISO 8601 of one length in UTC, and a letter stands behind every digit."""
    return NO_TIME if line.startswith(NO_TIME) else line.split(" ", 1)[0]


def _clocks(report: Report) -> str:
    kinds = {"live": "a live clock", "replay": "a REPLAYED clock", "simulated": "a SIMULATED clock"}
    known = ", ".join(kinds.get(kind, kind) for kind in report.clocks)
    if not report.erased:
        return known or "unknown (no segments)"
    gone = "the clock's kind was in what is erased"
    return f"{known}; of the {report.erased} erased segments unknown: {gone}" if known else f"unknown: {gone}"


def _moment(at: datetime | None) -> datetime:
    return datetime.now(UTC) if at is None else at.replace(tzinfo=UTC)


def _crl(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_CRL_BYTES:
            raise ValueError(f"larger than {MAX_CRL_BYTES} bytes")
        data = path.read_bytes()
        pem = data.lstrip().startswith(b"-----")
        return x509.load_pem_x509_crl(data).public_bytes(Encoding.DER) if pem else data
    except (OSError, ValueError) as error:
        typer.echo(f"verify: revocation list {path}: {error}", err=True)
        raise typer.Exit(EXIT_USAGE) from error


def _trust(path: Path) -> Trust:
    try:
        return Trust.from_json(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        typer.echo(f"verify: trust file {path}: {error}", err=True)
        raise typer.Exit(EXIT_USAGE) from error


if __name__ == "__main__":
    verify()

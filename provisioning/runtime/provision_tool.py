"""What the commands of `holdfast provision` print, ask and exit with."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from provisioning.ca import read_fingerprint
from provisioning.claim import Label, read_label
from provisioning.enrolment import Exit, Journal, Wanted
from provisioning.errors import ClaimError, EnrolError, ProvisioningError, Refusal
from provisioning.est import printable
from provisioning.runtime import enrol as enrols
from provisioning.runtime import journal as journals
from provisioning.runtime import offline, provision_show, renew
from provisioning.runtime.asked import Ask, Host, Outcome, Progress, wall_time
from provisioning.runtime.est_client import Server

_MARKS: Final = {"done": "\N{CHECK MARK}", "kept": "\N{CHECK MARK}", "would": "\N{MIDDLE DOT}", "note": "!"}
_SERVER_FAULT: Final = 500
"""From here on HTTP says that the server failed, not that it refused (RFC 9110 section 15.6)."""


@dataclass(frozen=True, slots=True)
class Options:
    """The command line of `holdfast provision`, as it was typed."""

    server: str | None
    ca: Path | None
    fingerprint: str | None
    code: str | None
    qr: str | None
    device: str | None
    tenant: str | None
    kind: str | None
    state: Path
    config: Path
    credentials: Path | None
    as_json: bool
    dry_run: bool
    yes: bool
    offline: Path | None
    response: Path | None


def provision(options: Options) -> int:
    """`holdfast provision`. Returns the exit code."""

    def work() -> Outcome:
        ask = _ask(options)
        host = Host(
            tell=_teller(options.as_json),
            ask_code=_type_code if sys.stdin.isatty() else None,
            confirm=_say_yes if options.yes or not sys.stdin.isatty() else _confirm,
        )
        if options.offline is not None:
            return offline.request(ask, host, options.offline.absolute())
        if options.response is not None:
            return offline.finish(ask, host, options.response.absolute())
        return enrols.enrol(ask, host)

    return _guarded(work, options.as_json)


def renewal(state: Path, *, force: bool, as_json: bool) -> int:
    """`holdfast provision renew`. Returns the exit code."""
    host = Host(tell=_teller(as_json))
    return _guarded(lambda: renew.renew(state.absolute(), host, force=force), as_json)


def show(state: Path, *, as_json: bool) -> int:
    """`holdfast provision show`. Returns the exit code."""
    return _guarded(lambda: provision_show.show(state.absolute(), wall_time()), as_json, show=True)


def _ask(options: Options) -> Ask:
    """What was typed, checked. Raises EnrolError, ClaimError, IdentityError."""
    if options.offline is not None and options.response is not None:
        raise EnrolError(Exit.USAGE, "--offline and --response are two steps", "give one of them")
    if options.qr is not None and options.code is not None:
        raise EnrolError(Exit.USAGE, "--qr holds the code already", "leave --code away")
    label = read_label(options.qr) if options.qr is not None else Label("")
    if options.code is not None:
        label = read_label(_from_stdin() if options.code == "-" else options.code)
    if label.device and options.device and label.device != options.device:
        raise EnrolError(
            Exit.USAGE,
            f"the label is of {label.device}, and --device says {options.device}",
            "leave one away",
        )
    wanted = Wanted(
        label.device or options.device or "", options.tenant or "", options.kind or "",
        Server.parse(options.server).url if options.server else "",
        credentials=str(options.credentials.absolute()) if options.credentials else "",
    )  # fmt: skip
    return Ask(
        options.state.absolute(), options.config.absolute(), wanted, label.code, options.ca,
        read_fingerprint(options.fingerprint) if options.fingerprint else b"", options.dry_run,
    )  # fmt: skip


def _from_stdin() -> str:
    if sys.stdin.isatty():
        return _type_code()
    return sys.stdin.readline(256)


def _type_code() -> str:
    import typer

    return str(typer.prompt("Claim code (from the label)", err=True))


def _say_yes(_: Journal) -> bool:
    return True


def _confirm(journal: Journal) -> bool:
    import typer

    where = f" at {journal.server}" if journal.server else ""
    return typer.confirm(f"Enrol this node as {journal.identity.urn}{where}?", default=True, err=True)


def _teller(as_json: bool) -> Callable[[Progress], None]:
    def tell(progress: Progress) -> None:
        _say(f"{_MARKS[progress.state]} {progress.step.value:7} {progress.text}")
        if as_json:
            _emit(
                {"event": "step", "step": progress.step.value, "state": progress.state, "text": progress.text}
            )

    return tell


def _emit(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)


def _say(text: str) -> None:
    """Lines for people, on a terminal of any encoding; a server's words cannot steer the terminal."""
    encoding = sys.stderr.encoding or "ascii"
    print(printable(text, "\n").encode(encoding, "replace").decode(encoding), file=sys.stderr, flush=True)


def _guarded(work: Callable[[], Outcome], as_json: bool, *, show: bool = False) -> int:
    """Run it, print how it ended, return the exit code."""
    try:
        outcome = work()
    except Refusal as refusal:
        code = Exit.FAILURE if refusal.status >= _SERVER_FAULT else Exit.REFUSED
        return _failed(code, refusal.code, refusal.detail, refusal.remedy, as_json)
    except EnrolError as error:
        return _failed(
            error.exit_code, Exit(error.exit_code).name.lower(), error.detail, error.remedy, as_json
        )
    except ClaimError as error:
        return _failed(Exit.USAGE, "claim_code", str(error), "compare it with the label", as_json)
    except ProvisioningError as error:
        return _failed(Exit.USAGE, "usage", str(error), "see holdfast provision --help", as_json)
    except OSError as error:
        found = journals.explain(error)
        name = Exit(found.exit_code).name.lower()
        return _failed(found.exit_code, name, found.detail, found.remedy, as_json)
    if as_json:
        _emit(
            outcome.fields
            if show
            else {"event": "end", "exit": int(outcome.exit_code), "text": outcome.text, **outcome.fields}
        )
    elif show:
        print(outcome.text)
    if not show:
        _say(outcome.text)
    return int(outcome.exit_code)


def _failed(code: int, name: str, detail: str, remedy: str, as_json: bool) -> int:
    detail, remedy = printable(detail), printable(remedy)
    _say(f"holdfast provision: {detail}\n  {remedy}")
    if as_json:
        _emit({"event": "error", "exit": int(code), "code": name, "detail": detail, "remedy": remedy})
    return int(code)

"""The cloud's commands: `holdfast collect | broker | title | erase | evidence | log | serve | demo`.

Only wiring: every command loads what it needs inside its function, so that one command's start does not
pay for the others' imports. Exit codes: 0 done, 2 the command line or configuration cannot be meant, 13
owner, mode or mount of the store are in the way, 1 what was asked for was refused or failed.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cloud_sync.errors import CloudError, ConfigError, NotFound, StoreReadOnly
from edge.errors import EdgeError

if TYPE_CHECKING:
    from cloud_sync.runtime.erase import Preview
    from cloud_sync.runtime.titles import Desk

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_PERMISSION: Final = 13
MAX_SHOWN: Final = 40
"""Lines of one list on the screen; --json has all of them."""

ConfigOption = Annotated[Path, typer.Option("--config", help="collector.toml", show_default=False)]
TenantOption = Annotated[
    str | None, typer.Option("--tenant", help="Tenant; the one of collector.toml unless given.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
MetricsOption = Annotated[
    str | None,
    typer.Option(
        "--metrics", metavar="HOST:PORT", envvar="HOLDFAST_METRICS", help="Serve figures for Prometheus here."
    ),
]
LogFormat = Annotated[
    str | None, typer.Option("--log-format", help="Lines outside the journal: text or json; auto is text.")
]
OrgOption = Annotated[str, typer.Option("--org", help="Organisation that acts.", show_default=False)]
TokenArgument = Annotated[
    str,
    typer.Argument(help="Beginning of the title's token, or the whole VIN ('-' reads it from stdin)."),
]

collect = typer.Typer(help="Verify, log and acknowledge what devices send.", add_completion=False)
broker = typer.Typer(help="The embedded MQTT broker.", add_completion=False)
title = typer.Typer(help="Titles of pledged vehicles.", add_completion=False, no_args_is_help=True)
erase = typer.Typer(help="Erase one device's month; every proof still holds.", add_completion=False)
evidence = typer.Typer(help="Export the evidence of an incident.", add_completion=False)
log = typer.Typer(help="The log, its devices, alarms, and what was refused and why.", add_completion=False)
serve = typer.Typer(help="The API and the operator's page.", add_completion=False)
demo = typer.Typer(help="The whole system on this machine, on a scenario.", add_completion=False)


@contextmanager
def _said_plainly() -> Iterator[None]:
    """Errors that are ours as one line on stderr and an exit code."""
    try:
        yield
    except ConfigError as error:
        typer.echo(f"holdfast: {error}", err=True)
        raise typer.Exit(EXIT_USAGE) from error
    except StoreReadOnly as error:
        typer.echo(f"holdfast: {error}", err=True)
        raise typer.Exit(EXIT_PERMISSION) from error
    except (CloudError, EdgeError) as error:
        typer.echo(f"holdfast: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from error


def _log_as(form: str | None) -> None:
    from firmware_bridge.runtime import journal

    try:
        journal.choose(form)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--log-format") from error


@collect.command()
def _collect(config: ConfigOption, metrics: MetricsOption = None, log_format: LogFormat = None) -> None:
    """Run a collector until SIGTERM."""
    from cloud_sync.runtime import collectord

    _log_as(log_format)
    raise typer.Exit(collectord.run(config, metrics))


@broker.command()
def _broker(
    config: Annotated[Path, typer.Option("--config", help="broker.toml", show_default=False)],
    log_format: LogFormat = None,
) -> None:
    """Run the embedded broker until SIGTERM."""
    from cloud_sync.runtime import broker as daemon

    _log_as(log_format)
    raise typer.Exit(daemon.run(config))


@contextmanager
def _desk(config: Path, tenant: str | None) -> Iterator[Desk]:
    from cloud_sync.runtime.titles import open_desk

    with _said_plainly(), open_desk(config, tenant) as desk:
        yield desk


def _typed(value: str) -> str:
    """`value`, or a line of stdin for '-': a VIN on the command line stands in the process list."""
    return sys.stdin.readline().strip() if value == "-" else value


def _show(value: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
        return
    typer.echo(f"title     {value['token']}")
    typer.echo(f"state     {value['state']} since {value['since']}{', locked' if value['locked'] else ''}")
    for name in ("owner", "loan", "registry", "lender", "guarantor"):
        if value[name]:
            typer.echo(f"{name:<9} {value[name]}")
    if value["devices"]:
        typer.echo(f"devices   {', '.join(value['devices'])}")
    for item in value["evidence"]:
        typer.echo(f"evidence  {item}")
    for step in value["transitions"]:
        typer.echo(f"  {step['at']} {step['function']} by {step['org']} ({step['role']}): {step['state']}")


@title.command("mint")
def title_mint(
    config: ConfigOption,
    vin: Annotated[str, typer.Option("--vin", help="VIN; '-' reads it from stdin.", show_default=False)],
    owner: Annotated[str, typer.Option("--owner", help="Owner; kept out of the log.", show_default=False)],
    org: OrgOption,
    market: Annotated[str, typer.Option("--market", help="CN, US or EU: whose VIN rules hold.")] = "CN",
    uri: Annotated[str, typer.Option("--uri", help="Where the title's papers are.")] = "",
    device: Annotated[str | None, typer.Option("--device", help="Device in the vehicle.")] = None,
    tyre: Annotated[list[str] | None, typer.Option("--tyre", help="Tyre sensor id; repeat it.")] = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the one title of a vehicle (registry)."""
    from cloud_sync.ledger.vin import Market

    if market not in Market.__members__:
        raise typer.BadParameter("CN, US or EU", param_hint="--market")
    if tyre and device is None:
        raise typer.BadParameter("tyre sensors belong to a device: give --device too", param_hint="--tyre")
    with _desk(config, tenant) as desk:
        value = desk.mint(_typed(vin), Market(market), owner, uri, org)
        if device is not None:
            value = desk.bind(str(value["token"]), device, tyre or [])
        _show(value, as_json)


@title.command("bind")
def title_bind(
    config: ConfigOption,
    token: TokenArgument,
    device: Annotated[str, typer.Option("--device", help="Device in the vehicle.", show_default=False)],
    tyre: Annotated[list[str] | None, typer.Option("--tyre", help="Tyre sensor id; repeat it.")] = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which device and tyre sensors a title's vehicle carries."""
    with _desk(config, tenant) as desk:
        _show(desk.bind(desk.token(_typed(token)), device, tyre or []), as_json)


@title.command("propose")
def title_propose(
    config: ConfigOption,
    token: TokenArgument,
    loan: Annotated[str, typer.Option("--loan", help="Loan; kept out of the log.", show_default=False)],
    org: OrgOption,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Propose a lien (lender)."""
    with _desk(config, tenant) as desk:
        _show(desk.propose(desk.token(_typed(token)), loan, org), as_json)


@title.command("consent")
def title_consent(
    config: ConfigOption,
    token: TokenArgument,
    loan: Annotated[str, typer.Option("--loan", help="Loan that is consented to.", show_default=False)],
    org: OrgOption,
    role: Annotated[str, typer.Option("--role", help="guarantor or registry", show_default=False)],
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Consent to a proposed lien (guarantor and registry; with both it is pledged and locked)."""
    with _desk(config, tenant) as desk:
        _show(desk.consent(desk.token(_typed(token)), loan, org, role), as_json)


@title.command("withdraw")
def title_withdraw(
    config: ConfigOption,
    token: TokenArgument,
    org: OrgOption,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a proposal back (lender)."""
    with _desk(config, tenant) as desk:
        _show(desk.withdraw(desk.token(_typed(token)), org), as_json)


@title.command("release")
def title_release(
    config: ConfigOption,
    token: TokenArgument,
    org: OrgOption,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Release the lien and unlock the title (lender)."""
    with _desk(config, tenant) as desk:
        _show(desk.release(desk.token(_typed(token)), org), as_json)


@title.command("transfer")
def title_transfer(
    config: ConfigOption,
    token: TokenArgument,
    owner: Annotated[str, typer.Option("--owner", help="New owner.", show_default=False)],
    org: OrgOption,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write down a new owner (registry); refused while the title is claimed or locked."""
    with _desk(config, tenant) as desk:
        _show(desk.transfer(desk.token(_typed(token)), owner, org), as_json)


@title.command("cure")
def title_cure(
    config: ConfigOption,
    token: TokenArgument,
    proof: Annotated[
        str, typer.Option("--evidence", help="SHA-256 (hex) of what shows it.", show_default=False)
    ],
    org: OrgOption,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that an alert is settled, with evidence (oracle)."""
    with _desk(config, tenant) as desk:
        _show(desk.cure(desk.token(_typed(token)), proof, org), as_json)


@title.command("tick")
def title_tick(
    config: ConfigOption,
    token: TokenArgument,
    org: OrgOption,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let time decide: from alert to default, from default to disposal (anyone)."""
    with _desk(config, tenant) as desk:
        _show(desk.tick(desk.token(_typed(token)), org), as_json)


@title.command("show")
def title_show(
    config: ConfigOption, token: TokenArgument, tenant: TenantOption = None, as_json: JsonOption = False
) -> None:
    """One title with its transitions."""
    with _desk(config, tenant) as desk:
        _show(desk.show(desk.token(_typed(token))), as_json)


@title.command("list")
def title_list(config: ConfigOption, tenant: TenantOption = None, as_json: JsonOption = False) -> None:
    """All titles of a tenant."""
    with _desk(config, tenant) as desk:
        rows = desk.list()
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        typer.echo(
            f"{row['token'][:16]}  {row['state']:<9} {row['device'] or '-':<20} {row['lender'] or '-'}"
        )
    if not rows:
        typer.echo("no titles", err=True)


@erase.command()
def _erase(
    config: ConfigOption,
    device: Annotated[str, typer.Option("--device", help="Whose record goes.", show_default=False)],
    month: Annotated[str, typer.Option("--month", help="YYYY-MM, in UTC.", show_default=False)],
    reason: Annotated[str, typer.Option("--reason", help="Signed and logged.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Erase; without it a preview only.")] = False,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what erasing a device's month takes; with --yes, erase it. There is no way back. Hashes, proofs
    and a signed statement of the erasure stay."""
    from cloud_sync.runtime.collector_files import load_config, load_keys, make_clock
    from cloud_sync.runtime.erase import erase_month, preview_month, signer
    from cloud_sync.runtime.store import Store
    from cloud_sync.runtime.titles import tenant_of

    with _said_plainly():
        files = load_config(config)
        who = tenant_of(config, tenant)
        with Store(files.store, read_only=True) as store:
            plan = preview_month(store, who, device, month, reason)
        if not yes:
            _show_erasure(plan, device, month, as_json)
            return
        wall_ms = make_clock(files).wall_ns() // 1_000_000
        sign = signer(load_keys(files).ledger, wall_ms)
        with Store(files.store, create=False) as store:
            done = erase_month(store, who, device, month, reason, sign=sign, wall_ms=wall_ms)
    if as_json:
        value = {
            "erased": True,
            "segments": done.segments,
            "bytes": done.size,
            "rows": done.rows,
            "device": device,
            "month": month,
        }
        typer.echo(json.dumps(value, indent=2))
    else:
        typer.echo(f"{done.segments} segments ({done.size} bytes) and {done.rows} projected rows are erased")


def _show_erasure(plan: Preview, device: str, month: str, as_json: bool) -> None:
    if as_json:
        value = {
            "erased": False,
            "segments": plan.segments,
            "bytes": plan.size,
            "open_incidents": [dataclasses.asdict(one) for one in plan.open_incidents],
            "device": device,
            "month": month,
        }
        typer.echo(json.dumps(value, indent=2))
        return
    typer.echo(f"Preview: {month} of {device}")
    typer.echo(f"  {plan.segments} segments ({plan.size} bytes) would lose their content for good")
    typer.echo(f"  {len(plan.open_incidents)} open incidents would lose their bodies")
    for one in plan.open_incidents[:MAX_SHOWN]:
        typer.echo(f"    incident {one.incident} of {one.opened_at}: {one.cause}")
    if len(plan.open_incidents) > MAX_SHOWN:
        typer.echo(f"    and {len(plan.open_incidents) - MAX_SHOWN} more: --json has all of them")
    typer.echo("Nothing is erased yet: the same command with --yes does it.")


@evidence.command()
def _evidence(
    config: ConfigOption,
    incident: Annotated[
        str | None, typer.Option("--incident", help="'first', or its number in the list.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Bundle to write.")] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Only this device's incidents; with no --incident its chain."),
    ] = None,
    purpose: Annotated[
        str, typer.Option("--purpose", help="Why it is wanted; stands in the audit and in the log.")
    ] = "exported at the server's console, no purpose given",
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a bundle that `holdfast verify` checks offline; without --out, list the incidents.

    A bundle holds exact positions: the audit says first that the account `console` took it, and what for.
    """
    from cloud_sync.runtime import console_export, queries
    from cloud_sync.runtime.titles import tenant_of

    if out is None and incident is not None:
        raise typer.BadParameter("say where the bundle goes", param_hint="--out")
    if out is not None and incident is None and device is None:
        raise typer.BadParameter("'first', a number of the list, or --device", param_hint="--incident")
    if len(purpose.strip()) < 3:
        raise typer.BadParameter("say what it is needed for, in a few words", param_hint="--purpose")
    with _said_plainly():
        who = tenant_of(config, tenant)
        rows = [row for row in queries.incidents(config, who) if device is None or row["device"] == device]
        if out is None:
            _list_incidents(rows, as_json)
            return
        what = str(device) if incident is None else _chosen(rows, incident)
        console_export.export(config, who, what, purpose, out)
    typer.echo(json.dumps({"out": str(out), "bytes": out.stat().st_size}) if as_json else str(out))


def _chosen(rows: list[dict[str, Any]], incident: str) -> dict[str, Any]:
    number = 1 if incident == "first" else int(incident) if incident.isascii() and incident.isdigit() else 0
    if not 1 <= number <= len(rows):
        raise NotFound(
            f"there is no incident {incident!r:.40}; there are {len(rows)}: leave --out away to see them"
        )
    return rows[number - 1]


def _list_incidents(rows: list[dict[str, Any]], as_json: bool) -> None:
    from cloud_sync.runtime.said import printable

    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for number, row in enumerate(rows, 1):
        typer.echo(f"{number:>3}  {row['opened_at']}  {row['state']:<6}  {row['cause']:<20}  {row['device']}")
        typer.echo(f"     {printable(row['sentence'])}")
    if not rows:
        typer.echo("no incidents", err=True)


@log.command()
def _log(
    config: ConfigOption,
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Only this tenant; all of them unless given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """The log, its devices, alarms, and what was refused and why; changes nothing."""
    from cloud_sync.runtime import log_view
    from cloud_sync.runtime.collector_files import load_config
    from cloud_sync.runtime.titles import tenant_of

    with _said_plainly():
        who = None if tenant is None else tenant_of(config, tenant)
        value = log_view.view(load_config(config).store, who)
    if as_json:
        typer.echo(json.dumps(value, indent=2))
    else:
        log_view.screen(value)


@serve.command()
def _serve(
    config: Annotated[Path, typer.Option("--config", help="serve.toml", show_default=False)],
    new_link: Annotated[
        str | None,
        typer.Option("--new-link", metavar="NAME", help="Make a one-time link for this account and end."),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Of NAME; a tenant without accounts gets its first one.")
    ] = None,
    metrics: MetricsOption = None,
    log_format: LogFormat = None,
    as_json: JsonOption = False,
) -> None:
    """Serve the API and the operator's page until SIGTERM. The first start prints a one-time link."""
    from cloud_sync.runtime.serve import daemon

    if new_link is None:
        if tenant is not None:
            raise typer.BadParameter("belongs to --new-link", param_hint="--tenant")
        _log_as(log_format)
        raise typer.Exit(daemon.run(config, as_json=as_json, metrics=metrics))
    with _said_plainly():
        made = daemon.new_link(config, new_link, tenant)
    typer.echo(json.dumps(made) if as_json else made["link"])


@demo.command()
def _demo(
    speed: Annotated[
        float, typer.Option("--speed", min=0.0, help="Scenario seconds per second; 0: as fast as it is read.")
    ] = 0.0,
    headless: Annotated[bool, typer.Option("--headless", help="Plain lines, no live display.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the working folder in place and the page open.")
    ] = False,
    replay: Annotated[Path | None, typer.Option("--replay", help="Play this real log instead.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here as JSON.")] = None,
    scenario: Annotated[
        str, typer.Option("--scenario", help="default, quiet, tow, pulled, jammed, tunnel or left-region.")
    ] = "default",
    folder: Annotated[Path | None, typer.Option("--dir", help="Work in this empty or new folder.")] = None,
    stop: Annotated[
        Path | None, typer.Option("--stop", help="Close the page that a demo with --keep left open there.")
    ] = None,
) -> None:
    """Run the whole system on this machine and check that it does its job."""
    from cloud_sync.demo_options import DemoOptions
    from cloud_sync.runtime import demo_open
    from cloud_sync.runtime.demo import run

    if stop is not None:
        with _said_plainly():
            ended = demo_open.stop(stop)
        typer.echo(f"ended: {', '.join(ended) or 'nothing was running any more'}")
        return
    options = DemoOptions(speed, headless, keep, replay, json_file, scenario, folder)
    with _said_plainly():
        raise typer.Exit(run(options))


if __name__ == "__main__":
    apps = {
        "collect": collect,
        "broker": broker,
        "title": title,
        "erase": erase,
        "evidence": evidence,
        "log": log,
        "serve": serve,
    }
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in apps and name != "demo":
        raise SystemExit(f"python -m cloud_sync {' | '.join([*apps, 'demo'])}")
    (demo if name == "demo" else apps[name])(sys.argv[2:], prog_name=f"holdfast {name}")

"""`holdfast ca ...` and `holdfast provision ...`: wiring. Every command loads what it needs inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# --- ca: the certificate authority and its enrolment server ------------------------------------------

ca = typer.Typer(
    add_completion=False, no_args_is_help=True, help="The certificate authority, and who is enrolled at it."
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The authority's folder.", show_default=False)]
Device = Annotated[str, typer.Option("--device", help="Name of the device.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable on stdout.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write.", show_default=False)]
Passphrase = Annotated[
    Path | None, typer.Option("--passphrase-file", help="The first line protects the root's key.")
]
BrokerHost = Annotated[str | None, typer.Option("--broker-host", help="The broker, as devices reach it.")]
BrokerPort = Annotated[int, typer.Option("--broker-port", min=1, max=65535)]
BrokerName = Annotated[
    str, typer.Option("--broker-name", help="Name in the broker's certificate, if not the host.")
]


@ca.command("init")
def ca_init(
    folder: Folder,
    tenant: Annotated[str, typer.Option("--tenant", help="Whose devices.", show_default=False)],
    host: Annotated[
        list[str],
        typer.Option("--host", help="Name or address of the enrolment server; repeat.", show_default=False),
    ],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of the enrolment server.")] = 8443,
    broker_host: BrokerHost = None,
    broker_port: BrokerPort = 8883,
    broker_name: BrokerName = "",
    days: Annotated[int, typer.Option("--days", min=1, max=398, help="Life of certificates.")] = 90,
    passphrase_file: Passphrase = None,
    json: Json = False,
) -> None:
    """Make the authority; run it again to finish what was cut off. Keys are never replaced."""
    from provisioning.runtime import ca_tool
    from provisioning.runtime.ca_config import CaConfig

    config = CaConfig(
        tenant, tuple(host), days, est_port=port, uplink_host=broker_host or "", uplink_port=broker_port,
        uplink_name=broker_name,
    )  # fmt: skip
    _done(ca_tool.guarded(lambda: ca_tool.init(folder, config, passphrase_file, as_json=json)))


@ca.command("renew-issuing")
def ca_renew_issuing(folder: Folder, passphrase_file: Passphrase = None) -> None:
    """Give the issuing certificates five more years. Needs offline/root.key back for the moment."""
    from provisioning.runtime import ca_tool

    _done(ca_tool.guarded(lambda: ca_tool.renew_issuing(folder, passphrase_file)))


@ca.command("code")
def ca_code(
    folder: Folder,
    device: Device,
    model: Annotated[str, typer.Option("--model", help="For the label.")] = "",
    days: Annotated[int, typer.Option("--days", min=1, max=366, help="How long it is good.")] = 90,
    json: Json = False,
) -> None:
    """A claim code for one device, shown once. An earlier one that was not used is withdrawn."""
    from provisioning.runtime import ca_tool

    _done(ca_tool.guarded(lambda: ca_tool.code(folder, device, model, days, as_json=json)))


@ca.command("serve")
def ca_serve(
    folder: Folder,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics", metavar="HOST:PORT", envvar="HOLDFAST_METRICS", help="Figures for Prometheus here."
        ),
    ] = None,
    log_format: Annotated[
        str | None, typer.Option("--log-format", help="Lines outside the journal: text or json.")
    ] = None,
) -> None:
    """The enrolment server (EST, RFC 7030). Runs until SIGTERM."""
    from firmware_bridge.runtime import journal
    from provisioning.runtime import ca_daemon, ca_tool

    try:
        journal.choose(log_format)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--log-format") from error
    _done(ca_tool.guarded(lambda: ca_daemon.serve(folder, host, port, metrics)))


@ca.command("list")
def ca_list(folder: Folder, json: Json = False) -> None:
    """Devices, their certificates, days left, what is revoked, codes not used yet."""
    from provisioning.runtime import ca_tool

    _done(ca_tool.guarded(lambda: ca_tool.listing(folder, as_json=json)))


@ca.command("revoke")
def ca_revoke(
    folder: Folder,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Its name.", show_default=False)],
    reason: Annotated[
        str, typer.Option("--reason", help="lost, compromised, replaced, retired or unspecified.")
    ],
) -> None:
    """Revoke all certificates of a device, withdraw its codes, write the lists."""
    from provisioning.runtime import ca_tool

    _done(ca_tool.guarded(lambda: ca_tool.revoke(folder, device, reason)))


@ca.command("crl")
def ca_crl(folder: Folder) -> None:
    """Write both revocation lists anew, valid for seven days."""
    from provisioning.runtime import ca_tool

    _done(ca_tool.guarded(lambda: ca_tool.crl(folder)))


@ca.command("collector")
def ca_collector(
    folder: Folder,
    out: Out,
    origin: Annotated[str | None, typer.Option("--origin", help="Name of the log.")] = None,
    broker_host: BrokerHost = None,
    broker_port: BrokerPort = 8883,
    broker_name: BrokerName = "",
) -> None:
    """Make or renew the collector's folder: keys, certificate, trust.json, collector.toml."""
    from provisioning.runtime import ca_tool

    uplink = (broker_host, broker_port, broker_name) if broker_host else None
    _done(ca_tool.guarded(lambda: ca_tool.collector(folder, out, origin, uplink)))


@ca.command("broker")
def ca_broker(
    folder: Folder,
    out: Out,
    host: Annotated[list[str] | None, typer.Option("--host", help="Its name or address; repeat.")] = None,
) -> None:
    """Make or renew the broker's TLS key and certificate."""
    from provisioning.runtime import ca_tool

    _done(ca_tool.guarded(lambda: ca_tool.broker(folder, out, tuple(host or ()))))


@ca.command("sign")
def ca_sign(
    folder: Folder,
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="request.json.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="response.json to write.", show_default=False)],
) -> None:
    """Enrol a device that has no network, from its request file."""
    from provisioning.runtime import ca_tool

    _done(ca_tool.guarded(lambda: ca_tool.sign(folder, request, out)))


def _done(code: int) -> None:
    raise typer.Exit(code)


# --- provision: the node's side ----------------------------------------------------------------------

provision = typer.Typer(
    add_completion=False, invoke_without_command=True, help="Enrol this node, renew and show its identity."
)

State = Annotated[Path, typer.Option("--state", help="The node's state folder.")]
STATE = Path("/var/lib/holdfast")


@provision.callback()
def provision_node(
    context: typer.Context,
    server: Annotated[str | None, typer.Option("--server", help="https://ca.example:8443")] = None,
    ca_file: Annotated[Path | None, typer.Option("--ca", help="The authority's root, PEM.")] = None,
    ca_fingerprint: Annotated[
        str | None, typer.Option("--ca-fingerprint", help="Or its SHA-256; the root comes from the server.")
    ] = None,
    code: Annotated[str | None, typer.Option("--code", help="Claim code; - reads it from stdin.")] = None,
    qr: Annotated[str | None, typer.Option("--qr", help="Text of the label: HF1:device:model:code.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="Name of this node.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="If the root does not say it.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="vehicle or roadside.")] = None,
    state: State = STATE,
    config: Annotated[Path, typer.Option("--config", help="Configuration, written if there is none.")] = Path(
        "/etc/holdfast/node.toml"
    ),
    credentials: Annotated[
        Path | None, typer.Option("--credentials", help="Encrypt the keys into this folder (systemd-creds).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Events on stdout, one JSON object a line.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
    offline: Annotated[
        Path | None, typer.Option("--offline", help="Write this request for the authority; no network.")
    ] = None,
    response: Annotated[
        Path | None, typer.Option("--response", help="Finish with the authority's response.")
    ] = None,
) -> None:
    """Enrol this node, renew and show its identity. Killed or refused, it is run again and goes on."""
    if context.invoked_subcommand is not None:
        return
    from provisioning.runtime import provision_tool

    _done(
        provision_tool.provision(
            provision_tool.Options(
                server, ca_file, ca_fingerprint, code, qr, device, tenant, kind, state, config, credentials,
                json, dry_run, yes, offline, response,
            )
        )
    )  # fmt: skip


@provision.command("renew")
def provision_renew(
    state: State = STATE,
    force: Annotated[bool, typer.Option("--force", help="Even if it is not due.")] = False,
    json: Json = False,
) -> None:
    """New keys and certificates, once two thirds of a life are over."""
    from provisioning.runtime import provision_tool

    _done(provision_tool.renewal(state, force=force, as_json=json))


@provision.command("show")
def provision_show(state: State = STATE, json: Json = False) -> None:
    """Who this node is, under which root, and until when."""
    from provisioning.runtime import provision_tool

    _done(provision_tool.show(state, as_json=json))


@provision.command("broker")
def provision_broker(
    out: Out,
    ca_folder: Annotated[
        Path | None, typer.Option("--ca", help="The authority's folder on this machine.")
    ] = None,
    tls: Annotated[
        Path | None, typer.Option("--tls", help="Or a folder with tls.key, tls.crt, ca.crt (`ca broker`).")
    ] = None,
    crl: Annotated[
        Path | None, typer.Option("--crl", help="With --tls: the authority's crl/tls.pem.")
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", help="With --ca: name or address for its certificate; repeat."),
    ] = None,
    listen: Annotated[str, typer.Option("--listen", help="Address to listen on; all if left out.")] = "",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8883,
    tenant: Annotated[
        list[str] | None,
        typer.Option("--tenant", help="Whose collectors may come; repeat. Default: the authority's."),
    ] = None,
    user: Annotated[str, typer.Option("--user", help="Whom Mosquitto becomes, if not mosquitto.")] = "",
    log: Annotated[str, typer.Option("--log", help="stderr, syslog, or the path of a file.")] = "stderr",
    apply: Annotated[
        str, typer.Option("--apply", help="Reload or restart this systemd unit when something changed.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written.")] = False,
    json: Json = False,
) -> None:
    """Write or renew the configuration of a Mosquitto: mutual TLS, access rules, bounds, revocation."""
    from provisioning.runtime import broker_tool
    from provisioning.runtime.broker_material import BrokerAsk

    _done(
        broker_tool.run(
            BrokerAsk(
                out, ca_folder, tls, crl, tuple(host or ()), listen, port, tuple(tenant or ()), user, log,
                apply, dry_run, json,
            )
        )
    )  # fmt: skip

"""Doctor, the identity: clock, certificates, whom the node believes, and the broker at the other end.

The broker is asked up to the TLS handshake and no further: an MQTT connection under the node's own name would
end the one of the running uplink.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edge.config import Config, UplinkConfig
from edge.errors import ConfigError
from edge.runtime.doctor_ports import unit_property
from edge.runtime.mqtt_tls import advice, client_context
from edge.status import PENDING, UNVERIFIED, USAGE, Finding, Level
from firmware_bridge.runtime.clock import BUILD_FLOOR_NS
from provisioning import accept
from provisioning.ca import Purpose
from provisioning.enrolment import CLOCK_CEILING, URGENT, Exit, Journal
from provisioning.errors import EnrolError, IdentityError
from provisioning.identity import Identity
from provisioning.runtime import journal as journals
from provisioning.runtime.journal import Files
from provisioning.runtime.keystore import PREFIX, Keystore, pair, read_certificates
from provisioning.runtime.on_disk import read_trust

CONNECT_S: Final = 5.0
"""Seconds for the TCP connection and again for the handshake: a mobile network takes two."""
REJECT_S: Final = 0.7
"""After the handshake the broker has so long to refuse our certificate: TLS 1.3 does it then."""
NAME_MISMATCH: Final = 62
"""X509_V_ERR_HOSTNAME_MISMATCH of OpenSSL."""
SET_CLOCK: Final = (
    "timedatectl set-ntp true, or date -s; without a network a receiver's time is used once it has a fix"
)


def check_clock(config: Config | None, now: datetime) -> list[Finding]:
    """Whether the host's clock can be right, and whether what the configuration says of it is."""
    floor = datetime.fromtimestamp(BUILD_FLOOR_NS / 1e9, UTC)
    if config is not None and config.clock.source == "page":
        kind = config.clock.kind.name.lower()
        return [
            Finding("clock", Level.NOTE, f"a scenario's clock ({kind}); the host's is {now:%Y-%m-%d %H:%M}Z")
        ]
    if now < floor:
        text = f"the clock says {now:%Y-%m-%d}, before this software was made ({floor:%Y-%m-%d})"
        return [Finding("clock", Level.ERROR, text, SET_CLOCK, UNVERIFIED)]
    if now >= CLOCK_CEILING:
        text = f"the clock says {now:%Y-%m-%d}: far in the future"
        return [Finding("clock", Level.ERROR, text, SET_CLOCK, UNVERIFIED)]
    synced = _ntp()
    if synced is False and config is not None and config.clock.synced:
        text = "[clock] synced = true, and NTP has not set this clock"
        return [Finding("clock", Level.WARNING, text, "timedatectl set-ntp true, or say synced = false")]
    if synced and config is not None and not config.clock.synced:
        text = f"{now:%Y-%m-%d %H:%M}Z, set by NTP, but node.toml does not say so"
        return [Finding("clock", Level.NOTE, text, "say synced = true in [clock]: events are dated better")]
    return [Finding("clock", Level.OK, f"{now:%Y-%m-%d %H:%M}Z")]


def _ntp() -> bool | None:
    """Whether NTP holds the clock; None where nobody can say."""
    if not Path("/run/systemd/system").is_dir():
        return None
    try:
        done = subprocess.run(
            ["timedatectl", "show", "--value", "-p", "NTPSynchronized"],
            capture_output=True, text=True, timeout=CONNECT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(done.stdout.strip())


# ---- certificates -----------------------------------------------------------------------------------


def check_identity(config: Config, now: datetime) -> list[Finding]:
    """Both pairs and trust.json, as the daemons will read them."""
    state = Path(config.state_dir)
    try:
        journal = journals.load(state)
        store = Keystore(state, Files(state), "" if journal is None else journal.credentials)
        root = read_certificates(store.keys / "ca.crt")[0]
    except EnrolError as error:
        return [_refused("identity", error)]
    except FileNotFoundError as error:
        text = f"this node is not enrolled: {error.filename} is not there"
        return [Finding("identity", Level.ERROR, text, "holdfast provision --help", USAGE)]
    except PermissionError as error:
        return [_unreadable(error)]
    found = [*_unfinished(journal), *_trust(state, root)]
    for purpose in Purpose:
        found.append(_pair(purpose, config, store, root, now))
    found += [
        Finding("key_modes", Level.ERROR, text.partition(": ")[0], text.partition(": ")[2], UNVERIFIED)
        for text in _problems(store)
    ]
    return found


def _problems(store: Keystore) -> list[str]:
    try:
        return store.problems()
    except OSError:
        return []


def _unfinished(journal: Journal | None) -> list[Finding]:
    if journal is None:
        return []
    if journal.next_step is not None:
        text = f"enrolment is unfinished, at step {journal.next_step.value}"
        return [Finding("identity", Level.ERROR, text, "finish it: holdfast provision", PENDING)]
    if journal.exchanging:
        return [Finding("identity", Level.WARNING, "a renewal is unfinished", "holdfast provision renew")]
    if journal.reload_due:
        text = "the edge has not been told of its new event key"
        return [Finding("identity", Level.WARNING, text, "systemctl reload holdfast-edge")]
    return []


def _pair(
    purpose: Purpose, config: Config, store: Keystore, root: x509.Certificate, now: datetime
) -> Finding:
    check, name = f"{purpose.value}_certificate", f"keys/{purpose.value}.crt"
    try:
        there = store.certificates(f"{purpose.value}.crt")
        if not there:
            text = f"{name} is not there"
            return Finding(check, Level.ERROR, text, "holdfast provision --code CODE", UNVERIFIED)
        end = there[0].not_valid_after_utc
        if there[0].not_valid_before_utc > now:
            text = f"{name} is valid from {there[0].not_valid_before_utc:%Y-%m-%d} only"
            return Finding(check, Level.ERROR, text, f"set the clock: {SET_CLOCK}", UNVERIFIED)
        if end <= now:
            text = f"{name} expired on {end:%Y-%m-%d}"
            return Finding(
                check,
                Level.ERROR,
                text,
                "a new claim code is needed: holdfast provision --code CODE",
                UNVERIFIED,
            )
        issuers = [*there[1:], *_device_ca(store.state, root)]
        identity = Identity(config.node.tenant, config.node.device)
        public = _public(purpose, config, store, there[0])
        accept.check_issued(purpose, there, issuers, root, public, identity, now)
    except EnrolError as error:
        return _refused(check, error)
    except IdentityError as error:
        return Finding(check, Level.ERROR, f"{name}: {error}", "correct [node] in node.toml", USAGE)
    except PermissionError as error:
        return _unreadable(error)
    except (OSError, ValueError) as error:
        return Finding(check, Level.ERROR, f"{name}: {error}", "holdfast provision --code CODE", UNVERIFIED)
    return _days(check, name, there[0], end - now, now)


def _public(
    purpose: Purpose, config: Config, store: Keystore, certificate: x509.Certificate
) -> ec.EllipticCurvePublicKey:
    """The public half of the key; of one that systemd gives to the service alone, the certificate's."""
    try:
        return store.key(purpose).public_key()
    except EnrolError:
        kind = "roadside" if config.node.kind == "roadside" else "edge"
        unit = f"holdfast-{'uplink' if purpose is Purpose.TLS else kind}.service"
        given = [unit_property(name, unit) for name in ("LoadCredential", "LoadCredentialEncrypted")]
        public = certificate.public_key()
        there = (store.keys / f"{purpose.value}.key").exists()
        if there or f"holdfast-{purpose.value}.key" not in " ".join(given):
            raise
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise
        return public


def _days(check: str, name: str, certificate: x509.Certificate, left: timedelta, now: datetime) -> Finding:
    text = f"{name}: valid for {left.days} days more, matches its key and the authority"
    if left < URGENT:
        return Finding(
            check, Level.WARNING, text, "holdfast provision renew now: after that the node is mute"
        )
    if now >= accept.renewal_at(certificate):
        then = "holdfast provision renew; `systemctl status holdfast-renew.timer` says why it did not"
        return Finding(check, Level.WARNING, f"{text}, renewal is due", then)
    return Finding(check, Level.OK, text)


def _device_ca(state: Path, root: x509.Certificate) -> list[x509.Certificate]:
    try:
        return [accept.check_trust(read_trust(state), root)]
    except (EnrolError, OSError):
        return []


def _trust(state: Path, root: x509.Certificate) -> list[Finding]:
    try:
        trust = read_trust(state)
        accept.check_trust(trust, root)
    except EnrolError as error:
        return [_refused("trust", error)]
    except FileNotFoundError:
        text = "trust.json is not there: no receipt can be believed, and nothing is ever deleted"
        return [Finding("trust", Level.ERROR, text, "holdfast provision", UNVERIFIED)]
    except OSError as error:
        return [_unreadable(error)]
    return [Finding("trust", Level.OK, f"receipts of log {trust['origin']} are believed")]


def _refused(check: str, error: EnrolError) -> Finding:
    code = USAGE if error.exit_code == Exit.USAGE else UNVERIFIED
    return Finding(check, Level.ERROR, error.detail, error.remedy, code)


def _unreadable(error: OSError) -> Finding:
    text = f"{error.filename} cannot be read by this user ({os.geteuid()}): {error.strerror}"
    return Finding("identity", Level.WARNING, text, "run this as root: sudo holdfast doctor")


# ---- the broker -------------------------------------------------------------------------------------


def check_broker(config: Config, now: datetime) -> list[Finding]:
    """Whether the broker can be reached, is who it should be, and takes our certificate."""
    uplink = config.uplink
    if uplink is None:
        text = "no [uplink]: nothing leaves this node"
        return [Finding("broker", Level.NOTE, text, "add [uplink] with host, when there is a broker")]
    place = f"{uplink.host}:{uplink.port}"
    if (sealed := _sealed(config)) is not None:
        return [sealed]
    try:
        context = client_context(Path(config.path("keys")), uplink.server_name)
    except ConfigError as error:
        text = f"{place} was not tried: {error}"
        return [Finding("broker", Level.WARNING, text, "see to the certificates first")]
    try:
        plain = socket.create_connection((uplink.host, uplink.port), CONNECT_S)
    except socket.gaierror as error:
        then = "check the name in [uplink] host, and the node's DNS; the outbox keeps everything meanwhile"
        return [
            Finding("broker", Level.ERROR, f"{uplink.host} has no address ({error.strerror})", then, PENDING)
        ]
    except OSError as error:
        then = (
            "check the network, a firewall, and that the broker runs; the outbox keeps everything meanwhile"
        )
        return [
            Finding(
                "broker", Level.ERROR, f"{place} cannot be reached: {error.strerror or error}", then, PENDING
            )
        ]
    with plain:
        return [_handshake(plain, context, uplink, place, now)]


def _sealed(config: Config) -> Finding | None:
    """Where the TLS key is a credential, which systemd gives to the uplink alone, and we have no copy."""
    keys = Path(config.path("keys"))
    name = f"{PREFIX}{Purpose.TLS.value}.key"
    try:
        if pair(Purpose.TLS, keys)[0].is_file():
            return None
        journal = journals.load(Path(config.state_dir))
    except (OSError, EnrolError):
        return None  # the identity's own lines say it
    given = _credential(name, "" if journal is None else journal.credentials)
    if given is None:
        return None
    text = f"the broker was not tried: the key {name} is a credential of holdfast-uplink alone"
    then = (
        "`holdfast status` says whether the uplink is connected; to try the broker with its key: "
        f"sudo systemd-run --pipe --wait --quiet -p {given} holdfast doctor"
    )
    return Finding("broker", Level.NOTE, text, then)


def _credential(name: str, folder: str) -> str | None:
    """The line of a unit that gives the credential `name`; None where nothing gives it."""
    for setting in ("LoadCredentialEncrypted", "LoadCredential"):
        for one in unit_property(setting, "holdfast-uplink.service").split():
            if one.partition(":")[0] == name:
                return f"{setting}={one}"
    return f"LoadCredentialEncrypted={name}:{folder}/{name}" if folder else None


def _handshake(
    plain: socket.socket, context: ssl.SSLContext, uplink: UplinkConfig, place: str, now: datetime
) -> Finding:
    try:
        with context.wrap_socket(plain, server_hostname=uplink.server_name) as secure:
            der = secure.getpeercert(binary_form=True)
            _listen(secure)
    except ssl.SSLCertVerificationError as error:
        return _not_believed(error, uplink, place)
    except OSError as error:
        told = advice(error) or f"the TLS handshake failed ({error})"
        then = (
            "look at the broker's log; a revoked or expired certificate is not renewed: ask the "
            "administrator for a new claim code, then holdfast provision --code -"
        )
        return Finding("broker", Level.ERROR, f"{place}: {told}", then, UNVERIFIED)
    left = x509.load_der_x509_certificate(der or b"").not_valid_after_utc - now
    text = f"{place} is {uplink.server_name}, by our authority, and takes our certificate"
    if left < URGENT:
        then = "tell the broker's operator: holdfast ca broker"
        return Finding("broker", Level.WARNING, f"{text}; its own ends in {left.days} days", then)
    return Finding("broker", Level.OK, text)


def _listen(secure: ssl.SSLSocket) -> None:
    """Wait for a refusal. Raises OSError with it; a broker that waits for our CONNECT says nothing."""
    secure.settimeout(REJECT_S)
    try:
        if not secure.recv(1):
            raise ConnectionResetError("the broker ended the connection after the handshake")
    except TimeoutError:
        return


def _not_believed(error: ssl.SSLCertVerificationError, uplink: UplinkConfig, place: str) -> Finding:
    told = advice(error) or str(error)
    if error.verify_code != NAME_MISMATCH:
        text, _, then = told.rpartition(": ")
        return Finding("broker", Level.ERROR, f"{place}: {text}", then, UNVERIFIED)
    names = ", ".join(_names(uplink)) or "no name at all"
    text = f"{place} has a certificate for {names}, not for {uplink.server_name}"
    then = "set [uplink] server_name to one of these, or have the broker's made again: holdfast ca broker"
    return Finding("broker", Level.ERROR, text, then, UNVERIFIED)


def _names(uplink: UplinkConfig) -> list[str]:
    """The names in the broker's certificate, for the sentence only: nothing is believed by this."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((uplink.host, uplink.port), CONNECT_S) as plain,
            context.wrap_socket(plain) as secure,
        ):
            certificate = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return []
    return [str(one.value) for one in names]

"""The node's side of EST (RFC 7030): HTTPS with one pinned root, bounded answers, patience with networks.

Nothing is sent before the server's certificate was checked against the pinned root and its name. A network
error is tried again, each time with the same request: the server answers the same key with the same
certificate. A refusal is not: it comes as `Refusal`, with the server's own words for what to do.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  socket loads it at the first name; by then we may be a user who cannot
import http.client
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from provisioning import est
from provisioning.ca import Purpose
from provisioning.enrolment import Exit
from provisioning.errors import EnrolError, EstError
from provisioning.identity import Identity

TIMEOUT_S: Final = 15.0
"""For connecting and for each read: a server that needs longer has a fault, a mobile network does not."""
TRIES: Final = 4
"""Network errors in a row before a run gives up; the technician sees why after ten seconds at most."""
BACKOFF_S: Final = (0.5, 1.0, 2.0)
"""Seconds before the second, third and fourth try."""
MAX_ANSWER: Final = 64 * 1024
"""Three certificates, trust.json and addresses have 6 kB."""
DEFAULT_PORT: Final = 8443
"""The enrolment server's, unless the URL names another."""
_EXPIRED, _NOT_YET, _NAME, _ADDRESS = 10, 9, 62, 64
"""X509_V_ERR_* of OpenSSL: CERT_HAS_EXPIRED, CERT_NOT_YET_VALID, HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where the enrolment server is."""

    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Server:
        """The server of `https://host[:port]` or `host[:port]`. Raises EnrolError."""
        remedy = "write it as https://ca.example:8443"
        try:
            parts = urlsplit(url if "://" in url else f"https://{url}")
            port = parts.port or DEFAULT_PORT
        except ValueError as error:
            raise EnrolError(Exit.USAGE, f"server {url!r:.120}: {error}", remedy) from error
        if parts.scheme != "https":
            raise EnrolError(Exit.USAGE, f"server {url!r:.120}: a claim code is sent over HTTPS only", remedy)
        if not parts.hostname or parts.username is not None or parts.path.strip("/") or parts.query:
            raise EnrolError(Exit.USAGE, f"server {url!r:.120} is no name or address", remedy)
        return cls(parts.hostname, port)

    @property
    def url(self) -> str:
        """As it is kept in the journal."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"


class EstClient:
    """One enrolment server under one root; `pair`, the paths of TLS key and certificate, says who we are."""

    def __init__(
        self,
        server: Server,
        root: x509.Certificate,
        *,
        pair: tuple[Path, Path] | None = None,
        timeout_s: float = TIMEOUT_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Raises EnrolError where the pair cannot be used."""
        self._server = server
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._known = pair is not None
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.load_verify_locations(cadata=root.public_bytes(Encoding.PEM).decode())
        if pair is not None:
            key, crt = pair
            try:
                self._context.load_cert_chain(crt, key)
            except (OSError, ssl.SSLError) as error:
                raise EnrolError(
                    Exit.UNVERIFIED, f"{key} and {crt} cannot be used together ({error})",
                    "restore them, or ask for a new claim code and enrol anew",
                ) from error  # fmt: skip

    def cacerts(self) -> list[x509.Certificate]:
        """Root and issuing certificates, as the server says. Raises Refusal, EnrolError."""
        return _certificates(self._exchange("GET", est.CACERTS))

    def enroll(self, purpose: Purpose, csr: bytes, code: str = "") -> list[x509.Certificate]:
        """simpleenroll, by claim code or by our TLS certificate. Raises Refusal, EnrolError."""
        headers = {"Authorization": est.basic(code)} if code else {}
        return self._post(est.enroll_path(purpose), csr, headers)

    def reenroll(self, purpose: Purpose, csr: bytes) -> list[x509.Certificate]:
        """simplereenroll. Raises Refusal, EnrolError."""
        return self._post(est.enroll_path(purpose, again=True), csr, {})

    def node(self) -> tuple[Identity, dict[str, Any], dict[str, Any]]:
        """Who the server takes us for, trust.json, and the broker. Raises Refusal, EnrolError."""
        try:
            return est.read_node_json(self._exchange("GET", est.NODE))
        except EstError as error:
            raise _unreadable(error) from error

    def _post(self, path: str, csr: bytes, headers: Mapping[str, str]) -> list[x509.Certificate]:
        headers = {**headers, "Content-Type": est.CSR_TYPE, "Content-Transfer-Encoding": "base64"}
        return _certificates(self._exchange("POST", path, est.encode_der(csr), headers))

    def _exchange(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """The body of a good answer, after up to TRIES attempts. Raises Refusal, EnrolError."""
        for pause in (*BACKOFF_S[: TRIES - 1], None):
            try:
                return self._once(method, path, body, headers or {})
            except ssl.SSLCertVerificationError as error:
                raise _distrust(self._server, error) from error
            except (OSError, http.client.HTTPException) as error:
                if self._known and _is_alert(error):
                    raise EnrolError(
                        Exit.REFUSED,
                        f"{self._server.url} does not take this node's TLS certificate ({error})",
                        "it is another authority's, or revoked: ask the administrator for a new claim code",
                    ) from error  # fmt: skip
                if pause is None:
                    raise _unreachable(self._server, error) from error
                self._sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _once(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
        return _request(self._server, self._context, self._timeout_s, method, path, body, headers)


def fetch_root(server: Server, fingerprint: bytes, timeout_s: float = TIMEOUT_S) -> x509.Certificate:
    """The root with this SHA-256 that the server shows, over TLS that trusts nobody yet.

    Nothing of ours is sent. What comes is believed for its fingerprint alone; the next connection checks the
    server under it. Raises EnrolError, Refusal.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        data = _request(server, context, timeout_s, "GET", est.CACERTS, None, {})
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(server, error) from error
    for one in _certificates(data):
        if one.fingerprint(hashes.SHA256()) == fingerprint:
            return one
    raise EnrolError(
        Exit.UNVERIFIED, f"{server.url} has no root of this fingerprint; nothing was sent",
        "compare it with what `holdfast ca init` showed; if it is right, this is not your authority's server",
    )  # fmt: skip


def _request(
    server: Server,
    context: ssl.SSLContext,
    timeout_s: float,
    method: str,
    path: str,
    body: bytes | None,
    headers: Mapping[str, str],
) -> bytes:
    """One request on one connection. Raises OSError, HTTPException, Refusal, EnrolError."""
    connection = http.client.HTTPSConnection(server.host, server.port, timeout=timeout_s, context=context)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        data = answer.read(MAX_ANSWER + 1)
    finally:
        connection.close()
    if len(data) > MAX_ANSWER:
        raise EnrolError(
            Exit.FAILURE,
            f"{server.url} answers with more than {MAX_ANSWER} bytes",
            "is it the enrolment server?",
        )
    if answer.status != http.client.OK:
        raise est.read_problem(answer.status, data)
    return data


def _certificates(data: bytes) -> list[x509.Certificate]:
    try:
        return est.read_certs_only(data)
    except EstError as error:
        raise _unreadable(error) from error


def _is_alert(error: Exception) -> bool:
    """Whether the other side ended TLS because of our certificate (RFC 8446 section 6.2)."""
    return (
        isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "") and "CERT" in (error.reason or "")
    )


def _distrust(server: Server, error: ssl.SSLCertVerificationError) -> EnrolError:
    said = error.verify_message
    if error.verify_code in (_EXPIRED, _NOT_YET):
        remedy = "compare this machine's clock; if it is right, the server's certificate needs renewal"
    elif error.verify_code in (_NAME, _ADDRESS):
        remedy = "use the name that stands in the server's certificate (holdfast ca init --host)"
    else:
        remedy = (
            "use the ca.crt of this server's authority; if it is that, somebody else answers in its place"
        )
    return EnrolError(
        Exit.UNVERIFIED,
        f"{server.url} is not vouched for by the pinned root ({said}); nothing was sent",
        remedy,
    )


def _unreachable(server: Server, error: Exception) -> EnrolError:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return EnrolError(
        Exit.FAILURE, f"{server.url} cannot be reached ({said or type(error).__name__})",
        "see to network and address, then run again; or go without a network: --offline request.json",
    )  # fmt: skip


def _unreadable(error: EstError) -> EnrolError:
    return EnrolError(Exit.FAILURE, str(error), "is it the enrolment server, of the same release?")

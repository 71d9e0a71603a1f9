"""Enrolment over Secure Transport (EST, RFC 7030), the part that both sides speak. Pure.

| request | needs | answer |
|---|---|---|
| `GET /.well-known/est/cacerts` | nothing | root and issuing certificates (RFC 7030 section 4.1) |
| `POST /.well-known/est/tls/simpleenroll` | Basic `claim:<code>` | the TLS certificate (section 4.2.1) |
| `POST /.well-known/est/event/simpleenroll` | that TLS certificate | the event certificate |
| `POST /.well-known/est/{tls,event}/simplereenroll` | TLS certificate | a new one (section 4.2.2) |
| `GET /holdfast/v1/node` | TLS certificate | JSON: `tenant`, `device`, `trust`, `uplink` |
| `GET /holdfast/v1/crl/{tls,event}.crl` | nothing | the revocation list, DER (RFC 5280 section 5) |

Requests carry a PKCS#10 request, answers a PKCS#7 with certificates only, both DER in base64 (sections 4.2.1
and 4.2.3; RFC 8951 section 3.1). A refusal is JSON: `{"code", "detail", "remedy"}`. `tls` and `event` are
labels in the sense of section 3.2.2. Without a network the same goes through two files, `OfflineRequest`
and `OfflineResponse`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from provisioning.ca import Purpose
from provisioning.csr import MAX_CSR_BYTES
from provisioning.errors import EstError, IdentityError, Refusal
from provisioning.identity import Identity

CACERTS: Final = "/.well-known/est/cacerts"
NODE: Final = "/holdfast/v1/node"
CSR_TYPE: Final = "application/pkcs10"
"""RFC 7030 section 4.2.1."""
CERTS_TYPE: Final = "application/pkcs7-mime; smime-type=certs-only"
"""RFC 7030 section 4.2.3."""
CACERTS_TYPE: Final = "application/pkcs7-mime"
"""RFC 7030 section 4.1.3; browsers and clients take certs-only too."""
CRL_TYPE: Final = "application/pkix-crl"
"""RFC 2585 section 4.2."""
REALM: Final = "claim code"
USER: Final = "claim"
"""The user's name of HTTP Basic; the password is the code."""
MAX_BODY: Final = 16 * 1024
"""A request of MAX_CSR_BYTES has 5.5 kB in base64; line feeds and a margin."""
MAX_OFFLINE: Final = 64 * 1024
"""A response file holds three certificates, trust.json and addresses: 6 kB."""
OFFLINE_VERSION: Final = 1


def enroll_path(purpose: Purpose, *, again: bool = False) -> str:
    """Where a request for `purpose` goes; `again` for renewal."""
    return f"/.well-known/est/{purpose.value}/simple{'re' if again else ''}enroll"


def crl_path(purpose: Purpose) -> str:
    """Where the revocation list of `purpose` lies."""
    return f"/holdfast/v1/crl/{purpose.value}.crl"


def encode_der(der: bytes) -> bytes:
    """`der` as it goes over the wire: base64 in lines of 64 characters."""
    text = base64.b64encode(der)
    return b"".join(text[at : at + 64] + b"\n" for at in range(0, len(text), 64))


def decode_der(body: bytes, most: int = MAX_CSR_BYTES) -> bytes:
    """DER from a body: base64 in any lines, and nothing else. Raises EstError.

    RFC 8951 section 3.1: white space is ignored, the transfer encoding that the header names is as well.
    """
    packed = b"".join(body.split())
    if not packed:
        raise EstError("the body is empty; it must hold DER in base64")
    try:
        der = base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EstError(
            f"the body is not base64 ({error}); send DER in base64, without PEM's lines"
        ) from error
    if len(der) > most:
        raise EstError(f"the body holds {len(der)} bytes, at most {most} are taken")
    return der


def certs_only(certificates: Sequence[x509.Certificate]) -> bytes:
    """PKCS#7 (RFC 5652, degenerate SignedData) with these certificates, DER."""
    return pkcs7.serialize_certificates(list(certificates), Encoding.DER)


def read_certs_only(body: bytes) -> list[x509.Certificate]:
    """The certificates in a body that came. Raises EstError."""
    der = decode_der(body, MAX_OFFLINE)
    try:
        found = list(pkcs7.load_der_pkcs7_certificates(der))
    except (ValueError, TypeError) as error:
        raise EstError(f"the answer is no PKCS#7 with certificates: {error}") from error
    if not found:
        raise EstError("the answer holds no certificate")
    return found


def basic(code: str) -> str:
    """The Authorization header for a claim code (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{USER}:{code}".encode()).decode()


def read_basic(header: str | None) -> str:
    """What stands for the code in an Authorization header. Raises Refusal, never with the header's text."""
    wanted = Refusal(
        401,
        "code_missing",
        "this needs a claim code",
        "send it as HTTP Basic, user name claim, the code as password",
    )
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "basic":
        raise wanted
    try:
        user, colon, code = base64.b64decode(token.strip(), validate=True).decode("ascii").partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise wanted from None
    if user != USER or not colon:
        raise wanted
    return code


def problem(refusal: Refusal) -> bytes:
    """A refusal as JSON."""
    value = {"code": refusal.code, "detail": refusal.detail, "remedy": refusal.remedy}
    return (json.dumps(value) + "\n").encode()


def printable(text: str, keep: str = "") -> str:
    """`text` for a terminal or a log: what has no shape, but for `keep`, as \\x and its number.

    What an unknown server says may hold escape sequences, or marks that turn the direction of writing.
    """
    return "".join(char if char.isprintable() or char in keep else f"\\x{ord(char):02x}" for char in text)


def read_problem(status: int, body: bytes) -> Refusal:
    """The refusal in an answer, made printable; one that is not ours becomes a Refusal with code `http`."""
    try:
        value = json.loads(body) if len(body) <= MAX_BODY else None
    except (ValueError, RecursionError):
        value = None
    found = [value.get(name) if isinstance(value, dict) else None for name in ("code", "detail", "remedy")]
    code, detail, remedy = (printable(one[:400]) if isinstance(one, str) else None for one in found)
    if code is None or detail is None or remedy is None:
        return Refusal(
            status,
            "http",
            f"the server answered {status} and nothing else we can read",
            "is it the enrolment server?",
        )
    return Refusal(status, code, detail, remedy)


# --- the two files of enrolment without a network ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class OfflineRequest:
    """request.json: goes to the authority on a medium. It holds the claim code: a secret until it is used."""

    identity: Identity
    claim: str
    tls_csr: bytes
    event_csr: bytes

    def to_json(self) -> bytes:
        """The file's bytes."""
        value = {
            "version": OFFLINE_VERSION, "tenant": self.identity.tenant, "device": self.identity.device,
            "claim": self.claim, "tls_csr": _b64(self.tls_csr), "event_csr": _b64(self.event_csr),
        }  # fmt: skip
        return (json.dumps(value, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> OfflineRequest:
        """Raises EstError, IdentityError."""
        value = _object(data, "request")
        return cls(
            Identity(_text(value, "tenant"), _text(value, "device")), _text(value, "claim"),
            _unb64(value, "tls_csr"), _unb64(value, "event_csr"),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class OfflineResponse:
    """response.json: what `simpleenroll`, `cacerts` and `node` together answer. It holds no secret."""

    tls_crt: bytes
    """PEM: the device's TLS certificate, then its issuer's."""
    event_crt: bytes
    """PEM."""
    ca_crt: bytes
    """PEM: the root, whose fingerprint the technician compares."""
    trust: dict[str, Any]
    uplink: dict[str, Any]

    def to_json(self) -> bytes:
        """The file's bytes."""
        value = {
            "version": OFFLINE_VERSION, "tls_crt": self.tls_crt.decode(),
            "event_crt": self.event_crt.decode(), "ca_crt": self.ca_crt.decode(),
            "trust": self.trust, "uplink": self.uplink,
        }  # fmt: skip
        return (json.dumps(value, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> OfflineResponse:
        """Raises EstError."""
        value = _object(data, "response")
        trust, uplink = value.get("trust"), value.get("uplink")
        if not isinstance(trust, dict) or not isinstance(uplink, dict):
            raise EstError("the response file has no trust or no uplink")
        tls, event, root = (_text(value, name).encode() for name in ("tls_crt", "event_crt", "ca_crt"))
        return cls(tls, event, root, trust, uplink)


def node_json(identity: Identity, trust: dict[str, Any], uplink: dict[str, Any]) -> bytes:
    """The answer to NODE."""
    value = {"tenant": identity.tenant, "device": identity.device, "trust": trust, "uplink": uplink}
    return (json.dumps(value) + "\n").encode()


def read_node_json(data: bytes) -> tuple[Identity, dict[str, Any], dict[str, Any]]:
    """Identity, trust and uplink from the answer to NODE. Raises EstError."""
    value = _json(data, "answer")
    trust, uplink = value.get("trust"), value.get("uplink")
    if not isinstance(trust, dict) or not isinstance(uplink, dict):
        raise EstError("the server's answer has no trust or no uplink")
    try:
        return Identity(_text(value, "tenant"), _text(value, "device")), trust, uplink
    except IdentityError as error:
        raise EstError(f"the server's answer names nobody: {error}") from error


def _json(data: bytes, what: str) -> dict[str, Any]:
    if len(data) > MAX_OFFLINE:
        raise EstError(f"the {what} has {len(data)} bytes, at most {MAX_OFFLINE} are read")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EstError(f"the {what} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise EstError(f"the {what} is no JSON object")
    return value


def _object(data: bytes, what: str) -> dict[str, Any]:
    value = _json(data, f"{what} file")
    if value.get("version") != OFFLINE_VERSION:
        raise EstError(
            f"the {what} file is of version {str(value.get('version'))[:20]}, this is {OFFLINE_VERSION}: "
            "use the same release on both sides"
        )
    return value


def _text(value: dict[str, Any], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str):
        raise EstError(f"{name} is missing or not a text")
    return text


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unb64(value: dict[str, Any], name: str) -> bytes:
    return decode_der(_text(value, name).encode())

"""TLS of MQTT clients: our certificate, and the broker's checked against our authority and its name."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any, Final

from edge.errors import ConfigError
from provisioning.ca import Purpose
from provisioning.runtime.keystore import pair

REJECTED: Final = (
    "the broker may not accept this node's certificate keys/tls.crt (of another authority, expired or "
    "revoked); the broker's log says so, and enrolling this node again replaces it"
)
"""TLS 1.3 has the client finish first, so that a rejected certificate looks like a connection that ends."""
_EXPIRED, _NOT_YET, _NAME = 10, 9, 62
"""X509_V_ERR_* of OpenSSL: CERT_HAS_EXPIRED, CERT_NOT_YET_VALID, HOSTNAME_MISMATCH."""


class NamedContext(ssl.SSLContext):
    """Checks the server's certificate for `name`, whatever address was connected to."""

    name: str | None = None

    def wrap_socket(self, sock: socket.socket, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """As ssl.SSLContext, with the server's name replaced."""
        if self.name is not None:
            kwargs["server_hostname"] = self.name
        return super().wrap_socket(sock, *args, **kwargs)


def client_context(keys: Path, server_name: str | None) -> ssl.SSLContext:
    """TLS 1.2 or later with `tls.key`, `tls.crt` and `ca.crt` of the folder `keys`.

    A credential that systemd gave this process goes before the file. Raises ConfigError when one of them
    cannot be used.
    """
    context = NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.name = server_name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(keys / "ca.crt")
        key, certificate = pair(Purpose.TLS, keys)
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the TLS keys in {keys} cannot be used ({error}): enrol this node first"
        ) from error
    return context


def advice(error: OSError) -> str | None:
    """What to do about an error of the TLS handshake; None when `error` is no such one."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (_EXPIRED, _NOT_YET):
            return f"the broker's certificate is not valid now ({error}): renew it, or set this clock"
        if error.verify_code == _NAME:
            return f"the broker's certificate has another name ({error}): correct server_name"
        return (
            f"the broker's certificate is not by the authority in keys/ca.crt ({error}): ask the broker's "
            "operator for the authority's ca.crt, or enrol this node again"
        )
    if isinstance(error, (ssl.SSLError, ConnectionResetError)) or "handshake" in str(error):
        return f"the TLS handshake failed ({error}): {REJECTED}"
    return None

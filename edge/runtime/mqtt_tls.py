"""TLS of MQTT clients: our certificate, and the broker's checked against our authority and its name."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

from edge.errors import ConfigError


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

    Raises ConfigError when one of them cannot be used.
    """
    context = NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.name = server_name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(keys / "ca.crt")
        context.load_cert_chain(keys / "tls.crt", keys / "tls.key")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the TLS keys in {keys} cannot be used ({error}): enrol this node first"
        ) from error
    return context

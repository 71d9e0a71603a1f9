"""Who somebody is: tenant and device, as written in certificates and topics, and nothing looser.

In a certificate the identity is exactly one URI in the subject alternative name (RFC 5280 section 4.2.1.6):
`urn:holdfast:<tenant>:<device>`. Names are 1 to 63 of `a-z0-9-`, beginning with a letter or digit, so that
a name can never hold a topic's wildcard or separator. The device name `collector` means the tenant's
collector; the tenant `cloud` means a collector of all tenants.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from provisioning.errors import IdentityError

NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
COLLECTOR: Final = "collector"
"""Reserved device name: no node may carry it."""
CLOUD: Final = "cloud"
"""Reserved tenant name: a collector that serves all tenants."""
MAX_BROKER_NAME: Final = 64
"""Longest common name of a certificate (ub-common-name, RFC 5280 appendix A.1)."""
_URN: Final = "urn:holdfast:"


@dataclass(frozen=True, slots=True)
class Identity:
    """One party. Raises IdentityError for names outside of the grammar."""

    tenant: str
    device: str

    def __post_init__(self) -> None:
        for what, name in (("tenant", self.tenant), ("device", self.device)):
            if not NAME.fullmatch(name):
                raise IdentityError(f"{what} {name!r:.80}: 1 to 63 lower-case letters, digits and hyphens")

    @property
    def urn(self) -> str:
        """As it stands in certificates."""
        return f"{_URN}{self.tenant}:{self.device}"

    @property
    def client_id(self) -> str:
        """The MQTT client identifier of this party: the dot cannot occur in a name."""
        return f"{self.tenant}.{self.device}"

    @property
    def broker_name(self) -> str:
        """`<tenant>/<device>`: the common name of its TLS certificate, so that a broker whose access rules
        know only the common name can put it into a topic as it stands (`provisioning.mosquitto`).

        Raises IdentityError where a common name cannot hold it whole: cut off, it could be another's.
        """
        name = f"{self.tenant}/{self.device}"
        if len(name) > MAX_BROKER_NAME:
            raise IdentityError(
                f"{self.urn}: tenant and device have {len(name) - 1} characters together, at most "
                f"{MAX_BROKER_NAME - 1}: choose shorter names"
            )
        return name

    @property
    def is_collector(self) -> bool:
        """Takes segments in and gives receipts out."""
        return self.device == COLLECTOR


def parse_urn(urn: str) -> Identity:
    """The identity of `urn`. Raises IdentityError."""
    if not urn.startswith(_URN):
        raise IdentityError(f"{urn!r:.120} is not of the form {_URN}<tenant>:<device>")
    tenant, colon, device = urn.removeprefix(_URN).partition(":")
    if not colon:
        raise IdentityError(f"{urn!r:.120} is not of the form {_URN}<tenant>:<device>")
    return Identity(tenant, device)


def identity_of(certificate: x509.Certificate) -> Identity:
    """The identity in `certificate`, whose chain somebody else has checked.

    Raises IdentityError unless there is exactly one URI and it has our form: with two, two readers could
    see two parties.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise IdentityError("the certificate has no subject alternative name") from error
    except (ValueError, x509.DuplicateExtension) as error:
        raise IdentityError(f"the certificate's extensions cannot be read: {error}") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise IdentityError(f"the certificate names {len(uris)} URIs; an identity is exactly one")
    return parse_urn(uris[0])

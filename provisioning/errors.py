"""Errors of provisioning, split by who must act.

ProvisioningError
├── IdentityError     a name, certificate or its chain does not say who this is, in the way we write it
├── LabError          the folder: keys are already there, or it cannot be written
├── ClaimError        what was typed or scanned is no claim code
├── CsrError          a certificate request that nobody should certify
├── EstError          an answer or a file of enrolment that cannot be read
├── Refusal           enrolment was refused: a code for programs, a sentence and what to do for people
├── EnrolError        this node cannot be enrolled or renewed as asked: an exit code and what to do
├── BrokerError       the broker cannot be configured as asked
└── CaError           the certificate authority's folder or register cannot be used as it is
    └── CaConfigError ca.toml cannot be meant
"""

from __future__ import annotations


class ProvisioningError(Exception):
    """Base of every error this package raises."""


class IdentityError(ProvisioningError):
    """A name or certificate does not say who this is."""


class LabError(ProvisioningError):
    """The folder cannot take a lab's key material."""


class ClaimError(ProvisioningError):
    """What was typed or scanned is no claim code. Its text never holds what was typed."""


class CsrError(ProvisioningError):
    """A certificate request that nobody should certify."""


class EstError(ProvisioningError):
    """An answer or a file of enrolment that cannot be read."""


class Refusal(ProvisioningError):
    """Enrolment was refused. `status` is of HTTP (RFC 9110 section 15), `code` is for programs."""

    def __init__(self, status: int, code: str, detail: str, remedy: str) -> None:
        super().__init__(f"{detail}: {remedy}")
        self.status = status
        self.code = code
        self.detail = detail
        self.remedy = remedy


class EnrolError(ProvisioningError):
    """This node cannot be enrolled or renewed as asked. `exit_code` is one of `enrolment.Exit`."""

    def __init__(self, exit_code: int, detail: str, remedy: str) -> None:
        super().__init__(f"{detail}: {remedy}")
        self.exit_code = exit_code
        self.detail = detail
        self.remedy = remedy


class BrokerError(ProvisioningError):
    """The broker cannot be configured as asked: a value, a foreign file, a certificate or list that ended."""


class CaError(ProvisioningError):
    """The certificate authority's folder or register cannot be used as it is."""


class CaConfigError(CaError):
    """ca.toml cannot be meant."""

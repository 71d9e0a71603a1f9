"""Errors of provisioning, split by who must act.

ProvisioningError
├── IdentityError     a name, certificate or its chain does not say who this is, in the way we write it
└── LabError          the folder: keys are already there, or it cannot be written
"""

from __future__ import annotations


class ProvisioningError(Exception):
    """Base of every error this package raises."""


class IdentityError(ProvisioningError):
    """A name or certificate does not say who this is."""


class LabError(ProvisioningError):
    """The folder cannot take a lab's key material."""

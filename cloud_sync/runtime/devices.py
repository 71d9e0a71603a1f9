"""The folder of event certificates: `devices/<tenant>/<device>.crt`, each issued by the device CA."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud_sync.collector import DeviceCertificate, Registry, read_certificate
from cloud_sync.errors import CertificateError, ConfigError

MAX_CERTIFICATE_BYTES: Final = 16 * 1024
"""A P-256 certificate has about 700 bytes in PEM; a file may hold several (rotated keys)."""


def load_ca(path: Path) -> x509.Certificate:
    """The device CA. Raises ConfigError."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"device CA {path}: {error}; it must be a PEM certificate") from error


def load_devices(folder: Path, ca: x509.Certificate) -> tuple[Registry, list[str]]:
    """Every certificate that is in order, and a sentence for every file that is not."""
    good: list[DeviceCertificate] = []
    problems: list[str] = []
    for path in sorted(folder.glob("*/*.crt")):
        try:
            good += _load(path, ca)
        except (OSError, ValueError, CertificateError) as error:
            problems.append(f"{path}: {error}")
    return Registry(good), problems


def _load(path: Path, ca: x509.Certificate) -> list[DeviceCertificate]:
    data = path.read_bytes()
    if len(data) > MAX_CERTIFICATE_BYTES:
        raise CertificateError(f"{len(data)} bytes, at most {MAX_CERTIFICATE_BYTES}")
    found = []
    for certificate in x509.load_pem_x509_certificates(data):
        read = read_certificate(certificate.public_bytes(Encoding.DER), ca)
        if (read.tenant, read.device) != (path.parent.name, path.stem):
            raise CertificateError(f"it names {read.tenant}/{read.device}, its place is another device's")
        found.append(read)
    return found

"""Keys and certificates as files: whole or not at all, durable, keys for their owner alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from provisioning import ca
from provisioning.errors import CaError

_MAX_FILE: Final = 64 * 1024
"""No key or certificate of ours is larger; what is, was not written by us."""


def key_pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey, passphrase: bytes = b"") -> bytes:
    """A private key as PKCS#8 PEM, encrypted where there is a passphrase."""
    how = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


def pem(*certificates: x509.Certificate) -> bytes:
    """Certificates as PEM, one after another."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def write_file(path: Path, data: bytes, *, mode: int = 0o600, replace: bool = False) -> bool:
    """Write `path` whole or not at all, and durably; missing folders are made 0700.

    Without `replace` a file that is there stays as it is, and the answer is False. Raises OSError.
    """
    _make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)  # whatever the umask is
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def sweep(folder: Path) -> None:
    """Remove what killed runs left half written below `folder`; a key among it was never in use."""
    for path in folder.rglob(".*.tmp"):
        owner = path.name.split(".")[-2]
        if not owner.isdigit() or _runs(int(owner)):
            continue
        path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Make names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folder(folder: Path) -> None:
    for missing in reversed([f for f in (folder, *folder.parents) if not f.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


def read_file(path: Path) -> bytes:
    """The file's bytes. Raises CaError where it is missing or no file of ours; OSError."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CaError(f"{path} is missing: restore it from your backup of the authority's folder") from error
    if len(data) > _MAX_FILE:
        raise CaError(f"{path} is larger than any key or certificate: it is not ours")
    return data


def read_key(path: Path, passphrase: bytes = b"") -> ec.EllipticCurvePrivateKey:
    """A P-256 key that only its owner may read. Raises CaError, OSError."""
    data = read_file(path)
    if path.stat().st_mode & 0o077:
        raise CaError(f"{path} can be read by others: chmod 600 {path}, and ask who has read it")
    try:
        key = load_pem_private_key(data, passphrase or None)
    except (ValueError, TypeError) as error:
        raise CaError(
            f"{path} cannot be read as a private key, or its passphrase is another: {error}"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CaError(f"{path} is no P-256 key: it is not ours")
    return key


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file. Raises CaError, OSError."""
    try:
        return x509.load_pem_x509_certificate(read_file(path))
    except ValueError as error:
        raise CaError(f"{path} is no certificate: {error}") from error


def keep_key(path: Path, passphrase: bytes = b"") -> ec.EllipticCurvePrivateKey:
    """The key at `path`; made where there is none. Raises CaError, OSError."""
    if not path.exists():
        write_file(path, key_pem(ca.new_key(), passphrase))
    return read_key(path, passphrase)

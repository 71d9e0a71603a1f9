"""Where a node's keys lie, how a pair is exchanged in one step, and the ladder of places a key may be in.

    keys/ca.crt                          the pinned root
    keys/tls.key, keys/tls.crt           links into keys/tls/
    keys/tls -> pairs/tls/1              the pair in force; turning this one link exchanges both files at once
    keys/pairs/tls/1/{tls.key,tls.crt}
    keys/pairs/tls/next/                 a pair that is being made; it gets its number when it is whole
    keys/old/event-<serial>.crt          replaced event certificates: what they signed stays provable

and the same with `event`; one rule of a service (InaccessiblePaths=keys/pairs/event) hides all its keys from
another. Plain files `keys/tls.key`, `keys/tls.crt` are read as well; the first renewal makes a pair of them.

Why an exchange survives kill -9 and loss of power at any moment: a pair gets its number by one rename, after
both its files were synced, so every pair with a number is whole. The link is turned by one rename. Before
it both names lead to the old pair, after it both to the new one; there is no moment between.

A key may lie in three places, looked for in this order: `$CREDENTIALS_DIRECTORY/holdfast-<name>` (systemd
gave it to this service), `keys/<name>`, and `<credentials>/holdfast-<name>`, encrypted for this host by
systemd-creds, which root alone can open.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from provisioning import ca
from provisioning.ca import Purpose
from provisioning.enrolment import Exit
from provisioning.errors import EnrolError
from provisioning.runtime.journal import Files

PREFIX: Final = "holdfast-"
"""Credentials of other services share the name space of a host."""
CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"
"""Where systemd puts a service's credentials, systemd.exec(5)."""
MAX_FILE: Final = 64 * 1024
"""No key or certificate file of ours is larger."""
_CREDS_TIMEOUT_S: Final = 60
"""Seconds for systemd-creds; a TPM needs one or two."""


def load(name: str, keys: Path, environment: Mapping[str, str] | None = None) -> bytes:
    """The bytes of key or certificate `name` (tls.key, event.crt ...). Raises FileNotFoundError, OSError.

    A credential that systemd gave this process goes before the file in `keys`.
    """
    return locate(name, keys, environment).read_bytes()


def locate(name: str, keys: Path, environment: Mapping[str, str] | None = None) -> Path:
    """Where `load` reads `name`."""
    folder = (os.environ if environment is None else environment).get(CREDENTIALS)
    if folder and (given := Path(folder) / f"{PREFIX}{name}").is_file():
        return given
    return keys / name


def pair(purpose: Purpose, keys: Path, environment: Mapping[str, str] | None = None) -> tuple[Path, Path]:
    """Key and certificate of one pair, for readers that open both.

    The links in `keys` are followed once, for both, so that nobody gets the key of one pair and the
    certificate of the next. A credential is a copy from the start of the service: where a renewal has
    overtaken it, the pair in `keys` is taken if it is whole.
    """
    name = purpose.value
    key = locate(f"{name}.key", keys, environment)
    crt = locate(f"{name}.crt", keys, environment)
    here = (keys / f"{name}.key").resolve()
    whole = (here, here.with_name(f"{name}.crt"))
    if key.parent == crt.parent == keys or (key.parent != crt.parent and all(f.is_file() for f in whole)):
        return whole
    return key, crt


@dataclass(frozen=True, slots=True)
class Keystore:
    """The keys of one state folder."""

    state: Path
    files: Files
    credentials: str = ""
    """Folder of encrypted credentials, or empty."""

    @property
    def keys(self) -> Path:
        """The folder of keys."""
        return self.state / "keys"

    # --- making --------------------------------------------------------------------------------------

    def ensure_key(self, purpose: Purpose) -> bool:
        """Make the key of `purpose` where there is none anywhere. True: it was made now. Raises OSError.

        The key is synced before a link leads to it, and a key that is there is never replaced.
        """
        name = purpose.value
        if self.has_key(purpose):
            return False
        folder = self.keys / "pairs" / name / "1"
        self.files.folder(folder)
        made = self.files.put(folder / f"{name}.key", key_pem(ca.new_key()), replace=False)
        self._link(purpose, 1)
        return made

    def _link(self, purpose: Purpose, number: int) -> None:
        name = purpose.value
        self.files.point(self.keys / name, f"pairs/{name}/{number}")
        for ending in ("crt", "key"):
            self.files.point(self.keys / f"{name}.{ending}", f"{name}/{name}.{ending}")

    def has_key(self, purpose: Purpose) -> bool:
        """Whether the key lies in any of its places."""
        name = f"{purpose.value}.key"
        return locate(name, self.keys).is_file() or (bool(self.credentials) and self._sealed(name).is_file())

    def put_certificate(self, purpose: Purpose, data: bytes) -> None:
        """Write the certificate beside its key, replacing an earlier one for the same key. Raises OSError."""
        path = self.keys / f"{purpose.value}.crt"
        if purpose is Purpose.EVENT and path.is_file() and (old := path.read_bytes()) != data:
            with contextlib.suppress(ValueError):  # a damaged file has no certificate to keep
                self.keep_old(x509.load_pem_x509_certificate(old))
        self.files.put(path.resolve() if path.is_symlink() else path, data)

    def keep_old(self, certificate: x509.Certificate) -> None:
        """Keep an event certificate that is replaced, in keys/old/. Raises OSError."""
        self.files.folder(self.keys / "old")
        path = self.keys / "old" / f"event-{certificate.serial_number:x}.crt"
        self.files.put(path, certificate_pem(certificate), replace=False)

    # --- reading -------------------------------------------------------------------------------------

    def key(self, purpose: Purpose) -> ec.EllipticCurvePrivateKey:
        """The private key. Raises EnrolError for one that others can read or that is none, OSError."""
        return self._find_key(purpose)[1]

    def _find_key(self, purpose: Purpose) -> tuple[Path | None, ec.EllipticCurvePrivateKey]:
        """Where the key lies, None for sealed, and the key: the certificate's, where there is one."""
        name = f"{purpose.value}.key"
        path, _ = pair(purpose, self.keys)
        sealed = bool(self.credentials) and self._sealed(name).is_file()
        if path.is_file():
            key = read_key(path, ours=path.is_relative_to(self.state.resolve()))
            there = self.certificates(f"{purpose.value}.crt")
            if not sealed or not there or there[0].public_key() == key.public_key():
                return path, key
        return None, parse_key(self._decrypt(name), name)

    def _sealed(self, name: str) -> Path:
        return Path(self.credentials) / f"{PREFIX}{name}"

    def certificates(self, name: str) -> list[x509.Certificate]:
        """The certificates in keys/`name`; none where it is not there yet. Raises EnrolError, OSError."""
        path = locate(name, self.keys)
        if not path.is_file():
            return []
        return read_certificates(path)

    @contextlib.contextmanager
    def tls_pair(self) -> Iterator[tuple[Path, Path]]:
        """Paths of TLS key and certificate, as OpenSSL wants them; a sealed key only in memory."""
        path, key = self._find_key(Purpose.TLS)
        _, crt = pair(Purpose.TLS, self.keys)
        if path is not None:
            yield path, crt
            return
        handle = os.memfd_create("tls.key", os.MFD_CLOEXEC)
        try:
            os.write(handle, key_pem(key))
            yield Path(f"/proc/self/fd/{handle}"), crt
        finally:
            os.close(handle)

    def problems(self) -> list[str]:
        """What is wrong with modes below keys/, in words: keys 0600, folders 0700."""
        found = []
        for path in (self.keys, *self.keys.rglob("*")):
            if path.is_symlink():
                continue
            mode = stat.S_IMODE(path.stat().st_mode)
            wanted = 0o700 if path.is_dir() else 0o600
            if mode & ~wanted & 0o077 and (path.is_dir() or path.suffix in (".key", ".tmp")):
                found.append(f"{path} has mode {mode:04o}: chmod {wanted:o} {path}, and ask who has read it")
        return found

    # --- credentials ---------------------------------------------------------------------------------

    def seal(self, folder: Path) -> list[Path]:
        """Encrypt both keys for this host into `folder` and remove the plain files. The files written.

        A plain key goes only when its encrypted form was opened again and is the same. Raises EnrolError
        where systemd-creds is missing or fails, OSError.
        """
        done = []
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for purpose in Purpose:
            name = f"{purpose.value}.key"
            plain, sealed = self.keys / name, folder / f"{PREFIX}{name}"
            if not plain.is_file():
                continue
            data = plain.read_bytes()
            self.files.put(sealed, _creds("encrypt", f"{PREFIX}{name}", data))
            if _creds("decrypt", f"{PREFIX}{name}", sealed.read_bytes()) != data:
                raise EnrolError(
                    Exit.UNVERIFIED, f"{sealed} does not open to the key it was made of",
                    "the plain key was kept; see `systemd-creds setup` and run again",
                )  # fmt: skip
            self.files.remove(plain.resolve())
            done.append(sealed)
        return done

    def _decrypt(self, name: str) -> bytes:
        if not self.credentials or not self._sealed(name).is_file():
            raise EnrolError(
                Exit.USAGE, f"{self.keys / name} is not there", "enrol this node: holdfast provision --help"
            )
        return _creds("decrypt", f"{PREFIX}{name}", self._sealed(name).read_bytes())


def _creds(verb: str, name: str, data: bytes) -> bytes:
    tool = shutil.which("systemd-creds")
    if tool is None:
        raise EnrolError(
            Exit.USAGE,
            "systemd-creds is not on this host",
            "leave --credentials away: keys are then 0600 files",
        )
    try:
        done = subprocess.run(
            [tool, f"--name={name}", verb, "-", "-"],
            input=data, capture_output=True, timeout=_CREDS_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise EnrolError(Exit.FAILURE, f"systemd-creds {verb} does not end", "see its TPM") from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()[-200:]
        raise EnrolError(
            Exit.FAILURE,
            f"systemd-creds {verb} failed ({said})",
            "run this as root; see `systemd-creds setup`",
        )
    return done.stdout


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificate_pem(*certificates: x509.Certificate) -> bytes:
    """Certificates as PEM, one after another."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def read_key(path: Path, *, ours: bool = True) -> ec.EllipticCurvePrivateKey:
    """A P-256 key of mode 0600 (`ours`) or a credential of any mode. Raises EnrolError, OSError.

    Credentials of systemd are 0440 with an access list: their folder is what protects them.
    """
    if ours and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        raise EnrolError(
            Exit.UNVERIFIED, f"{path} has mode {mode:04o}: others can read the key",
            f"chmod 600 {path}; if anybody may have read it, ask for a new claim code and enrol anew",
        )  # fmt: skip
    return parse_key(path.read_bytes(), str(path))


def parse_key(data: bytes, what: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in PEM. Raises EnrolError."""
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise EnrolError(
            Exit.UNVERIFIED, f"{what} is no private key in PEM",
            "restore it, or move the state folder away and enrol anew with a new claim code",
        ) from error  # fmt: skip
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise EnrolError(
            Exit.UNVERIFIED, f"{what} is no P-256 key", "it is not ours: restore the one made here"
        )
    return key


def read_certificates(path: Path) -> list[x509.Certificate]:
    """All certificates of a PEM file. Raises EnrolError, OSError."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    try:
        return x509.load_pem_x509_certificates(data[:MAX_FILE])
    except ValueError as error:
        raise EnrolError(
            Exit.UNVERIFIED, f"{path} holds no certificate in PEM", "give the authority's ca.crt (PEM)"
        ) from error

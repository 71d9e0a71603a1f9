"""Where a node's keys lie, how a pair is exchanged in one step, and the ladder of places a key may be in.

    keys/ca.crt                          the pinned root
    keys/tls.key, keys/tls.crt           links into keys/tls/
    keys/tls -> pairs/tls/1              the pair in force; turning this one link exchanges both files at once
    keys/pairs/tls/1/{tls.key,tls.crt}
    keys/pairs/tls/next/                 a pair that is being made; it gets its number when it is whole
    keys/old/event-<serial>.crt          replaced event certificates: what they signed stays provable
    certs/{tls,event,ca}.crt             copies of what is public, for readers that shall see no key

and the same with `event`; one rule of a service (InaccessiblePaths=keys/pairs/event) hides all its keys from
another. Plain files `keys/tls.key`, `keys/tls.crt` are read as well; the first renewal makes a pair of them.

Why an exchange survives kill -9 and loss of power at any moment: a pair gets its number by one rename, after
both its files were synced, so every pair with a number is whole. The link is turned by one rename. Before
it both names lead to the old pair, after it both to the new one; there is no moment between.

A link below keys/ that is none of these is refused: it could lead root to a file that is not the node's, or
the uplink to the event key. Root reads and writes here as the owner of the state folder.

A key may lie in three places, looked for in this order: `$CREDENTIALS_DIRECTORY/holdfast-<name>` (systemd
gave it to this service), `keys/<name>`, and `<credentials>/holdfast-<name>`, encrypted for this host by
systemd-creds, which root alone can open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
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
from provisioning.runtime.owner import as_root, kept_by_root, read_beneath

PREFIX: Final = "holdfast-"
"""Credentials of other services share the name space of a host."""
CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"
"""Where systemd puts a service's credentials, systemd.exec(5)."""
CERTS: Final = "certs"
"""Below the state folder; a service that needs certificates alone is shown this, and not keys/."""
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


def public(name: str, state: Path) -> bytes:
    """Certificate `name` (tls.crt, event.crt, ca.crt) for a reader that may be shown certs/ and not keys/.

    Of a node whose store has made no copies yet, the one in keys/. Raises FileNotFoundError, OSError.
    """
    try:
        return (state / CERTS / name).read_bytes()
    except FileNotFoundError:
        return load(name, state / "keys")


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

    @property
    def certs(self) -> Path:
        """The folder of public copies."""
        return self.state / CERTS

    # --- making --------------------------------------------------------------------------------------

    def ensure_key(self, purpose: Purpose) -> bool:
        """Make the key of `purpose` where there is none anywhere. True: it was made now. Raises OSError.

        The key is synced before a link leads to it, and a key that is there is never replaced.
        """
        name = purpose.value
        self.files.folder(self.keys / "pairs" / name)  # there before services start: a unit can hide it
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
        with self.files.acting():
            there = locate(name, self.keys).is_file()
        return there or self._is_sealed(name)

    def put_certificate(self, purpose: Purpose, data: bytes) -> None:
        """Write the certificate beside its key, replacing an earlier one for the same key.

        Raises EnrolError for a link that is not ours, OSError.
        """
        place = self.keys.joinpath(*self._parts(purpose, "crt"))
        if purpose is Purpose.EVENT and (old := self._there(purpose, "crt")) not in (None, data):
            with contextlib.suppress(ValueError):  # a damaged file has no certificate to keep
                self.keep_old(x509.load_pem_x509_certificate(old or b""))
        self.files.put(place, data)
        self.publish()

    def publish(self) -> None:
        """Bring certs/ to what is in force. Raises EnrolError for a link that is not ours, OSError."""
        with self.files.acting():
            found = {f"{purpose.value}.crt": self._there(purpose, "crt") for purpose in Purpose}
            if (self.keys / "ca.crt").is_file():
                found["ca.crt"] = read_beneath(self.keys, ("ca.crt",), MAX_FILE)[0]
            self.files.folder(self.certs)
            for name, data in found.items():
                path = self.certs / name
                if data is not None and (not path.is_file() or path.read_bytes() != data):
                    self.files.put(path, data)

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
        sealed = self._is_sealed(name)
        if (found := self._plain_key(purpose)) is not None:
            path, key = found
            certificate = self._readable(purpose) if sealed else None
            if certificate is None or certificate.public_key() == key.public_key():
                return path, key
        return None, parse_key(self._decrypt(name), name)

    def _plain_key(self, purpose: Purpose) -> tuple[Path, ec.EllipticCurvePrivateKey] | None:
        """The key that systemd gave this process, or that lies in keys/."""
        name = f"{purpose.value}.key"
        given = locate(name, self.keys)
        with self.files.acting():
            if given.parent != self.keys and pair(purpose, self.keys)[0] == given:
                return given, read_key(given, ours=False)
            path = self.keys.joinpath(*self._parts(purpose, "key"))
            if not path.is_file():
                return None
            data, mode = self._read(path)
        check_mode(path, mode)
        return path, parse_key(data, str(self.keys / name))

    def _readable(self, purpose: Purpose) -> x509.Certificate | None:
        """The certificate of `purpose`; none where it is not there, or damaged: it can be had again."""
        try:
            return next(iter(self.certificates(f"{purpose.value}.crt")), None)
        except EnrolError:
            return None

    # --- our links and no others ---------------------------------------------------------------------

    def _parts(self, purpose: Purpose, ending: str) -> tuple[str, ...]:
        """The way below keys/ to a file of `purpose`, through our own links. Raises EnrolError, OSError."""
        name = f"{purpose.value}.{ending}"
        with self.files.acting():
            self.check_link(self.keys / name)
            if not (self.keys / name).is_symlink():
                return (name,)
            folder = self.keys / purpose.value
            self.check_link(folder)
            if not folder.is_symlink():
                raise _strange(folder, "is no link to a pair")
            return (*folder.readlink().parts, name)

    def check_link(self, path: Path) -> None:
        """Raises EnrolError for a link below keys/ that this store would not make."""
        if not path.is_symlink():
            return
        name = path.name.removeprefix(".").removesuffix(".tmp")  # of a run that was killed
        target = path.readlink().as_posix()
        wanted = {p.value: rf"pairs/{p.value}/[0-9]+" for p in Purpose}
        wanted |= {f"{p.value}.{e}": rf"{p.value}/{p.value}\.{e}" for p in Purpose for e in ("key", "crt")}
        if path.parent != self.keys or name not in wanted or not re.fullmatch(wanted[name], target):
            raise _strange(path, f"is a link to {target}")

    def check_links(self) -> None:
        """Raises EnrolError for any such link."""
        with self.files.acting():
            for path in (self.keys, *self.keys.rglob("*")):
                self.check_link(path)

    def _there(self, purpose: Purpose, ending: str) -> bytes | None:
        """The bytes of a file of `purpose` in keys/; None where it is not there."""
        with self.files.acting():
            try:
                return self._read(self.keys.joinpath(*self._parts(purpose, ending)))[0]
            except FileNotFoundError:
                return None

    def _read(self, path: Path) -> tuple[bytes, int]:
        """Bytes and mode of a file below keys/, no link followed. Raises EnrolError, OSError."""
        try:
            return read_beneath(self.keys, path.relative_to(self.keys).parts, MAX_FILE)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise _strange(path, "is a link, or lies behind one") from error
            raise

    def certificates(self, name: str) -> list[x509.Certificate]:
        """The certificates in keys/`name`; none where it is not there yet. Raises EnrolError, OSError."""
        path = locate(name, self.keys)
        with self.files.acting():
            if not path.is_file():
                return []
            return read_certificates(
                path,
                f"move {path} away and run: holdfast provision (the key stays, a certificate is asked for)",
            )

    @contextlib.contextmanager
    def tls_pair(self) -> Iterator[tuple[Path, Path]]:
        """Paths of TLS key and certificate, as OpenSSL wants them; a sealed key only in memory."""
        path, key = self._find_key(Purpose.TLS)
        with self.files.acting():
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
        with self.files.acting():
            for path in (self.keys, *self.keys.rglob("*")):
                if path.is_symlink():
                    try:
                        self.check_link(path)
                    except EnrolError as error:
                        found.append(f"{error.detail}: {error.remedy}")
                    continue
                mode = stat.S_IMODE(path.stat().st_mode)
                wanted = 0o700 if path.is_dir() else 0o600
                if mode & ~wanted & 0o077 and (path.is_dir() or path.suffix in (".key", ".tmp")):
                    found.append(
                        f"{path} has mode {mode:04o}: chmod {wanted:o} {path}, and ask who has read it"
                    )
        return found

    # --- credentials ---------------------------------------------------------------------------------

    def seal(self, folder: Path) -> list[Path]:
        """Encrypt both keys for this host into `folder` and remove the plain files. The files written.

        A plain key goes only when its encrypted form was opened again and is the same. Raises EnrolError
        where systemd-creds is missing or fails, OSError.
        """
        done = []
        with as_root():
            folder = _roots_own(folder)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for purpose in Purpose:
            name = f"{purpose.value}.key"
            data = self._there(purpose, "key")
            if data is None:
                continue
            sealed = folder / f"{PREFIX}{name}"
            self.files.put(sealed, _creds("encrypt", f"{PREFIX}{name}", data))
            if self._open(sealed) != data:
                raise EnrolError(
                    Exit.UNVERIFIED, f"{sealed} does not open to the key it was made of",
                    "the plain key was kept; see `systemd-creds setup` and run again",
                )  # fmt: skip
            self.files.remove(self.keys.joinpath(*self._parts(purpose, "key")))
            done.append(sealed)
        return done

    def _is_sealed(self, name: str) -> bool:
        if not self.credentials:
            return False
        with as_root():
            return (_roots_own(Path(self.credentials)) / f"{PREFIX}{name}").is_file()

    def _decrypt(self, name: str) -> bytes:
        if not self._is_sealed(name):
            raise EnrolError(
                Exit.USAGE, f"{self.keys / name} is not there", "enrol this node: holdfast provision --help"
            )
        with as_root():
            return self._open(_roots_own(Path(self.credentials)) / f"{PREFIX}{name}")

    def _open(self, sealed: Path) -> bytes:
        with as_root():
            return _creds("decrypt", sealed.name, sealed.read_bytes())


def _roots_own(folder: Path) -> Path:
    """The folder of sealed keys. Where root works, it must be root's own: a journal of the node names it."""
    if os.getuid() != 0:
        return folder
    kept = kept_by_root(folder)
    if kept is None:
        raise EnrolError(
            Exit.UNVERIFIED, f"{folder} for the sealed keys can be changed by others than root",
            "choose one that is root's own, such as /etc/holdfast/credentials, with --credentials",
        )  # fmt: skip
    return kept


def _strange(path: Path, what: str) -> EnrolError:
    return EnrolError(
        Exit.UNVERIFIED, f"{path} {what}, which this node does not make; nothing was read through it",
        "remove it, ask who laid it there, and run: holdfast provision",
    )  # fmt: skip


def _creds(verb: str, name: str, data: bytes) -> bytes:
    tool = shutil.which("systemd-creds")
    if tool is None:
        raise EnrolError(
            Exit.USAGE,
            "systemd-creds is not on this host",
            "leave --credentials away: keys are then 0600 files",
        )
    try:
        with as_root():
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
    if ours:
        check_mode(path, stat.S_IMODE(path.stat().st_mode))
    return parse_key(path.read_bytes(), str(path))


def check_mode(path: Path, mode: int) -> None:
    """Raises EnrolError for a key that others can read."""
    if mode & 0o077:
        raise EnrolError(
            Exit.UNVERIFIED, f"{path} has mode {mode:04o}: others can read the key",
            f"chmod 600 {path}; if anybody may have read it, ask for a new claim code and enrol anew",
        )  # fmt: skip


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


def read_certificates(
    path: Path, remedy: str = "give the authority's ca.crt (PEM)"
) -> list[x509.Certificate]:
    """All certificates of a PEM file; `remedy` is said where it holds none. Raises EnrolError, OSError."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    try:
        return x509.load_pem_x509_certificates(data[:MAX_FILE])
    except ValueError as error:
        raise EnrolError(Exit.UNVERIFIED, f"{path} holds no certificate in PEM", remedy) from error

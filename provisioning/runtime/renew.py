"""`holdfast provision renew`: new keys, new certificates, exchanged in one step each; safe to kill anywhere.

    keys/pairs/<purpose>/next/    key, then certificate: resumed with the same key, until both pairs are whole
    keys/pairs/<purpose>/<n+1>    one rename brings the whole pair in
    keys/<purpose>                one rename of a link puts it in force

The order is: both keys, both certificates (over mTLS with the certificate in force), then event, then TLS.
Until the last moment the old pair works and nothing is lost by stopping; a folder in pairs/ that is newer
than the link is whole, so a later run only turns the link. Old certificates stay valid until their end:
there is no moment at which this node has none. `reload_due` in the journal outlives a kill between exchange
and reload.

Root does all this as the owner of the state folder, who may have laid links there; as root it only seals and
opens keys for this host and speaks to systemctl.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from provisioning import accept, ca
from provisioning.accept import Issued
from provisioning.ca import Purpose
from provisioning.csr import make_csr
from provisioning.enrolment import URGENT, Exit, Journal, Step, check_clock
from provisioning.errors import EnrolError
from provisioning.runtime import journal as journals
from provisioning.runtime.asked import Host, Outcome, Progress
from provisioning.runtime.est_client import EstClient, Server
from provisioning.runtime.journal import Files
from provisioning.runtime.keystore import (
    MAX_FILE,
    Keystore,
    certificate_pem,
    key_pem,
    read_certificates,
    read_key,
)
from provisioning.runtime.on_disk import STEP_OF, read_trust, verify
from provisioning.runtime.owner import as_owner, as_root, read_beneath

EXCHANGE: Final = (Purpose.EVENT, Purpose.TLS)
"""Event first: should TLS fail to come, the next run still can ask."""
KEPT_PAIRS: Final = 2
"""The pair in force and the one before: who followed the links just before still finds its files."""
UNITS: Final = ("holdfast-edge", "holdfast-roadside", "holdfast-uplink")
"""A node runs one of the first two; what does not run is left alone."""
_RELOAD_TIMEOUT_S: Final = 60
"""Seconds for systemctl; a reload of the edge takes less than one."""

Reload = Callable[[bool], tuple[bool, str]]
"""Tells the node's services of new keys, sealed ones if True; whether they heard, and a sentence."""


def reload_services(sealed: bool) -> tuple[bool, str]:
    """Reload the edge, or restart edge and uplink where keys are credentials: they are read at start only.

    The uplink reads its TLS files at each connection and needs no word.
    """
    verb, units = ("try-restart", UNITS) if sealed else ("try-reload-or-restart", UNITS[:2])
    command = f"systemctl {verb} {' '.join(units)}"
    tool = shutil.which("systemctl")
    if tool is None or not Path("/run/systemd/system").is_dir():
        return False, f"the edge takes the new key at its next start, or on SIGHUP (under systemd: {command})"
    try:
        done = subprocess.run(
            [tool, verb, *units], capture_output=True, timeout=_RELOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"`{command}` did not end: see `systemctl status {units[0]}`"
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()[:200]
        return (
            False,
            f"`{command}` failed ({said}): the edge signs with the old key until it is started again",
        )
    return True, f"told: {command}"


def renew(state: Path, host: Host, *, force: bool = False, reload: Reload = reload_services) -> Outcome:
    """Renew both pairs where two thirds of a life are over. Raises EnrolError, Refusal, OSError."""
    check_clock(host.now())
    with as_owner(state):
        return _renew(state, host, force, reload)


def _renew(state: Path, host: Host, force: bool, reload: Reload) -> Outcome:
    if not (state / journals.JOURNAL).is_file():
        raise EnrolError(Exit.USAGE, f"{state} holds no enrolled node", "enrol it: holdfast provision --help")
    with journals.only_one(state):
        journal = journals.load(state)
        if journal is None or journal.next_step is not None:
            step = journal.next_step.value if journal and journal.next_step else "check"
            raise EnrolError(
                Exit.USAGE, f"enrolment is unfinished, at step {step}", "finish it: holdfast provision"
            )
        return _Renewal(state, host, journal, reload).run(force=force)


class _Renewal:
    def __init__(self, state: Path, host: Host, journal: Journal, reload: Reload) -> None:
        self._state, self._host, self._journal, self._reload = state, host, journal, reload
        self._files = Files(state, host.after)
        self._store = Keystore(state, self._files, journal.credentials)
        self._keys = self._store.keys
        self._store.check_links()
        self._root = read_certificates(self._keys / "ca.crt")[0]

    def run(self, *, force: bool) -> Outcome:
        if self._journal.exchanging:  # a run was killed while it put whole pairs in force
            return self._exchange()
        current = {purpose: self._current(purpose) for purpose in Purpose}
        first_end = min(one.not_valid_after_utc for one in current.values())
        due_at = min(accept.renewal_at(one) for one in current.values())
        now = self._host.now()
        ready = all(self._ready(purpose) for purpose in Purpose)
        if (end := current[Purpose.TLS].not_valid_after_utc) <= now and not ready:
            raise EnrolError(
                Exit.REFUSED, f"the TLS certificate expired on {end:%Y-%m-%d}",
                "a new claim code is needed: holdfast provision --code CODE",
            )  # fmt: skip
        check_clock(now, self._root)
        if not force and now < due_at and not self._begun():
            self._store.publish()
            if self._journal.reload_due:
                self._tell_services()
            return self._outcome(
                f"not due before {due_at:%Y-%m-%d}; valid until {first_end:%Y-%m-%d}", first_end
            )
        try:
            self._obtain()
        except EnrolError as error:
            raise self._urgent(error, first_end - now < URGENT, first_end) from error
        return self._exchange()

    def _urgent(self, error: EnrolError, urgent: bool, end: datetime) -> EnrolError:
        """The error, loudly where little time is left."""
        if error.exit_code != Exit.FAILURE:
            return error
        said = f"; the certificates are good until {end:%Y-%m-%d} and the next run tries again"
        if urgent:
            said = (
                f"; URGENT: after {end:%Y-%m-%d %H:%M}Z this node can no longer report, nor renew by itself"
            )
        return EnrolError(error.exit_code, error.detail + said, error.remedy)

    # --- what is there -------------------------------------------------------------------------------

    def _current(self, purpose: Purpose) -> x509.Certificate:
        found = self._store.certificates(f"{purpose.value}.crt")
        if not found:
            raise EnrolError(
                Exit.UNVERIFIED,
                f"keys/{purpose.value}.crt is not there",
                "run: holdfast provision --code CODE",
            )
        return found[0]

    def _pairs(self, purpose: Purpose) -> Path:
        return self._keys / "pairs" / purpose.value

    def _next(self, purpose: Purpose) -> Path:
        return self._pairs(purpose) / "next"

    def _begun(self) -> bool:
        return any(self._next(purpose).is_dir() for purpose in Purpose)

    def _number(self, purpose: Purpose) -> int:
        """Of the pair in force; 0 where the files are plain."""
        link = self._keys / purpose.value
        return _number_of(link.readlink()) if link.is_symlink() else 0

    def _newest(self, purpose: Purpose) -> int:
        return max((_number_of(path) for path in self._pairs(purpose).glob("*")), default=0)

    # --- new keys and certificates -------------------------------------------------------------------

    def _obtain(self) -> None:
        """Bring both next pairs to be whole. Raises EnrolError, Refusal, OSError."""
        for purpose in Purpose:
            folder = self._next(purpose)
            self._files.folder(folder)
            self._files.put(folder / f"{purpose.value}.key", key_pem(ca.new_key()), replace=False)
        for purpose in Purpose:
            if self._ready(purpose) is None:
                self._ask(purpose)

    def _ready(self, purpose: Purpose) -> Issued | None:
        """The next certificate where it is whole and still good."""
        try:
            found = read_certificates(self._next(purpose) / f"{purpose.value}.crt")
            return self._judge(purpose, found, [*found[1:], self._device_ca()])
        except (FileNotFoundError, EnrolError):
            return None

    def _device_ca(self) -> x509.Certificate:
        return accept.check_trust(read_trust(self._state), self._root)

    def _judge(
        self, purpose: Purpose, found: list[x509.Certificate], issuers: list[x509.Certificate]
    ) -> Issued:
        public = read_key(self._next(purpose) / f"{purpose.value}.key").public_key()
        return accept.check_issued(
            purpose, found, issuers, self._root, public, self._journal.identity, self._host.now()
        )

    def _ask(self, purpose: Purpose) -> None:
        name = purpose.value
        key = read_key(self._next(purpose) / f"{name}.key")
        if not self._journal.server:
            raise EnrolError(
                Exit.USAGE, "this node was enrolled by files and knows no server",
                "name one once: holdfast provision --server https://ca.example:8443",
            )  # fmt: skip
        with self._store.tls_pair() as pair:
            client = EstClient(
                Server.parse(self._journal.server), self._root, pair=pair, sleep=self._host.sleep
            )
            found = client.reenroll(purpose, make_csr(key, self._journal.identity))
            issued = self._judge(purpose, found, found if len(found) > 1 else client.cacerts())
        chain = (issued.leaf, issued.issuer) if purpose is Purpose.TLS else (issued.leaf,)
        self._files.put(self._next(purpose) / f"{name}.crt", certificate_pem(*chain))
        self._tell(STEP_OF[purpose], f"new {name} key, certificate until {issued.until:%Y-%m-%d}")

    # --- the exchange --------------------------------------------------------------------------------

    def _exchange(self) -> Outcome:
        """Put the next pairs in force; begun again, it does what is left."""
        self._mark(exchanging=True, reload_due=True)
        for purpose in EXCHANGE:
            self._bring(purpose)
        self._tidy()
        self._store.publish()
        if self._journal.credentials:
            self._store.seal(Path(self._journal.credentials))
        found = verify(self._state, self._store, self._root, self._journal.identity, self._host.now())
        self._mark(exchanging=False, reload_due=True)
        self._tell_services()
        until = min(one.until for one in found.values())
        return self._outcome(f"renewed: both pairs are new, valid until {until:%Y-%m-%d}", until)

    def _bring(self, purpose: Purpose) -> None:
        name = purpose.value
        if self._next(purpose).is_dir():
            self._adopt(purpose)
            if purpose is Purpose.EVENT:
                self._store.keep_old(self._current(purpose))
            self._files.move(self._next(purpose), self._pairs(purpose) / str(self._newest(purpose) + 1))
        self._files.point(self._keys / name, f"pairs/{name}/{self._newest(purpose)}")

    def _adopt(self, purpose: Purpose) -> None:
        """Turn plain files into a pair: the same bytes under the same names at every moment."""
        name = purpose.value
        if self._number(purpose) == 0:
            folder = self._pairs(purpose) / "1"
            self._files.folder(folder)
            for ending in ("key", "crt"):
                plain = self._keys / f"{name}.{ending}"
                if plain.is_file():
                    self._files.put(folder / plain.name, read_beneath(self._keys, (plain.name,), MAX_FILE)[0])
            self._files.point(self._keys / name, f"pairs/{name}/1")
        for ending in ("crt", "key"):
            self._files.point(self._keys / f"{name}.{ending}", f"{name}/{name}.{ending}")

    def _tidy(self) -> None:
        """Remove the pairs before the one before."""
        for purpose in EXCHANGE:
            newest = self._newest(purpose)
            for path in self._pairs(purpose).glob("*"):
                if _number_of(path) <= newest - KEPT_PAIRS:
                    self._files.remove(path)

    def _tell_services(self) -> None:
        with as_root():  # only root may tell the service manager
            heard, said = self._reload(bool(self._journal.credentials))
        self._tell(Step.VERIFY, said)
        self._mark(reload_due=not heard)

    def _mark(self, *, exchanging: bool = False, reload_due: bool) -> None:
        self._journal = replace(self._journal, exchanging=exchanging, reload_due=reload_due)
        journals.save(self._files, self._state, self._journal)

    def _tell(self, step: Step, text: str) -> None:
        self._host.tell(Progress(step, "done", text))

    def _outcome(self, text: str, until: datetime) -> Outcome:
        identity = self._journal.identity
        fields = {
            "tenant": identity.tenant, "device": identity.device, "until": until.isoformat(),
            "reload_due": self._journal.reload_due,
        }  # fmt: skip
        return Outcome(Exit.OK, text, until, fields)


def _number_of(pair: Path) -> int:
    """The number of a pair's folder; 0 for another name."""
    return int(pair.name) if pair.name.isdigit() else 0

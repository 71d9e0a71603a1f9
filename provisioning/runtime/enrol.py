"""`holdfast provision`: brings a node from nothing to an identity, step by step, and again from anywhere.

Each step looks at what is there and makes only what is missing; nothing that came over the network is
written before `accept` has judged it. The claim code is in memory only: a run that is cut off before the
TLS certificate came is given it again, a later one needs none.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from provisioning import accept
from provisioning.accept import Issued
from provisioning.ca import Purpose
from provisioning.claim import digest, grouped, read_label
from provisioning.csr import make_csr
from provisioning.enrolment import (
    MEANING,
    ORDER,
    Exit,
    Journal,
    Step,
    check_clock,
    node_toml,
)
from provisioning.errors import EnrolError
from provisioning.est import MAX_OFFLINE
from provisioning.identity import Identity
from provisioning.runtime import journal as journals
from provisioning.runtime.asked import Ask, Host, Outcome, Progress, begin
from provisioning.runtime.est_client import EstClient, Server
from provisioning.runtime.journal import Files
from provisioning.runtime.keystore import Keystore, certificate_pem

STEP_OF: Final = {Purpose.TLS: Step.TLS, Purpose.EVENT: Step.EVENT}


def enrol(ask: Ask, host: Host) -> Outcome:
    """Enrol the node, or finish what was begun. Raises EnrolError, Refusal, ClaimError, OSError."""
    check_clock(host.now())
    files = Files(ask.state, host.after)
    if ask.dry_run:
        return _Run(ask, host, files, *begin(ask, host)).rehearse()
    files.make_state()
    with journals.only_one(ask.state):
        journal, root = begin(ask, host)
        if journal.next_step is not None and not host.confirm(journal):
            return Outcome(Exit.USAGE, "stopped, as you said; nothing was changed")
        return _Run(ask, host, files, journal, root).run()


class _Run:
    """One run over all steps."""

    def __init__(self, ask: Ask, host: Host, files: Files, journal: Journal, root: x509.Certificate) -> None:
        self._ask, self._host, self._files, self._journal, self._root = ask, host, files, journal, root
        self._store = Keystore(ask.state, files, journal.credentials)
        self._identity = journal.identity
        self._uplink: dict[str, Any] = {}

    # --- the whole -----------------------------------------------------------------------------------

    def run(self) -> Outcome:
        self._save()
        self._done(Step.CHECK, "done", f"{self._ask.state}; clock and root agree")
        made = [purpose.value for purpose in Purpose if self._store.ensure_key(purpose)]
        said = (
            f"made {' and '.join(made)} key on this node, for its own user only"
            if made
            else "both keys are here"
        )
        self._done(Step.KEYS, "done" if made else "kept", said)
        issued = {purpose: self._certificate(purpose) for purpose in Purpose}
        self._node(issued[Purpose.EVENT])
        self._config()
        if self._journal.credentials:
            for path in self._store.seal(Path(self._journal.credentials)):
                self._tell(Step.VERIFY, "note", f"sealed for this host: {path}; the plain key was removed")
        self._verify()
        until = min(one.until for one in issued.values())
        return enrolled(self._journal, until)

    def rehearse(self) -> Outcome:
        """Say what `run` would do."""
        for step in ORDER:
            there = step in self._journal.done and step not in (Step.CHECK, Step.VERIFY)
            self._tell(step, "kept" if there else "would", MEANING[step])
        who, where = self._identity.urn, self._journal.server or "no server named yet"
        return Outcome(Exit.OK, f"dry run: would enrol {who} at {where}; nothing was changed")

    def _tell(self, step: Step, state: str, text: str) -> None:
        self._host.tell(Progress(step, state, text))

    def _done(self, step: Step, state: str, text: str) -> None:
        self._journal = self._journal.after(step)
        self._save()
        self._host.after(f"step {step.value}")
        self._tell(step, state, text)

    def _save(self) -> None:
        journals.save(self._files, self._ask.state, self._journal)

    # --- certificates --------------------------------------------------------------------------------

    def _certificate(self, purpose: Purpose) -> Issued:
        """The certificate in force, or a new one for the key that is there."""
        step = STEP_OF[purpose]
        key = self._store.key(purpose)
        found = None if self._begins_anew(purpose) else self._there(purpose)
        if found is not None:
            if purpose is Purpose.TLS:
                self._pin()
            self._done(step, "kept", f"valid until {found.until:%Y-%m-%d}")
            return found
        csr = make_csr(key, self._identity)
        if purpose is Purpose.TLS:
            code = self._code()
            client = EstClient(self._server(), self._root, sleep=self._host.sleep)
            answer = client.enroll(purpose, csr, code)
            issued = self._judge(purpose, answer, client)
            self._pin()
            self._store.put_certificate(purpose, certificate_pem(issued.leaf, issued.issuer))
        else:
            with self._store.tls_pair() as pair:
                client = EstClient(self._server(), self._root, pair=pair, sleep=self._host.sleep)
                issued = self._judge(purpose, client.enroll(purpose, csr), client)
            self._store.put_certificate(purpose, certificate_pem(issued.leaf))
        self._done(step, "done", f"{MEANING[step]}, valid until {issued.until:%Y-%m-%d}")
        return issued

    def _begins_anew(self, purpose: Purpose) -> bool:
        """Whether another code than before is given, and the event certificate never came on the first.

        Then the TLS certificate goes back to a claim that the server may not know any more.
        """
        code = self._ask.code
        other = bool(code) and digest(code).hex() != self._journal.claim
        return purpose is Purpose.TLS and other and not self._store.certificates("event.crt")

    def _there(self, purpose: Purpose) -> Issued | None:
        """The certificate on disk where it is still good for this node; None where another is needed."""
        try:
            found = self._store.certificates(f"{purpose.value}.crt")
            issuers = [*found[1:], *self._authorities()]
            return self._check(purpose, found, issuers) if found and issuers else None
        except EnrolError as error:
            self._tell(STEP_OF[purpose], "note", f"asking for another certificate: {error.detail}")
            return None

    def _authorities(self) -> list[x509.Certificate]:
        """Issuers that trust.json names: event.crt stands alone."""
        try:
            return [accept.check_trust(read_trust(self._ask.state), self._root)]
        except (FileNotFoundError, EnrolError):
            return []

    def _judge(self, purpose: Purpose, answer: list[x509.Certificate], client: EstClient) -> Issued:
        alone = len(answer) == 1
        return self._check(purpose, answer, client.cacerts() if alone else answer)

    def _check(
        self, purpose: Purpose, found: list[x509.Certificate], issuers: list[x509.Certificate]
    ) -> Issued:
        public = self._store.key(purpose).public_key()
        return accept.check_issued(
            purpose, found, issuers, self._root, public, self._identity, self._host.now()
        )

    def _pin(self) -> None:
        """keys/ca.crt: from the first certificate on, the root stands."""
        path, data = self._store.keys / "ca.crt", certificate_pem(self._root)
        if not path.is_file() or path.read_bytes() != data:
            self._files.put(path, data)

    def _server(self) -> Server:
        if not self._journal.server:
            raise EnrolError(
                Exit.USAGE, "it is not said where to enrol", "give --server https://ca.example:8443"
            )
        return Server.parse(self._journal.server)

    def _code(self) -> str:
        code = self._ask.code
        if not code and self._host.ask_code is not None:
            code = read_label(self._host.ask_code()).code
        if not code:
            raise EnrolError(
                Exit.USAGE, "the TLS certificate needs a claim code",
                "give --code (or --code - to type it), or scan the label with --qr",
            )  # fmt: skip
        self._journal = with_claim(self._journal, code)
        self._save()
        return grouped(code)

    # --- node facts, configuration, verification -----------------------------------------------------

    def _node(self, event: Issued) -> None:
        path = self._ask.state / "trust.json"
        if self._authorities() and (self._ask.config.exists() or not self._journal.server):
            self._done(Step.NODE, "kept", "trust.json is here")
            return
        with self._store.tls_pair() as pair:
            client = EstClient(self._server(), self._root, pair=pair, sleep=self._host.sleep)
            named, trust, self._uplink = client.node()
        if named != self._identity:
            raise EnrolError(
                Exit.UNVERIFIED, f"the server takes this node for {named.urn}", "ask the administrator"
            )
        accept.check_uplink(self._uplink)
        authority = accept.check_trust(trust, self._root)
        self._check(Purpose.EVENT, [event.leaf], [authority])
        self._files.put(path, (json.dumps(trust, indent=1) + "\n").encode())
        broker = self._uplink.get("host", "none yet")
        self._done(Step.NODE, "done", f"trusts log {trust['origin']}; broker {broker}")

    def _config(self) -> None:
        path = self._ask.config
        made = write_config(self._files, path, self._journal, str(self._ask.state), self._uplink)
        self._done(
            Step.CONFIG, "done" if made else "kept", f"{path}{'' if made else ' was here and stays as it is'}"
        )

    def _verify(self) -> None:
        verify(self._ask.state, self._store, self._root, self._identity, self._host.now())
        self._done(Step.VERIFY, "done", MEANING[Step.VERIFY])


def with_claim(journal: Journal, code: str) -> Journal:
    """The journal, with the hash of the code that is used."""
    return replace(journal, claim=digest(code).hex())


def write_config(files: Files, path: Path, journal: Journal, state: str, uplink: dict[str, Any]) -> bool:
    """Write node.toml where there is none. True: it was written. Raises OSError."""
    if path.exists():
        return False
    files.folder(path.parent)
    text = node_toml(journal.identity, journal.kind, state, uplink)
    return files.put(path, text.encode(), mode=0o644, replace=False)


def read_trust(state: Path) -> dict[str, Any]:
    """trust.json of a state folder. Raises EnrolError, OSError."""
    try:
        with (state / "trust.json").open("rb") as file:
            value = json.loads(file.read(MAX_OFFLINE + 1))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise EnrolError(Exit.UNVERIFIED, "trust.json is no JSON object", "run: holdfast provision")
    return value


def verify(
    state: Path, store: Keystore, root: x509.Certificate, identity: Identity, now: datetime
) -> dict[Purpose, Issued]:
    """Everything on disk once more, as services will read it. Raises EnrolError, OSError."""
    authority = accept.check_trust(read_trust(state), root)
    found = {}
    for purpose in Purpose:
        there = store.certificates(f"{purpose.value}.crt")
        public = store.key(purpose).public_key()
        found[purpose] = accept.check_issued(
            purpose, there, [*there[1:], authority], root, public, identity, now
        )
    if problems := store.problems():
        raise EnrolError(Exit.UNVERIFIED, problems[0], "then run again")
    return found


def enrolled(journal: Journal, until: datetime) -> Outcome:
    """The good end."""
    text = f"{journal.identity.urn} is enrolled until {until:%Y-%m-%d}"
    who = {"tenant": journal.identity.tenant, "device": journal.identity.device, "until": until.isoformat()}
    return Outcome(Exit.OK, text, until, who)

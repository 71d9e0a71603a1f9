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
from typing import Any

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
from provisioning.errors import EnrolError, Refusal
from provisioning.runtime import journal as journals
from provisioning.runtime.anew import begins_anew, certify, is_another, replace_keys
from provisioning.runtime.asked import Ask, Host, Outcome, Progress, begin
from provisioning.runtime.est_client import EstClient, Server
from provisioning.runtime.journal import Files
from provisioning.runtime.keystore import Keystore, certificate_pem
from provisioning.runtime.on_disk import STEP_OF, read_trust, verify
from provisioning.runtime.renew import renew


def enrol(ask: Ask, host: Host) -> Outcome:
    """Enrol the node, or finish what was begun; an enrolled one with another code anew, with new keys.

    Raises EnrolError, Refusal, ClaimError, OSError.
    """
    check_clock(host.now())
    files = Files(ask.state, host.after)
    if ask.dry_run:
        return _Run(ask, host, files, *begin(ask, host)).rehearse()
    files.make_state()
    with journals.only_one(ask.state):
        journal, root = begin(ask, host)
        again = begins_anew(ask, journal)
        if (journal.next_step is not None or again) and not host.confirm(journal):
            return Outcome(Exit.USAGE, "stopped, as you said; nothing was changed")
        if not journal.exchanging:
            with files.acting():
                if not again:
                    return _Run(ask, host, files, journal, root).run()
                certify(ask, host, files, journal, root)
    renew(ask.state, host)  # puts whole pairs in force: those made now, or of a run that was killed there
    return enrol(ask, replace(host, confirm=lambda _: True))


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
        self._store.publish()  # of a node that was enrolled before certs/ was
        self._verify()
        until = min(one.until for one in issued.values())
        return enrolled(self._journal, until)

    def rehearse(self) -> Outcome:
        """Say what `run` would do."""
        again = (Step.KEYS, Step.TLS, Step.EVENT) if begins_anew(self._ask, self._journal) else ()
        for step in ORDER:
            there = step in self._journal.done and step not in (Step.CHECK, Step.VERIFY, *again)
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
        # With another code the TLS certificate that is here goes back to a claim the server may not know.
        other = purpose is Purpose.TLS and is_another(self._ask, self._journal)
        found = None if other else self._there(purpose)
        if found is not None:
            if purpose is Purpose.TLS:
                self._pin()
            self._done(step, "kept", f"valid until {found.until:%Y-%m-%d}")
            return found
        if purpose is Purpose.TLS:
            client = EstClient(self._server(), self._root, sleep=self._host.sleep)
            issued = self._judge(purpose, self._claim(client), client)
            self._pin()
            self._store.put_certificate(purpose, certificate_pem(issued.leaf, issued.issuer))
        else:
            with self._store.tls_pair() as pair:
                client = EstClient(self._server(), self._root, pair=pair, sleep=self._host.sleep)
                csr = make_csr(self._store.key(purpose), self._identity)
                issued = self._judge(purpose, client.enroll(purpose, csr), client)
            self._store.put_certificate(purpose, certificate_pem(issued.leaf))
        self._done(step, "done", f"{MEANING[step]}, valid until {issued.until:%Y-%m-%d}")
        return issued

    def _claim(self, client: EstClient) -> list[x509.Certificate]:
        """What the server gives for the claim code; for new keys where those here were revoked."""
        code = self._code()
        try:
            return client.enroll(Purpose.TLS, make_csr(self._store.key(Purpose.TLS), self._identity), code)
        except Refusal as refusal:
            if refusal.code != "revoked":
                raise
        replace_keys(self._store)
        self._tell(Step.KEYS, "note", "the keys here were revoked; new ones were made")
        return client.enroll(Purpose.TLS, make_csr(self._store.key(Purpose.TLS), self._identity), code)

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


def enrolled(journal: Journal, until: datetime) -> Outcome:
    """The good end."""
    text = f"{journal.identity.urn} is enrolled until {until:%Y-%m-%d}"
    who = {"tenant": journal.identity.tenant, "device": journal.identity.device, "until": until.isoformat()}
    return Outcome(Exit.OK, text, until, who)

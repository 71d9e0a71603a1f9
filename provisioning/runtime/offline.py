"""Enrolment without a network: a request file goes to the authority on a medium, a response file comes back.

    node       holdfast provision --offline request.json ...      keys made, request written     exit 31
    authority  holdfast ca sign DIR request.json --out response.json
    node       holdfast provision --response response.json        judged whole, then written     exit 0

A response is judged completely before its first byte is written: one for another key, another device or of
another root leaves everything as it was. The request holds the claim code: keep the medium until it is used.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from provisioning import accept
from provisioning.accept import Issued
from provisioning.ca import Purpose
from provisioning.claim import grouped, read_label
from provisioning.csr import make_csr
from provisioning.enrolment import Exit, Journal, Step, check_clock
from provisioning.errors import EnrolError, EstError
from provisioning.est import MAX_OFFLINE, OfflineRequest, OfflineResponse
from provisioning.runtime import journal as journals
from provisioning.runtime.anew import begins_anew, judge, make_keys, next_folder, put, to_exchange
from provisioning.runtime.anew import request as csr_anew
from provisioning.runtime.asked import Ask, Host, Outcome, Progress, begin, check_config
from provisioning.runtime.enrol import enrolled, with_claim, write_config
from provisioning.runtime.journal import Files
from provisioning.runtime.keystore import Keystore, certificate_pem
from provisioning.runtime.on_disk import verify
from provisioning.runtime.renew import renew


def request(ask: Ask, host: Host, out: Path) -> Outcome:
    """Make the keys and write the request to `out` (0600). Raises EnrolError, ClaimError, OSError."""
    check_clock(host.now())
    files = Files(ask.state, host.after)
    if ask.dry_run:
        journal, _ = begin(ask, host)
        return Outcome(Exit.OK, f"dry run: would make keys of {journal.identity.urn} and write {out}")
    files.make_state()
    with journals.only_one(ask.state):
        journal, _ = begin(ask, host)
        code = ask.code or (read_label(host.ask_code()).code if host.ask_code else "")
        if not code:
            raise EnrolError(
                Exit.USAGE, "the request needs a claim code", "give --code, or scan the label with --qr"
            )
        with files.acting():
            csrs = _requests(replace(ask, code=code), host, files, journal)
        _write(out, OfflineRequest(journal.identity, grouped(code), *csrs).to_json())
    return Outcome(
        Exit.PENDING,
        f"{out} is for the authority (holdfast ca sign); it holds the claim code. "
        "With its answer run: holdfast provision --response response.json",
        fields={"request": str(out), "device": journal.identity.device, "tenant": journal.identity.tenant},
    )


def _requests(ask: Ask, host: Host, files: Files, journal: Journal) -> list[bytes]:
    """Both requests; an enrolled node's with another code are for new keys, beside those in force."""
    if begins_anew(ask, journal):
        journal = make_keys(ask, files, journal)
        if journal.anew:
            host.tell(Progress(Step.KEYS, "done", "new keys; those in force stay until the answer is here"))
            return [csr_anew(ask.state, purpose, journal) for purpose in Purpose]
    journal = with_claim(journal, ask.code).after(Step.CHECK)
    journals.save(files, ask.state, journal)
    store = Keystore(ask.state, files, journal.credentials)
    made = [purpose.value for purpose in Purpose if store.ensure_key(purpose)]
    journals.save(files, ask.state, journal.after(Step.KEYS))
    host.after(f"step {Step.KEYS.value}")
    host.tell(Progress(Step.KEYS, "done" if made else "kept", "both keys are here; they stay on this node"))
    return [make_csr(store.key(purpose), journal.identity) for purpose in Purpose]


def _write(out: Path, data: bytes) -> None:
    """A file of 0600 for a medium that may know no owners and no links. Raises OSError."""
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def finish(ask: Ask, host: Host, response: Path) -> Outcome:
    """Judge a response and enrol with it. Raises EnrolError, OSError."""
    check_clock(host.now())
    files = Files(ask.state, host.after)
    if not ask.state.is_dir():
        raise EnrolError(
            Exit.USAGE,
            f"{ask.state} is not there: no request was made here",
            "begin with --offline request.json",
        )
    # A dry run writes nothing, not even the lock's file.
    with contextlib.nullcontext() if ask.dry_run else journals.only_one(ask.state):
        journal = journals.load(ask.state)
        if journal is not None and journal.anew and not next_folder(ask.state, Purpose.TLS).is_dir():
            journal = replace(journal, anew="")  # a renewal went on with these keys
        if journal is None or Step.KEYS not in journal.done:
            raise EnrolError(
                Exit.USAGE,
                "no request was made here",
                "begin with: holdfast provision --offline request.json",
            )
        found = _read(response)
        try:
            root = x509.load_pem_x509_certificate(found.ca_crt)
            tls, event = (x509.load_pem_x509_certificates(pem) for pem in (found.tls_crt, found.event_crt))
        except ValueError as error:
            raise _foreign(f"it holds something that is no certificate ({error})") from error
        if root.fingerprint(hashes.SHA256()).hex() != journal.root:
            raise _foreign("it is of another root than the one pinned with the request")
        check_clock(host.now(), root)
        accept.check_root(root)
        check_config(ask.config, journal)
        given = {Purpose.TLS: tls, Purpose.EVENT: event}
        with files.acting():
            outcome = _finish(ask, host, files, journal, root, found, given)
    if not ask.dry_run and journal.anew:
        renew(ask.state, host)  # puts the new pairs in force
    return outcome


def _finish(
    ask: Ask,
    host: Host,
    files: Files,
    journal: Journal,
    root: x509.Certificate,
    found: OfflineResponse,
    certificates: dict[Purpose, list[x509.Certificate]],
) -> Outcome:
    """Judge all, then write all; `journal` remembers each step, so that a killed run is repeated whole."""
    store = Keystore(ask.state, files, journal.credentials)
    authority = accept.check_trust(found.trust, root)
    accept.check_uplink(found.uplink)
    issued: dict[Purpose, Issued] = {}
    for purpose, chain in certificates.items():
        if journal.anew:
            issued[purpose] = judge(ask, host, journal, root, purpose, chain, [*chain, authority])
            continue
        public = store.key(purpose).public_key()
        issued[purpose] = accept.check_issued(
            purpose, chain, [*chain, authority], root, public, journal.identity, host.now()
        )
    tls, event = issued[Purpose.TLS], issued[Purpose.EVENT]
    if ask.dry_run:
        until = min(tls.until, event.until)
        return Outcome(
            Exit.OK, f"dry run: the response is good and would enrol {journal.identity.urn} until "
            f"{until:%Y-%m-%d}; nothing was changed",
        )  # fmt: skip
    if journal.anew:
        for purpose, one in issued.items():
            put(files, ask.state, purpose, one)
        files.put(ask.state / "trust.json", (json.dumps(found.trust, indent=1) + "\n").encode())
        write_config(files, ask.config, journal, str(ask.state), found.uplink)
        journals.save(files, ask.state, to_exchange(journal))
        return enrolled(journal, min(tls.until, event.until))
    files.put(store.keys / "ca.crt", certificate_pem(root))
    store.put_certificate(Purpose.TLS, certificate_pem(tls.leaf, tls.issuer))
    store.put_certificate(Purpose.EVENT, certificate_pem(event.leaf))
    files.put(ask.state / "trust.json", (json.dumps(found.trust, indent=1) + "\n").encode())
    write_config(files, ask.config, journal, str(ask.state), found.uplink)
    if journal.credentials:
        store.seal(Path(journal.credentials))
    verify(ask.state, store, root, journal.identity, host.now())
    for step in Step:
        journal = journal.after(step)
    journals.save(files, ask.state, journal)
    host.tell(
        Progress(Step.VERIFY, "done", "the response is this node's, of the pinned root, and was written")
    )
    return enrolled(journal, min(tls.until, event.until))


def _read(path: Path) -> OfflineResponse:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_OFFLINE + 1)
    except FileNotFoundError as error:
        raise EnrolError(
            Exit.USAGE, f"{path} is not there", "give the file that `holdfast ca sign` wrote"
        ) from error
    try:
        return OfflineResponse.from_json(data)
    except EstError as error:
        raise _foreign(str(error)) from error


def _foreign(detail: str) -> EnrolError:
    return EnrolError(
        Exit.UNVERIFIED, f"this response is not for this node: {detail}",
        "nothing was changed; bring the response to this node's own request",
    )  # fmt: skip

"""An enrolled node that is given another claim code: new keys, and the old ones until they are whole.

    keys/pairs/<purpose>/next/    key, then certificate, made under the new code
    provision.json: anew          SHA-256 of that code, from before the first request on
    provision.json: exchanging    both pairs are whole; `renew` puts them in force, and so does its timer

A code is a beginning: the device may have been revoked, and a revoked key is never certified again. But the
code may also be wrong, so what works stays in force until the server has certified both new keys. A run that
was killed goes on with the same keys when it is given the same code.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

from cryptography import x509

from provisioning import accept, ca
from provisioning.ca import Purpose
from provisioning.claim import digest, grouped
from provisioning.csr import make_csr
from provisioning.enrolment import Exit, Journal, Step
from provisioning.errors import EnrolError
from provisioning.runtime import journal as journals
from provisioning.runtime.asked import Ask, Host, Progress
from provisioning.runtime.est_client import EstClient, Server
from provisioning.runtime.journal import Files
from provisioning.runtime.keystore import (
    Keystore,
    certificate_pem,
    key_pem,
    read_certificates,
    read_key,
)
from provisioning.runtime.owner import as_owner


def is_another(ask: Ask, journal: Journal) -> bool:
    """Whether a code is given that is not the one this node was enrolled with."""
    return bool(ask.code and journal.claim) and digest(ask.code).hex() != journal.claim


def begins_anew(ask: Ask, journal: Journal) -> bool:
    """Whether an enrolled node is to get new keys: then `make_keys` and what follows."""
    if journal.next_step is not None or not is_another(ask, journal):
        return False
    try:
        with as_owner(ask.state):
            return bool(read_certificates(ask.state / "keys" / "event.crt"))
    except (OSError, EnrolError):
        return False  # lost or damaged: it comes for the keys that are here, like any that is missing


def next_folder(state: Path, purpose: Purpose) -> Path:
    """Where the pair lies that is being made."""
    return state / "keys" / "pairs" / purpose.value / "next"


def make_keys(ask: Ask, files: Files, journal: Journal) -> Journal:
    """The next keys for this code, and the journal that knows of them. Raises OSError.

    Keys of a renewal, or of another code, that were begun and never in force go.
    """
    claim = digest(ask.code).hex()
    folders = {purpose: next_folder(ask.state, purpose) for purpose in Purpose}
    if journal.anew == claim and not any(folder.is_dir() for folder in folders.values()):
        # a renewal went on with these keys in between, and they are in force
        journal = replace(journal, claim=claim, anew="")
    elif journal.anew != claim:
        for purpose, folder in folders.items():
            files.remove(folder)
            files.folder(folder)
            files.put(folder / f"{purpose.value}.key", key_pem(ca.new_key()), replace=False)
        journal = replace(journal, anew=claim)
    journals.save(files, ask.state, journal)
    return journal


def certify(ask: Ask, host: Host, files: Files, journal: Journal, root: x509.Certificate) -> None:
    """Have the next keys certified, and mark them to be put in force. Raises EnrolError, Refusal, OSError."""
    journal = make_keys(ask, files, journal)
    if not journal.anew:
        return
    if not journal.server:
        raise EnrolError(Exit.USAGE, "it is not said where to enrol", "give --server https://ca.example:8443")
    server = Server.parse(journal.server)
    client = EstClient(server, root, sleep=host.sleep)
    key, crt = (next_folder(ask.state, Purpose.TLS) / f"tls.{ending}" for ending in ("key", "crt"))
    answer = client.enroll(Purpose.TLS, request(ask.state, Purpose.TLS, journal), grouped(ask.code))
    tls = judge(ask, host, journal, root, Purpose.TLS, answer, answer[1:] or client.cacerts())
    put(files, ask.state, Purpose.TLS, tls)
    host.tell(Progress(Step.TLS, "done", f"new key and certificate, valid until {tls.until:%Y-%m-%d}"))
    client = EstClient(server, root, pair=(key, crt), sleep=host.sleep)
    answer = client.enroll(Purpose.EVENT, request(ask.state, Purpose.EVENT, journal))
    named, trust, _ = client.node()
    if named != journal.identity:
        raise EnrolError(
            Exit.UNVERIFIED, f"the server takes this node for {named.urn}", "ask the administrator"
        )
    event = judge(ask, host, journal, root, Purpose.EVENT, answer, [accept.check_trust(trust, root)])
    put(files, ask.state, Purpose.EVENT, event)
    files.put(ask.state / "trust.json", (json.dumps(trust, indent=1) + "\n").encode())
    host.tell(Progress(Step.EVENT, "done", f"new key and certificate, valid until {event.until:%Y-%m-%d}"))
    journals.save(files, ask.state, to_exchange(journal))


def to_exchange(journal: Journal) -> Journal:
    """Both next pairs are whole and under the new code: `renew` puts them in force."""
    return replace(journal, claim=journal.anew, anew="", exchanging=True, reload_due=True)


def put(files: Files, state: Path, purpose: Purpose, issued: accept.Issued) -> None:
    """Write a next pair's certificate: for TLS with its issuer. Raises OSError."""
    chain = (issued.leaf, issued.issuer) if purpose is Purpose.TLS else (issued.leaf,)
    files.put(next_folder(state, purpose) / f"{purpose.value}.crt", certificate_pem(*chain))


def request(state: Path, purpose: Purpose, journal: Journal) -> bytes:
    """The PKCS#10 request for a next key. Raises EnrolError, OSError."""
    return make_csr(read_key(next_folder(state, purpose) / f"{purpose.value}.key"), journal.identity)


def judge(
    ask: Ask,
    host: Host,
    journal: Journal,
    root: x509.Certificate,
    purpose: Purpose,
    found: list[x509.Certificate],
    issuers: list[x509.Certificate],
) -> accept.Issued:
    """The certificate among `found` that is good for a next key. Raises EnrolError, OSError."""
    public = read_key(next_folder(ask.state, purpose) / f"{purpose.value}.key").public_key()
    return accept.check_issued(purpose, found, issuers, root, public, journal.identity, host.now())


def replace_keys(store: Keystore) -> None:
    """New keys for a node whose enrolment was never finished and whose keys were revoked. Raises OSError."""
    with contextlib.suppress(EnrolError):  # a damaged file has no certificate to keep
        for certificate in store.certificates("event.crt"):
            store.keep_old(certificate)
    for purpose in Purpose:
        name = purpose.value
        pairs = store.keys / "pairs" / name
        numbers = [int(path.name) for path in pairs.glob("*") if path.name.isdigit()]
        folder = pairs / str(max(numbers, default=0) + 1)
        store.files.folder(folder)
        store.files.put(folder / f"{name}.key", key_pem(ca.new_key()), replace=False)
        store.files.point(store.keys / name, f"pairs/{name}/{folder.name}")
        for ending in ("crt", "key"):
            store.files.point(store.keys / f"{name}.{ending}", f"{name}/{name}.{ending}")

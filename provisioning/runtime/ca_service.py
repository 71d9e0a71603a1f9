"""The authority at work: judges requests, issues, notes, hands on. Shared by server and offline path.

Everything that decides stands in one transaction of the register: of two requests with one code at once
exactly one wins, in whatever process it came. A certificate is in the register before anybody gets it, so
that a lost answer is answered again with the same certificate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from provisioning import ca, claim
from provisioning.ca import Purpose, Validity
from provisioning.claim import WrongCodes
from provisioning.csr import Request, read_csr
from provisioning.errors import CaError, ClaimError, CsrError, IdentityError, Refusal
from provisioning.est import OfflineRequest, OfflineResponse
from provisioning.identity import Identity, identity_of
from provisioning.runtime.ca_db import Issued, Register
from provisioning.runtime.ca_files import CaFolder, check_clock, due, leaf_validity
from provisioning.runtime.ca_keys import pem
from provisioning.runtime.ca_parties import trust_of, write_device

CRL_DAYS: Final = 7
"""Validity of a revocation list; it is renewed at half of it, so that a weekend without us does no harm."""
MAX_RENEWALS: Final = 10
"""Certificates for one purpose that a device is given in a day: one is needed in two months."""


def wall_time() -> datetime:
    """Now, UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Answer:
    """A certificate, and what it was: for the log."""

    certificate: x509.Certificate
    identity: Identity
    purpose: Purpose
    repeated: bool
    """The register had it already: a lost answer, asked for again."""


class Enrolment:
    """Enrols on one authority's folder, which threads and processes may share. Methods raise Refusal."""

    def __init__(self, opened: CaFolder, register: Register, now: Callable[[], datetime] = wall_time) -> None:
        self.opened = opened
        self.register = register
        self.now = now
        self.wrong = WrongCodes()

    # --- the four requests ---------------------------------------------------------------------------

    def enroll_tls(self, code: str, csr: bytes, address: str) -> Answer:
        """simpleenroll for the TLS certificate, by claim code; `address` is who sends it."""
        now = self._now()
        request = _request(csr)
        watched = (f"address {address}", f"device {request.identity.urn}")
        self._check_patience(*watched)
        try:
            with self.register.transaction():
                return self._claimed(request, Purpose.TLS, _digest(code), now)
        except Refusal as refusal:
            if refusal.code in ("code_unknown", "code_malformed", "code_foreign"):
                self.wrong.wrong(time.monotonic(), *watched)
            raise

    def enroll_event(self, client: x509.Certificate | None, csr: bytes) -> Answer:
        """simpleenroll for the event certificate, on the claim that gave `client` its TLS certificate."""
        now = self._now()
        request = _request(csr)
        known = self._client(client, request.identity, now)
        with self.register.transaction():
            number = known.claim if known else None
            found = self.register.claim(number) if number is not None else None
            if number is None or found is None:
                raise Refusal(
                    403, "no_claim", "this TLS certificate does not go back to a claim code",
                    "ask for a claim code and enrol with it",
                )  # fmt: skip
            fresh = claim.judge(found, request.identity, Purpose.EVENT, request.key_hash, now, self._self())
            answer = self._issue(request, Purpose.EVENT, number, now, fresh=fresh)
            self.register.use_claim(number, Purpose.EVENT, request.key_hash)
        self._hand_on(answer)
        return answer

    def renew(self, purpose: Purpose, client: x509.Certificate | None, csr: bytes) -> Answer:
        """simplereenroll: a new certificate for the device of `client`, its TLS certificate.

        The same key again within two thirds of its certificate's life gives the same certificate.
        """
        now = self._now()
        request = _request(csr)
        known = self._client(client, request.identity, now)
        with self.register.transaction():
            same = [
                one
                for one in self.register.by_key(request.key_hash)
                if (one.identity, one.purpose, one.revoked) == (request.identity, purpose, "")
            ]
            if same and not due(same[-1].certificate, now):
                answer = Answer(same[-1].certificate, request.identity, purpose, True)
            else:
                self._check_count(request.identity, purpose, now)
                answer = self._issue(request, purpose, known.claim if known else None, now, fresh=True)
        if purpose is Purpose.EVENT:
            self._hand_on(answer)
        return answer

    def node(self, client: x509.Certificate | None) -> tuple[Identity, dict[str, Any], dict[str, Any]]:
        """Who `client` is, whom it shall trust, and where its broker is."""
        now = self._now()
        identity = _named(client)
        self._client(client, identity, now)
        return identity, *self._outfit()

    def sign_offline(self, request: OfflineRequest) -> OfflineResponse:
        """Both certificates at once, from a file; the rules are those of the network, all or nothing."""
        now = self._now()
        asked = [(purpose, _request(csr)) for purpose, csr in _csrs(request)]
        for purpose, one in asked:
            if one.identity != request.identity:
                raise Refusal(
                    403, "name_mismatch", f"the {purpose.value} request names {one.identity.urn}, the file "
                    f"{request.identity.urn}", "make the request anew on the device itself",
                )  # fmt: skip
        if asked[0][1].key_hash == asked[1][1].key_hash:
            raise _key_reused()
        trust, uplink = self._outfit()
        made = {}
        with self.register.transaction():
            for purpose, one in asked:
                made[purpose] = self._claimed(one, purpose, _digest(request.claim), now)
        self._hand_on(made[Purpose.EVENT])
        return OfflineResponse(
            pem(made[Purpose.TLS].certificate, self.opened.tls.certificate),
            pem(made[Purpose.EVENT].certificate), pem(self.opened.root), trust, uplink,
        )  # fmt: skip

    # --- inside of the transaction -------------------------------------------------------------------

    def _claimed(self, request: Request, purpose: Purpose, digest: bytes, now: datetime) -> Answer:
        """Judge a code, issue, note that it was used."""
        found = self.register.find_claim(digest)
        number, one = found if found else (None, None)
        fresh = claim.judge(one, request.identity, purpose, request.key_hash, now, self._self())
        answer = self._issue(request, purpose, number, now, fresh=fresh)
        if number is not None:
            self.register.use_claim(number, purpose, request.key_hash)
        return answer

    def _issue(
        self, request: Request, purpose: Purpose, number: int | None, now: datetime, *, fresh: bool
    ) -> Answer:
        """The certificate for a request that was granted: the one there is, or a new one, noted."""
        mine = []
        for one in self.register.by_key(request.key_hash):
            if (one.identity, one.purpose) != (request.identity, purpose):
                raise _key_reused()
            if one.revoked:
                raise Refusal(
                    403, "revoked", "this key's certificate was revoked",
                    "ask for a new code (holdfast ca code DIR --device "
                    f"{request.identity.device}); with it the device makes new keys",
                )  # fmt: skip
            mine.append(one)
        if not fresh:
            newest = mine[-1].certificate if mine else None
            if newest is None or newest.not_valid_after_utc <= now:
                raise Refusal(
                    403, "code_used", "this claim code was used and its certificate has expired",
                    f"ask for a new one (holdfast ca code DIR --device {request.identity.device})",
                )  # fmt: skip
            return Answer(newest, request.identity, purpose, True)
        authority = self.opened.authority(purpose)
        validity = self._validity(purpose, now)
        issue = ca.issue_tls_client if purpose is Purpose.TLS else ca.issue_event
        certificate = issue(authority, request.key, request.identity, validity)
        self.register.add(Issued(request.identity, purpose, request.key_hash, number, now, certificate, ""))
        return Answer(certificate, request.identity, purpose, False)

    # --- small rules ---------------------------------------------------------------------------------

    def _self(self) -> Identity:
        return Identity(self.opened.tenant, "any")

    def _now(self) -> datetime:
        """Wall time, taken once for a request. Raises Refusal where it cannot be true."""
        now = self.now()
        for purpose in Purpose:
            try:
                check_clock(self.opened.authority(purpose).certificate, now)
            except CaError as error:
                detail, _, remedy = str(error).rpartition(": ")
                raise Refusal(503, "server_clock", detail, remedy) from error
        return now

    def _validity(self, purpose: Purpose, now: datetime) -> Validity:
        return leaf_validity(self.opened.authority(purpose), now, self.opened.config.days)

    def _check_patience(self, *watched: str) -> None:
        wait = self.wrong.wait_s(time.monotonic(), *watched)
        if wait > 0:
            raise Refusal(
                429, "too_many_wrong_codes",
                "too many wrong claim codes from this address or for this device",
                f"wait {int(wait) + 1} s and compare the code with the label",
            )  # fmt: skip

    def _check_count(self, identity: Identity, purpose: Purpose, now: datetime) -> None:
        if self.register.made_since(identity, purpose, now - timedelta(days=1)) >= MAX_RENEWALS:
            raise Refusal(
                429, "too_many_renewals",
                f"{identity.device} was given {MAX_RENEWALS} {purpose.value} certificates within a day",
                "keep the certificate that came last; see why the device does not",
            )  # fmt: skip

    def _client(self, client: x509.Certificate | None, asked: Identity, now: datetime) -> Issued | None:
        """What the register knows of a client's certificate, whose chain TLS has checked. Raises Refusal.

        An unknown one is no error: the register may be a backup from before it was issued.
        """
        identity = _named(client)
        assert client is not None
        if self.register.is_revoked(client.serial_number):
            raise Refusal(
                403, "certificate_revoked", f"the TLS certificate of {identity.device} was revoked",
                "ask the administrator, who may let it come back with a new code (holdfast ca code DIR "
                f"--device {identity.device})",
            )  # fmt: skip
        if not client.not_valid_before_utc <= now <= client.not_valid_after_utc:
            raise Refusal(
                403, "certificate_expired", f"the TLS certificate of {identity.device} was valid until "
                f"{client.not_valid_after_utc:%Y-%m-%d} and it is {now:%Y-%m-%d} here",
                f"ask for a new claim code (holdfast ca code DIR --device {identity.device}), enrol with it",
            )  # fmt: skip
        if identity != asked:
            raise Refusal(
                403, "name_mismatch", f"the request names {asked.urn} and the TLS certificate {identity.urn}",
                "make the request for the device itself",
            )  # fmt: skip
        if identity.tenant != self.opened.tenant or identity.is_collector:
            raise Refusal(
                403, "not_a_device", f"{identity.urn} is no device of this authority",
                "collectors and brokers are renewed with `holdfast ca collector` and `holdfast ca broker`",
            )  # fmt: skip
        return self.register.by_serial(client.serial_number)

    def _outfit(self) -> tuple[dict[str, Any], dict[str, Any]]:
        uplink = self.opened.config.uplink()
        try:
            if uplink is None:
                raise CaError("the broker's address is not known: write [uplink] host in ca.toml")
            return trust_of(self.opened), dict(uplink)
        except (CaError, OSError) as error:
            raise Refusal(
                503, "no_collector", f"{error}", "the administrator finishes that and the device asks again"
            ) from error

    def _hand_on(self, answer: Answer) -> None:
        """Let the collector know an event certificate. It is in the register: asking again repeats this."""
        folder = self.opened.config.collector
        if not folder:
            return
        try:
            write_device(self.register, Path(folder), answer.identity)
        except (CaError, OSError) as error:
            raise Refusal(
                503, "collector_folder", f"the collector's folder cannot take the certificate: {error}",
                "the administrator frees space or sets its owner right; then ask again with the same request",
            ) from error  # fmt: skip


def _key_reused() -> Refusal:
    return Refusal(
        409, "key_reused", "this key was certified already, for another purpose or another device",
        "make a key of its own for each certificate, on the device",
    )  # fmt: skip


def _request(der: bytes) -> Request:
    try:
        request = read_csr(der)
        claim.check_claimable(request.identity)
    except CsrError as error:
        raise Refusal(400, "bad_request", f"{error}", "make the request anew (holdfast provision)") from error
    except IdentityError as error:
        raise Refusal(403, "reserved_name", f"{error}", "no device has such a name") from error
    return request


def _digest(code: str) -> bytes:
    try:
        return claim.digest(claim.read_code(code))
    except ClaimError as error:
        raise Refusal(401, "code_malformed", f"{error}", "compare it with the label") from error


def _csrs(request: OfflineRequest) -> list[tuple[Purpose, bytes]]:
    return [(Purpose.TLS, request.tls_csr), (Purpose.EVENT, request.event_csr)]


def _named(client: x509.Certificate | None) -> Identity:
    if client is None:
        raise Refusal(
            403, "certificate_missing", "this needs the device's TLS certificate",
            "connect with it, or enrol with a claim code first",
        )  # fmt: skip
    try:
        return identity_of(client)
    except IdentityError as error:
        raise Refusal(
            403, "not_a_device", f"the TLS certificate names no device: {error}", "use the device's own"
        ) from error

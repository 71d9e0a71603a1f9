"""What the enrolment server says of certificates and refusals: never a claim code."""

from __future__ import annotations

from provisioning.errors import Refusal
from provisioning.runtime.ca_service import Answer
from provisioning.runtime.kinds import say


def tell_answer(answer: Answer, peer: str, *, again: bool) -> None:
    """A certificate was given."""
    say(
        "renewed" if again else "enrolled",
        device=answer.identity.device, tenant=answer.identity.tenant, peer=peer, purpose=answer.purpose.value,
        serial=f"{answer.certificate.serial_number:x}",
        not_after=f"{answer.certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}", repeated=answer.repeated,
    )  # fmt: skip


def tell_refusal(refusal: Refusal, peer: str, path: str) -> None:
    """A request was refused."""
    say(
        "enrolment_refused", status=refusal.status, reason=refusal.code, detail=refusal.detail,
        remedy=refusal.remedy, peer=peer, path=path[:100],
    )  # fmt: skip

"""Claim codes: a word of mouth between the administrator and one device, good for one enrolment. Pure.

A code is 20 characters of Crockford's base32 (100 bits), shown in groups of five and typed in any case, with
or without hyphens and spaces; O is read as 0, I and L as 1. The label's QR code holds
`HF1:<device>:<model>:<code>`. The authority keeps SHA-256 of a code and never the code: 100 bits of chance
cannot be searched, so no slow hash is needed.

`judge` says whether a code may be used by whom, and what for; it never says more about a code than its
holder may know.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from provisioning.ca import Purpose
from provisioning.errors import ClaimError, IdentityError, Refusal
from provisioning.identity import CLOUD, COLLECTOR, NAME, Identity

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base32: without I, L, O and U."""
CODE_CHARS: Final = 20
"""100 bits: a million guesses a second for a million years find one of a million codes with chance 1/40."""
CODE_BYTES: Final = 13
"""Bytes of chance that a code is made from; the last four bits stay unused."""
GROUP: Final = 5
"""Characters of a group on the label: what people copy without looking twice."""
QR_PREFIX: Final = "HF1"
"""The label's form, version 1."""
MAX_TEXT: Final = 200
"""Longest text that is looked at: two names of 63, prefix, colons and a code with separators fit."""
CLAIM_DAYS: Final = 90
"""How long a code is good, unless asked otherwise: as long as a device may lie in a store room."""
MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}|", re.ASCII)
"""A model's name on the label; may be empty."""
_FORGIVEN: Final = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})


@dataclass(frozen=True, slots=True)
class Label:
    """What the technician typed or scanned. `device` and `model` are empty where only a code was typed."""

    code: str
    device: str = ""
    model: str = ""


def make_code(chance: bytes) -> str:
    """The code for CODE_BYTES bytes of chance. Raises ClaimError for another count."""
    if len(chance) != CODE_BYTES:
        raise ClaimError(f"a claim code is made of {CODE_BYTES} random bytes, not of {len(chance)}")
    number = int.from_bytes(chance, "big") >> 4
    return "".join(ALPHABET[number >> 5 * place & 31] for place in reversed(range(CODE_CHARS)))


def read_code(text: str) -> str:
    """The code in what somebody typed: 20 characters, upper case. Raises ClaimError that says what is wrong.

    The error names a position and a count, never the code: errors are logged.
    """
    if len(text) > MAX_TEXT:
        raise ClaimError(f"a claim code has {CODE_CHARS} characters, not {len(text)}")
    code = text.strip().upper().translate(_FORGIVEN)
    wrong = [place for place, char in enumerate(code, 1) if char not in ALPHABET]
    if wrong:
        raise ClaimError(
            f"character {wrong[0]} of the claim code cannot be: it has digits, and letters without I, L, O, U"
        )
    if len(code) != CODE_CHARS:
        raise ClaimError(f"a claim code has {CODE_CHARS} characters in groups of {GROUP}, not {len(code)}")
    return code


def grouped(code: str) -> str:
    """`code` as it is shown to people: ABCDE-FGHJK-MNPQR-STVWX."""
    return "-".join(code[at : at + GROUP] for at in range(0, len(code), GROUP))


def digest(code: str) -> bytes:
    """What the authority keeps of `code`: SHA-256 of its 20 characters."""
    return hashlib.sha256(code.encode("ascii")).digest()


def qr_text(device: str, model: str, code: str) -> str:
    """The text of the label's QR code. Raises ClaimError for a model's name that cannot stand there."""
    check_model(model)
    return f"{QR_PREFIX}:{device}:{model}:{code}"


def check_model(model: str) -> None:
    """Raises ClaimError for a model's name that cannot stand on a label."""
    if not MODEL.fullmatch(model):
        raise ClaimError(f"model {model!r:.60}: at most 32 letters, digits, dots, underscores and hyphens")


def read_label(text: str) -> Label:
    """What was typed (a code) or scanned (the QR text). Raises ClaimError."""
    text = text.strip()
    if ":" not in text:
        return Label(read_code(text))
    parts = text.split(":") if len(text) <= MAX_TEXT else []
    if len(parts) != 4 or parts[0].upper() != QR_PREFIX:
        raise ClaimError(
            f"no label of ours: scan the QR text {QR_PREFIX}:<device>:<model>:<code>, or type the code"
        )
    _, device, model, code = parts
    if not NAME.fullmatch(device):
        raise ClaimError(f"the label's device {device!r:.80}: 1 to 63 lower-case letters, digits and hyphens")
    check_model(model)
    return Label(read_code(code), device, model)


def check_claimable(identity: Identity) -> None:
    """Raises IdentityError for a name that no device may enrol under."""
    if identity.is_collector or identity.tenant == CLOUD:
        raise IdentityError(
            f"the names device {COLLECTOR!r} and tenant {CLOUD!r} are reserved: choose another"
        )
    for one in (identity, Identity(identity.tenant, COLLECTOR)):
        _ = one.broker_name  # raises where a certificate cannot hold it


@dataclass(frozen=True, slots=True)
class Claim:
    """What the register holds of one code. The keys are SHA-256 of SubjectPublicKeyInfo, empty until used."""

    identity: Identity
    not_after: datetime
    withdrawn: bool = False
    tls_key: bytes = b""
    event_key: bytes = b""

    def key_of(self, purpose: Purpose) -> bytes:
        """The key that was certified on this code, or empty."""
        return self.tls_key if purpose is Purpose.TLS else self.event_key


def judge(
    claim: Claim | None, asked: Identity, purpose: Purpose, key: bytes, now: datetime, authority: Identity
) -> bool:
    """Whether `claim`, found by the code that was sent, lets `asked` have `key` certified for `purpose`.

    True: certify it. False: it was certified already, give the same certificate again. `key` is SHA-256 of
    the key's SubjectPublicKeyInfo; `authority` has the tenant of this authority. Raises Refusal.
    """
    if asked.tenant != authority.tenant:
        raise Refusal(
            403, "foreign_tenant", f"this authority is for {authority.tenant}, not for {asked.tenant}",
            "ask the administrator of your tenant for the address of theirs",
        )  # fmt: skip
    if claim is None:
        raise Refusal(401, "code_unknown", "this claim code is not known here", "compare it with the label")
    if claim.identity != asked:
        raise Refusal(
            403, "code_foreign", f"this claim code is not for {asked.device}",
            "use the code of this device's own label, or give the device the name on the label",
        )  # fmt: skip
    if used := claim.key_of(purpose):
        if used == key:
            return False
        raise Refusal(
            409, "code_used", f"this claim code was used already, with another {purpose.value} key",
            "if it was not you, tell the administrator at once (holdfast ca revoke DIR "
            f"{asked.device}); otherwise ask for a new code (holdfast ca code DIR --device {asked.device})",
        )  # fmt: skip
    if claim.withdrawn:
        raise Refusal(
            403, "code_withdrawn", "this claim code was withdrawn", "use the code that was made after it"
        )
    if purpose is Purpose.TLS and now > claim.not_after:
        raise Refusal(
            403, "code_expired", f"this claim code was good until {claim.not_after:%Y-%m-%d}",
            f"ask the administrator for a new one (holdfast ca code DIR --device {asked.device})",
        )  # fmt: skip
    return True


MAX_WRONG: Final = 10
"""Wrong codes in a window before somebody must wait: a technician mistypes twice, a program does not stop."""
WINDOW_S: Final = 600
"""Seconds over which wrong codes are counted."""
MAX_WATCHED: Final = 4096
"""Addresses and devices whose wrong codes are counted at once; the longest silent one is forgotten."""


class WrongCodes:
    """Counts wrong codes for each address and each device that was claimed. Time comes from the caller.

    While a device is being guessed at, its right code waits too: with 100 bits nobody guesses it, and the
    wait ends WINDOW_S after the guessing.
    """

    def __init__(self, most: int = MAX_WRONG, window_s: float = WINDOW_S) -> None:
        self._most = most
        self._window_s = window_s
        self._seen: OrderedDict[str, list[float]] = OrderedDict()

    def wait_s(self, now_s: float, *who: str) -> float:
        """Seconds that one of `who` must still wait; 0 for go ahead."""
        waits = [0.0]
        for one in who:
            times = [at for at in self._seen.get(one, ()) if now_s - at < self._window_s]
            if len(times) >= self._most:
                waits.append(times[-self._most] + self._window_s - now_s)
        return max(waits)

    def wrong(self, now_s: float, *who: str) -> None:
        """A wrong code came from, or for, each of `who`."""
        for one in who:
            times = [at for at in self._seen.pop(one, []) if now_s - at < self._window_s]
            self._seen[one] = [*times, now_s][-self._most :]
        while len(self._seen) > MAX_WATCHED:
            self._seen.popitem(last=False)

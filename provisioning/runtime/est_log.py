"""What the enrolment server says: JSON lines, never a claim code, of one kind no more than people read."""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import Final

from provisioning.errors import Refusal
from provisioning.runtime.ca_service import Answer

log = logging.getLogger("enrol")

PER_MINUTE: Final = 20
"""Lines about one kind of refusal in a minute; the rest is counted and said in the next."""


class JsonLines(logging.Formatter):
    """{"time", "level", "from", "text"} and the fields of the record."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "from": record.name,
            "text": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = repr(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


def tell(level: int, text: str, event: str, **fields: object) -> None:
    """One line; `event` is for programs."""
    log.log(level, text, extra={"fields": {"event": event, **fields}})


def tell_answer(answer: Answer, peer: str, *, again: bool) -> None:
    """A certificate was given."""
    tell(
        logging.INFO, "certificate given", "renewed" if again else "enrolled",
        device=answer.identity.device, peer=peer, purpose=answer.purpose.value,
        serial=f"{answer.certificate.serial_number:x}",
        not_after=f"{answer.certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}", repeated=answer.repeated,
    )  # fmt: skip


class Refusals:
    """Tells of refusals, PER_MINUTE of one code; counts the others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._minute = 0
        self._counts: dict[str, int] = {}

    def tell(self, refusal: Refusal, peer: str, path: str) -> None:
        """A request was refused."""
        with self._lock:
            minute, unsaid = int(time.monotonic() // 60), dict[str, int]()
            if minute != self._minute:
                unsaid = {code: n - PER_MINUTE for code, n in self._counts.items() if n > PER_MINUTE}
                self._minute, self._counts = minute, {}
            count = self._counts[refusal.code] = self._counts.get(refusal.code, 0) + 1
        if unsaid:
            tell(logging.WARNING, "more were refused and not told one by one", "refused_more", counts=unsaid)
        if count <= PER_MINUTE:
            tell(
                logging.WARNING, "refused", "refused", status=refusal.status, code=refusal.code,
                detail=refusal.detail, remedy=refusal.remedy, peer=peer, path=path[:100],
            )  # fmt: skip

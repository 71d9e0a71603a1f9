"""The edge's own way into the journal: one call a line, each kind at a bounded rate."""

from __future__ import annotations

from typing import TextIO

from edge.runtime.kinds import EDGE_KINDS
from firmware_bridge.logline import Kind
from firmware_bridge.runtime.journal import Format, Journal, open_journal, set_level

IDENTIFIER = "holdfast-edge"


class Log:
    """Writes what happened; never raises for the disk or the journal."""

    def __init__(
        self, level: str = "info", stream: TextIO | None = None, *, form: Format | None = None
    ) -> None:
        """On `stream`, stderr unless given. A daemon uses `of_process`."""
        self.journal = Journal(IDENTIFIER, level, stream, form=form)

    @classmethod
    def of_process(cls, level: str, identifier: str = IDENTIFIER, **common: object) -> Log:
        """The log of this process, which takes what libraries say too; `common` are fields of every line."""
        log = cls.__new__(cls)
        log.journal = open_journal(identifier, level, **common)
        return log

    def set_level(self, level: str) -> None:
        """Write from `level` up from now on."""
        set_level(level)
        self.journal.set_level(level)

    def say(self, kind: str, *, level: str | None = None, **fields: object) -> None:
        """One line of a kind of `kinds.EDGE_KINDS`; fields as in `firmware_bridge.logline.FIELDS`.

        A kind that is not in the table is said too, by its name: a log must not end the node.
        """
        self.journal.say(EDGE_KINDS.get(kind) or Kind(kind, level or "warning", kind), fields, level=level)

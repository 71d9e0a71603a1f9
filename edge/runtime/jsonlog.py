"""Log lines of daemons: one JSON object a line on stderr, for journald and for people."""

from __future__ import annotations

import json
import logging
import sys
import time


class JsonLines(logging.Formatter):
    """{"time", "level", "from", "text"}, and "error" with the type of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; line feeds inside a message are escaped by JSON."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "from": record.name,
            "text": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = repr(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


def log_json_lines(level: str = "info") -> None:
    """Send all logging of this process to stderr as JSON lines, from `level` (debug, info, ...) up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)

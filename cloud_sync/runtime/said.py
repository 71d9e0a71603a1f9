"""What the collector says of what a device had a hand in: within bounds, and safe on a terminal."""

from __future__ import annotations

from typing import Final

MAX_TEXT: Final = 500
"""Characters of one text that a device had a hand in, as a detail in the store."""


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """A device's text, at most `limit` characters: what could steer a terminal is shown, not sent."""
    shown = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text[: limit + 1])
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"

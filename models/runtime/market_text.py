"""Rows of a text file of unknown making: compression, encoding, separator, quotes, broken lines."""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from models.errors import MarketError
from models.market.cleaning import Reason

CHUNK: Final = 1 << 20
MAX_FIELD: Final = 8192
"""Characters of one field: a longer one is a quotation mark that nobody closed."""
MAX_RECORD_LINES: Final = 64
"""A quoted field with more line breaks than this is a quotation mark that nobody closed."""
DELIMITERS: Final = (",", ";", "\t", "|")
ENDS: Final = ("\n", "\r")
_HIGH: Final = re.compile(rb"[\x80-\xff]+")
_GZIP_MAGIC: Final = b"\x1f\x8b"
_FEW_BAD: Final = 0.01
"""Share of damaged characters up to which a file is UTF-8 with damage and not of another encoding."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a first look at the whole file found."""

    sha256: str
    encoding: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Broken:
    """A line that is no row."""

    line: int
    reason: Reason
    detail: str


def _open(path: Path) -> IO[bytes]:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP_MAGIC
        return cast(IO[bytes], gzip.open(path, "rb") if packed else path.open("rb"))
    except OSError as error:
        raise MarketError(f"{path.name}: {error.strerror or error}") from None


def _read(path: Path, file: IO[bytes]) -> bytes:
    try:
        return file.read(CHUNK)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise MarketError(f"{path.name}: the compressed file is cut off or damaged; fetch it again") from None
    except OSError as error:
        raise MarketError(f"{path.name}: {error.strerror or error}") from None


def probe(path: Path, progress: Callable[[int], None]) -> Probe:
    """Digest and encoding of the file. Raises MarketError where it cannot be read to its end."""
    digest, size = hashlib.sha256(), 0
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")
    good = bad = even = odd = 0
    start = b""
    with _open(path) as file:
        while chunk := _read(path, file):
            digest.update(chunk)
            start = start or chunk[:4]
            size += len(chunk)
            progress(len(chunk))
            if chunk.isascii():
                utf8.decode(chunk)
                continue
            text = utf8.decode(chunk)
            damaged = text.count("\ufffd")
            bad += damaged
            good += len(text) - len(text.encode("ascii", "ignore")) - damaged
            if bad:
                for run in _HIGH.findall(chunk):
                    even += len(run) % 2 == 0
                    odd += len(run) % 2
    return Probe(digest.hexdigest(), _encoding(start, good, bad, even, odd), size)


def _encoding(start: bytes, good: int, bad: int, even: int, odd: int) -> str:
    """Chinese text in GB 18030 has its high bytes in pairs; Western text in Windows-1252 has single ones."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if bad <= good * _FEW_BAD:
        return "utf-8"
    return "gb18030" if even >= odd else "cp1252"


def unpacked_size(path: Path) -> int:
    """Bytes of the file once unpacked, for a progress bar; a guess for compressed files."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP_MAGIC
            size = file.seek(0, io.SEEK_END)
            if not packed or size < 18:
                return size
            file.seek(-4, io.SEEK_END)
            return int.from_bytes(file.read(4), "little")
    except OSError:
        return 0


class _Lines:
    """Physical lines with their numbers; lines can be put back."""

    def __init__(self, file: IO[str], path: Path, progress: Callable[[int], None]) -> None:
        self._file, self._path, self._progress = file, path, progress
        self._back: deque[tuple[int, str]] = deque()
        self._read = 0
        self._unsaid = 0
        self.number = 0
        self.taken: list[tuple[int, str]] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if len(self.taken) >= MAX_RECORD_LINES:
            raise _TooLong
        if self._back:
            self.number, line = self._back.popleft()
        else:
            try:
                line = next(self._file)
            except (EOFError, zlib.error, OSError):
                raise MarketError(f"{self._path.name}: the file cannot be read to its end") from None
            self._read += 1
            self.number = self._read
            self._unsaid += len(line)
            if self._unsaid >= CHUNK:
                self._progress(self._unsaid)
                self._unsaid = 0
        self.taken.append((self.number, line))
        return line

    def retry_all_but_first(self) -> None:
        """Give back the lines of a record that turned out to be several."""
        self._back.extendleft(reversed(self.taken[1:]))
        self.taken = []


class _TooLong(Exception):
    """A record that runs over too many lines."""


class Table:
    """A header, and the rows below it. Iterating gives (line, fields) or Broken."""

    def __init__(
        self, path: Path, encoding: str, delimiter: str = "", progress: Callable[[int], None] = lambda _: None
    ) -> None:
        self.encoding = encoding
        codec = "utf-8-sig" if encoding == "utf-8" else encoding
        self._raw = _open(path)
        text = io.TextIOWrapper(self._raw, codec, errors="replace", newline="")
        self._lines = _Lines(text, path, progress)
        self._text = text
        csv.field_size_limit(MAX_FIELD)
        first = next(self._lines, "")
        self._lines.taken = [self._lines.taken[0]] if self._lines.taken else []
        self.delimiter = delimiter or max(DELIMITERS, key=first.count)
        self._lines._back.extendleft(reversed(self._lines.taken))
        self._lines.taken = []
        self.header = self._header(path)

    def _header(self, path: Path) -> list[str]:
        try:
            fields = next(self._reader(), [])
        except (csv.Error, _TooLong):
            fields = []
        self._lines.taken = []
        names = [field.strip() for field in fields]
        if len(names) < 2:
            raise MarketError(f"{path.name}: the first line is no header of a table (fewer than two columns)")
        lower = [name.casefold() for name in names]
        if twice := sorted({name for name in lower if name and lower.count(name) > 1}):
            raise MarketError(f"{path.name}: the header has a column twice: {', '.join(twice)}; rename one")
        return names

    def _reader(self) -> Iterator[list[str]]:
        return csv.reader(self._lines, delimiter=self.delimiter)

    def close(self) -> None:
        """Close the file."""
        self._text.close()
        self._raw.close()

    def __iter__(self) -> Iterator[tuple[int, list[str]] | Broken]:
        reader, lines, width = self._reader(), self._lines, len(self.header)
        taken = lines.taken
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except (csv.Error, _TooLong):
                fields = None
            taken = lines.taken
            line = taken[0][0] if taken else lines.number
            if (
                fields is not None
                and len(fields) == width
                and not ((len(taken) > 1 or fields[-1].endswith(ENDS)) and _open_quote(taken))
            ):
                taken.clear()
                yield line, fields
            elif fields == []:
                taken.clear()
            elif len(taken) > 1:
                yield Broken(
                    line, Reason.QUOTE, f"it swallowed {len(taken) - 1} more lines, read again one by one"
                )
                lines.retry_all_but_first()
                reader = self._reader()
            else:
                taken.clear()
                reader = reader if fields is not None else self._reader()
                yield _one_line(line, fields, width)


def _one_line(line: int, fields: list[str] | None, width: int) -> Broken:
    """What is wrong with a record of a single line."""
    if fields is None:
        return Broken(line, Reason.DAMAGED, "not a row")
    if len(fields) == width:
        return Broken(line, Reason.QUOTE, "at the end of the file")
    return Broken(line, Reason.FIELDS, f"{len(fields)} fields, the header has {width}")


def _open_quote(taken: list[tuple[int, str]]) -> bool:
    """Whether the file's end closed a quotation mark for its author: rows behind it were swallowed."""
    return sum(line.count('"') for _, line in taken) % 2 == 1

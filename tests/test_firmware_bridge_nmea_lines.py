"""Cutting a stream into sentences, whatever lies between them and however it is portioned."""

from __future__ import annotations

from functools import reduce
from operator import xor as byte_xor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.sensors.nmea_lines import MAX_SENTENCE, SentenceSplitter, xor


def sentence(body: bytes, first: bytes = b"$") -> bytes:
    return first + body + b"*%02X" % reduce(byte_xor, body, 0)


def cut(data: bytes, portion: int = 1 << 30) -> tuple[list[bytes], list[str]]:
    refused: list[str] = []
    splitter = SentenceSplitter(lambda reason, sample: refused.append(reason))
    found = [body for at in range(0, len(data), portion) for body in splitter.feed(data[at : at + portion])]
    assert splitter.held <= MAX_SENTENCE + 2
    return found, refused


@given(st.binary(max_size=40) | st.binary(min_size=250, max_size=512))
def test_xor_is_the_sum_of_the_standard(body: bytes) -> None:
    assert xor(body) == reduce(byte_xor, body, 0)


def test_the_sum_of_a_known_sentence() -> None:
    assert xor(b"GPGGA,120010.00,,,,,0,00,,,M,,M,,") == reduce(byte_xor, b"GPGGA,120010.00,,,,,0,00,,,M,,M,,")
    assert cut(b"$PSRF154,107*3D\r\n") == ([b"$PSRF154,107"], [])


A, B = b"GPAAA,1,2,3", b"GPBBB,4,5,6"


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r", b"", b"\n\r", b"\r\r\n", b" \t\r\n"])
def test_every_line_end(end: bytes) -> None:
    data = (sentence(A) + end) * 3 + sentence(B) + end
    for portion in (1, 7, 1 << 30):
        assert cut(data, portion) == ([b"$" + A] * 3 + [b"$" + B], [])


def test_last_sentence_without_a_line_end_is_not_held_back() -> None:
    splitter = SentenceSplitter(lambda reason, sample: None)
    assert list(splitter.feed(sentence(A))) == [b"$" + A]
    assert splitter.held == 0


@pytest.mark.parametrize(
    ("data", "found", "refused"),
    [
        (b"\x00\x00" + sentence(A) + b"\r\n", 1, ["garbage"]),
        (b"\xfe\xff#x" + sentence(A) + b"\r\n", 1, ["garbage"]),
        (sentence(A) + b"xyz\r\n" + sentence(B), 2, ["garbage"]),
        (sentence(A)[:9] + sentence(B) + b"\r\n", 1, ["no_checksum"]),
        (b"$" + A + b"\r\n", 0, ["no_checksum"]),
        (b"$" + A + b"*\r\n", 0, ["bad_checksum"]),
        (b"$" + A + b"*4\r\n", 0, ["bad_checksum"]),
        (b"$" + A + b"*00\r\n", 0, ["bad_checksum"]),
        (b"$" + A + b"*ZZ\r\n", 0, ["bad_checksum"]),
        (sentence(A).lower()[-2:] + b"\n" + sentence(A), 1, ["garbage"]),
        (sentence(b"AIVDM,1", b"!") + b"\r\n", 1, []),
        (b"!AIVDM,1*00\r\n", 0, ["bad_checksum"]),
        (b"# a comment of a log\r\n\r\n\r\n" + sentence(A), 1, ["garbage"]),
        (b"$$$" + sentence(A), 1, ["no_checksum"] * 3),
        (b"", 0, []),
    ],
)
def test_what_lies_between(data: bytes, found: int, refused: list[str]) -> None:
    for portion in (1, 3, 1 << 30):
        got, why = cut(data, portion)
        assert (len(got), why) == (found, refused)


def test_lower_case_sum() -> None:
    lower = b"$" + A + b"*%02x" % reduce(byte_xor, A, 0)
    assert cut(lower + b"\r\n")[0] == [b"$" + A]


def test_a_cut_sentence_never_swallows_the_next() -> None:
    whole = sentence(b"GPRMC,124025.00,A,4810.8430,N")
    for at in range(1, len(whole) - 2):
        for glue in (b"", b"\r\n", b"\x00"):
            found, _ = cut(whole[:at] + glue + sentence(B) + b"\r\n")
            assert found == [b"$" + B]


def test_longest_sentence_and_one_more() -> None:
    longest = sentence(b"P" + b"x" * (MAX_SENTENCE - 2))
    assert cut(longest + b"\r\n")[0] == [longest[:-3]]
    for portion in (1, 50, 1 << 30):
        assert cut(sentence(b"P" + b"x" * (MAX_SENTENCE - 1)) + b"\r\n", portion) == ([], ["too_long"])


@pytest.mark.parametrize("filler", [b"\xaa", b"$x", b"x", b" "])
def test_flood_is_bounded_and_the_next_sentence_is_read(filler: bytes) -> None:
    refused: list[str] = []
    splitter = SentenceSplitter(lambda reason, sample: refused.append(reason))
    for _ in range(200):
        assert list(splitter.feed(filler * 997)) == []
        assert splitter.held <= MAX_SENTENCE + 2
    if b"$" not in filler:
        assert len(refused) <= 1
    assert list(splitter.feed(b"\n" + sentence(A))) == [b"$" + A]


def test_one_overlong_line_is_told_once() -> None:
    for portion in (1, 100, 1 << 30):
        assert cut(b"$GPXXX" + b"y" * 5000 + b"\r\n" + sentence(A), portion) == ([b"$" + A], ["too_long"])


pieces = st.lists(
    st.one_of(
        st.sampled_from(
            [
                sentence(A),
                sentence(B),
                sentence(A, b"!"),
                b"\r\n",
                b"\n",
                b"\r",
                b"$",
                b"!",
                b"*",
                b"*5",
                b" ",
                b"\t",
            ]
        ),
        st.binary(max_size=20),
        st.integers(240, 300).map(lambda n: b"$" + b"z" * n),
        st.integers(240, 300).map(lambda n: b"w" * n),
    ),
    max_size=14,
).map(b"".join)


@settings(max_examples=300)
@given(pieces, st.integers(1, 30))
def test_portions_never_change_the_result(data: bytes, portion: int) -> None:
    end = b"\r\n"
    assert cut(data + end, portion) == cut(data + end)


lines = st.lists(
    st.sampled_from(
        [
            sentence(A) + b"\r\n",
            sentence(B) + b"\n",
            sentence(A) + sentence(B) + b"\r\n",
            sentence(A)[:-1] + b"0\r\n",
            sentence(b"GP\rXX") + b"\r\n",
            sentence(b"GP*00,X") + b"\r\n",
            sentence(b"GP$00,X") + b"\r\n",
            sentence(b"P" + b"x" * (MAX_SENTENCE - 2)) + b"\r\n",
            sentence(b"P" + b"x" * (MAX_SENTENCE - 1)) + b"\r\n",
            sentence(A, b"!") + b"\r\n",
            b"\n",
            b"noise\r\n",
        ]
    ),
    max_size=4,
)


@settings(max_examples=200)
@given(lines, st.integers(0, 60))
def test_many_lines_at_once_are_read_as_one_by_one(some: list[bytes], at: int) -> None:
    good = [sentence(A) + b"\r\n"] * 60
    data = b"".join(good[:at] + some + good[at:])
    assert cut(data) == cut(data, 1)
    if not some:
        assert cut(data) == ([b"$" + A] * 60, [])

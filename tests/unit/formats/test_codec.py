"""One document has exactly one byte form, and every other spelling is refused with its reason."""

import contextlib
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import field

from milkyway_formats.codec import Document, MalformedError, decode, encode


class Example(Document, frozen=True):
    format: Literal["example/1"]
    count: int
    names: list[str] = field(default_factory=list)


GOOD = b'{"format":"example/1","count":3,"names":["a"]}'


def test_what_was_encoded_decodes_to_an_equal_document() -> None:
    example = Example(format="example/1", count=3, names=["a"])
    assert encode(example) == GOOD
    assert decode(GOOD, Example) == example


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"format":"example/1","count":3,"count":3}', "duplicate key 'count'"),
        (b'{"format":"example/1","count":3,"extra":1}', "unknown field `extra`"),
        (b'{"format":"example/2","count":3}', "Invalid enum value 'example/2'"),
        (b'{"format":"example/1","count":true}', "Expected `int`, got `bool`"),
        (b'{"format":"example/1","count":3.0}', "Expected `int`, got `float`|not in canonical form"),
        (b'{"format":"example/1","count": 3}', "not in canonical form"),
        (b'{"count":3,"format":"example/1"}', "not in canonical form"),
        (b'{"format":"example/1","count":3,"names":[]}', "not in canonical form"),
        (b'{"format":"example/1","count":3}\n', "not in canonical form"),
        (b'{"format":"example/1","count":3}{}', "trailing characters"),
        (b'{"format":"example/1"}', "missing required field `count`"),
        (b"\xff", "malformed"),
        (b"", "truncated"),
        (b"[" * 5000, "nest|recursion|malformed|Expected"),
    ],
)
def test_every_other_spelling_is_refused_with_its_reason(data: bytes, why: str) -> None:
    with pytest.raises(MalformedError, match=f"cannot read thing: .*({why})"):
        decode(data, Example, what="thing")


def test_too_long_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(MalformedError, match="46 bytes, at most 45 are allowed"):
        decode(GOOD, Example, limit=45)


@given(st.binary(max_size=80))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes) -> None:
    try:
        example = decode(data, Example)
    except MalformedError:
        return
    assert encode(example) == data


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_changed_byte_gives_the_same_document(at: int, change: int) -> None:
    data = bytearray(GOOD)
    data[at] ^= change
    with contextlib.suppress(MalformedError):
        assert decode(bytes(data), Example) != decode(GOOD, Example)

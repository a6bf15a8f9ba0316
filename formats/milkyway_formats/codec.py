"""Bytes to typed documents and back: one document has exactly one byte form.

A signed document is canonical JSON: the fields in the order of the type, fields at
their default left out, no white space. ``decode`` parses exactly the bytes it is
given and refuses them unless encoding the result gives the same bytes again; so
duplicate keys, unknown fields, other spellings of a number and trailing bytes are
all refused by one comparison, and no two byte strings mean the same document.
"""

import json
from typing import TypeVar

import msgspec

from milkyway_formats.errors import RefusedError
from milkyway_formats.limits import MAX_DOCUMENT_BYTES

T = TypeVar("T")


class MalformedError(RefusedError):
    """The bytes are not the document they should be."""


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Base of everything that is exchanged: immutable, strict, equal by value."""


def encode(document: msgspec.Struct) -> bytes:
    """Return the canonical bytes of *document*."""
    return msgspec.json.encode(document, order="deterministic")


def decode(data: bytes, kind: type[T], *, what: str = "document", limit: int = MAX_DOCUMENT_BYTES) -> T:
    """Return the *kind* that *data* (canonical JSON, at most *limit* bytes) stands for.

    Raises MalformedError, whose text begins "cannot read *what*" and names the reason:
    too long, not JSON, a duplicate key, an unknown field, a value out of range, not canonical.
    """
    if len(data) > limit:
        raise MalformedError(f"cannot read {what}: {len(data)} bytes, at most {limit} are allowed")
    try:
        document = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"cannot read {what}: {error}") from error
    if msgspec.json.encode(document, order="deterministic") != data:
        raise MalformedError(f"cannot read {what}: {_why_not_canonical(data)}")
    return document


def _why_not_canonical(data: bytes) -> str:
    """Say what most likely makes *data*, which is valid JSON, differ from its canonical form."""
    duplicates: list[str] = []

    def note(pairs: list[tuple[str, object]]) -> dict[str, object]:
        names = [name for name, _ in pairs]
        duplicates.extend(sorted({name for name in names if names.count(name) > 1}))
        return dict(pairs)

    json.loads(data, object_pairs_hook=note)
    if duplicates:
        return f"duplicate key {duplicates[0]!r}"
    return "not in canonical form (fields in order, defaults left out, no white space)"

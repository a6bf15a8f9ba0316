"""The signed wrapper of a document: DSSE v1, read strictly.

A reader learns the payload's bytes and who claims to have signed them; whether they did
is ``trust``'s business. Everything that needs no cryptography is checked here, before any:
size, form, base64, number of signatures. What is signed, hashed for the audit and compared
for equality is the pre-authentication encoding (``pae``), never the envelope: the same
payload may be wrapped in many envelopes. (https://github.com/secure-systems-lab/dsse)
"""

import base64
import binascii
import hashlib
from typing import ClassVar

from msgspec import field

from milkyway_formats.codec import Document, MalformedError, decode, encode
from milkyway_formats.errors import RefusedError
from milkyway_formats.limits import MAX_ENVELOPE_BYTES, MAX_SIGNATURES

MAX_PAYLOAD_TYPE = 255  # it is also the context of a hybrid signature, which has one byte of length


class OversizeRefusedError(RefusedError):
    """More bytes than any such envelope needs; nothing was parsed."""

    check: ClassVar[str] = "size"


class EnvelopeRefusedError(RefusedError):
    """Not a DSSE envelope of the kind that was expected; nothing was verified."""

    check: ClassVar[str] = "envelope"


class Signature(Document, frozen=True):
    """One signature. ``keyid`` hints at whose it is, and is believed only once ``sig`` (base64) verifies."""

    keyid: str
    sig: str


class Envelope(Document, frozen=True):
    """A payload (base64), what it is, and its signatures."""

    payload: str
    payload_type: str = field(name="payloadType")
    signatures: list[Signature]


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed: the type and the payload, each with its length, so that no two pairs give the same bytes."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def pae_digest(payload_type: str, payload: bytes) -> str:
    """Return the name of a signed document in audit logs and deduplication: SHA-256 of its pae, hexadecimal."""
    return hashlib.sha256(pae(payload_type, payload)).hexdigest()


def read_envelope(data: bytes, *, what: str, limit: int = MAX_ENVELOPE_BYTES) -> Envelope:
    """Return the envelope that *data* is. *what* names it in refusals ("desired state").

    Checks what ``read_draft`` does, and that there is a signature.
    """
    envelope = read_draft(data, what=what, limit=limit)
    if not envelope.signatures:
        raise EnvelopeRefusedError(f"cannot read {what}: it is not signed")
    return envelope


def read_draft(data: bytes, *, what: str, limit: int = MAX_ENVELOPE_BYTES) -> Envelope:
    """Return the envelope that *data* is, which may have no signature yet.

    Checks, in this order: at most *limit* bytes; canonical JSON of exactly the three fields; a payload
    type of 1 to 255 ASCII bytes; at most 16 signatures; base64 in its one spelling, everywhere.
    """
    if len(data) > limit:
        raise OversizeRefusedError(f"cannot read {what}: {len(data)} bytes, at most {limit} are allowed")
    try:
        envelope = decode(data, Envelope, what=f"envelope of {what}", limit=limit)
    except MalformedError as error:
        raise EnvelopeRefusedError(str(error)) from error
    if not (0 < len(envelope.payload_type) <= MAX_PAYLOAD_TYPE and envelope.payload_type.isascii()):
        raise EnvelopeRefusedError(f"cannot read {what}: its payload type is not 1 to {MAX_PAYLOAD_TYPE} ASCII characters")
    if len(envelope.signatures) > MAX_SIGNATURES:
        raise EnvelopeRefusedError(
            f"cannot read {what}: {len(envelope.signatures)} signatures, at most {MAX_SIGNATURES} are allowed"
        )
    for text in (envelope.payload, *(signature.sig for signature in envelope.signatures)):
        from_base64(text, what=what)
    return envelope


def payload_of(envelope: Envelope) -> bytes:
    """Return the bytes that *envelope* carries."""
    return from_base64(envelope.payload, what="envelope")


def write_envelope(payload_type: str, payload: bytes, signatures: list[Signature]) -> bytes:
    """Return the envelope of *payload* as JSON."""
    return encode(Envelope(payload=base64.b64encode(payload).decode(), payload_type=payload_type, signatures=signatures))


def from_base64(text: str, *, what: str) -> bytes:
    """Return the bytes that *text* spells, refusing every spelling but the canonical one (RFC 4648, section 3.5)."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error, and text that is not ASCII
        raise EnvelopeRefusedError(f"cannot read {what}: not base64: {error}") from error
    if base64.b64encode(data).decode() != text:
        raise EnvelopeRefusedError(f"cannot read {what}: base64 not in canonical form")
    return data

"""DSSE envelopes: one spelling each, everything else refused before any cryptography."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milkyway_formats.envelope import (
    EnvelopeRefusedError,
    OversizeRefusedError,
    Signature,
    pae,
    pae_digest,
    payload_of,
    read_envelope,
    write_envelope,
)

KIND = "application/vnd.milkyway.test.v1+json"
SIGNATURE = Signature(keyid="k", sig="c2ln")


def text(**changes: object) -> bytes:
    """Return an envelope as JSON with fields changed, added, or (None) left out."""
    fields: dict[str, object] = {"payload": "aGk=", "payloadType": KIND, "signatures": [{"keyid": "k", "sig": "c2ln"}]}
    fields.update(changes)
    return json.dumps({name: value for name, value in fields.items() if value is not None}, separators=(",", ":")).encode()


def test_pae_is_that_of_the_specification() -> None:
    """The example of the DSSE protocol description."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (b"DSSEv1 29 http://example.com/HelloWorld 11 hello world")


@given(st.text(max_size=20), st.binary(max_size=20), st.text(max_size=20), st.binary(max_size=20))
def test_two_different_documents_never_have_the_same_pae(kind: str, payload: bytes, kind2: str, payload2: bytes) -> None:
    assert (pae(kind, payload) == pae(kind2, payload2)) == ((kind, payload) == (kind2, payload2))


@given(st.binary(max_size=300), st.integers(min_value=1, max_value=16))
def test_what_is_written_is_read_back(payload: bytes, signatures: int) -> None:
    data = write_envelope(KIND, payload, [SIGNATURE] * signatures)
    envelope = read_envelope(data, what="test")
    assert (payload_of(envelope), envelope.payload_type, len(envelope.signatures)) == (payload, KIND, signatures)


def test_the_digest_is_of_the_signed_bytes_and_not_of_the_envelope() -> None:
    first, second = (read_envelope(write_envelope(KIND, b"hi", [SIGNATURE] * n), what="test") for n in (1, 2))
    assert pae_digest(first.payload_type, payload_of(first)) == pae_digest(second.payload_type, payload_of(second))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Input data was truncated"),
        (b"[]", "Expected `object`"),
        (text(payload=None), "missing required field `payload`"),
        (text(extra=1), "unknown field `extra`"),
        (text(payload=5), "Expected `str`"),
        (b'{"payload":"aGk=",' + text()[1:], "duplicate key 'payload'"),
        (text().replace(b'"keyid":"k"', b'"keyid":"j","keyid":"k"'), "duplicate key 'keyid'"),
        (text() + b"\n", "not in canonical form"),
        (text().replace(b":", b": ", 1), "not in canonical form"),
        (text().replace(b"aGk=", b"\\u0061Gk="), "not in canonical form"),
        (text(payload="aGk"), "not base64"),
        (text(payload="aGl="), "base64 not in canonical form"),
        (text(payload="aG k="), "not base64"),
        (text(payload="aG-_"), "not base64"),
        (text(payload="aGk=\n"), "not base64"),
        (text(signatures=[{"keyid": "k", "sig": "!"}]), "not base64"),
        (text(signatures=[]), "it is not signed"),
        (text(signatures=[{"keyid": "k", "sig": "c2ln"}] * 17), "17 signatures, at most 16 are allowed"),
        (text(payloadType=""), "payload type is not 1 to 255 ASCII characters"),
        (text(payloadType="x" * 256), "payload type is not 1 to 255 ASCII characters"),
    ],
)
def test_what_is_not_an_envelope_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(EnvelopeRefusedError, match=r"^cannot read .*test") as refusal:
        read_envelope(data, what="test")
    assert reason in str(refusal.value)
    assert refusal.value.check == "envelope"


def test_too_long_is_refused_before_anything_is_parsed() -> None:
    with pytest.raises(OversizeRefusedError, match=r"^cannot read test: 101 bytes, at most 100 are allowed$") as refusal:
        read_envelope(b"{" * 101, what="test", limit=100)
    assert refusal.value.check == "size"


@given(st.binary(min_size=1, max_size=60))
def test_base64_has_one_spelling(data: bytes) -> None:
    """Whatever other text decodes leniently to the same bytes is refused."""
    canonical = base64.b64encode(data).decode()
    for other in (canonical.rstrip("=") + "==", canonical[:1] + "\n" + canonical[1:], canonical + "="):
        if other != canonical:
            with pytest.raises(EnvelopeRefusedError):
                read_envelope(text(payload=other), what="test")

"""Signers: what each of them offers, and an envelope signed by several.

A signer may be a file (``key_file``), later a token or a key service; no other code needs to know which.
"""

from collections.abc import Sequence
from typing import Protocol

from milkyway_formats.envelope import Signature, write_envelope
from milkyway_formats.root import KeyEntry


class Signer(Protocol):
    """One person's hybrid key, wherever it is kept."""

    @property
    def entry(self) -> KeyEntry:
        """The public key and its person, as a root lists them."""
        ...

    def sign(self, payload_type: str, payload: bytes) -> Signature:
        """Return this key's signature over the DSSE encoding of *payload*."""
        ...


def sign_envelope(payload_type: str, payload: bytes, signers: Sequence[Signer]) -> bytes:
    """Return the DSSE envelope of *payload*, signed by each of *signers*."""
    assert signers, "an envelope without a signature is refused by every reader"
    return write_envelope(payload_type, payload, [signer.sign(payload_type, payload) for signer in signers])

"""Hybrid keys: ML-DSA-65 and Ed25519 together, and both signatures must hold.

This is id-MLDSA65-Ed25519-SHA512 of draft-ietf-lamps-pq-composite-sigs, as of its version 13 (October 2025):
over a message M and a context ctx, both halves sign

    M' = Prefix ‖ Label ‖ len(ctx) ‖ ctx ‖ SHA-512(M)

and ML-DSA gets Label as its own context besides. Public key, private key and signature are the plain
concatenation, ML-DSA's part first, each of exact length. Here M is the DSSE pre-authentication encoding
and ctx the payload type. The draft's published vector for this algorithm is one of our tests.

There is no function that verifies or makes only one half. Nothing here reads the machine's randomness:
a key comes from a seed that the caller drew. (ML-DSA's signing draws its own hedge, inside OpenSSL.)
"""

import base64
import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from msgspec import Meta

from milkyway_formats.codec import Document, encode
from milkyway_formats.envelope import Signature, pae
from milkyway_formats.errors import RefusedError
from milkyway_formats.names import KeyId

PREFIX = b"CompositeAlgorithmSignatures2025"
LABEL = b"COMPSIG-MLDSA65-Ed25519-SHA512"
SEED_BYTES = 32 + 32
MLDSA_PUBLIC_BYTES = 1952
PUBLIC_BYTES = MLDSA_PUBLIC_BYTES + 32
MLDSA_SIGNATURE_BYTES = 3309
SIGNATURE_BYTES = MLDSA_SIGNATURE_BYTES + 64

Scheme = Literal["mldsa65-ed25519-sha512"]
SCHEME: Scheme = "mldsa65-ed25519-sha512"
PublicHex = Annotated[str, Meta(pattern=r"^([0-9a-f]{2})*\Z", min_length=2 * PUBLIC_BYTES, max_length=2 * PUBLIC_BYTES)]


class SignatureRefusedError(RefusedError):
    """A signature that its key did not make; the subclass says which half is wrong."""

    check: ClassVar[str] = "halves"


class SignatureLengthRefusedError(SignatureRefusedError):
    """Not as long as the two halves together: one is missing or cut short, or something follows them."""


class MlDsaHalfRefusedError(SignatureRefusedError):
    """The post-quantum half is wrong, the classical one holds: that is not enough."""


class Ed25519HalfRefusedError(SignatureRefusedError):
    """The classical half is wrong, the post-quantum one holds: that is not enough."""


class BothHalvesRefusedError(SignatureRefusedError):
    """Neither half holds: another key's signature, or a signature over another message."""


class KeyRefusedError(RefusedError):
    """Not a public or private key of this scheme."""

    check: ClassVar[str] = "key"


class PublicKeyText(Document, frozen=True):
    """What a key id is the hash of."""

    scheme: Scheme
    public: PublicHex


def representative(message: bytes, context: bytes) -> bytes:
    """Return M', what both halves sign."""
    assert len(context) <= 255, "a context has one byte of length"
    return PREFIX + LABEL + bytes([len(context)]) + context + hashlib.sha512(message).digest()


@dataclass(frozen=True)
class HybridPublicKey:
    """A public key, ``raw`` = ML-DSA-65 (1952 bytes) ‖ Ed25519 (32 bytes)."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != PUBLIC_BYTES:
            raise KeyRefusedError(f"cannot use public key: {len(self.raw)} bytes, must be {PUBLIC_BYTES}")

    @property
    def key_id(self) -> KeyId:
        """SHA-256 of the scheme and the key as canonical JSON, hexadecimal."""
        return hashlib.sha256(encode(PublicKeyText(scheme=SCHEME, public=self.raw.hex()))).hexdigest()

    @property
    def halves(self) -> tuple[bytes, bytes]:
        """The two raw keys, for checking that no other key shares one of them; never to verify with."""
        return self.raw[:MLDSA_PUBLIC_BYTES], self.raw[MLDSA_PUBLIC_BYTES:]

    def verify(self, message: bytes, context: bytes, signature: bytes) -> None:
        """Return if *signature* is this key's over *message* in *context*; else raise, naming the wrong half."""
        blame = f"cannot verify signature by key {self.key_id[:16]}"
        if len(signature) != SIGNATURE_BYTES:
            raise SignatureLengthRefusedError(f"{blame}: {len(signature)} bytes, both halves together are {SIGNATURE_BYTES}")
        signed = representative(message, context)
        mldsa_holds = self._mldsa_holds(signature[:MLDSA_SIGNATURE_BYTES], signed)
        ed25519_holds = self._ed25519_holds(signature[MLDSA_SIGNATURE_BYTES:], signed)
        if not mldsa_holds and not ed25519_holds:
            raise BothHalvesRefusedError(f"{blame}: both halves are wrong")
        if not mldsa_holds:
            raise MlDsaHalfRefusedError(f"{blame}: the ML-DSA-65 half is wrong")
        if not ed25519_holds:
            raise Ed25519HalfRefusedError(f"{blame}: the Ed25519 half is wrong")

    def _mldsa_holds(self, half: bytes, signed: bytes) -> bool:
        try:
            MLDSA65PublicKey.from_public_bytes(self.halves[0]).verify(half, signed, LABEL)
        except (InvalidSignature, ValueError):
            return False
        return True

    def _ed25519_holds(self, half: bytes, signed: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.halves[1]).verify(half, signed)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, repr=False)
class HybridPrivateKey:
    """A private key, ``seed`` = ML-DSA seed (32 bytes) ‖ Ed25519 private key (32 bytes). Its repr shows no secret."""

    seed: bytes

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise KeyRefusedError(f"cannot use private key: {len(self.seed)} bytes, must be {SEED_BYTES}")

    def __repr__(self) -> str:
        return f"<HybridPrivateKey {self.public_key.key_id[:16]}>"

    @property
    def public_key(self) -> HybridPublicKey:
        """The public key that belongs to it."""
        mldsa, ed25519 = self._halves()
        return HybridPublicKey(mldsa.public_key().public_bytes_raw() + ed25519.public_key().public_bytes_raw())

    def sign(self, message: bytes, context: bytes) -> bytes:
        """Return the composite signature over *message* in *context*."""
        mldsa, ed25519 = self._halves()
        signed = representative(message, context)
        return mldsa.sign(signed, LABEL) + ed25519.sign(signed)

    def sign_payload(self, payload_type: str, payload: bytes) -> Signature:
        """Return this key's entry for the envelope of *payload*."""
        signature = self.sign(pae(payload_type, payload), payload_type.encode())
        return Signature(keyid=self.public_key.key_id, sig=base64.b64encode(signature).decode())

    def _halves(self) -> tuple[MLDSA65PrivateKey, Ed25519PrivateKey]:
        return MLDSA65PrivateKey.from_seed_bytes(self.seed[:32]), Ed25519PrivateKey.from_private_bytes(self.seed[32:])

"""The persons of the tests: real hybrid keys from fixed seeds, and the two roots that name them.

vera and victor are the vendor's (root; layers of vendor/*), olivia holds the owner's root, alice, bob and dora
are operators (a change needs two), carol signs the owner's layers; no root names mallory.
"""

import hashlib

from milkyway_formats.codec import Document, encode
from milkyway_formats.root import LayerDelegation, Operators, Role, RootDocument, Thresholds
from milkyway_formats.trust import Trust
from milkyway_signing.key_file import FileSigner, generate
from milkyway_signing.signer import sign_envelope

NOW = 1_900_000_000
YEAR = 365 * 24 * 3600
FLEET = "demo"
MACHINE = "a" * 64


def key_of(person: str, number: int = 1) -> FileSigner:
    """Return the *number*-th key of *person*: always the same key."""
    return generate(f"{person}-{number}", person, seed=hashlib.sha512(f"{person} {number}".encode()).digest())


VERA, VICTOR, OLIVIA = key_of("vera"), key_of("victor"), key_of("olivia")
ALICE, BOB, DORA, CAROL = key_of("alice"), key_of("bob"), key_of("dora"), key_of("carol")
ALICE_AGAIN = key_of("alice", 2)
MALLORY = key_of("mallory")


def ids(*signers: FileSigner) -> list[str]:
    """Return the key ids of *signers*."""
    return [signer.entry.key_id for signer in signers]


VENDOR = RootDocument(
    format="milkyway.root/1",
    side="vendor",
    version=1,
    issued=NOW - 10,
    expires=NOW + YEAR,
    keys=[VERA.entry, VICTOR.entry],
    root=Role(keys=ids(VERA)),
    layers=[LayerDelegation(paths=["vendor/*"], keys=ids(VICTOR))],
)
OWNER = RootDocument(
    format="milkyway.root/1",
    side="owner",
    version=1,
    issued=NOW - 10,
    expires=NOW + YEAR,
    keys=[signer.entry for signer in (OLIVIA, ALICE, ALICE_AGAIN, BOB, DORA, CAROL)],
    root=Role(keys=ids(OLIVIA)),
    layers=[LayerDelegation(paths=["*"], keys=ids(CAROL, BOB))],
    fleet=FLEET,
    operators=Operators(
        keys=ids(ALICE, ALICE_AGAIN, BOB, DORA),
        thresholds=Thresholds(),
        permissions={"dora": ["read", "restart"]},
    ),
    vendor_paths=["vendor/*"],
)
TRUST = Trust(vendor=VENDOR, owner=OWNER)


def signed(payload_type: str, document: Document, *signers: FileSigner) -> bytes:
    """Return *document* in an envelope signed by *signers*."""
    return sign_envelope(payload_type, encode(document), signers)

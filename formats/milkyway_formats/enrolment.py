"""Enrolment: how a machine that holds a token becomes one that operators can give orders to.

A token is ``id.secret``: the operator's tool makes it and shows it once; the control server
learns only the id. The machine proves the secret by an HMAC over its three public keys, so
the operator's tool finds out a server that swaps the CSR. It then signs the record that
names the machine, its groups and its keys.
"""

import hashlib
import hmac
import re
from typing import Annotated, Literal

from msgspec import Meta, field

from milkyway_formats.codec import Document, MalformedError
from milkyway_formats.names import FleetId, MachineId, ShortText, UnixSeconds

ENROLMENT_TYPE = "application/vnd.milkyway.enrolment.v1+json"
MACHINE_TYPE = "application/vnd.milkyway.machine.v1+json"
TokenId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
Hex = Annotated[str, Meta(pattern=r"^([0-9a-f]{2})*\Z", max_length=16384)]
Pem = Annotated[str, Meta(max_length=16384)]
Label = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9._-]{0,30}\Z")]


class MachineKeys(Document, frozen=True):
    """The three public keys of a machine: connection (P-256 SubjectPublicKeyInfo, DER), identity (hybrid), encryption."""

    connection: Hex
    identity: Hex
    encryption: Hex


class EnrolmentRequest(Document, frozen=True):
    """What a machine sends: its CSR, its keys, and the proof that it holds the token's secret."""

    format: Literal["milkyway.enrolment-request/1"]
    token: TokenId
    csr: Pem
    keys: MachineKeys
    proof: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    hostname: ShortText = ""


class EnrolmentRecord(Document, frozen=True):
    """What an operator signs: this machine, with these keys, in these groups, belongs to the fleet."""

    format: Literal["milkyway.enrolment/1"]
    fleet: FleetId
    machine: MachineId
    name: Label
    keys: MachineKeys
    token: TokenId
    issued: UnixSeconds
    groups: Annotated[list[Label], Meta(max_length=32)] = field(default_factory=list)
    labels: dict[Label, ShortText] = field(default_factory=dict)


class EnrolmentReply(Document, frozen=True):
    """What the machine gets back: its certificate and the signed record (a DSSE envelope as JSON text)."""

    format: Literal["milkyway.enrolment-reply/1"]
    certificate: Pem
    record: Annotated[str, Meta(max_length=65536)]


class MachineConfiguration(Document, frozen=True):
    """What the secure-config partition says: where the control server is, and how to recognise it.

    ``ca``: PEM of the certificate authority that the control server's own certificate must come from.
    ``token``: ``id.secret`` until the machine is enrolled.
    """

    format: Literal["milkyway.machine/1"]
    fleet: FleetId
    hostname: Label
    control_host: ShortText = ""
    control_port: int = 0
    ca: Pem = ""
    token: ShortText = ""


def proof(secret: bytes, token: str, keys: MachineKeys) -> str:
    """Return HMAC-SHA-256 over the token id and the hashes of the three keys, hexadecimal."""
    fingerprints = b"".join(
        hashlib.sha256(bytes.fromhex(key)).digest() for key in (keys.connection, keys.identity, keys.encryption)
    )
    return hmac.new(secret, b"milkyway.enrolment/1\0" + token.encode() + b"\0" + fingerprints, hashlib.sha256).hexdigest()


def split_token(token: str) -> tuple[TokenId, bytes]:
    """Return the id and the secret of *token*: ``id.secret``, 16 and 64 lower-case hexadecimal digits.

    The refusal shows neither: even a mistyped token may contain the secret.
    """
    found = re.fullmatch(r"([0-9a-f]{16})\.([0-9a-f]{64})", token)
    if found is None:
        raise MalformedError("cannot read enrolment token: it is not 16 hexadecimal digits, a dot and 64 more")
    return found[1], bytes.fromhex(found[2])

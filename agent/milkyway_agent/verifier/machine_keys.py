"""The machine's three keys: connection (P-256), identity (hybrid), encryption (X25519 and ML-KEM-768).

They are made once, from randomness that the caller passes in, and kept in the trust state as one document. Only
the connection key ever leaves the verifier (the uplink needs it for TLS, and it carries no authority);
the identity key's id is the machine's id. An encryption public key is X25519's 32 bytes
followed by ML-KEM's 1184: to read a machine's secret both would have to be broken.
"""

from collections.abc import Callable
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from msgspec import Meta

from milkyway_formats.codec import Document
from milkyway_formats.enrolment import MachineKeys
from milkyway_formats.hybrid import SEED_BYTES, HybridPrivateKey
from milkyway_formats.names import MachineId

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
MLKEM_SEED_BYTES = 64
Random = Callable[[int], bytes]


class MachineSecrets(Document, frozen=True):
    """What is persisted, mode 0600: the private halves, raw, hexadecimal. Its repr shows none of them."""

    format: Literal["milkyway.machine-secrets/1"]
    connection: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    identity: Annotated[str, Meta(pattern=r"^[0-9a-f]{128}$")]
    x25519: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    mlkem: Annotated[str, Meta(pattern=r"^[0-9a-f]{128}$")]

    def __repr__(self) -> str:
        return "<MachineSecrets>"


def generate(random: Random) -> MachineSecrets:
    """Return new secrets drawn from *random* (``os.urandom``)."""
    # 16 bytes more than needed make the reduction's bias negligible (FIPS 186-5, A.2.1).
    scalar = 1 + int.from_bytes(random(48), "big") % (P256_ORDER - 1)
    return MachineSecrets(
        format="milkyway.machine-secrets/1",
        connection=scalar.to_bytes(32, "big").hex(),
        identity=random(SEED_BYTES).hex(),
        x25519=random(32).hex(),
        mlkem=random(MLKEM_SEED_BYTES).hex(),
    )


def identity_key(secrets: MachineSecrets) -> HybridPrivateKey:
    """Return the key that signs the machine's reports."""
    return HybridPrivateKey(bytes.fromhex(secrets.identity))


def connection_key(secrets: MachineSecrets) -> ec.EllipticCurvePrivateKey:
    """Return the key of the machine's certificate."""
    return ec.derive_private_key(int(secrets.connection, 16), ec.SECP256R1())


def connection_key_pem(secrets: MachineSecrets) -> str:
    """Return the connection key as the uplink needs it."""
    return connection_key(secrets).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def machine_id(secrets: MachineSecrets) -> MachineId:
    """Return the machine's id, which is the identity key's and so no other machine's."""
    return identity_key(secrets).public_key.key_id


def public_keys(secrets: MachineSecrets) -> MachineKeys:
    """Return the public halves as an enrolment record names them."""
    connection = connection_key(secrets).public_key()
    x25519 = X25519PrivateKey.from_private_bytes(bytes.fromhex(secrets.x25519)).public_key()
    mlkem = MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(secrets.mlkem)).public_key()
    return MachineKeys(
        connection=connection.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex(),
        identity=identity_key(secrets).public_key.raw.hex(),
        encryption=(x25519.public_bytes_raw() + mlkem.public_bytes_raw()).hex(),
    )

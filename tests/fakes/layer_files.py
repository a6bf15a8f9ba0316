"""Small layer files with all that real ones have except a file system: hash tree, manifest, policy, signatures, footer."""

import hashlib
from typing import NamedTuple

from milkyway_formats.codec import encode
from milkyway_formats.deployment import LayerPin
from milkyway_formats.grants import Grant, Listen
from milkyway_formats.layer_file import footer, lay_out
from milkyway_formats.manifest import BLOCK_SIZE, MANIFEST_TYPE, Image, Manifest, PolicyOverlay
from milkyway_formats.service import Service
from milkyway_signing.key_file import FileSigner
from milkyway_signing.signer import sign_envelope
from tests.fakes.people import CAROL, NOW

SALT = "5a" * 32
POLICY = b"(call listen_tcp (process))\n"
LISTEN = Listen(protocol="tcp", port=8080)


class MadeLayer(NamedTuple):
    """A layer file and its manifest."""

    data: bytes
    manifest: Manifest

    @property
    def sha256(self) -> str:
        """The whole file's hash."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pin(self) -> LayerPin:
        """The pin of it in a deployment."""
        return LayerPin(
            path=self.manifest.path,
            version=self.manifest.version,
            sha256=self.sha256,
            size=len(self.data),
            root_hash=self.manifest.image.root_hash,
        )


def make_layer(
    path: str = "example/nginx",
    *signers: FileSigner,
    content: bytes = b"web",
    policy: bytes = POLICY,
    grants: list[Grant] | None = None,
    kind: str = "app",
) -> MadeLayer:
    """Return the layer *path* signed by *signers* (default: carol): two data blocks, one hash block."""
    blocks = [content.ljust(BLOCK_SIZE, b"\0"), b"\1" * BLOCK_SIZE]
    salt = bytes.fromhex(SALT)
    tree = b"".join(hashlib.sha256(salt + block).digest() for block in blocks).ljust(BLOCK_SIZE, b"\0")
    manifest = Manifest(
        format="milkyway.manifest/1",
        path=path,
        version="1",
        built=NOW,
        kind=kind,  # type: ignore[arg-type]  # the parameter is one of the three words
        base="coreos",
        image=Image(root_hash=hashlib.sha256(salt + tree).hexdigest(), salt=SALT, data_blocks=2, hash_blocks=1),
        policy=PolicyOverlay(sha256=hashlib.sha256(policy).hexdigest(), size=len(policy)) if policy else None,
        services=[Service(name="nginx", command=["/usr/sbin/nginx"])] if kind == "app" else [],
        grants=[LISTEN] if grants is None else grants,
    )
    payload = encode(manifest)
    envelope = sign_envelope(MANIFEST_TYPE, payload, signers or (CAROL,))
    image = b"".join(blocks)
    sections = lay_out(image=len(image), hash_tree=len(tree), manifest=len(payload), policy=len(policy), envelope=len(envelope))
    return MadeLayer(image + tree + payload + policy + envelope + footer(sections), manifest)


class MemoryLayer:
    """A layer file in memory, as the verifier reads one. It counts how often it was closed."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.closed = 0

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        assert not self.closed, "a closed file is not read"
        return self.data[offset : offset + length]

    def close(self) -> None:
        self.closed += 1

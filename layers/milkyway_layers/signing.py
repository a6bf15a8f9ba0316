"""Signing a layer file, and verifying it as a machine would.

A layer may be signed by several people, one after the other, each on their own machine:
a signature is added to the existing ones. Before a layer is signed, its image, hash tree
and policy are compared with the manifest.
"""

from collections.abc import Sequence
from pathlib import Path

from milkyway_formats.envelope import Signature, payload_of, read_envelope, write_envelope
from milkyway_formats.errors import RefusedError
from milkyway_formats.layer_file import LayerFileError
from milkyway_formats.manifest import MANIFEST_TYPE
from milkyway_formats.trust import Trust, Verified
from milkyway_layers.assembly import LayerFile, opened, read_layer, write_layer
from milkyway_layers.verity import check_tree
from milkyway_signing.signer import Signer


def sign_layer(file: Path, signers: Sequence[Signer]) -> LayerFile:
    """Add the signatures of *signers* to *file* and return its new contents. Raises RefusedError, leaving it unchanged."""
    layer = read_layer(file, unsigned=True)
    check_layer(file, layer)
    key_ids = {signer.entry.key_id for signer in signers}
    kept = [signature for signature in signatures(layer) if signature.keyid not in key_ids]
    made = [signer.sign(MANIFEST_TYPE, layer.manifest_bytes) for signer in signers]
    envelope = write_envelope(MANIFEST_TYPE, layer.manifest_bytes, [*kept, *made])
    read_envelope(envelope, what="manifest")
    write_layer(file, file, layer.manifest, layer.manifest_bytes, layer.policy, envelope)
    return read_layer(file)


def verify_layer(file: Path, trust: Trust) -> tuple[LayerFile, Verified]:
    """Return the contents of *file* and who signed it, if *trust* accepts every byte of it. Raises RefusedError.

    In this order: the frame; the signatures over the manifest; the manifest section equals what
    was signed; sizes and policy; then every block of image and hash tree against the root hash.
    """
    layer = read_layer(file)
    _, verified = trust.verify_manifest(layer.envelope)
    check_layer(file, layer)
    return layer, verified


def check_layer(file: Path, layer: LayerFile) -> None:
    """Check that envelope, image and hash tree of *file* match its manifest. Raises RefusedError."""
    if layer.envelope:
        envelope = read_envelope(layer.envelope, what="manifest")
        if envelope.payload_type != MANIFEST_TYPE or payload_of(envelope) != layer.manifest_bytes:
            raise LayerFileError(f"cannot use layer {file.name}: its envelope is of another manifest")
    with opened(file) as source:
        try:
            check_tree(source, layer.manifest.image)
        except RefusedError as error:
            raise type(error)(str(error).replace("layer:", f"layer {file.name}:", 1)) from error


def signatures(layer: LayerFile) -> list[Signature]:
    """Return the signatures in *layer*'s envelope; none when it is unsigned."""
    return read_envelope(layer.envelope, what="manifest").signatures if layer.envelope else []

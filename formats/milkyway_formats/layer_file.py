"""The layer file's frame: where each of its five sections lies.

    image ‖ hash tree ‖ manifest ‖ policy ‖ envelope ‖ footer (the last 128 bytes)

The footer is the magic and five pairs (offset, length), little-endian 64-bit, in this
order, then zeros. The sections follow each other without a gap and cover the file
exactly, so a layer file has no byte that a reader could overlook. This module works on
bytes and numbers; reading the file and checking the hash tree and the signatures is up
to the caller. Only ``layer sign`` accepts an unsigned file, one with an empty envelope;
for everybody else ``parse_footer`` refuses it.
"""

import hashlib
import struct
from typing import NamedTuple

from milkyway_formats.errors import RefusedError
from milkyway_formats.limits import MAX_ENVELOPE_BYTES
from milkyway_formats.manifest import BLOCK_SIZE, MAX_MANIFEST_BYTES, Manifest

MAGIC = b"MILKYWAY-LAYER1\n"
FOOTER_BYTES = 128
MAX_IMAGE_BYTES = 64 << 30
MAX_POLICY_BYTES = 256 * 1024
HASHES_PER_BLOCK = BLOCK_SIZE // hashlib.sha256().digest_size

_PAIRS = struct.Struct("<16s10Q")
assert _PAIRS.size <= FOOTER_BYTES


class LayerFileError(RefusedError):
    """The bytes are not a layer file, or its parts do not belong together."""


class Section(NamedTuple):
    """A stretch of the file."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The offset of the first byte after it."""
        return self.offset + self.length


class Sections(NamedTuple):
    """The five sections in the order of the file."""

    image: Section
    hash_tree: Section
    manifest: Section
    policy: Section
    envelope: Section

    @property
    def signed(self) -> bool:
        """Whether there is an envelope at all (not whether it is good)."""
        return self.envelope.length > 0

    @property
    def file_size(self) -> int:
        """The size of the whole file, footer included."""
        return self.envelope.end + FOOTER_BYTES


def hash_tree_blocks(data_blocks: int) -> int:
    """Return how many blocks dm-verity's hash tree over *data_blocks* blocks takes (SHA-256, no superblock)."""
    total, level = 0, data_blocks
    while level > 1:
        level = -(-level // HASHES_PER_BLOCK)
        total += level
    return total


def lay_out(*, image: int, hash_tree: int, manifest: int, policy: int, envelope: int) -> Sections:
    """Return the sections of a file whose parts have these lengths. Raises LayerFileError when one is not allowed."""
    placed, offset = [], 0
    for length in (image, hash_tree, manifest, policy, envelope):
        placed.append(Section(offset, length))
        offset += length
    sections = Sections(*placed)
    _check_lengths(sections)
    return sections


def footer(sections: Sections) -> bytes:
    """Return the 128 bytes that end a file with these *sections*."""
    numbers = [number for section in sections for number in section]
    return _PAIRS.pack(MAGIC, *numbers).ljust(FOOTER_BYTES, b"\0")


def parse_footer(last128: bytes, file_size: int, *, unsigned: bool = False) -> Sections:
    """Return where the sections of a file of *file_size* bytes lie; *last128* are its last 128 bytes.

    Checks, in this order: there is a footer; its magic; its padding; each section begins where the one
    before ends; they and the footer are the whole file; each length is allowed; there is an envelope
    (unless *unsigned*, which is only for a caller about to sign).
    """
    if len(last128) != FOOTER_BYTES or file_size < FOOTER_BYTES:
        raise LayerFileError(f"cannot read layer: {file_size} bytes are too short for a layer file")
    magic, *numbers = _PAIRS.unpack_from(last128)
    if magic != MAGIC:
        raise LayerFileError("cannot read layer: it does not end with a layer file's footer")
    if any(last128[_PAIRS.size :]):
        raise LayerFileError("cannot read layer: the footer's padding is not zero")
    sections = Sections(*(Section(*numbers[index : index + 2]) for index in range(0, 10, 2)))
    offset = 0
    for name, section in zip(Sections._fields, sections, strict=True):
        if section.offset != offset:
            raise LayerFileError(f"cannot read layer: section {name} begins at {section.offset}, not at {offset}")
        offset = section.end
    if sections.file_size != file_size:
        raise LayerFileError(f"cannot read layer: its footer describes {sections.file_size} bytes, it has {file_size}")
    _check_lengths(sections)
    if not sections.signed and not unsigned:
        raise LayerFileError("cannot read layer: it is not signed", hint="sign it: milkyway layer sign FILE --key KEYFILE")
    return sections


def check_manifest(sections: Sections, manifest: Manifest) -> None:
    """Check that image, hash tree and policy have in *sections* the sizes that *manifest* states."""
    sizes = {
        "image": (manifest.image.data_blocks * BLOCK_SIZE, sections.image.length),
        "hash_tree": (manifest.image.hash_blocks * BLOCK_SIZE, sections.hash_tree.length),
        "policy": (manifest.policy.size if manifest.policy else 0, sections.policy.length),
    }
    for name, (stated, found) in sizes.items():
        if stated != found:
            raise LayerFileError(f"cannot read layer: its manifest says {stated} bytes of {name}, the file has {found}")


def check_policy(policy: bytes, manifest: Manifest) -> None:
    """Check that *policy* is the overlay that *manifest* names."""
    if manifest.policy is None:
        if policy:
            raise LayerFileError("cannot read layer: it holds a policy overlay that its manifest does not name")
    elif hashlib.sha256(policy).hexdigest() != manifest.policy.sha256:
        raise LayerFileError("cannot read layer: its policy overlay is not the one that its manifest names")


def _check_lengths(sections: Sections) -> None:
    """Check that a layer may have each of these lengths."""
    image = sections.image.length
    if image % BLOCK_SIZE or not 2 * BLOCK_SIZE <= image <= MAX_IMAGE_BYTES:
        raise LayerFileError(f"cannot read layer: an image of {image} bytes (2 blocks to 64 GiB, whole blocks of {BLOCK_SIZE})")
    tree = hash_tree_blocks(image // BLOCK_SIZE) * BLOCK_SIZE
    if sections.hash_tree.length != tree:
        raise LayerFileError(
            f"cannot read layer: a hash tree of {sections.hash_tree.length} bytes where the image needs {tree}"
        )
    if not 1 <= sections.manifest.length <= MAX_MANIFEST_BYTES:
        raise LayerFileError(f"cannot read layer: a manifest of {sections.manifest.length} bytes (1 to {MAX_MANIFEST_BYTES})")
    if sections.policy.length > MAX_POLICY_BYTES:
        raise LayerFileError(f"cannot read layer: a policy of {sections.policy.length} bytes (at most {MAX_POLICY_BYTES})")
    if sections.envelope.length > MAX_ENVELOPE_BYTES:
        raise LayerFileError(
            f"cannot read layer: an envelope of {sections.envelope.length} bytes (at most {MAX_ENVELOPE_BYTES})"
        )

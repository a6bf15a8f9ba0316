"""Layer files on disk: written whole or not at all, read strictly.

``milkyway_formats.layer_file`` defines the frame (offsets, limits); this module moves the bytes.
What it reads is consistent with itself; who signed it is ``signing``'s question.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, NamedTuple

from milkyway_formats.codec import decode
from milkyway_formats.errors import UnavailableError
from milkyway_formats.layer_file import (
    FOOTER_BYTES,
    Section,
    Sections,
    check_manifest,
    check_policy,
    footer,
    lay_out,
    parse_footer,
)
from milkyway_formats.manifest import BLOCK_SIZE, MAX_MANIFEST_BYTES, Manifest

_CHUNK = 1 << 20


class LayerFile(NamedTuple):
    """Everything in a layer file but its image and hash tree, which stay in the file."""

    sections: Sections
    manifest: Manifest
    manifest_bytes: bytes
    policy: bytes
    envelope: bytes


def write_layer(file: Path, image: Path, manifest: Manifest, manifest_bytes: bytes, policy: bytes, envelope: bytes) -> None:
    """Write a layer to *file*, atomically: the image and hash tree at the beginning of *image*, and the rest."""
    sections = lay_out(
        image=manifest.image.data_blocks * BLOCK_SIZE,
        hash_tree=manifest.image.hash_blocks * BLOCK_SIZE,
        manifest=len(manifest_bytes),
        policy=len(policy),
        envelope=len(envelope),
    )
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with image.open("rb") as source, fresh.open("wb") as out:
            _copy(source, out, sections.hash_tree.end)
            out.write(manifest_bytes + policy + envelope + footer(sections))
            out.flush()
            os.fsync(out.fileno())
        fresh.rename(file)
    finally:
        fresh.unlink(missing_ok=True)


def read_layer(file: Path, *, unsigned: bool = False) -> LayerFile:
    """Return what *file* says about itself; an unsigned file only if *unsigned*. Raises LayerFileError or MalformedError."""
    with opened(file) as source:
        size = source.seek(0, os.SEEK_END)
        source.seek(max(0, size - FOOTER_BYTES))
        sections = parse_footer(source.read(FOOTER_BYTES), size, unsigned=unsigned)
        manifest_bytes, policy, envelope = (
            _section(source, section) for section in (sections.manifest, sections.policy, sections.envelope)
        )
    manifest = decode(manifest_bytes, Manifest, what="manifest", limit=MAX_MANIFEST_BYTES)
    check_manifest(sections, manifest)
    check_policy(policy, manifest)
    return LayerFile(sections, manifest, manifest_bytes, policy, envelope)


@contextmanager
def opened(file: Path) -> Iterator[BufferedReader]:
    """Open *file* for reading. Raises UnavailableError if that fails."""
    try:
        source = file.open("rb")
    except OSError as error:
        raise UnavailableError(f"cannot read layer {file}: {error.strerror}") from error
    with source:
        yield source


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of the whole *file*, under which stores and blob servers keep a layer."""
    with opened(file) as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _section(source: BinaryIO, section: Section) -> bytes:
    source.seek(section.offset)
    return source.read(section.length)


def _copy(source: BinaryIO, out: BinaryIO, size: int) -> None:
    while size:
        chunk = source.read(min(size, _CHUNK))
        assert chunk, "the image is as long as its manifest says"
        out.write(chunk)
        size -= len(chunk)

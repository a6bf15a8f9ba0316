"""Layer files as the operator's tool reads them: who signed them, what exactly they are, which belong together.

Everything that gets signed about a layer comes from here: the hash of the whole file, and the
manifest in the envelope whose signatures were checked against the operator's own roots. Whether the image has
the root hash in its manifest is left to dm-verity on the machine (and to ``milkyway layer verify`` here).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from milkyway_formats.deployment import LayerPin
from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.layer_file import (
    FOOTER_BYTES,
    Section,
    check_manifest,
    check_policy,
    parse_footer,
)
from milkyway_formats.manifest import Manifest
from milkyway_formats.names import Sha256
from milkyway_formats.trust import Trust, Verified

CHUNK_BYTES = 1 << 20


class StackRefusedError(RefusedError):
    """The given layers do not make a stack."""


class LayerUnavailableError(UnavailableError):
    """A layer file can't be read now."""


@dataclass(frozen=True)
class LocalLayer:
    """A layer file whose signatures hold."""

    file: Path
    pin: LayerPin
    manifest: Manifest
    verified: Verified


def hash_file(path: Path) -> tuple[Sha256, int]:
    """Return the SHA-256 and the size of the file *path*."""
    try:
        with path.open("rb") as file:
            digest, size = hashlib.sha256(), 0
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise LayerUnavailableError(f"cannot read layer {path}: {error.strerror}") from error
    return digest.hexdigest(), size


def read_layer(path: Path, trust: Trust) -> LocalLayer:
    """Return the layer in the file *path*. Checks its frame, its signatures, and that they are for its sections."""
    sha256, size = hash_file(path)
    try:
        with path.open("rb") as file:
            footer = _section(file, Section(max(size - FOOTER_BYTES, 0), FOOTER_BYTES))
            sections = parse_footer(footer, size)
            manifest_bytes = _section(file, sections.manifest)
            policy = _section(file, sections.policy)
            envelope = _section(file, sections.envelope)
    except OSError as error:
        raise LayerUnavailableError(f"cannot read layer {path}: {error.strerror}") from error
    manifest, verified = trust.verify_manifest(envelope)
    if verified.payload != manifest_bytes:
        raise StackRefusedError(f"cannot read layer {path}: its manifest is not the one that was signed")
    check_manifest(sections, manifest)
    check_policy(policy, manifest)
    pin = LayerPin(path=manifest.path, version=manifest.version, sha256=sha256, size=size, root_hash=manifest.image.root_hash)
    return LocalLayer(path, pin, manifest, verified)


def resolve(app: LocalLayer, libraries: Sequence[LocalLayer]) -> list[LocalLayer]:
    """Return the stack, topmost first: *app* and exactly the libraries that its manifest pins, in its order."""
    if app.manifest.kind != "app":
        raise StackRefusedError(f"cannot deploy {app.pin.path}: it is a {app.manifest.kind} layer, not an app")
    given = {library.pin.root_hash: library for library in libraries}
    stack = [app]
    for wanted in app.manifest.libraries:
        found = given.pop(wanted.root_hash, None)
        if found is None or (found.pin.path, found.pin.version) != (wanted.path, wanted.version):
            raise StackRefusedError(
                f"cannot deploy {app.pin.path}: it needs {wanted.path} {wanted.version} with root hash {wanted.root_hash[:16]}",
                hint="give its file with --library FILE",
            )
        stack.append(found)
    for unused in given.values():
        raise StackRefusedError(f"cannot deploy {app.pin.path}: it does not use {unused.pin.path} {unused.pin.version}")
    return stack


def _section(file: BinaryIO, section: Section) -> bytes:
    file.seek(section.offset)
    return file.read(section.length)

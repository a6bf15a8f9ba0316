"""The check that a file is the layer that its signers signed, and the layer that a deployment names.

``check_layer`` reads footer, envelope, manifest, policy and the top of the hash tree, a few hundred kilobytes
whatever the image's size. That fixes every byte of the layer by hash, since dm-verity checks the image
block by block against the manifest's root hash. When a layer arrives the whole file is hashed as well (by
the caller, which can do other things meanwhile). Its writer might still change the file, so it is
read again for each question and never taken from memory.
"""

import hashlib
from typing import ClassVar, NamedTuple, Protocol

from milkyway_formats.deployment import Deployment
from milkyway_formats.desired import Desired
from milkyway_formats.errors import RefusedError
from milkyway_formats.layer_file import (
    FOOTER_BYTES,
    Section,
    Sections,
    check_manifest,
    check_policy,
    parse_footer,
)
from milkyway_formats.manifest import BLOCK_SIZE, Manifest
from milkyway_formats.names import Sha256
from milkyway_formats.service_check import check_layer_service
from milkyway_formats.trust import Trust, Verified


class ReadLayer(Protocol):
    """An open layer file. ``read`` returns less than *length* bytes only where the file ends."""

    @property
    def size(self) -> int:
        """The length of the file now."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes at *offset*."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class LayerRefusedError(RefusedError):
    """The file is not what was signed, or not what was asked for."""

    check: ClassVar[str] = "layer"


class CheckedLayer(NamedTuple):
    """A layer file whose signers, manifest and policy are known to be right."""

    manifest: Manifest
    verified: Verified
    policy: bytes


def check_size(file: ReadLayer, size: int) -> None:
    """Raise LayerRefusedError unless *file* has *size* bytes."""
    if file.size != size:
        raise LayerRefusedError(f"cannot accept layer: the file has {file.size} bytes, expected {size}")


def check_hash(found: Sha256, expected: Sha256) -> None:
    """Raise LayerRefusedError unless the whole file's hash is the *expected* one."""
    if found != expected:
        raise LayerRefusedError(f"cannot accept layer: its SHA-256 is {found[:16]}…, expected {expected[:16]}…")


def check_layer(file: ReadLayer, trust: Trust) -> CheckedLayer:
    """Return what *file* holds if all of it is what enough signers for its path signed.

    Checks, in this order: footer and sections; envelope and signatures; the manifest section is what the envelope
    carries; it speaks of sections of these sizes; its services; its policy; the hash tree's top block against the root hash.
    """
    sections = parse_footer(file.read(max(0, file.size - FOOTER_BYTES), FOOTER_BYTES), file.size)
    manifest, verified = trust.verify_manifest(_section(file, sections.envelope))
    if _section(file, sections.manifest) != verified.payload:
        raise LayerRefusedError("cannot accept layer: its manifest is not the one in its envelope")
    check_manifest(sections, manifest)
    for service in manifest.services:
        check_layer_service(service)
    policy = _section(file, sections.policy)
    check_policy(policy, manifest)
    _check_top(file, sections, manifest)
    return CheckedLayer(manifest, verified, policy)


def check_pins(sha256: Sha256, manifest: Manifest, desired: Desired) -> None:
    """Raise LayerRefusedError unless every pin of *desired* on this file names the layer that it is."""
    for deployment in desired.deployments:
        for pin in deployment.stack:
            found = (manifest.path, manifest.version, manifest.image.root_hash)
            if pin.sha256 == sha256 and found != (pin.path, pin.version, pin.root_hash):
                raise LayerRefusedError(
                    f"cannot accept layer: it is {manifest.path} {manifest.version}, but deployment {deployment.name}"
                    f" names {pin.path} {pin.version}: path, version or root hash differ"
                )


def deployments_with(sha256: Sha256, desired: Desired) -> list[Deployment]:
    """Return the deployments of *desired* whose stack holds the file."""
    return [deployment for deployment in desired.deployments if any(pin.sha256 == sha256 for pin in deployment.stack)]


def _section(file: ReadLayer, section: Section) -> bytes:
    data = file.read(section.offset, section.length)
    if len(data) != section.length:
        raise LayerRefusedError("cannot accept layer: the file ends before its sections do")
    return data


def _check_top(file: ReadLayer, sections: Sections, manifest: Manifest) -> None:
    """Compare the hash tree's first block, which is its top (dm-verity stores the highest level first), to the root hash."""
    top = _section(file, Section(sections.hash_tree.offset, BLOCK_SIZE))
    if hashlib.sha256(bytes.fromhex(manifest.image.salt) + top).hexdigest() != manifest.image.root_hash:
        raise LayerRefusedError("cannot accept layer: its hash tree does not have the root hash that its manifest names")

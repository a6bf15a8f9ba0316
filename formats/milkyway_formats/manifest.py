"""The manifest: the signed description of a layer.

It names the image by its dm-verity root hash and the policy overlay by its hash, so
the signatures on the manifest's envelope cover every byte of the layer.
"""

from typing import Annotated, Literal

from msgspec import Meta, field

from milkyway_formats.codec import Document
from milkyway_formats.grants import Grant
from milkyway_formats.names import (
    Bytes,
    DataName,
    LayerPath,
    LayerVersion,
    RootHash,
    Salt,
    Sha256,
    ShortText,
    UnixSeconds,
)
from milkyway_formats.service import Service

BLOCK_SIZE = 4096
MAX_MANIFEST_BYTES = 256 * 1024
MANIFEST_TYPE = "application/vnd.milkyway.manifest.v1+json"
Blocks = Annotated[int, Meta(ge=1, le=1 << 38, description="blocks of 4096 bytes")]
DataClass = Literal["common", "secure", "group"]


class Image(Document, frozen=True):
    """The EROFS image and its hash tree: blocks [0, data_blocks) are data, the tree follows directly."""

    root_hash: RootHash
    salt: Salt
    data_blocks: Blocks
    hash_blocks: Blocks


class PolicyOverlay(Document, frozen=True):
    """The layer's CIL, by hash and size."""

    sha256: Sha256
    size: Bytes


class LibraryReference(Document, frozen=True):
    """A layer below this one in the stack, pinned to its bytes."""

    path: LayerPath
    version: LayerVersion
    root_hash: RootHash


class DataWanted(Document, frozen=True):
    """Persistent data that the layer needs; the owner binds it to a data source."""

    name: DataName
    data_class: DataClass = "secure"
    path: ShortText = ""


class Package(Document, frozen=True):
    """A distribution package inside the layer (its bill of materials)."""

    name: ShortText
    version: ShortText
    sha256: Sha256


class Manifest(Document, frozen=True):
    """What a layer is and needs. ``libraries`` are topmost first; for ``sealed`` the last is its OS base layer."""

    format: Literal["milkyway.manifest/1"]
    path: LayerPath
    version: LayerVersion
    built: UnixSeconds
    kind: Literal["app", "library", "base"]
    base: Literal["coreos", "sealed"]
    image: Image
    coreos_interface: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    libraries: Annotated[list[LibraryReference], Meta(max_length=16)] = field(default_factory=list)
    policy: PolicyOverlay | None = None
    services: Annotated[list[Service], Meta(max_length=64)] = field(default_factory=list)
    grants: Annotated[list[Grant], Meta(max_length=64)] = field(default_factory=list)
    os_services: Annotated[list[ShortText], Meta(max_length=32)] = field(default_factory=list)
    data: Annotated[list[DataWanted], Meta(max_length=32)] = field(default_factory=list)
    packages: Annotated[list[Package], Meta(max_length=2000)] = field(default_factory=list)

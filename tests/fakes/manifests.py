"""A small manifest and a pin of its layer, for tests in which only a few of their fields matter."""

from typing import Any

from milkyway_formats.deployment import LayerPin
from milkyway_formats.manifest import Image, Manifest

HASH = "0" * 64
IMAGE = Image(root_hash=HASH, salt=HASH, data_blocks=1, hash_blocks=1)


def manifest_of(path: str, **fields: Any) -> Manifest:
    """Return the manifest of an app layer, with the given *fields* instead of the usual ones."""
    plain = {"format": "milkyway.manifest/1", "version": "1", "built": 0, "kind": "app", "base": "coreos", "image": IMAGE}
    return Manifest(path=path, **{**plain, **fields})


def pin_of(path: str) -> LayerPin:
    """Return a pin of the layer *path*."""
    return LayerPin(path=path, version="1", sha256=HASH, size=1, root_hash=HASH)

"""dm-verity hash trees: veritysetup makes them, and Python computes them again to check them.

The tree is the kernel's format 1 without a superblock: SHA-256 over salt ‖ block, in
blocks of 4096 bytes, the topmost level first. Two implementations must agree:
``check_tree`` checks what veritysetup wrote for ``append_tree``.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from milkyway_formats.errors import RefusedError
from milkyway_formats.layer_file import HASHES_PER_BLOCK, hash_tree_blocks
from milkyway_formats.manifest import BLOCK_SIZE, Image
from milkyway_layers.tools import Tools


class VerityError(RefusedError):
    """An image and its hash tree do not belong together."""


class HashTree(NamedTuple):
    """The bytes of a hash tree and its root hash."""

    data: bytes
    root_hash: str


def salt_for(image: Path) -> str:
    """Return the salt of *image*: made from its bytes, so that equal images keep equal trees."""
    with image.open("rb") as file:
        return hashlib.sha256(b"milkyway layer salt\0" + hashlib.file_digest(file, "sha256").digest()).hexdigest()


def append_tree(image: Path, tools: Tools) -> Image:
    """Append the hash tree to *image* (whole blocks) and return a manifest's description of both."""
    blocks = image.stat().st_size // BLOCK_SIZE
    salt = salt_for(image)
    printed = tools.run(
        "veritysetup", "format", "--no-superblock", "--format=1", "--hash=sha256", f"--salt={salt}",
        f"--data-block-size={BLOCK_SIZE}", f"--hash-block-size={BLOCK_SIZE}", f"--data-blocks={blocks}",
        f"--hash-offset={blocks * BLOCK_SIZE}", image, image,
    )  # fmt: skip
    found = re.search(r"^Root hash:\s*([0-9a-f]{64})$", printed, re.MULTILINE)
    assert found, f"veritysetup prints a root hash, not {printed!r}"
    tree = hash_tree_blocks(blocks)
    assert image.stat().st_size == (blocks + tree) * BLOCK_SIZE, "the tree directly follows the image"
    return Image(root_hash=found[1], salt=salt, data_blocks=blocks, hash_blocks=tree)


def hash_tree(blocks: Iterable[bytes], salt: bytes) -> HashTree:
    """Return the hash tree over *blocks* (at least two, of 4096 bytes each)."""
    level = [hashlib.sha256(salt + block).digest() for block in blocks]
    levels: list[bytes] = []
    while len(level) > 1:
        packed = [b"".join(level[index : index + HASHES_PER_BLOCK]) for index in range(0, len(level), HASHES_PER_BLOCK)]
        padded = [block.ljust(BLOCK_SIZE, b"\0") for block in packed]
        levels.insert(0, b"".join(padded))
        level = [hashlib.sha256(salt + block).digest() for block in padded]
    return HashTree(b"".join(levels), level[0].hex())


def check_tree(file: BinaryIO, image: Image) -> None:
    """Check every block of *file* (image, then hash tree, from its position on) against *image*. Raises VerityError."""
    computed = hash_tree(_blocks(file, image.data_blocks), bytes.fromhex(image.salt))
    if computed.root_hash != image.root_hash:
        raise VerityError(f"cannot use layer: its image has the root hash {computed.root_hash}, not {image.root_hash}")
    if file.read(len(computed.data)) != computed.data:
        raise VerityError("cannot use layer: its hash tree is not that of its image")


def _blocks(file: BinaryIO, count: int) -> Iterator[bytes]:
    for _ in range(count):
        block = file.read(BLOCK_SIZE)
        if len(block) != BLOCK_SIZE:
            raise VerityError("cannot use layer: its image ends too early")
        yield block

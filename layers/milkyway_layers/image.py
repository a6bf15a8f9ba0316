"""A tree as an EROFS image: the same tree gives the same bytes, whoever builds it and when.

Everything belongs to root, has time 0 and no extended attribute (a stack gets its label
from its mount); the UUID is zero. The image is padded with zeroes to whole blocks, at
least two, since dm-verity has no tree over a single block.
"""

import os
from pathlib import Path

from milkyway_formats.manifest import BLOCK_SIZE
from milkyway_layers.tools import Tools
from milkyway_layers.tree import Sources, Tree, write_tree

# lz4hc reads fastest; 64 KiB clusters and packed tails give most of what slower compressors would.
OPTIONS = (
    "-b4096", "-zlz4hc,level=12", "-C65536", "-Efragments,dedupe", "-T0", "--all-root", "-x-1",
    "-U00000000-0000-0000-0000-000000000000", "--workers=1", "--quiet",
)  # fmt: skip


def make_image(tree: Tree, sources: Sources, image: Path, tools: Tools) -> int:
    """Write *tree* as an EROFS image to *image*, using a folder beside it; return its size in blocks of 4096 bytes."""
    folder = image.with_suffix(".tree")
    write_tree(tree, sources, folder)
    tools.run("mkfs.erofs", *OPTIONS, image, folder)
    blocks = max(2, -(-image.stat().st_size // BLOCK_SIZE))
    os.truncate(image, blocks * BLOCK_SIZE)
    return blocks

"""From a directory to a verified image: EROFS, followed directly by the dm-verity hash tree."""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from milkyway_coreos import tools

BLOCK = 4096
# lz4hc reads fastest of all compressors; 64 KiB clusters and one shared tail make up for its poorer compression.
PACKING = ("-zlz4hc,level=12", "-C65536", "-Efragments,dedupe,ztailpacking")
# Nothing of the building machine gets into the image: no times, owners or random ids.
FIXED = ("-T0", "-U00000000-0000-0000-0000-000000000000", "--all-root", "--quiet")


class Verity(NamedTuple):
    """What it takes to open an image: *blocks* counts its data blocks, which the hash tree follows."""

    root_hash: str
    salt: str
    blocks: int


def make_erofs(tree: Path, image: Path, file_contexts: Path | None) -> None:
    """Write the files below *tree* to *image*, labelled by *file_contexts*."""
    labels = [f"--file-contexts={file_contexts}"] if file_contexts else []
    tools.run(tools.tools_tree().command("mkfs.erofs", *FIXED, *PACKING, *labels, image, tree))


def append_hash_tree(image: Path) -> Verity:
    """Append the hash tree of *image* to it and return what it takes to open it.

    The salt is the hash of the image: fixed by the content, yet different for every image.
    """
    blocks, rest = divmod(image.stat().st_size, BLOCK)
    assert not rest, "mkfs.erofs writes whole blocks"
    with image.open("rb") as content:
        salt = hashlib.file_digest(content, "sha256").hexdigest()
    layout = ["--no-superblock", "--hash=sha256", f"--data-blocks={blocks}", f"--hash-offset={blocks * BLOCK}"]
    said = tools.run(tools.tools_tree().command("veritysetup", "format", *layout, f"--salt={salt}", image, image))
    found = re.search(r"^Root hash:\s*([0-9a-f]{64})$", said, re.MULTILINE)
    assert found, f"veritysetup prints a root hash, not {said!r}"
    return Verity(found[1], salt, blocks)

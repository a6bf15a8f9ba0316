"""The frame of a layer file: everything in its place, and every other frame refused with its own reason."""

import contextlib
import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milkyway_formats.layer_file import (
    FOOTER_BYTES,
    LayerFileError,
    Section,
    Sections,
    check_manifest,
    check_policy,
    footer,
    hash_tree_blocks,
    lay_out,
    parse_footer,
)
from milkyway_formats.limits import MAX_ENVELOPE_BYTES
from milkyway_formats.manifest import Image, Manifest, PolicyOverlay
from tests.fakes.manifests import manifest_of

GOOD = lay_out(image=3 * 4096, hash_tree=4096, manifest=500, policy=70, envelope=9000)


def manifest(policy: bytes = b"", data_blocks: int = 3) -> Manifest:
    overlay = PolicyOverlay(sha256=hashlib.sha256(policy).hexdigest(), size=len(policy)) if policy else None
    image = Image(root_hash="0" * 64, salt="1" * 64, data_blocks=data_blocks, hash_blocks=1)
    return manifest_of("example/x", image=image, policy=overlay)


def with_number(index: int, value: int) -> bytes:
    """Return GOOD's footer with its number *index* (offset, length, offset, …) replaced."""
    data = bytearray(footer(GOOD))
    struct.pack_into("<Q", data, 16 + 8 * index, value)
    return bytes(data)


def test_what_footer_writes_parse_footer_reads() -> None:
    assert len(footer(GOOD)) == FOOTER_BYTES
    assert parse_footer(footer(GOOD), GOOD.file_size) == GOOD
    assert GOOD.hash_tree.offset == 3 * 4096


@pytest.mark.parametrize(
    ("last", "size", "why"),
    [
        (b"", 0, "too short"),
        (footer(GOOD)[1:], 127, "too short"),
        (b"X" + footer(GOOD)[1:], GOOD.file_size, "does not end with a layer file's footer"),
        (footer(GOOD)[:-1] + b"\1", GOOD.file_size, "padding is not zero"),
        (footer(GOOD), GOOD.file_size + 1, "it has 26083"),
        (footer(GOOD), GOOD.file_size - 1, "it has 26081"),
        (with_number(0, 1), GOOD.file_size, "section image begins at 1, not at 0"),
        (with_number(4, 4 * 4096 + 1), GOOD.file_size, "section manifest begins at 16385, not at 16384"),
        (with_number(8, 2**64 - 1), GOOD.file_size, "section envelope begins at"),
        (with_number(9, 2**64 - 1), GOOD.file_size, "its footer describes"),
    ],
)
def test_every_other_footer_is_refused(last: bytes, size: int, why: str) -> None:
    with pytest.raises(LayerFileError, match=why):
        parse_footer(last, size)


@pytest.mark.parametrize(
    ("lengths", "why"),
    [
        ({"image": 4096, "hash_tree": 0}, "an image of 4096 bytes"),
        ({"image": 3 * 4096 + 1}, "an image of 12289 bytes"),
        ({"image": (64 << 30) + 4096}, "2 blocks to 64 GiB"),
        ({"hash_tree": 8192}, "a hash tree of 8192 bytes where the image needs 4096"),
        ({"manifest": 0}, "a manifest of 0 bytes"),
        ({"manifest": 256 * 1024 + 1}, "a manifest of"),
        ({"policy": 256 * 1024 + 1}, "a policy of"),
        ({"envelope": MAX_ENVELOPE_BYTES + 1}, "an envelope of"),
    ],
)
def test_every_section_has_its_limit(lengths: dict[str, int], why: str) -> None:
    """Whether a file is made or read."""
    good = {"image": 3 * 4096, "hash_tree": 4096, "manifest": 500, "policy": 70, "envelope": 9000}
    wanted = {**good, **lengths}
    with pytest.raises(LayerFileError, match=why):
        lay_out(**wanted)
    placed, offset = [], 0
    for length in wanted.values():
        placed.append(Section(offset, length))
        offset += length
    sections = Sections(*placed)
    with pytest.raises(LayerFileError, match=why):
        parse_footer(footer(sections), sections.file_size)


def test_an_unsigned_file_is_for_signing_alone() -> None:
    sections = lay_out(image=8192, hash_tree=4096, manifest=1, policy=0, envelope=0)
    assert not sections.signed
    with pytest.raises(LayerFileError, match="it is not signed"):
        parse_footer(footer(sections), sections.file_size)
    assert parse_footer(footer(sections), sections.file_size, unsigned=True) == sections


def test_the_manifest_must_be_of_this_file() -> None:
    check_manifest(GOOD, manifest(b"p" * 70))
    with pytest.raises(LayerFileError, match="says 16384 bytes of image, the file has 12288"):
        check_manifest(GOOD, manifest(b"p" * 70, data_blocks=4))
    with pytest.raises(LayerFileError, match="says 0 bytes of policy, the file has 70"):
        check_manifest(GOOD, manifest())


def test_the_policy_must_be_the_manifests() -> None:
    check_policy(b"(x)", manifest(b"(x)"))
    check_policy(b"", manifest())
    with pytest.raises(LayerFileError, match="not the one that its manifest names"):
        check_policy(b"(y)", manifest(b"(x)"))
    with pytest.raises(LayerFileError, match="its manifest does not name"):
        check_policy(b"(y)", manifest())


@pytest.mark.parametrize(("data", "tree"), [(1, 0), (2, 1), (128, 1), (129, 3), (16384, 129), (16385, 132)])
def test_size_of_a_hash_tree(data: int, tree: int) -> None:
    assert hash_tree_blocks(data) == tree


@given(st.binary(min_size=FOOTER_BYTES, max_size=FOOTER_BYTES), st.integers(0, 1 << 40))
def test_no_bytes_make_the_reader_stumble(last: bytes, size: int) -> None:
    """Any bytes are either sections that cover the file, or a refusal."""
    for candidate in (last, footer(GOOD)[:16] + last[16:]):
        with contextlib.suppress(LayerFileError):
            assert parse_footer(candidate, size).file_size == size

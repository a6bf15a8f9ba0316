"""Roots that contradict themselves are refused when they are read."""

import pytest
from msgspec.structs import replace

from milkyway_formats.codec import MalformedError, decode, encode
from milkyway_formats.hybrid import HybridPublicKey
from milkyway_formats.root import (
    KeyEntry,
    LayerDelegation,
    Operators,
    Role,
    RootDocument,
    RootRefusedError,
    Thresholds,
    check_no_shared_half,
    check_root,
    matches,
)
from tests.fakes.people import ALICE, ALICE_AGAIN, BOB, CAROL, MALLORY, NOW, OLIVIA, OWNER, VENDOR, VERA, VICTOR, ids


def entry_of(raw: bytes, person: str) -> KeyEntry:
    return KeyEntry(key_id=HybridPublicKey(raw).key_id, scheme="mldsa65-ed25519-sha512", public=raw.hex(), person=person)


def mixed(first: KeyEntry, second: KeyEntry, person: str) -> KeyEntry:
    """Return the key that takes its post-quantum half from *first* and its classical half from *second*."""
    return entry_of(first.key.halves[0] + second.key.halves[1], person)


def test_the_roots_of_the_tests_are_consistent_and_survive_their_encoding() -> None:
    for root in (VENDOR, OWNER):
        check_root(root)
        assert decode(encode(root), RootDocument) == root


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        (replace(OWNER, expires=NOW - 10), "it expires before it was issued"),
        (
            replace(OWNER, keys=[*OWNER.keys, replace(MALLORY.entry, key_id="0" * 64)]),
            "key id 0000000000000000 of mallory is not the hash of its key",
        ),
        (replace(OWNER, keys=[*OWNER.keys, replace(ALICE.entry, person="zoe")]), "of alice and .* of zoe share a half"),
        (replace(OWNER, keys=[*OWNER.keys, mixed(ALICE.entry, MALLORY.entry, "mallory")]), "of mallory share a half"),
        (replace(OWNER, keys=[*OWNER.keys, mixed(MALLORY.entry, ALICE.entry, "mallory")]), "of mallory share a half"),
        (replace(OWNER, root=Role(keys=ids(MALLORY))), "role root names key .*, which is not among its keys"),
        (replace(OWNER, root=Role(keys=ids(OLIVIA, OLIVIA))), "role root names a key twice:"),
        (replace(OWNER, root=Role(keys=ids(OLIVIA), threshold=2)), "role root needs 2 persons and has 1"),
        (
            replace(OWNER, operators=Operators(keys=ids(ALICE, ALICE_AGAIN))),
            "role operators needs 2 persons and has 1",
        ),
        (
            replace(OWNER, operators=Operators(keys=ids(ALICE, BOB), thresholds=Thresholds(deep=3))),
            "role operators needs 3 persons and has 2",
        ),
        (
            replace(OWNER, layers=[LayerDelegation(paths=["a", "b/*"], keys=ids(CAROL), threshold=2)]),
            r"role layers a b/\* needs 2 persons and has 1",
        ),
        (
            replace(OWNER, layers=[LayerDelegation(paths=["a/*"], keys=ids(key)) for key in (CAROL, BOB)]),
            r"two delegations of the pattern a/\*",
        ),
        (replace(OWNER, fleet=None), "it names no fleet"),
        (replace(OWNER, operators=None), "it names no operators"),
        (replace(OWNER, coreos=Role(keys=ids(CAROL))), "CoreOS is the vendor's to sign"),
        (replace(VENDOR, fleet="demo"), "a vendor commands no fleet"),
        (replace(VENDOR, operators=Operators(keys=ids(VERA, VICTOR))), "a vendor commands no fleet"),
        (replace(VENDOR, vendor_paths=["*"]), "a vendor commands no fleet"),
        (replace(VENDOR, local="change"), "a vendor commands no fleet"),
    ],
)
def test_a_contradiction_is_refused(root: RootDocument, reason: str) -> None:
    with pytest.raises(RootRefusedError, match=f"^cannot use {root.side} root: .*{reason}") as refusal:
        check_root(root)
    assert refusal.value.check == "root"


@pytest.mark.parametrize("entry", [ALICE.entry, mixed(ALICE.entry, MALLORY.entry, "x"), mixed(MALLORY.entry, ALICE.entry, "x")])
def test_no_half_is_in_both_roots(entry: KeyEntry) -> None:
    check_no_shared_half(OWNER, VENDOR)
    with pytest.raises(RootRefusedError, match="shares a half with a key of the owner root"):
        check_no_shared_half(OWNER, replace(VENDOR, keys=[*VENDOR.keys, entry]))


def test_half_a_key_is_not_an_entry() -> None:
    for public in (ALICE.entry.public[:3904], ALICE.entry.public[3904:], ""):
        with pytest.raises(MalformedError, match="length"):
            decode(encode(replace(ALICE.entry, public=public)), KeyEntry)
    with pytest.raises(MalformedError, match="Invalid enum value 'ed25519'"):
        decode(encode(ALICE.entry).replace(b"mldsa65-ed25519-sha512", b"ed25519"), KeyEntry)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*", "example/nginx", True),
        ("example/*", "example/nginx", True),
        ("example/*", "example/a/b", True),
        ("example/*", "example", False),
        ("example/*", "example-2/nginx", False),
        ("example/nginx", "example/nginx", True),
        ("example/nginx", "example/nginx/x", False),
    ],
)
def test_a_pattern_matches_what_is_below_it(pattern: str, path: str, *, expected: bool) -> None:
    assert matches(pattern, path) is expected


def test_the_longest_pattern_decides() -> None:
    wide = LayerDelegation(paths=["*"], keys=ids(CAROL))
    near = LayerDelegation(paths=["bank/*"], keys=ids(BOB))
    exact = LayerDelegation(paths=["bank/vault"], keys=ids(ALICE))
    for layers in ([wide, near, exact], [exact, near, wide]):
        root = replace(OWNER, layers=layers)
        assert [root.delegation(path) for path in ("shop/web", "bank/web", "bank/vault")] == [wide, near, exact]
    assert replace(OWNER, layers=[near]).delegation("shop/web") is None


def test_stopping_many_machines_needs_as_many_persons_as_a_change() -> None:
    thresholds = Thresholds(narrow_stop=3)
    assert [thresholds.of("stop", machines) for machines in (1, 3, 4)] == [1, 1, 2]
    assert [thresholds.of(name, 1000) for name in ("read", "restart", "change", "deep")] == [1, 1, 2, 2]


def test_permissions_narrow_and_never_widen() -> None:
    operators = Operators(keys=ids(ALICE, BOB), permissions={"bob": ["read"], "carol": []})
    assert [operators.permits(person, "read") for person in ("alice", "bob", "carol")] == [True, True, False]
    assert [operators.permits(person, "deep") for person in ("alice", "bob", "carol")] == [True, False, False]

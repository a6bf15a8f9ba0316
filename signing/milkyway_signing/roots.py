"""Root documents from what a person writes: keys by name, roles by the keys' names.

The spec is YAML and is never signed; the canonical document made from it is, after the same functions that a
machine uses have checked it, so a root that a machine would refuse is never written.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, field

from milkyway_formats.codec import Document, encode
from milkyway_formats.command import CommandClass
from milkyway_formats.names import FleetId, PersonName, UnixSeconds
from milkyway_formats.root import (
    MAX_KEYS,
    ROOT_TYPE,
    KeyEntry,
    LayerDelegation,
    Operators,
    PathPattern,
    Role,
    RootDocument,
    RootRefusedError,
    Side,
    Threshold,
    Thresholds,
    check_root,
)
from milkyway_formats.trust import verify_root
from milkyway_formats.yaml_text import load
from milkyway_signing.key_file import KeyFileUnavailableError, KeyName, read_public
from milkyway_signing.signer import Signer, sign_envelope

DAY = 24 * 3600
KeyNames = Annotated[list[KeyName], Meta(min_length=1, max_length=MAX_KEYS)]


class RoleSpec(Document, frozen=True):
    """Keys by name, and how many of their persons must sign."""

    keys: KeyNames
    threshold: Threshold = 1


class LayerSpec(Document, frozen=True):
    """Who signs layers of which paths."""

    paths: Annotated[list[PathPattern], Meta(min_length=1, max_length=64)]
    keys: KeyNames
    threshold: Threshold = 1


class OperatorSpec(Document, frozen=True):
    """Who commands, how many persons each class of order needs, and who may sign only some classes."""

    keys: KeyNames
    thresholds: Thresholds = field(default_factory=Thresholds)
    permissions: dict[PersonName, list[CommandClass]] = field(default_factory=dict)


class RootSpec(Document, frozen=True):
    """What a person writes. ``keys`` are key files (or public ones), relative to the spec; roles name them."""

    side: Side
    days: Annotated[int, Meta(ge=1, le=3660)]
    keys: Annotated[list[str], Meta(min_length=1, max_length=MAX_KEYS)]
    root: RoleSpec
    version: Annotated[int, Meta(ge=1, le=1 << 31)] = 1
    layers: Annotated[list[LayerSpec], Meta(max_length=64)] = field(default_factory=list)
    coreos: RoleSpec | None = None
    fleet: FleetId | None = None
    operators: OperatorSpec | None = None
    vendor_paths: Annotated[list[PathPattern], Meta(max_length=256)] = field(default_factory=list)
    local: Literal["read", "change"] = "read"


def read_spec(path: Path) -> tuple[RootSpec, dict[KeyName, KeyEntry]]:
    """Return the spec in the YAML file *path*, and the entries of the keys that it names, by name."""
    try:
        text = path.read_text()
    except OSError as error:
        raise KeyFileUnavailableError(f"cannot read root spec {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RootRefusedError(f"cannot read root spec {path}: it is not UTF-8 text") from error
    spec = load(text, RootSpec, f"root spec {path}")
    entries: dict[KeyName, KeyEntry] = {}
    for file in spec.keys:
        public = read_public(path.parent / file)
        if public.name in entries:
            raise RootRefusedError(f"cannot use root spec {path}: two keys are named {public.name}")
        entries[public.name] = public.entry
    return spec, entries


def make_root(spec: RootSpec, entries: Mapping[KeyName, KeyEntry], *, now: UnixSeconds) -> RootDocument:
    """Return the root document that *spec* describes, valid from *now* on. Raises RootRefusedError."""

    def ids(names: Sequence[KeyName]) -> list[str]:
        for name in names:
            if name not in entries:
                raise RootRefusedError(f"cannot make {spec.side} root: a role names key {name}, which is not listed")
        return [entries[name].key_id for name in names]

    root = RootDocument(
        format="milkyway.root/1",
        side=spec.side,
        version=spec.version,
        issued=now,
        expires=now + spec.days * DAY,
        keys=list(entries.values()),
        root=Role(keys=ids(spec.root.keys), threshold=spec.root.threshold),
        layers=[LayerDelegation(paths=layer.paths, keys=ids(layer.keys), threshold=layer.threshold) for layer in spec.layers],
        coreos=None if spec.coreos is None else Role(keys=ids(spec.coreos.keys), threshold=spec.coreos.threshold),
        fleet=spec.fleet,
        operators=None
        if spec.operators is None
        else Operators(
            keys=ids(spec.operators.keys),
            thresholds=spec.operators.thresholds,
            permissions=spec.operators.permissions,
        ),
        vendor_paths=spec.vendor_paths,
        local=spec.local,
    )
    check_root(root)
    return root


def sign_root(root: RootDocument, signers: Sequence[Signer], previous: bytes | None = None) -> bytes:
    """Return *root* in its envelope, as a machine accepts it that has the root in the envelope *previous*."""
    signed = sign_envelope(ROOT_TYPE, encode(root), signers)
    verify_root(signed, None if previous is None else verify_root(previous)[0])
    return signed


def describe(root: RootDocument) -> list[str]:
    """Return *root* as people read it, line by line."""
    persons = {entry.key_id: entry.person for entry in root.keys}

    def who(keys: Sequence[str], threshold: int) -> str:
        return f"{threshold} of {', '.join(sorted({persons[key] for key in keys}))}"

    lines = [f"{root.side} root {root.version}" + (f" of fleet {root.fleet}" if root.fleet else "")]
    lines.append(f"  root: {who(root.root.keys, root.root.threshold)}")
    if root.coreos is not None:
        lines.append(f"  coreos: {who(root.coreos.keys, root.coreos.threshold)}")
    lines += [f"  layers {' '.join(layer.paths)}: {who(layer.keys, layer.threshold)}" for layer in root.layers]
    if root.operators is not None:
        thresholds = root.operators.thresholds
        classes: tuple[CommandClass, ...] = ("read", "restart", "stop", "change", "deep")
        lines.append(f"  operators: {', '.join(sorted({persons[key] for key in root.operators.keys}))}")
        lines.append("  persons needed: " + ", ".join(f"{name} {thresholds.of(name)}" for name in classes))
    if root.local == "change":
        lines.append("  local: root at a machine may change it without operators")
    if root.vendor_paths:
        lines.append(f"  vendor layers that may run: {' '.join(root.vendor_paths)}")
    return lines

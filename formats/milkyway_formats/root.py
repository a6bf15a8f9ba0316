"""The root document: whose keys count for what, on one side.

There are two sides, and neither signs for the other. The vendor's root is part of CoreOS and says who signs
layers of which path; the owner's is written at install and says who operates the fleet, how many persons
each class of order needs, who signs the owner's own layers, and which of the vendor's paths may run at all.

A key entry binds a hybrid key to a person, and thresholds count persons. ``check_root`` checks what the types
can't express; who signed a root is ``trust``'s business.
"""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from milkyway_formats.codec import Document
from milkyway_formats.command import CommandClass
from milkyway_formats.errors import RefusedError
from milkyway_formats.hybrid import HybridPublicKey, PublicHex, Scheme
from milkyway_formats.names import FleetId, KeyId, LayerPath, PersonName, UnixSeconds

ROOT_TYPE = "application/vnd.milkyway.root.v1+json"
MAX_KEYS = 48  # of 4.1 kB each: a root with all of them still fits in a document
Side = Literal["vendor", "owner"]
Threshold = Annotated[int, Meta(ge=1, le=16, description="how many distinct persons must sign")]
KeyIds = Annotated[list[KeyId], Meta(min_length=1, max_length=MAX_KEYS)]
PathPattern = Annotated[
    str,
    Meta(
        pattern=r"^(\*|[a-z0-9][a-z0-9.-]{0,62}(/[a-z0-9][a-z0-9.-]{0,62}){0,3}(/\*)?)\Z",
        description="a layer's path, or `x/*` for every path below x, or `*` for all",
    ),
]


class RootRefusedError(RefusedError):
    """A root document that contradicts itself, or does not follow the one before it."""

    check: ClassVar[str] = "root"


class KeyEntry(Document, frozen=True):
    """One hybrid key and the person who holds it. ``key_id`` is the key's hash, and is checked to be."""

    key_id: KeyId
    scheme: Scheme
    public: PublicHex
    person: PersonName

    @property
    def key(self) -> HybridPublicKey:
        """The key itself."""
        return HybridPublicKey(bytes.fromhex(self.public))


class Role(Document, frozen=True):
    """Keys, and how many of their persons must sign."""

    keys: KeyIds
    threshold: Threshold = 1


class LayerDelegation(Document, frozen=True):
    """Who signs layers whose path matches one of ``paths``; the longest matching pattern of a side decides alone."""

    paths: Annotated[list[PathPattern], Meta(min_length=1, max_length=64)]
    keys: KeyIds
    threshold: Threshold = 1


class Thresholds(Document, frozen=True):
    """How many persons each class of order needs. Stopping more than ``narrow_stop`` machines needs as many as ``change``."""

    read: Threshold = 1
    restart: Threshold = 1
    stop: Threshold = 1
    change: Threshold = 2
    deep: Threshold = 2
    enrolment: Threshold = 1
    narrow_stop: Annotated[int, Meta(ge=0, le=1000)] = 10

    def of(self, command_class: CommandClass, machines: int = 1) -> int:
        """Return how many persons must sign an order of *command_class* for this many *machines*."""
        match command_class:
            case "read":
                return self.read
            case "restart":
                return self.restart
            case "stop":
                return self.stop if machines <= self.narrow_stop else max(self.stop, self.change)
            case "change":
                return self.change
            case "deep":
                return self.deep


class Operators(Document, frozen=True):
    """Who commands the fleet. ``permissions`` narrows a person to the classes named; without an entry all are allowed."""

    keys: KeyIds
    thresholds: Thresholds = Thresholds()
    permissions: dict[PersonName, list[CommandClass]] = field(default_factory=dict)

    def permits(self, person: PersonName, command_class: CommandClass) -> bool:
        """Return whether *person* may sign orders of *command_class*."""
        return command_class in self.permissions.get(person, [command_class])


class RootDocument(Document, frozen=True):
    """One side's keys and roles. ``fleet``, ``operators``, ``vendor_paths`` and ``local`` are the owner's alone.

    ``local``: what root at a machine may do there without operators' signatures: with ``read`` only what it always may
    (read, restart, stop, reboot); with ``change`` also apply a desired state.
    """

    format: Literal["milkyway.root/1"]
    side: Side
    version: Annotated[int, Meta(ge=1, le=1 << 31)]
    issued: UnixSeconds
    expires: UnixSeconds
    keys: Annotated[list[KeyEntry], Meta(min_length=1, max_length=MAX_KEYS)]
    root: Role
    layers: Annotated[list[LayerDelegation], Meta(max_length=64)] = field(default_factory=list)
    coreos: Role | None = None
    fleet: FleetId | None = None
    operators: Operators | None = None
    vendor_paths: Annotated[list[PathPattern], Meta(max_length=256)] = field(default_factory=list)
    local: Literal["read", "change"] = "read"

    def persons(self, key_ids: Iterable[KeyId]) -> frozenset[PersonName]:
        """Return the persons who hold these keys."""
        wanted = frozenset(key_ids)
        return frozenset(entry.person for entry in self.keys if entry.key_id in wanted)

    def delegation(self, path: LayerPath) -> LayerDelegation | None:
        """Return the delegation that decides on layers of *path*: the one with the longest pattern that matches."""
        matching = [
            (len(pattern), delegation) for delegation in self.layers for pattern in delegation.paths if matches(pattern, path)
        ]
        return max(matching, key=lambda pair: pair[0])[1] if matching else None


def matches(pattern: PathPattern, path: LayerPath) -> bool:
    """Return whether *pattern* covers *path*; ``x/*`` covers what is below x, but not x itself."""
    if pattern == "*":
        return True
    if pattern.endswith("/*"):
        return path.startswith(pattern[:-1])
    return path == pattern


def check_root(root: RootDocument) -> None:
    """Raise RootRefusedError unless *root* is consistent with itself.

    Every key id is its key's hash; no key and no half of a key appears twice; every role names keys of this
    root, each once, and enough distinct persons to meet its threshold; no pattern is delegated twice; no side
    has a field of the other.
    """
    blame = f"cannot use {root.side} root"
    if root.expires <= root.issued:
        raise RootRefusedError(f"{blame}: it expires before it was issued")
    _check_keys(root, blame)
    roles: list[tuple[str, list[KeyId], int]] = [("root", root.root.keys, root.root.threshold)]
    if root.coreos is not None:
        roles.append(("coreos", root.coreos.keys, root.coreos.threshold))
    roles += [(f"layers {' '.join(layer.paths)}", layer.keys, layer.threshold) for layer in root.layers]
    if root.operators is not None:
        thresholds = root.operators.thresholds
        highest = max(
            thresholds.read,
            thresholds.restart,
            thresholds.stop,
            thresholds.change,
            thresholds.deep,
            thresholds.enrolment,
        )
        roles.append(("operators", root.operators.keys, highest))
    for name, key_ids, threshold in roles:
        _check_role(root, name, key_ids, threshold, blame)
    _check_once([pattern for layer in root.layers for pattern in layer.paths], f"{blame}: two delegations of the pattern")
    _check_side(root, blame)


def check_no_shared_half(first: RootDocument, second: RootDocument) -> None:
    """Raise RootRefusedError if a key, or a half of a key, belongs to both roots."""
    halves = {half for entry in first.keys for half in entry.key.halves}
    for entry in second.keys:
        if halves.intersection(entry.key.halves):
            raise RootRefusedError(
                f"cannot use {second.side} root: key {entry.key_id[:16]} of {entry.person} shares a half with"
                f" a key of the {first.side} root"
            )


def _check_keys(root: RootDocument, blame: str) -> None:
    owners: dict[bytes, KeyEntry] = {}
    for entry in root.keys:
        if entry.key.key_id != entry.key_id:
            raise RootRefusedError(f"{blame}: key id {entry.key_id[:16]} of {entry.person} is not the hash of its key")
        for half in entry.key.halves:
            if half in owners:
                raise RootRefusedError(
                    f"{blame}: keys {owners[half].key_id[:16]} of {owners[half].person} and"
                    f" {entry.key_id[:16]} of {entry.person} share a half"
                )
            owners[half] = entry


def _check_role(root: RootDocument, name: str, key_ids: list[KeyId], threshold: int, blame: str) -> None:
    known = {entry.key_id for entry in root.keys}
    for key_id in key_ids:
        if key_id not in known:
            raise RootRefusedError(f"{blame}: role {name} names key {key_id[:16]}, which is not among its keys")
    _check_once(key_ids, f"{blame}: role {name} names a key twice:")
    persons = len(root.persons(key_ids))
    if persons < threshold:
        raise RootRefusedError(f"{blame}: role {name} needs {threshold} persons and has {persons}")


def _check_once(values: list[str], blame: str) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise RootRefusedError(f"{blame} {value}")
        seen.add(value)


def _check_side(root: RootDocument, blame: str) -> None:
    if root.side == "owner":
        if root.fleet is None or root.operators is None:
            raise RootRefusedError(f"{blame}: it names no {'fleet' if root.fleet is None else 'operators'}")
        if root.coreos is not None:
            raise RootRefusedError(f"{blame}: CoreOS is the vendor's to sign")
    elif root.fleet is not None or root.operators is not None or root.vendor_paths or root.local != "read":
        raise RootRefusedError(f"{blame}: a vendor commands no fleet")

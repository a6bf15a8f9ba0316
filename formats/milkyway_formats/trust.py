"""Who signed, and whether that is enough: from an envelope's bytes to a document that may be believed.

``Trust`` holds the two roots. Each of its ``verify_*`` methods checks, in this order, each with its own refusal:
size, envelope, key ids, both halves of every signature; then it parses exactly the bytes that were signed, and
counts distinct persons against the role's threshold. An envelope with any signature by an unknown key, or any that
does not hold, is refused whole: nothing unexamined comes along.

Left to others: whether the document may take effect here and now (``core.admission``), persistence, and clocks:
nothing here knows what time it is, so that what was admitted before can be verified at any boot.
TUF will stand behind these methods where layers come from a repository.
"""

import dataclasses
from collections.abc import Iterable
from typing import ClassVar, NamedTuple, TypeVar

from milkyway_formats.codec import Document, decode
from milkyway_formats.command import COMMAND_TYPE, Command
from milkyway_formats.desired import DESIRED_TYPE, Desired
from milkyway_formats.enrolment import ENROLMENT_TYPE, MACHINE_TYPE, EnrolmentRecord, MachineConfiguration
from milkyway_formats.envelope import EnvelopeRefusedError, from_base64, pae, pae_digest, payload_of, read_envelope
from milkyway_formats.errors import RefusedError
from milkyway_formats.hybrid import HybridPublicKey, SignatureRefusedError
from milkyway_formats.limits import MAX_DESIRED_BYTES, MAX_DOCUMENT_BYTES, envelope_bytes
from milkyway_formats.manifest import MANIFEST_TYPE, Manifest
from milkyway_formats.names import FleetId, KeyId, LayerPath, PersonName
from milkyway_formats.root import (
    ROOT_TYPE,
    KeyEntry,
    Operators,
    RootDocument,
    RootRefusedError,
    check_no_shared_half,
    check_root,
    matches,
)

MAX_COMMAND_BYTES = 96 * 1024
MAX_ENROLMENT_BYTES = 48 * 1024
MAX_MACHINE_BYTES = 48 * 1024

T = TypeVar("T", bound=Document)


class KeyIdRefusedError(RefusedError):
    """A signature claims a key that is not in the roots, or two claim the same one."""

    check: ClassVar[str] = "key-ids"


class ThresholdRefusedError(RefusedError):
    """Every signature holds, but too few of the distinct persons who signed count for this."""

    check: ClassVar[str] = "threshold"


class SeparationRefusedError(RefusedError):
    """Without those who signed the layers, too few persons signed the deployment."""

    check: ClassVar[str] = "separation"


class PathRefusedError(RefusedError):
    """A layer of a path that nobody may sign, that may not run here, or that is not the expected one."""

    check: ClassVar[str] = "path"


class Verified(NamedTuple):
    """The signed bytes and who signed them. ``digest`` (SHA-256 of the pae) names them in audit and deduplication.

    ``persons``: for orders and roots, those who count; for a manifest, everyone who signed it.
    """

    payload: bytes
    payload_type: str
    persons: frozenset[PersonName]
    key_ids: frozenset[KeyId]
    digest: str


@dataclasses.dataclass(frozen=True)
class Trust:
    """Both roots, consistent with themselves and with each other."""

    vendor: RootDocument
    owner: RootDocument

    def __post_init__(self) -> None:
        for root, side in ((self.vendor, "vendor"), (self.owner, "owner")):
            if root.side != side:
                raise RootRefusedError(f"cannot use {side} root: it is the {root.side}'s")
            check_root(root)
        check_no_shared_half(self.vendor, self.owner)

    @classmethod
    def from_envelopes(cls, *, vendor: bytes, owner: bytes) -> "Trust":
        """Return the trust that two signed roots give. They are believed for where they are (CoreOS, secure config)."""
        return cls(vendor=verify_root(vendor)[0], owner=verify_root(owner)[0])

    @property
    def fleet(self) -> FleetId:
        """The fleet that the owner named."""
        assert self.owner.fleet is not None, "check_root saw to it"
        return self.owner.fleet

    @property
    def operators(self) -> Operators:
        """Who commands the fleet."""
        assert self.owner.operators is not None, "check_root saw to it"
        return self.owner.operators

    def verify_manifest(self, data: bytes, path_hint: LayerPath | None = None) -> tuple[Manifest, Verified]:
        """Return the manifest in the envelope *data* if either side's signers for its path signed it.

        A layer signed by the vendor counts only for the paths that the owner lets run. With *path_hint* the
        layer must be of that path. Raises RefusedError.
        """
        what = "manifest"
        verified, signers = _verify(data, [*self.owner.keys, *self.vendor.keys], MANIFEST_TYPE, what=what)
        manifest = decode(verified.payload, Manifest, what=what)
        if path_hint is not None and manifest.path != path_hint:
            raise PathRefusedError(f"cannot accept manifest: it is of layer {manifest.path}, expected {path_hint}")
        self._check_layer_signers(manifest.path, signers)
        return manifest, verified

    def verify_desired(self, data: bytes) -> tuple[Desired, Verified]:
        """Return the desired-state document in the envelope *data* if enough operators for a change signed it."""
        what = "desired state"
        verified, signers = _verify(data, self.owner.keys, DESIRED_TYPE, what=what, limit=MAX_DESIRED_BYTES)
        desired = decode(verified.payload, Desired, what=what, limit=MAX_DESIRED_BYTES)
        persons = _count(signers, self.operators.keys, self.operators.thresholds.change, what=what)
        return desired, verified._replace(persons=persons)

    def verify_command(self, data: bytes) -> tuple[Command, Verified]:
        """Return the command in the envelope *data* if enough operators for its class signed it."""
        what = "command"
        verified, signers = _verify(data, self.owner.keys, COMMAND_TYPE, what=what, limit=MAX_COMMAND_BYTES)
        command = decode(verified.payload, Command, what=what, limit=MAX_COMMAND_BYTES)
        threshold = self.operators.thresholds.of(command.command_class, len(command.machines))
        persons = _count(signers, self.operators.keys, threshold, what=f"{command.command_class} command")
        return command, verified._replace(persons=persons)

    def verify_enrolment(self, data: bytes) -> tuple[EnrolmentRecord, Verified]:
        """Return the enrolment record in the envelope *data* if enough operators signed it."""
        what = "enrolment record"
        verified, signers = _verify(data, self.owner.keys, ENROLMENT_TYPE, what=what, limit=MAX_ENROLMENT_BYTES)
        record = decode(verified.payload, EnrolmentRecord, what=what, limit=MAX_ENROLMENT_BYTES)
        persons = _count(signers, self.operators.keys, self.operators.thresholds.enrolment, what=what)
        return record, verified._replace(persons=persons)

    def verify_machine(self, data: bytes) -> tuple[MachineConfiguration, Verified]:
        """Return the machine's configuration in the envelope *data* if the owner's root role signed it."""
        what = "machine configuration"
        verified, signers = _verify(data, self.owner.keys, MACHINE_TYPE, what=what, limit=MAX_MACHINE_BYTES)
        configuration = decode(verified.payload, MachineConfiguration, what=what, limit=MAX_MACHINE_BYTES)
        persons = _count(signers, self.owner.root.keys, self.owner.root.threshold, what=what)
        return configuration, verified._replace(persons=persons)

    def check_separation(self, desired: Verified, manifests: Iterable[Verified]) -> None:
        """Raise SeparationRefusedError unless, without any signer of these layers, enough persons signed *desired*.

        Called for one deployment at a time, with the manifests of its whole stack.
        """
        layer_signers = frozenset[PersonName]().union(*(manifest.persons for manifest in manifests))
        threshold = self.operators.thresholds.change
        left = desired.persons - layer_signers
        if len(left) < threshold:
            raise SeparationRefusedError(
                f"cannot accept desired state: without the layers' own signers ({_names(desired.persons & layer_signers)})"
                f" {len(left)} of {threshold} persons signed"
            )

    def _check_layer_signers(self, path: LayerPath, signers: list[KeyEntry]) -> None:
        """Return if the delegation for *path* of either side is met; else raise, saying for each side why not."""
        reasons: list[str] = []
        for root in (self.owner, self.vendor):
            delegation = root.delegation(path)
            if delegation is None:
                continue
            if root.side == "vendor" and not any(matches(pattern, path) for pattern in self.owner.vendor_paths):
                reasons.append("the owner lets no vendor layer of this path run")
                continue
            counted = _persons(signers, delegation.keys)
            if len(counted) >= delegation.threshold:
                return
            reasons.append(f"{len(counted)} of {delegation.threshold} persons of the {root.side} signed ({_names(counted)})")
        if not reasons:
            raise PathRefusedError(f"cannot accept manifest: nobody may sign layers of path {path}")
        raise ThresholdRefusedError(f"cannot accept manifest of {path}: {'; '.join(reasons)}")


def verify_root(data: bytes, previous: RootDocument | None = None) -> tuple[RootDocument, Verified]:
    """Return the root in the envelope *data*, signed by its own root role and by that of *previous*.

    A root that follows another has the next version, the same side and the same fleet. Without
    *previous* it is believed for where it was found; its own signatures show that it is intact.
    """
    verified, root, signers = _read_root(data, previous)
    what = f"{root.side} root"
    persons = _count(signers, root.root.keys, root.root.threshold, what=what)
    if previous is not None:
        if (root.side, root.fleet) != (previous.side, previous.fleet):
            raise RootRefusedError(f"cannot accept {what}: it is not of the same side and fleet as the one before")
        if root.version != previous.version + 1:
            raise RootRefusedError(f"cannot accept {what}: version {root.version}, expected {previous.version + 1}")
        persons |= _count(signers, previous.root.keys, previous.root.threshold, what=f"{what} by its predecessor's role")
    return root, verified._replace(persons=persons)


def _read_root(data: bytes, previous: RootDocument | None) -> tuple[Verified, RootDocument, list[KeyEntry]]:
    """Verify a root by its own keys and those of *previous*.

    It is the only document that is parsed before it is verified, since it names the keys to verify it by;
    they are only candidates until ``verify_root`` has counted its signers.
    """
    envelope = read_envelope(data, what="root")
    if envelope.payload_type != ROOT_TYPE:
        raise EnvelopeRefusedError(f"cannot read root: its payload type is {envelope.payload_type!r}")
    root = decode(payload_of(envelope), RootDocument, what="root")
    check_root(root)
    candidates = [*root.keys, *(previous.keys if previous is not None else ())]
    verified, signers = _verify(data, candidates, ROOT_TYPE, what="root")
    return verified, root, signers


def verify_by_key(
    data: bytes, key: HybridPublicKey, payload_type: str, kind: type[T], *, what: str, limit: int = MAX_DOCUMENT_BYTES
) -> tuple[T, Verified]:
    """Return the *kind* of document in the envelope *data* if exactly *key* signed it: a machine's report, say."""
    envelope = read_envelope(data, what=what, limit=envelope_bytes(limit))
    _check_type(envelope.payload_type, payload_type, what)
    payload = payload_of(envelope)
    if [signature.keyid for signature in envelope.signatures] != [key.key_id]:
        raise KeyIdRefusedError(f"cannot accept {what}: it is not signed by key {key.key_id[:16]} alone")
    signature = from_base64(envelope.signatures[0].sig, what=what)
    key.verify(pae(payload_type, payload), payload_type.encode(), signature)
    document = decode(payload, kind, what=what, limit=limit)
    verified = Verified(payload, payload_type, frozenset(), frozenset({key.key_id}), pae_digest(payload_type, payload))
    return document, verified


def _verify(
    data: bytes, keys: Iterable[KeyEntry], payload_type: str, *, what: str, limit: int = MAX_DOCUMENT_BYTES
) -> tuple[Verified, list[KeyEntry]]:
    """Return what was signed, and the entries of the keys that signed it; all signatures hold."""
    envelope = read_envelope(data, what=what, limit=envelope_bytes(limit))
    _check_type(envelope.payload_type, payload_type, what)
    known = {entry.key_id: entry for entry in keys}
    signers: list[KeyEntry] = []
    for signature in envelope.signatures:
        entry = known.get(signature.keyid)
        if entry is None:
            raise KeyIdRefusedError(f"cannot accept {what}: unknown key {signature.keyid[:16]!r}")
        if entry in signers:
            raise KeyIdRefusedError(f"cannot accept {what}: two signatures by key {entry.key_id[:16]} of {entry.person}")
        signers.append(entry)
    payload = payload_of(envelope)
    signed = pae(payload_type, payload)
    for signature, entry in zip(envelope.signatures, signers, strict=True):
        try:
            entry.key.verify(signed, payload_type.encode(), from_base64(signature.sig, what=what))
        except SignatureRefusedError as error:
            raise type(error)(f"cannot accept {what} signed by {entry.person}: {error}") from error
    verified = Verified(
        payload,
        payload_type,
        frozenset(entry.person for entry in signers),
        frozenset(entry.key_id for entry in signers),
        pae_digest(payload_type, payload),
    )
    return verified, signers


def _check_type(found: str, expected: str, what: str) -> None:
    if found != expected:
        raise EnvelopeRefusedError(f"cannot read {what}: its payload type is {found!r}, expected {expected!r}")


def _persons(signers: list[KeyEntry], key_ids: list[KeyId]) -> frozenset[PersonName]:
    return frozenset(entry.person for entry in signers if entry.key_id in key_ids)


def _count(signers: list[KeyEntry], key_ids: list[KeyId], threshold: int, *, what: str) -> frozenset[PersonName]:
    """Return the distinct persons among *signers* whose keys are in the role; refuse fewer than *threshold*."""
    counted = _persons(signers, key_ids)
    if len(counted) < threshold:
        strangers = frozenset(entry.person for entry in signers) - counted
        aside = f"; {_names(strangers)} does not count for it" if strangers else ""
        raise ThresholdRefusedError(
            f"cannot accept {what}: {len(counted)} of {threshold} persons signed ({_names(counted)}){aside}"
        )
    return counted


def _names(persons: Iterable[PersonName]) -> str:
    return ", ".join(sorted(persons)) or "none"

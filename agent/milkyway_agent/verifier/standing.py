"""What the verifier relies on once it has begun: trust, trust state, configuration, enrolment, the desired state in force.

``take_stand`` reads all of it, verifies all of it again, and never fails as a whole: what is missing or refused is left
out and noted, since a machine whose configuration is damaged must still run what it runs. The vendor's root is believed
because of where it is (on the verity root), the owner's because it was pinned at the first boot; afterwards another
owner's root is accepted only if it follows the pinned one.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from milkyway_agent.ipc.messages import RefusalNoted
from milkyway_agent.system.state_file import Directory
from milkyway_agent.verifier.enrolment_record import check_record
from milkyway_agent.verifier.local_orders import verify_kept
from milkyway_agent.verifier.machine_keys import Random, machine_id
from milkyway_agent.verifier.trust_state import QuarantineError, TrustStore
from milkyway_formats.desired import Desired
from milkyway_formats.enrolment import MachineConfiguration
from milkyway_formats.errors import MilkyWayError, RefusedError, UnavailableError
from milkyway_formats.names import MachineId, UnixSeconds
from milkyway_formats.report import RootStatus
from milkyway_formats.root import RootDocument, RootRefusedError
from milkyway_formats.trust import Trust, Verified, verify_root

OWNER_ROOT = "owner-root.json"
MACHINE = "machine.json"
MAX_TEXT = 4000  # a message's Text has at most 4096 characters


UNAVAILABLE = "unavailable"  # in place of the name of a check, where none failed but something is not available now


class InForce(NamedTuple):
    """A desired-state document that was admitted, and who signed it."""

    desired: Desired
    verified: Verified


@dataclass
class Standing:
    """``quarantined`` is empty, or says why nothing is admitted; ``notes`` is what was refused meanwhile."""

    store: TrustStore
    machine: MachineId
    trust: Trust | None = None
    configuration: MachineConfiguration | None = None
    enrolled: bool = False
    desired: InForce | None = None
    quarantined: str = ""
    roots: list[RootStatus] = field(default_factory=list)
    notes: list[RefusalNoted] = field(default_factory=list)

    def trusted(self) -> Trust:
        """Return the trust, or raise QuarantineError if there is none to check anything by."""
        if self.trust is None:
            raise QuarantineError(f"cannot check anything: {self.quarantined}")
        return self.trust

    def note(self, error: MilkyWayError) -> None:
        """Remember a refusal for PID 1's log."""
        self.notes.append(noted(error))

    def raise_floor(self, *times: UnixSeconds) -> None:
        """Persist the latest of these signed *times* as the floor of trusted time, if it is later than the floor kept."""
        if max(times) > self.store.state.floor and not self.store.lost:
            self.store.save(replace(self.store.state, floor=max(times)))


def check_of(error: MilkyWayError) -> str:
    """Return the name of the check that failed; without one it is the document's form."""
    return str(getattr(error, "check", UNAVAILABLE if isinstance(error, UnavailableError) else "form"))


def text_of(error: MilkyWayError) -> str:
    """Return the text of *error*, no longer than a message may carry."""
    return str(error)[:MAX_TEXT]


def noted(error: MilkyWayError) -> RefusalNoted:
    """Return *error* as a note for PID 1, where there is no request to answer."""
    return RefusalNoted(check=check_of(error), message=text_of(error))


def take_stand(vendor_root: bytes, trust_directory: Directory, secure: Directory, random: Random) -> Standing:
    """Return what holds at this boot. Order: trust state, roots, configuration, enrolment, desired state.

    Signatures are checked again, dates are not: what was admitted once stays admitted.
    """
    store = TrustStore.open(trust_directory, random)
    standing = Standing(store, machine_id(store.secrets), quarantined=store.lost)
    try:
        standing.trust = _trust(vendor_root, secure, standing)
    except MilkyWayError as error:
        standing.note(error)
        why = f"there are no roots of trust that hold: {text_of(error)}"
        standing.quarantined = standing.quarantined or why[:MAX_TEXT]
        return standing
    for step in (_date, _configure, _check_enrolment, _resume):
        try:
            step(standing, standing.trust, secure)
        except MilkyWayError as error:
            standing.note(error)
    return standing


def _trust(vendor_root: bytes, secure: Directory, standing: Standing) -> Trust:
    """Return the trust of both roots. The owner's is pinned on the disk before it is believed."""
    vendor, verified_vendor = verify_root(vendor_root)
    store = standing.store
    found = _read(secure, OWNER_ROOT)
    if not store.state.owner_root:
        if found is None:
            raise UnavailableError("cannot read the owner's root: the secure configuration holds none")
        owner, verified = verify_root(found)
        trust = Trust(vendor=vendor, owner=owner)
        if not store.lost:
            store.save(replace(store.state, owner_root=found.decode()))
    else:
        owner, verified = verify_root(store.state.owner_root.encode())
        trust = Trust(vendor=vendor, owner=owner)
        if found is not None and found != store.state.owner_root.encode():
            try:
                trust, verified = _rotated(found, trust, verified, standing)
            except MilkyWayError as error:
                standing.note(error)
    standing.roots = [_root_status(vendor, verified_vendor), _root_status(trust.owner, verified)]
    return trust


def _rotated(found: bytes, trust: Trust, pinned: Verified, standing: Standing) -> tuple[Trust, Verified]:
    """Return the trust with the owner's next root, now pinned. The same root in another envelope changes nothing."""
    if verify_root(found)[1].digest == pinned.digest:
        return trust, pinned
    root, verified = verify_root(found, trust.owner)
    following = Trust(vendor=trust.vendor, owner=root)
    standing.store.save(replace(standing.store.state, owner_root=found.decode()))
    return following, verified


def _date(standing: Standing, trust: Trust, _secure: Directory) -> None:
    standing.raise_floor(trust.vendor.issued, trust.owner.issued)


def _configure(standing: Standing, trust: Trust, secure: Directory) -> None:
    found = _read(secure, MACHINE)
    if found is None:
        raise UnavailableError("cannot read the machine's configuration: the secure configuration holds none")
    configuration, _ = trust.verify_machine(found)
    if configuration.fleet != trust.fleet:
        raise RootRefusedError(
            f"cannot use machine configuration: it is of fleet {configuration.fleet}, the owner's is {trust.fleet}"
        )
    standing.configuration = configuration


def _check_enrolment(standing: Standing, trust: Trust, _secure: Directory) -> None:
    """Verify the kept record again. Without a valid record the machine is not enrolled."""
    kept = standing.store.enrolment
    if kept is None:
        return
    record, _ = trust.verify_enrolment(kept.record.encode())
    check_record(record, secrets=standing.store.secrets, fleet=trust.fleet)
    standing.enrolled = True


def _resume(standing: Standing, trust: Trust, _secure: Directory) -> None:
    """Resume the desired state in force, or if the trust state is lost the highest that is there: services keep running."""
    store = standing.store
    candidates: list[InForce] = []
    for envelope in store.desired():
        try:
            desired, verified = verify_kept(envelope, trust, store.secrets)
            if (desired.fleet, desired.machine) == (trust.fleet, standing.machine):
                candidates.append(InForce(desired, verified))
        except RefusedError as error:
            standing.note(error)
    if store.lost:
        standing.desired = max(candidates, key=lambda candidate: candidate.desired.version, default=None)
    elif store.state.desired_digest:
        standing.desired = next(
            (candidate for candidate in candidates if candidate.verified.digest == store.state.desired_digest), None
        )
        if standing.desired is None:
            raise UnavailableError(
                "cannot resume the desired state: its document is missing or no longer signed by enough persons"
            )


def _read(secure: Directory, name: str) -> bytes | None:
    try:
        return secure.read(name)
    except OSError as error:
        raise UnavailableError(f"cannot read {name} of the secure configuration: {error.strerror}") from error


def _root_status(root: RootDocument, verified: Verified) -> RootStatus:
    """Return *root* as ``mwctl trust`` shows it."""
    thresholds = {"root": root.root.threshold}
    if root.coreos is not None:
        thresholds["coreos"] = root.coreos.threshold
    if root.operators is not None:
        classes = root.operators.thresholds
        thresholds |= {name: getattr(classes, name) for name in ("read", "restart", "stop", "change", "deep", "enrolment")}
    persons = sorted({entry.person for entry in root.keys})
    return RootStatus(
        side=root.side,
        version=root.version,
        expires=root.expires,
        sha256=verified.digest,
        persons=persons,
        thresholds=thresholds,
        local=root.local,
    )

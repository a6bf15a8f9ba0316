"""Whether a signed order may take effect: here, now, once.

``formats.trust`` has checked size, envelope, key ids, both halves of every signature and the threshold for the class. Its
``Verified`` is the proof; no document gets here without it. The checks here follow in this order, each with a refusal of
its own: expiry of the root, fleet, target, life, not-before and expiry, sequence or version, expected state, arguments,
permission. They only decide: the caller must persist what they return *before* it acts.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from milkyway_formats.command import LONGEST_LIFE_SECONDS, Command, CommandClass, class_of
from milkyway_formats.desired import Desired
from milkyway_formats.errors import RefusedError
from milkyway_formats.names import FleetId, LayerPath, MachineId, PersonName, RootHash, UnixSeconds
from milkyway_formats.root import Operators, RootDocument
from milkyway_formats.trust import Verified

# Every stream is an entry of the persisted state for ever; an operator's tool needs one per machine.
MAX_STREAMS = 1024


class RootExpiredError(RefusedError):
    """The root whose keys signed has expired: a newer root must come first."""

    check: ClassVar[str] = "root"


class FleetRefusedError(RefusedError):
    """Another fleet's document."""

    check: ClassVar[str] = "fleet"


class TargetRefusedError(RefusedError):
    """Signed for another machine."""

    check: ClassVar[str] = "target"


class LifeRefusedError(RefusedError):
    """Valid for longer than its class may be, or never valid."""

    check: ClassVar[str] = "life"


class NotYetRefusedError(RefusedError):
    """Its time has not come."""

    check: ClassVar[str] = "not-before"


class ExpiredRefusedError(RefusedError):
    """Its time is over."""

    check: ClassVar[str] = "expiry"


class ReplayRefusedError(RefusedError):
    """A sequence number that was used already."""

    check: ClassVar[str] = "replay"


class GapRefusedError(RefusedError):
    """A command before this one has not arrived; send it first."""

    check: ClassVar[str] = "gap"


class StreamRefusedError(RefusedError):
    """More streams than the machine keeps."""

    check: ClassVar[str] = "stream"


class VersionRefusedError(RefusedError):
    """Not newer than what was accepted."""

    check: ClassVar[str] = "version"


class ExpectationRefusedError(RefusedError):
    """The machine is not in the state that the signers expected."""

    check: ClassVar[str] = "expected-state"


class ArgumentRefusedError(RefusedError):
    """Well-formed, but it contradicts itself."""

    check: ClassVar[str] = "arguments"


class PermissionRefusedError(RefusedError):
    """Not the class that the action needs, or not an order that its signers may give."""

    check: ClassVar[str] = "permission"


class LocalRefusedError(RefusedError):
    """An order of root at the machine, without operators' signatures, which the owner's policy does not allow."""

    check: ClassVar[str] = "local"


class AcceptedDesired(NamedTuple):
    """What a machine remembers of desired states. ``version`` is the one in force, ``highest`` the highest ever accepted."""

    version: int = 0
    highest: int = 0
    issued: UnixSeconds = 0
    digest: str = ""


class AcceptedCommand(NamedTuple):
    """What must be persisted before the command is carried out: ``sequence`` is now the last of its stream."""

    stream: str
    sequence: int
    digest: str


def admit_desired(
    desired: Desired,
    verified: Verified,
    *,
    owner: RootDocument,
    machine: MachineId,
    accepted: AcceptedDesired,
    now: UnixSeconds,
) -> AcceptedDesired:
    """Return what to persist before *desired* becomes what this machine should run. Raises RefusedError.

    A version above every earlier one replaces what is in force. A document signed as a rollback may have any
    version, but must have been issued after everything that was accepted: an old document can't be sent again.
    A document that the machine signed itself (``verification.local_orders``) needs the owner's policy instead of operators.
    """
    what = f"desired state {desired.version}"
    _check_root_date(owner, now, what)
    _check_fleet(desired.fleet, owner, what)
    if desired.machine != machine:
        raise TargetRefusedError(f"cannot accept {what}: it is for machine {desired.machine[:16]}, this is {machine[:16]}")
    _check_time(desired.issued, desired.not_before, desired.expires, "change", now, what)
    if desired.rollback:
        if desired.issued <= accepted.issued:
            raise VersionRefusedError(
                f"cannot accept {what}: this rollback was not issued after version {accepted.version}, which is in force"
            )
    elif desired.version <= accepted.highest:
        raise VersionRefusedError(
            f"cannot accept {what}: version {accepted.highest} was accepted, and this is not signed as a rollback"
        )
    ids = [deployment.id for deployment in desired.deployments]
    names = [deployment.name for deployment in desired.deployments]
    for kind, values in (("id", ids), ("name", names)):
        if len(set(values)) < len(values):
            raise ArgumentRefusedError(f"cannot accept {what}: two deployments have the same {kind}")
    if is_machines_own(verified, machine):
        check_local(owner, f"accept {what}")
    else:
        _check_permission(_operators(owner), verified.persons, "change", 1, what)
    return AcceptedDesired(
        version=desired.version,
        highest=max(accepted.highest, desired.version),
        issued=max(accepted.issued, desired.issued),
        digest=verified.digest,
    )


def admit_command(
    command: Command,
    verified: Verified,
    *,
    owner: RootDocument,
    machine: MachineId,
    sequences: Mapping[str, int],
    now: UnixSeconds,
    coreos_root_hash: RootHash,
) -> AcceptedCommand:
    """Return what to persist before *command* is carried out, once. Raises RefusedError.

    *sequences*: the last number that was accepted of every stream; a stream begins at 1.
    """
    what = f"command {command.id[:16]}"
    _check_root_date(owner, now, what)
    _check_fleet(command.fleet, owner, what)
    if machine not in command.machines:
        raise TargetRefusedError(f"cannot accept {what}: it is not for this machine, {machine[:16]}")
    _check_time(command.issued, command.not_before, command.expires, command.command_class, now, what)
    _check_sequence(command.stream, command.sequence, sequences, what)
    if command.expect is not None and command.expect != coreos_root_hash:
        raise ExpectationRefusedError(
            f"cannot accept {what}: it expects CoreOS {command.expect[:16]}, running is {coreos_root_hash[:16]}"
        )
    if len(set(command.machines)) < len(command.machines):
        raise ArgumentRefusedError(f"cannot accept {what}: it names a machine twice")
    needed = class_of(command.action)
    if command.command_class != needed:
        raise PermissionRefusedError(
            f"cannot accept {what}: its action is of class {needed}, it is signed as {command.command_class}"
        )
    _check_permission(_operators(owner), verified.persons, needed, len(command.machines), what)
    return AcceptedCommand(command.stream, command.sequence, verified.digest)


def admit_layer(path: LayerPath, verified: Verified, *, roots: Iterable[RootDocument], now: UnixSeconds) -> None:
    """Check that a new layer was signed under roots that have not expired. Raises RootExpiredError.

    This is for layers that are fetched and installed; an installed layer is never checked again for this, not at boot either.
    """
    for root in roots:
        if any(entry.key_id in verified.key_ids for entry in root.keys):
            _check_root_date(root, now, f"layer {path}")


def is_machines_own(verified: Verified, machine: MachineId) -> bool:
    """Tell whether the machine signed this itself: its id is that of its identity key, which no operator has."""
    return verified.key_ids == frozenset({machine})


def check_local(owner: RootDocument, deed: str) -> None:
    """Raise LocalRefusedError unless the owner lets root at the machine change it; *deed* is "accept desired state 3"."""
    if owner.local != "change":
        raise LocalRefusedError(
            f"cannot {deed}: no operator signed it, and the owner's policy does not let root at the machine change it",
            hint="have it signed (`milkyway fleet sign FILE`), or let the owner's next root say `local: change`",
        )


def _operators(owner: RootDocument) -> Operators:
    assert owner.operators is not None, "a checked root of an owner has operators"
    return owner.operators


def _check_root_date(root: RootDocument, now: UnixSeconds, what: str) -> None:
    if now >= root.expires:
        raise RootExpiredError(
            f"cannot accept {what}: the {root.side}'s root expired {now - root.expires} s ago",
            hint="install the next version of the root first",
        )


def _check_fleet(fleet: FleetId, owner: RootDocument, what: str) -> None:
    if fleet != owner.fleet:
        raise FleetRefusedError(f"cannot accept {what}: it is for fleet {fleet}, this is {owner.fleet}")


def _check_time(
    issued: UnixSeconds,
    not_before: UnixSeconds,
    expires: UnixSeconds,
    command_class: CommandClass,
    now: UnixSeconds,
    what: str,
) -> None:
    """Refuse what is valid for too long or never, then what is early or late; it is valid in [not_before, expires)."""
    if not issued <= not_before < expires:
        raise LifeRefusedError(f"cannot accept {what}: it is never valid (issued, not-before and expiry out of order)")
    longest = LONGEST_LIFE_SECONDS[command_class]
    if expires - issued > longest:
        raise LifeRefusedError(
            f"cannot accept {what}: it lives {expires - issued} s, class {command_class} may live {longest} s"
        )
    if now < not_before:
        raise NotYetRefusedError(f"cannot accept {what}: not valid for another {not_before - now} s")
    if now >= expires:
        raise ExpiredRefusedError(f"cannot accept {what}: expired {now - expires} s ago")


def _check_sequence(stream: str, sequence: int, sequences: Mapping[str, int], what: str) -> None:
    last = sequences.get(stream, 0)
    if sequence <= last:
        raise ReplayRefusedError(f"cannot accept {what}: number {sequence} of stream {stream} was used, the last is {last}")
    if sequence > last + 1:
        raise GapRefusedError(
            f"cannot accept {what}: number {sequence} of stream {stream} came before number {last + 1}",
            hint="supply the missing commands first",
        )
    if stream not in sequences and len(sequences) >= MAX_STREAMS:
        raise StreamRefusedError(f"cannot accept {what}: stream {stream} would be one more than {MAX_STREAMS}")


def _check_permission(
    operators: Operators, persons: frozenset[PersonName], command_class: CommandClass, machines: int, what: str
) -> None:
    """Refuse unless enough of the signers may give orders of this class; the others don't count."""
    permitted = frozenset(person for person in persons if operators.permits(person, command_class))
    threshold = operators.thresholds.of(command_class, machines)
    if len(permitted) < threshold:
        denied = ", ".join(sorted(persons - permitted)) or "nobody"
        raise PermissionRefusedError(
            f"cannot accept {what}: {len(permitted)} of {threshold} persons may sign class {command_class} ({denied} may not)"
        )

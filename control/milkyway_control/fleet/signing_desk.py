"""The operator's desk: it verifies what the server shows, signs what leaves, and checks that as a machine would.

Nothing that gets signed is taken from the server unverified: machines come from their signed
records, the desired state to build on and the place in a stream of commands from envelopes that the
operator's own roots accept. The server can hide and delay; it is found out when it shows something old.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from milkyway_control.fleet import desired_changes
from milkyway_control.fleet.client import FleetClient
from milkyway_control.fleet.config import FleetConfig
from milkyway_control.operator_protocol import EnvelopeView, ReportView
from milkyway_formats.codec import decode, encode
from milkyway_formats.command import COMMAND_TYPE, LONGEST_LIFE_SECONDS, Action, Command, class_of
from milkyway_formats.desired import DESIRED_TYPE, Desired
from milkyway_formats.enrolment import EnrolmentRecord
from milkyway_formats.envelope import Envelope, payload_of, write_envelope
from milkyway_formats.errors import RefusedError
from milkyway_formats.hybrid import HybridPublicKey
from milkyway_formats.limits import MAX_ENVELOPE_BYTES
from milkyway_formats.names import MachineId, Sha256, UnixSeconds
from milkyway_formats.report import REPORT_TYPE, Report
from milkyway_formats.trust import Verified, verify_by_key
from milkyway_signing.signer import Signer


class DeskRefusedError(RefusedError):
    """The document can't be signed or sent like this, or the server shows something that can't be right."""


@dataclass(frozen=True)
class Machine:
    """A machine of the fleet: its signed record, and beside it what the server says about it."""

    record: EnrolmentRecord
    enrolled: UnixSeconds
    last_seen: UnixSeconds | None
    revoked: UnixSeconds | None

    @property
    def id(self) -> MachineId:
        """The machine's id."""
        return self.record.machine


@dataclass(frozen=True)
class Base:
    """What a change builds on: the newest desired state that verifies, and the digest of the server's newest of all."""

    desired: Desired
    newest: Sha256 | None
    passed_over: int  # newer ones that do not verify


@dataclass(frozen=True)
class Draft:
    """A document with the signatures it has so far."""

    document: Desired | Command
    envelope: Envelope

    @property
    def data(self) -> bytes:
        """The envelope as bytes."""
        return encode(self.envelope)


class Desk:
    """An operator's work with one server, at one moment in time."""

    def __init__(self, config: FleetConfig, client: FleetClient, now: UnixSeconds) -> None:
        self._config = config
        self._client = client
        self._now = now

    # --- what the server shows ---

    def machines(self) -> list[Machine]:
        """Return every machine. Raises RefusedError if the record of one does not verify."""
        found = []
        for view in self._client.machines():
            record, _ = self._config.trust.verify_enrolment(view.record.encode())
            if record.machine != view.id or record.fleet != self._config.settings.fleet:
                raise DeskRefusedError(f"cannot list machines: the record shown for {view.id[:16]} is of another machine")
            found.append(Machine(record, view.enrolled, view.last_seen, view.revoked))
        return found

    def machine(self, name: str) -> Machine:
        """Return the machine called *name*, or whose id begins with it (at least 8 digits)."""
        machines = self.machines()
        named = [machine for machine in machines if machine.record.name == name]
        matching = named or [machine for machine in machines if len(name) >= 8 and machine.id.startswith(name)]
        if len(matching) != 1:
            why = "there is none" if not matching else "several match"
            raise DeskRefusedError(f"cannot find machine {name}: {why}", hint="milkyway fleet status lists them")
        return matching[0]

    def base(self, machine: Machine) -> Base:
        """Return what a change of *machine* builds on. Raises DeskRefusedError if the server shows less than before."""
        views = self._client.desired(machine.id)
        verified = [self._verified_desired(view, machine) for view in views]
        known = [(place, desired) for place, desired in enumerate(verified) if desired is not None]
        nothing = desired_changes.empty(self._config.settings.fleet, machine.id)
        passed_over, desired = known[0] if known else (len(views), nothing)
        seen = self._config.seen(machine.id)
        if desired.version < seen:
            raise DeskRefusedError(
                f"cannot change {machine.record.name}: the control server shows desired state {desired.version}, "
                f"but this tool has seen {seen}",
                hint="a change built on it would undo the newer one; ask who runs the control server",
            )
        self._config.note_seen(machine.id, desired.version)
        return Base(desired, views[0].digest if views else None, passed_over)

    def report(self, machine: Machine) -> tuple[Report, ReportView] | None:
        """Return the machine's newest report, after checking its signature, or None."""
        views = self._client.reports(machine.id)
        if not views:
            return None
        key = HybridPublicKey(bytes.fromhex(machine.record.keys.identity))
        report, _ = verify_by_key(views[0].envelope.encode(), key, REPORT_TYPE, Report, what="report")
        if report.machine != machine.id:
            raise DeskRefusedError(f"cannot show {machine.record.name}: the report is of another machine")
        return report, views[0]

    # --- what leaves ---

    def command(self, machine: Machine, action: Action, stream: str, chance: str, reason: str = "") -> Command:
        """Return the next command of *stream* for *machine*.

        Its number follows the newest that verifies and that was delivered or still can be: a command that expired on
        the server never reached the machine, and counting it would leave a gap. If the server lies about delivery,
        the machine refuses the command.
        """
        taken = [self._sequence(view, stream, machine) for view in self._client.commands(machine.id, stream)]
        command_class = class_of(action)
        issued = self._now - desired_changes.BACKDATED_S
        return Command(
            format="milkyway.command/1",
            fleet=self._config.settings.fleet,
            id=chance[:32],
            stream=stream,
            sequence=max(taken, default=0) + 1,
            issued=issued,
            not_before=issued,
            expires=issued + LONGEST_LIFE_SECONDS[command_class],
            command_class=command_class,
            machines=[machine.id],
            action=action,
            reason=reason,
        )

    def check(self, draft: Draft, layers: Iterable[Verified] = ()) -> Verified:
        """Return who signed *draft* if a machine would accept it; *layers* are the manifests of what it newly deploys."""
        if isinstance(draft.document, Command):
            return self._config.trust.verify_command(draft.data)[1]
        _, verified = self._config.trust.verify_desired(draft.data)
        self._config.trust.check_separation(verified, layers)
        return verified

    def push(self, draft: Draft) -> None:
        """Check *draft* as a machine would, and give it to the server."""
        self.check(draft)
        document = draft.document
        if document.expires <= self._now:
            raise DeskRefusedError("cannot push: it has expired", hint="prepare it again")
        if isinstance(document, Command):
            for machine in document.machines:
                self._client.push_command(machine, draft.data)
            return
        target = self.machine(document.machine)
        base = self.base(target)
        if document.version <= base.desired.version and not document.rollback:
            raise DeskRefusedError(
                f"cannot push desired state {document.version}: {target.record.name} already has {base.desired.version}",
                hint="another change came first: prepare it again",
            )
        self._client.push_desired(document.machine, draft.data, base.newest)
        self._config.note_seen(document.machine, document.version)

    def _verified_desired(self, view: EnvelopeView, machine: Machine) -> Desired | None:
        try:
            desired, _ = self._config.trust.verify_desired(view.envelope.encode())
        except RefusedError:
            return None
        return desired if (desired.machine, desired.fleet) == (machine.id, self._config.settings.fleet) else None

    def _sequence(self, view: EnvelopeView, stream: str, machine: Machine) -> int:
        try:
            command, _ = self._config.trust.verify_command(view.envelope.encode())
        except RefusedError:
            return 0
        counts = command.stream == stream and machine.id in command.machines
        return command.sequence if counts and (view.delivered or command.expires > self._now) else 0


def sign(document: Desired | Command, signers: Sequence[Signer]) -> Draft:
    """Return *document* signed by each of *signers* (none: a draft that others will sign)."""
    kind = DESIRED_TYPE if isinstance(document, Desired) else COMMAND_TYPE
    payload = encode(document)
    data = write_envelope(kind, payload, [signer.sign(kind, payload) for signer in signers])
    return Draft(document, decode(data, Envelope, what="draft", limit=MAX_ENVELOPE_BYTES))


def add_signatures(draft: Draft, signers: Sequence[Signer]) -> Draft:
    """Return *draft* with the signatures of *signers* added; refuse a key that has signed it already."""
    payload = payload_of(draft.envelope)
    signatures = list(draft.envelope.signatures)
    for signer in signers:
        if any(signature.keyid == signer.entry.key_id for signature in signatures):
            raise DeskRefusedError(f"cannot sign: {signer.entry.person} has signed this with the same key")
        signatures.append(signer.sign(draft.envelope.payload_type, payload))
    return Draft(draft.document, msgspec.structs.replace(draft.envelope, signatures=signatures))


def read_draft(data: bytes, name: str) -> Draft:
    """Return the draft in *data*, which may have no signature yet."""
    envelope = decode(data.removesuffix(b"\n"), Envelope, what=name, limit=MAX_ENVELOPE_BYTES)
    payload = payload_of(envelope)
    document: Desired | Command
    match envelope.payload_type:
        case kind if kind == DESIRED_TYPE:
            document = decode(payload, Desired, what=name)
        case kind if kind == COMMAND_TYPE:
            document = decode(payload, Command, what=name)
        case _:
            raise DeskRefusedError(f"cannot read {name}: it is neither a desired state nor a command")
    return Draft(document, envelope)

"""What the verifier must never forget: what it has admitted, the roots it trusts, the desired state in force, its keys.

In the trust state's directory: ``state`` (TrustState), ``keys`` (MachineSecrets) and ``enrolment`` (KeptEnrolment), each
twice with a checksum; ``desired.<digest>``, the envelope in force, written before the state that names it; and
``initialised``, empty, written last at the first boot. ``open`` tells three cases apart: never used, in
order, and lost. Lost is not a first boot: the store then stores nothing, and ``lost`` says why, until
the owner sets the machine up anew. A power cut at any moment leaves either the state before it or the state after it.
"""

from typing import ClassVar, Literal, Self, TypeVar

from msgspec import field

from milkyway_agent.system.state_file import Directory, StoredCopy, has_copies, read_copies, replace, write_copies
from milkyway_agent.verifier.machine_keys import MachineSecrets, Random, generate
from milkyway_formats.codec import Document, decode, encode
from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.names import UnixSeconds

STATE, KEYS, ENROLMENT, MARKER, DESIRED = "state", "keys", "enrolment", "initialised", "desired."
MAX_STATE_BYTES = 4 * 1024 * 1024

DocumentT = TypeVar("DocumentT", bound=Document)


class QuarantineError(RefusedError):
    """The machine keeps running what it runs, and takes no orders until its owner sets it up anew."""

    check: ClassVar[str] = "quarantine"


class TrustState(Document, frozen=True):
    """The machine's memory after an order.

    ``floor``: no trusted time is below it. ``owner_root``: the pinned root's envelope. ``desired_*``: the document in
    force (digest, version, newest issue) and the highest version ever. ``sequences``: the newest command of each stream.
    """

    format: Literal["milkyway.trust-state/1"] = "milkyway.trust-state/1"
    floor: UnixSeconds = 0
    owner_root: str = ""
    desired_digest: str = ""
    desired_version: int = 0
    desired_highest: int = 0
    desired_issued: UnixSeconds = 0
    sequences: dict[str, int] = field(default_factory=dict)
    report_sequence: int = 0


class KeptEnrolment(Document, frozen=True):
    """The machine's enrolment: the signed record's envelope, and the newest certificate."""

    format: Literal["milkyway.kept-enrolment/1"]
    record: str
    certificate: str


class TrustStore:
    """The directory, and what is in it. Every change is on the disk when its method returns. Made by ``open``."""

    def __init__(self, directory: Directory, secrets: MachineSecrets) -> None:
        self.state = TrustState()
        self.secrets = secrets
        self.enrolment: KeptEnrolment | None = None
        self.lost = ""
        self._directory = directory
        self._generations = {STATE: 0, KEYS: 0, ENROLMENT: 0}

    @classmethod
    def open(cls, directory: Directory, random: Random) -> Self:
        """Return what is kept in *directory*; at the very first boot make keys from *random* and an empty state.

        If the disk can't be read or written the state counts as lost for this boot: nothing can be admitted.
        """
        store = cls(directory, generate(random))
        try:
            store._read()
            if not store.lost:
                store._complete()
        except (OSError, UnavailableError) as error:
            store.lost = store.lost or f"the trust state can't be read or written: {error}"
        return store

    def save(self, state: TrustState) -> None:
        """Make *state* the state in force: on the disk, then in memory. Raises UnavailableError; then the old state stays."""
        self.check_not_lost()
        self._write(STATE, state)
        self.state = state

    def save_desired(self, envelope: bytes, state: TrustState) -> None:
        """Keep the desired state's *envelope*, then *state*, which names it by its digest; remove the envelope before."""
        self.check_not_lost()
        try:
            replace(self._directory, DESIRED + state.desired_digest, envelope)
        except OSError as error:
            raise UnavailableError(f"cannot persist the desired state: {error.strerror}") from error
        self.save(state)
        self._forget_other_desired()

    def save_enrolment(self, record: str, certificate: str) -> None:
        """Keep the machine's enrolment."""
        self.check_not_lost()
        enrolment = KeptEnrolment(format="milkyway.kept-enrolment/1", record=record, certificate=certificate)
        self._write(ENROLMENT, enrolment)
        self.enrolment = enrolment

    def desired(self) -> list[bytes]:
        """Return the envelope in force, if any; if the state is lost, every envelope that is there, for the caller to verify.

        Raises UnavailableError if the disk can't be read.
        """
        try:
            names = self._desired_names()
            if not self.lost:
                names = [name for name in names if name == DESIRED + self.state.desired_digest]
            found = [self._directory.read(name) for name in names]
        except OSError as error:
            raise UnavailableError(f"cannot read the desired state: {error.strerror}") from error
        return [envelope for envelope in found if envelope is not None]

    def check_not_lost(self) -> None:
        """Raise QuarantineError if the state is lost: then nothing may be admitted or stored."""
        if self.lost:
            raise QuarantineError(f"cannot admit anything: this machine is in quarantine: {self.lost}")

    def _read(self) -> None:
        """Read everything that is there, and set ``lost``."""
        kept = {name: read_copies(self._directory, name) for name in self._generations}
        self._generations = {name: copies.generation if copies else 0 for name, copies in kept.items()}
        state = _decoded(kept[STATE], TrustState)
        secrets = _decoded(kept[KEYS], MachineSecrets)
        self.enrolment = _decoded(kept[ENROLMENT], KeptEnrolment)
        used = MARKER in self._directory.names() or has_copies(self._directory, KEYS)
        if state is None and (used or has_copies(self._directory, STATE)):
            self.lost = "the trust state is lost, so what was already carried out is not known"
        elif secrets is None and used:
            self.lost = "the machine's keys are lost"
        elif self.enrolment is None and has_copies(self._directory, ENROLMENT):
            self.lost = "the machine's enrolment is lost"
        self.state = state or self.state
        self.secrets = secrets or self.secrets

    def _complete(self) -> None:
        """Write what is missing or damaged: the state first, the marker last, so that an interrupted first boot is resumed."""
        wanted: list[tuple[str, Document | None]] = [(STATE, self.state), (KEYS, self.secrets), (ENROLMENT, self.enrolment)]
        for name, document in wanted:
            kept = read_copies(self._directory, name)
            if document is not None and (kept is None or kept.damaged):
                self._write(name, document)
        if MARKER not in self._directory.names():
            replace(self._directory, MARKER, b"")
        self._forget_other_desired()

    def _write(self, name: str, document: Document) -> None:
        # A copy whose write failed may be on the disk all the same, so no generation is used for two contents.
        self._generations[name] += 1
        try:
            write_copies(self._directory, name, self._generations[name], encode(document))
        except OSError as error:
            raise UnavailableError(f"cannot persist the {name} of the trust state: {error.strerror}") from error

    def _desired_names(self) -> list[str]:
        return [name for name in self._directory.names() if name.startswith(DESIRED)]

    def _forget_other_desired(self) -> None:
        """Remove the documents that the state does not name. What can't be removed now is tried again the next time."""
        try:
            for name in self._desired_names():
                if name != DESIRED + self.state.desired_digest:
                    self._directory.remove(name)
        except OSError:
            return


def _decoded(kept: StoredCopy | None, kind: type[DocumentT]) -> DocumentT | None:
    """Return the document that was *kept*; None if there is none, or this version can't read it."""
    if kept is None:
        return None
    try:
        return decode(kept.content, kind, what="trust state", limit=MAX_STATE_BYTES)
    except RefusedError:
        return None

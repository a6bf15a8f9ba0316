"""What the verifier answers to each message: bytes go in, typed and admitted messages come out.

``Verifier`` holds what was verified at its beginning (``standing``) and knows neither sockets nor clocks nor processes:
its methods take a message with what came along and return what is to be sent, in order. Whatever is wrong with the input
becomes an answer: Refused with the name of the check, or Unavailable; for input from the network, which was not asked
for, RefusalNoted. The order of work is verify, persist, answer: if an answer is lost its order is not carried out, but
none is ever carried out twice.

Left to others: descriptors, hashing whole files and time (``process``); acting (PID 1).
"""

from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from milkyway_agent.core.admission import AcceptedDesired, admit_command, admit_desired, admit_layer, is_machines_own
from milkyway_agent.ipc.messages import (
    MAX_MESSAGE_BYTES,
    AdmitLocally,
    Begin,
    Begun,
    CheckPolicy,
    CommandAdmitted,
    DesiredAdmitted,
    Enrolled,
    Fetch,
    Fetched,
    FetchLayer,
    FromVerifier,
    LayerVerified,
    PolicyChecked,
    Refused,
    SendReport,
    ToUplink,
    Unavailable,
    VerifyLayer,
)
from milkyway_agent.system.state_file import Directory
from milkyway_agent.verifier.layer_check import (
    CheckedLayer,
    LayerRefusedError,
    ReadLayer,
    check_hash,
    check_layer,
    check_pins,
    check_size,
    deployments_with,
)
from milkyway_agent.verifier.local_orders import sign_here, verify_kept
from milkyway_agent.verifier.machine_keys import Random
from milkyway_agent.verifier.outward import connection, signed_report, take_enrolment
from milkyway_agent.verifier.policy_check import make_instance
from milkyway_agent.verifier.standing import MAX_TEXT, InForce, Standing, check_of, noted, take_stand, text_of
from milkyway_agent.verifier.trusted_time import TrustedTime
from milkyway_formats.codec import encode
from milkyway_formats.command import COMMAND_TYPE
from milkyway_formats.deployment import Deployment
from milkyway_formats.desired import DESIRED_TYPE
from milkyway_formats.envelope import EnvelopeRefusedError, OversizeRefusedError, read_draft, read_envelope
from milkyway_formats.errors import MilkyWayError, RefusedError, UnavailableError
from milkyway_formats.names import RootHash, Sha256, UnixSeconds
from milkyway_formats.trust import Trust


class ToPid1(NamedTuple):
    """A message for PID 1."""

    message: FromVerifier


class ForUplink(NamedTuple):
    """A message for the uplink. ``fds`` are sent with it and closed afterwards."""

    message: ToUplink
    fds: tuple[int, ...] = ()


class Arrival(NamedTuple):
    """A layer file that is being fetched, or has just been: to be hashed whole and then given to ``arrived``."""

    request: int
    sha256: Sha256
    size: int
    file: ReadLayer


Outgoing = ToPid1 | ForUplink


class Verifier:
    """One machine's verifier, from its first message on. *boottime* everywhere is CLOCK_BOOTTIME in seconds."""

    def __init__(self, *, vendor_root: bytes, random: Random) -> None:
        self._vendor_root = vendor_root
        self._random = random
        self._standing: Standing | None = None
        self._time = TrustedTime(estimate=0, boottime=0.0)
        self._coreos_root_hash: RootHash = ""
        self._in_force: list[InForce] = []  # the newest first; the one before is kept for the policies of its instances
        self._layers: dict[Sha256, CheckedLayer] = {}  # those checked since the beginning, without policy and packages
        self._arriving: dict[int, Arrival] = {}

    # --- from PID 1 ---------------------------------------------------------------------------------------------------

    def begin(self, message: Begin, trust_directory: Directory, secure: Directory, boottime: float) -> list[Outgoing]:
        """Read and verify everything that is kept; return what holds, what was refused, what is desired, where to connect."""
        standing = take_stand(self._vendor_root, trust_directory, secure, self._random)
        self._standing, self._coreos_root_hash = standing, message.coreos_root_hash
        self._time = TrustedTime(estimate=message.now, boottime=boottime)
        configuration = standing.configuration
        begun = Begun(
            request=message.request,
            machine=standing.machine,
            quarantined=standing.quarantined,
            configuration=None if configuration is None else replace(configuration, token=""),
            roots=standing.roots,
        )
        connect = connection(standing)
        outgoing: list[Outgoing] = [ToPid1(begun), *map(ToPid1, standing.notes)]
        if standing.desired is not None:
            self._in_force = [standing.desired]
            desired, verified = standing.desired
            outgoing.append(ToPid1(DesiredAdmitted(request=0, desired=desired, id=verified.digest)))
        if connect is not None:
            outgoing.append(ForUplink(connect))
        return outgoing

    def verify_layer(self, message: VerifyLayer, file: ReadLayer) -> list[Outgoing]:
        """Check an installed layer again."""
        return self._answer(message.request, lambda: self._layer(message.request, message.sha256, message.size, file))

    def fetch_layer(self, message: FetchLayer, writer: int, file: ReadLayer) -> list[Outgoing]:
        """Have the uplink fill *file* through *writer*. The answer is returned by ``fetched`` or ``arrived``.

        The file is open until then: the caller of ``arrived`` closes it, in all other cases it is closed here.
        """
        if message.request in self._arriving:
            file.close()
            refused = Refused(
                request=message.request, check="request", message="cannot fetch layer: its request number is in use"
            )
            return [ToPid1(refused)]
        self._arriving[message.request] = Arrival(message.request, message.sha256, message.size, file)
        return [ForUplink(Fetch(request=message.request, sha256=message.sha256, size=message.size), (writer,))]

    def admit_locally(self, message: AdmitLocally, read: Callable[[], bytes], boottime: float) -> list[Outgoing]:
        """Admit what came through ``mwctl apply``, or refuse it."""
        self._time.estimated(message.now, boottime)
        return self._answer(message.request, lambda: self._admit_here(message, read(), boottime))

    def check_policy(self, message: CheckPolicy, file: ReadLayer, write: Callable[[bytes], None]) -> list[Outgoing]:
        """Check the overlay of a deployment's topmost layer and *write* its instance as CIL."""
        return self._answer(message.request, lambda: self._policy(message, file, write))

    def send_report(self, message: SendReport, boottime: float) -> list[Outgoing]:
        """Sign a report and hand it to the uplink. A machine that is not enrolled sends none."""
        self._time.estimated(message.now, boottime)
        standing = self._standing
        if standing is None or not standing.enrolled:
            return []
        return self._note(lambda: [ForUplink(signed_report(standing, message.status, self._now(standing, boottime)))])

    # --- from the uplink ----------------------------------------------------------------------------------------------

    def fetched(self, message: Fetched) -> Arrival | list[Outgoing]:
        """Return the filled file, which is to be hashed, or the answer if the uplink could not fill it or was not asked to."""
        arrival = self._arriving.pop(message.request, None)
        if arrival is None:
            return [ToPid1(noted(EnvelopeRefusedError(f"cannot use blob {message.request}: it was not asked for")))]
        if message.error:
            arrival.file.close()
            return [ToPid1(Unavailable(request=arrival.request, message=message.error))]
        return arrival

    def arrived(self, arrival: Arrival, found: Sha256, boottime: float) -> list[Outgoing]:
        """Check a fetched layer whose whole file hashes to *found*. The roots that its signers are in must not have expired."""

        def answer() -> list[Outgoing]:
            standing = self._stand()
            check_hash(found, arrival.sha256)
            check_size(arrival.file, arrival.size)
            manifest, verified, _ = check_layer(arrival.file, standing.trusted())
            roots = (standing.trusted().vendor, standing.trusted().owner)
            admit_layer(manifest.path, verified, roots=roots, now=self._now(standing, boottime))
            return self._layer(arrival.request, arrival.sha256, arrival.size, arrival.file)

        return self._answer(arrival.request, answer)

    def envelope(self, read: Callable[[], bytes], boottime: float) -> list[Outgoing]:
        """Admit what came from the network. A refusal is noted; the document in force, if sent again, is ignored."""
        return self._note(lambda: self._admit(0, read(), boottime))

    def enrolled(self, message: Enrolled) -> list[Outgoing]:
        """Accept the control server's reply to the enrolment request, if it is for this machine."""
        return self._note(lambda: [ForUplink(take_enrolment(self._stand(), message.reply.encode()))])

    def uplink_gone(self) -> list[Outgoing]:
        """Answer the requests for all layers that were being fetched: they will not come."""
        unfinished, self._arriving = list(self._arriving.values()), {}
        for arrival in unfinished:
            arrival.file.close()
        return [
            ToPid1(Unavailable(request=arrival.request, message="cannot fetch layer: the uplink has ended"))
            for arrival in unfinished
        ]

    # --- checks and admissions ----------------------------------------------------------------------------------------

    def _stand(self) -> Standing:
        if self._standing is None:
            raise UnavailableError("cannot check anything: the verifier has not begun")
        return self._standing

    def _answer(self, request: int, action: Callable[[], list[Outgoing]]) -> list[Outgoing]:
        """Return what *action* returns, or its failure as the answer to *request*."""
        try:
            return action()
        except RefusedError as error:
            hint = error.hint[:MAX_TEXT]
            return [ToPid1(Refused(request=request, check=check_of(error), message=text_of(error), hint=hint))]
        except UnavailableError as error:
            return [ToPid1(Unavailable(request=request, message=text_of(error)))]

    def _note(self, action: Callable[[], list[Outgoing]]) -> list[Outgoing]:
        """Return what *action* returns, or its failure as a note."""
        try:
            return action()
        except MilkyWayError as error:
            return [ToPid1(noted(error))]

    def _layer(self, request: int, sha256: Sha256, size: int, file: ReadLayer) -> list[Outgoing]:
        """Check size, content, the pins that name the file, and that not only its signers signed its deployments."""
        trust = self._stand().trusted()
        check_size(file, size)
        checked = check_layer(file, trust)
        # PID 1 needs no list of packages, and a message may be shorter than a manifest.
        manifest = replace(checked.manifest, packages=[])
        answer = LayerVerified(request=request, manifest=manifest, sha256=sha256)
        if len(encode(answer)) > MAX_MESSAGE_BYTES:
            raise OversizeRefusedError(
                f"cannot accept layer: its manifest is too long even without its packages ({sha256[:16]}…)"
            )
        known = CheckedLayer(manifest, checked.verified._replace(payload=b""), b"")
        for document in self._in_force[:1]:
            check_pins(sha256, manifest, document.desired)
            for deployment in deployments_with(sha256, document.desired):
                self._check_separation(trust, document, deployment, {**self._layers, sha256: known})
        self._layers[sha256] = known
        return [ToPid1(answer)]

    def _check_separation(
        self, trust: Trust, document: InForce, deployment: Deployment, layers: dict[Sha256, CheckedLayer]
    ) -> None:
        """Check the signers of *deployment* against those of its layers, as far as these are known already.

        Not for what the machine signed itself: separation keeps a layer's signer from deploying it alone, but here
        the owner's policy lets root at the machine deploy, which gives it no power to sign layers.
        """
        if is_machines_own(document.verified, self._stand().machine):
            return
        known = [layers[pin.sha256].verified for pin in deployment.stack if pin.sha256 in layers]
        trust.check_separation(document.verified, known)

    def _admit(self, request: int, data: bytes, boottime: float) -> list[Outgoing]:
        """Verify, admit and persist; only then answer."""
        standing = self._stand()
        trust = standing.trusted()
        standing.store.check_not_lost()
        now = self._now(standing, boottime)
        payload_type = read_envelope(data, what="order").payload_type
        if payload_type == DESIRED_TYPE:
            desired, verified = trust.verify_desired(data)
            if request == 0 and verified.digest == standing.store.state.desired_digest:
                return []
            return self._admit_desired(standing, trust, request, data, InForce(desired, verified), now)
        if payload_type == COMMAND_TYPE:
            return self._admit_command(standing, trust, request, data, now)
        raise EnvelopeRefusedError(f"cannot accept order: {payload_type!r} is neither a desired state nor a command")

    def _admit_here(self, message: AdmitLocally, data: bytes, boottime: float) -> list[Outgoing]:
        """Admit what was handed in on the machine: as from the network if it is signed, otherwise by the owner's policy."""
        standing = self._stand()
        trust = standing.trusted()
        standing.store.check_not_lost()
        draft = read_draft(data, what="order")
        if draft.signatures:
            return self._admit(message.request, data, boottime)
        secrets = standing.store.secrets
        signed = sign_here(draft, trust, secrets, change=message.change)
        document = InForce(*verify_kept(signed, trust, secrets))
        return self._admit_desired(standing, trust, message.request, signed, document, self._now(standing, boottime))

    def _now(self, standing: Standing, boottime: float) -> UnixSeconds:
        self._time.signed(standing.store.state.floor)
        return self._time.now(boottime)

    def _admit_desired(
        self, standing: Standing, trust: Trust, request: int, data: bytes, document: InForce, now: UnixSeconds
    ) -> list[Outgoing]:
        store, state = standing.store, standing.store.state
        desired, verified = document
        accepted = admit_desired(
            desired,
            verified,
            owner=trust.owner,
            machine=standing.machine,
            accepted=AcceptedDesired(
                version=state.desired_version,
                highest=state.desired_highest,
                issued=state.desired_issued,
                digest=state.desired_digest,
            ),
            now=now,
        )
        for deployment in desired.deployments:
            self._check_separation(trust, document, deployment, self._layers)
        store.save_desired(
            data,
            replace(
                state,
                # The time in what the machine signed itself is from its own clock: an estimate, which raises no floor.
                floor=state.floor if is_machines_own(verified, standing.machine) else max(state.floor, desired.issued),
                desired_digest=accepted.digest,
                desired_version=accepted.version,
                desired_highest=accepted.highest,
                desired_issued=accepted.issued,
            ),
        )
        self._in_force = [document, *self._in_force[:1]]
        return [ToPid1(DesiredAdmitted(request=request, desired=desired, id=accepted.digest))]

    def _admit_command(self, standing: Standing, trust: Trust, request: int, data: bytes, now: UnixSeconds) -> list[Outgoing]:
        store, state = standing.store, standing.store.state
        command, verified = trust.verify_command(data)
        accepted = admit_command(
            command,
            verified,
            owner=trust.owner,
            machine=standing.machine,
            sequences=state.sequences,
            now=now,
            coreos_root_hash=self._coreos_root_hash,
        )
        store.save(
            replace(
                state,
                floor=max(state.floor, command.issued),
                sequences={**state.sequences, accepted.stream: accepted.sequence},
            )
        )
        signers = sorted(verified.persons)
        return [ToPid1(CommandAdmitted(request=request, id=command.id, signers=signers, action=command.action))]

    def _policy(self, message: CheckPolicy, file: ReadLayer, write: Callable[[bytes], None]) -> list[Outgoing]:
        trust = self._stand().trusted()
        document, deployment = self._deployment(message)
        for pin in deployment.stack:
            if pin.sha256 not in self._layers:
                raise LayerRefusedError(f"cannot make policy of {deployment.name}: layer {pin.path} was not verified before")
        checked = check_layer(file, trust)
        check_pins(message.sha256, checked.manifest, document.desired)
        self._check_separation(trust, document, deployment, self._layers)
        instance = make_instance(checked.policy, checked.manifest, deployment)
        try:
            write(instance.cil)
        except OSError as error:
            raise UnavailableError(f"cannot write policy of {deployment.name}: {error.strerror}") from error
        return [ToPid1(PolicyChecked(request=message.request, domains=instance.domains))]

    def _deployment(self, message: CheckPolicy) -> tuple[InForce, Deployment]:
        """Return the deployment of that id and generation on that layer, in the document in force or the one before."""
        wanted = (message.deployment, message.generation, message.sha256)
        for document in self._in_force:
            for deployment in document.desired.deployments:
                if (deployment.id, deployment.generation, deployment.stack[0].sha256) == wanted:
                    return document, deployment
        raise LayerRefusedError(
            f"cannot make policy: no desired state has generation {message.generation} of {message.deployment}"
            f" on layer {message.sha256[:16]}…"
        )

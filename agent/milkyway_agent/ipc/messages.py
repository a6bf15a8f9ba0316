"""The small typed messages between the processes of the agent. Pure types; ``channel`` carries them.

PID 1 reads nothing else: each message is a datagram of a SOCK_SEQPACKET pair, at most
MAX_MESSAGE_BYTES of JSON, of exactly one of the types below, with exactly the descriptors that are
named there. The six unions at the end define which process may send which message.

A request carries ``request``, a number that its sender chose; the answer repeats it.
"""

from typing import Annotated, Literal

from msgspec import Meta, field

from milkyway_formats.codec import Document
from milkyway_formats.command import Action
from milkyway_formats.desired import Desired
from milkyway_formats.enrolment import MachineConfiguration
from milkyway_formats.manifest import Manifest
from milkyway_formats.names import Bytes, Identifier, MachineId, RootHash, Sha256, ShortText, Text, UnixSeconds
from milkyway_formats.report import RootStatus, Status

MAX_MESSAGE_BYTES = 128 * 1024
RequestNumber = Annotated[int, Meta(ge=0, le=1 << 53)]

# --- PID 1 → verifier -------------------------------------------------------------------------------------------------


class Begin(Document, tag="begin", frozen=True):
    """The first message. Descriptors: the trust state's directory, the secure-config directory."""

    request: RequestNumber
    now: UnixSeconds
    boot_id: ShortText
    coreos_root_hash: RootHash
    development: bool


class VerifyLayer(Document, tag="verify-layer", frozen=True):
    """Check an installed layer again (at boot): all but the hash of the whole file. Descriptor: the file, read-only."""

    request: RequestNumber
    sha256: Sha256
    size: Bytes


class FetchLayer(Document, tag="fetch-layer", frozen=True):
    """Have the uplink fill a staging file, and verify all of it. Descriptors: the file write-only, the file read-only."""

    request: RequestNumber
    sha256: Sha256
    size: Bytes


class AdmitLocally(Document, tag="admit-locally", frozen=True):
    """Admit an envelope from ``mwctl apply``, with the same checks as one from the network. Descriptor: its bytes, read-only.

    ``change``: the peer is root, and the owner's policy as PID 1 knows it gives root the power to change the machine.
    """

    request: RequestNumber
    now: UnixSeconds
    change: bool = False


class CheckPolicy(Document, tag="check-policy", frozen=True):
    """Check a verified layer's overlay and write its instance as CIL. Descriptors: layer file read-only, output write-only."""

    request: RequestNumber
    deployment: Identifier
    generation: int
    sha256: Sha256


class SendReport(Document, tag="send-report", frozen=True):
    """Sign this status and give it to the uplink. No answer."""

    now: UnixSeconds
    status: Status


class Acted(Document, tag="acted", frozen=True):
    """What became of an admitted document or command. No answer."""

    id: ShortText
    outcome: Literal["done", "failed"]
    detail: Text = ""


# --- verifier → PID 1 -------------------------------------------------------------------------------------------------


class Begun(Document, tag="begun", frozen=True):
    """The trust state was read. ``quarantined`` says why commands are refused, if they are."""

    request: RequestNumber
    machine: MachineId | None
    quarantined: Text = ""
    configuration: MachineConfiguration | None = None
    roots: list[RootStatus] = field(default_factory=list)


class LayerVerified(Document, tag="layer-verified", frozen=True):
    """The layer file is what its signers signed. Offsets in the file are not sent: the image is always at 0."""

    request: RequestNumber
    manifest: Manifest
    sha256: Sha256


class PolicyChecked(Document, tag="policy-checked", frozen=True):
    """The instance's CIL was written; ``domains`` are its domains' full type names by the overlay's own names."""

    request: RequestNumber
    domains: dict[ShortText, ShortText]


class Refused(Document, tag="refused", frozen=True):
    """Not admitted. ``check`` names the check that failed, ``message`` is a line for people, ``hint`` a way out."""

    request: RequestNumber
    check: ShortText
    message: Text
    hint: Text = ""


class Unavailable(Document, tag="unavailable", frozen=True):
    """Not possible now (no network, no space); may be asked for again."""

    request: RequestNumber
    message: Text


class DesiredAdmitted(Document, tag="desired", frozen=True):
    """The newest desired state, verified and persisted. ``request`` is 0 if it was not asked for here."""

    request: RequestNumber
    desired: Desired
    id: ShortText


class CommandAdmitted(Document, tag="command", frozen=True):
    """A command, verified, its sequence number persisted: carry it out now, at most once."""

    request: RequestNumber
    id: ShortText
    signers: list[ShortText]
    action: Action


class RefusalNoted(Document, tag="refusal-noted", frozen=True):
    """Something from the network was refused: for the log and for ``mwctl status``."""

    check: ShortText
    message: Text


# --- verifier ↔ uplink ------------------------------------------------------------------------------------------------


class Connect(Document, tag="connect", frozen=True):
    """To the uplink, first: where to connect and with which identity. ``certificate`` is empty until enrolled."""

    host: ShortText
    port: int
    ca: str
    private_key: str
    certificate: str = ""
    enrolment: str = ""  # an EnrolmentRequest as JSON, while not enrolled


class Fetch(Document, tag="fetch", frozen=True):
    """To the uplink: write the blob into the descriptor, no more than *size* bytes."""

    request: RequestNumber
    sha256: Sha256
    size: Bytes


class Post(Document, tag="post", frozen=True):
    """To the uplink: deliver this signed report (a DSSE envelope as JSON)."""

    envelope: str


class Handled(Document, tag="handled", frozen=True):
    """To the uplink: an envelope was handled. *again*: it could not be kept now, and is to be asked for once more."""

    number: RequestNumber
    again: bool = False


class Fetched(Document, tag="fetched", frozen=True):
    """From the uplink: the blob is written, or *error* says why not."""

    request: RequestNumber
    error: Text = ""


class Envelope(Document, tag="envelope", frozen=True):
    """From the uplink: a signed document or command, not yet checked. Descriptor: its bytes, read-only (a memfd).

    Each is answered by a Handled with its *number*; only then the next is sent.
    """

    kind: Literal["desired", "command"]
    number: RequestNumber = 0


class Enrolled(Document, tag="enrolled", frozen=True):
    """From the uplink: the control server's reply to the enrolment request, not yet checked."""

    reply: str


class LinkState(Document, tag="link-state", frozen=True):
    """From the uplink, and on to PID 1: whether the control server answers, for the log and the status."""

    connected: bool
    detail: Text = ""


# --- PID 1 ↔ the API's front ------------------------------------------------------------------------------------------


ApiVerb = Literal[
    "status",
    "services",
    "layers",
    "deployments",
    "trust",
    "logs",
    "tree",
    "why",
    "blame",
    "critical-path",
    "top",
    "metrics",
    "events",
    "start",
    "stop",
    "restart",
    "reload",
    "apply",
    "reexec",
    "reboot",
    "poweroff",
]


class ApiRequest(Document, tag="api-request", frozen=True):
    """From the front: a parsed request on *connection* (PID 1 accepted that and knows its peer).

    Each connection has at most one at a time. Descriptor: the body, a sealed memfd, when ``has_body``.
    """

    request: RequestNumber
    connection: RequestNumber
    verb: ApiVerb
    argument: ShortText = ""
    parameters: Annotated[dict[ShortText, ShortText], Meta(max_length=16)] = field(default_factory=dict)
    has_body: bool = False


class ApiClosed(Document, tag="api-closed", frozen=True):
    """From the front: the connection is gone, and an answer that it was waiting for may be dropped."""

    connection: RequestNumber


class ApiConnection(Document, tag="api-connection", frozen=True):
    """To the front: a new connection. Descriptor: the socket."""

    connection: RequestNumber


class ApiAnswer(Document, tag="api-answer", frozen=True):
    """To the front: an HTTP status and a JSON body, in ``body`` or, when ``has_body``, in a pipe, the descriptor."""

    request: RequestNumber
    status: int
    body: str = ""
    has_body: bool = False


ToVerifier = Begin | VerifyLayer | FetchLayer | AdmitLocally | CheckPolicy | SendReport | Acted
FromVerifier = (
    Begun
    | LayerVerified
    | PolicyChecked
    | Refused
    | Unavailable
    | DesiredAdmitted
    | CommandAdmitted
    | RefusalNoted
    | LinkState  # passed on unchecked from the uplink: only for the status
)
ToUplink = Connect | Fetch | Post | Handled
FromUplink = Fetched | Envelope | Enrolled | LinkState
ToFront = ApiConnection | ApiAnswer
FromFront = ApiRequest | ApiClosed

"""What the operator's tool and the control server say to each other: paths and bodies, JSON over mutual TLS.

Signed documents travel as the bytes of their envelopes, in both directions, so that the tool
can verify what it is shown. Everything beside an envelope here is the server's word: good for
finding and showing things, never for deciding what gets signed.
"""

from typing import Annotated

from msgspec import Meta

from milkyway_formats.codec import Document
from milkyway_formats.enrolment import Label, TokenId
from milkyway_formats.limits import MAX_ENVELOPE_BYTES
from milkyway_formats.names import FleetId, MachineId, Sha256, ShortText, UnixSeconds

FLEET_PATH = "/v1/fleet"  # GET FleetView
TOKENS_PATH = "/v1/tokens"  # POST NewToken → 201
ENROLMENTS_PATH = "/v1/enrolments"  # GET [PendingView]; POST …/<token> the signed record → 201
MACHINES_PATH = (
    "/v1/machines"  # GET [MachineView]; POST …/<id>/revoke; GET and POST …/<id>/{desired,commands}; GET …/<id>/reports
)
BLOBS_PATH = "/v1/blobs"  # HEAD and PUT …/<sha256>

# Of a POST of a desired state: the digest of the newest one, EMPTY_MATCH if there is none yet, or ANY_MATCH for no check.
MATCH_HEADER = "if-match"
EMPTY_MATCH = "none"
ANY_MATCH = "*"

MAX_LISTED = 20
MAX_ANSWER_BYTES = 64 << 20
TOKEN_LIFE_S = 7 * 86400


class FleetView(Document, frozen=True):
    """The fleet that this server is for."""

    fleet: FleetId


class NewToken(Document, frozen=True):
    """A token's public part. The secret leaves the tool only for its machine."""

    id: TokenId
    name: Label
    expires: UnixSeconds


class PendingView(Document, frozen=True):
    """A machine that waits to be enrolled; ``request`` is its EnrolmentRequest as received."""

    token: TokenId
    name: Label
    operator: ShortText
    received: UnixSeconds
    request: str


class MachineView(Document, frozen=True):
    """An enrolled machine; ``record`` is the envelope that an operator signed."""

    id: MachineId
    name: Label
    record: str
    enrolled: UnixSeconds
    last_seen: UnixSeconds | None = None
    revoked: UnixSeconds | None = None


class EnvelopeView(Document, frozen=True):
    """A stored desired state or command. ``delivered``: the machine's uplink has acknowledged it."""

    digest: Sha256
    operator: ShortText
    received: UnixSeconds
    envelope: Annotated[str, Meta(max_length=MAX_ENVELOPE_BYTES)]
    delivered: bool = False


class ReportView(Document, frozen=True):
    """A stored report: a machine's signed envelope."""

    received: UnixSeconds
    envelope: str

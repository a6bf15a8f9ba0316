"""What the uplink and the control server say to each other: paths, headers, bounds and the few bodies.

HTTP/1.1 over TLS 1.3. Every route but enrolment needs a machine certificate; the machine is
named by the certificate alone, never by the request. The bodies that matter are signed
envelopes, carried as bytes; they are believed for their signatures, not for who sent them.
"""

from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlencode

import msgspec
from msgspec import Meta

from milkyway_formats.codec import Document, MalformedError
from milkyway_formats.names import MachineId, Sha256, Text

ENROL_PATH = "/v1/enrol"  # POST EnrolmentRequest (?hold=0) → 202 while pending, after the hold; 200 EnrolmentReply; 4xx
POLL_PATH = "/v1/poll"  # GET → 200 with an envelope and KIND_HEADER, 204 when nothing came within the hold
BLOB_PREFIX = "/v1/blobs/"  # GET …<sha256>, Range: bytes=N- → 200 or 206
REPORT_PATH = "/v1/reports"  # POST a signed report → 204

KIND_HEADER = "milkyway-kind"  # of a poll's answer: "desired" or "command"
CURSOR_HEADER = "milkyway-cursor"  # of a poll's answer that is a command: the value of ``commands`` in later polls

MAX_ENROLMENT_BYTES = 64 * 1024
MAX_REPORT_BYTES = 256 * 1024
MAX_PROBLEM_BYTES = 16 * 1024
MAX_HEADER_BYTES = 16 * 1024
POLL_HOLD_S = 50  # how long the server holds a poll; the uplink waits a little longer

MACHINE_URI = "milkyway:machine:"
OPERATOR_URI = "milkyway:operator:"

EnvelopeKind = Literal["desired", "command"]
Cursor = Annotated[int, Meta(ge=0, le=1 << 53)]


class Problem(Document, frozen=True):
    """The body of every refusal: one line for people, and what to do about it."""

    error: Text
    hint: Text = ""


class PollQuery(Document, frozen=True):
    """What the machine already has: SHA-256 of the newest desired-state envelope, cursor of the newest command.

    Both are left out after a start of the uplink: the server then sends the newest desired state again, and the
    commands that were never acknowledged. ``hold``: answer within this many seconds, if that is shorter than the
    server's own hold; 0 only asks whether the server is there.
    """

    desired: Sha256 | None = None
    commands: Cursor | None = None
    hold: Annotated[int, Meta(ge=0, le=POLL_HOLD_S)] | None = None

    def target(self) -> str:
        """Return the request target of this query."""
        given = {"desired": self.desired, "commands": self.commands, "hold": self.hold}
        query = urlencode({name: value for name, value in given.items() if value is not None})
        return f"{POLL_PATH}?{query}" if query else POLL_PATH


def read_poll_query(fields: Mapping[str, str]) -> PollQuery:
    """Return the query that *fields* spell. Raises MalformedError for an unknown field or a malformed value."""
    try:
        return msgspec.convert(dict(fields), PollQuery, strict=False)
    except msgspec.ValidationError as error:
        raise MalformedError(f"cannot read poll: {error}") from error


def machine_uri(machine: MachineId) -> str:
    """Return the URI that a machine's certificate carries as its subject alternative name."""
    return MACHINE_URI + machine

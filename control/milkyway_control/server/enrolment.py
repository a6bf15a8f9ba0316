"""The control server's part of enrolment: what it checks in a request and in the record that an operator signed. Pure.

Its checks keep nonsense out of the letter box. They are not what makes enrolment safe: the operator's
tool, which holds the secret, checks the proof, and the machine checks the record's signature.
"""

from datetime import UTC, datetime

from milkyway_control.server.ca import Authority, public_der, read_csr
from milkyway_control.server.store import MachineRow
from milkyway_formats.agent_protocol import MAX_ENROLMENT_BYTES, machine_uri
from milkyway_formats.codec import decode, encode
from milkyway_formats.enrolment import ENROLMENT_TYPE, EnrolmentRecord, EnrolmentReply, EnrolmentRequest
from milkyway_formats.envelope import payload_of, read_envelope
from milkyway_formats.errors import RefusedError
from milkyway_formats.hybrid import HybridPublicKey
from milkyway_formats.names import FleetId, MachineId, UnixSeconds


class EnrolmentRefusedError(RefusedError):
    """The request or the record contradicts itself, or one contradicts the other."""


def read_request(data: bytes) -> EnrolmentRequest:
    """Return the request if its CSR is for the connection key that it names, and signed by that key."""
    request = decode(data, EnrolmentRequest, what="enrolment request", limit=MAX_ENROLMENT_BYTES)
    if public_der(read_csr(request.csr)) != bytes.fromhex(request.keys.connection):
        raise EnrolmentRefusedError("cannot accept enrolment request: its certificate request is for another key")
    machine_of(request)
    return request


def machine_of(request: EnrolmentRequest) -> MachineId:
    """Return the machine's id: the key id of its identity key."""
    return HybridPublicKey(bytes.fromhex(request.keys.identity)).key_id


def approve(
    request: EnrolmentRequest, envelope: bytes, fleet: FleetId, authority: Authority, now: UnixSeconds
) -> tuple[MachineRow, EnrolmentReply]:
    """Return the machine that *request* becomes by the record in *envelope*, and the reply to it with its certificate.

    Checks that it is a record, of this fleet, for this token, these keys and the id that follows from them.
    """
    wrapped = read_envelope(envelope, what="enrolment record")
    if wrapped.payload_type != ENROLMENT_TYPE:
        raise EnrolmentRefusedError(f"cannot accept enrolment record: its type is {wrapped.payload_type}")
    record = decode(payload_of(wrapped), EnrolmentRecord, what="enrolment record")
    for name, stated, known in (
        ("fleet", record.fleet, fleet),
        ("token", record.token, request.token),
        ("keys", record.keys, request.keys),
        ("machine", record.machine, machine_of(request)),
    ):
        if stated != known:
            raise EnrolmentRefusedError(f"cannot accept enrolment record: its {name} is not that of the request")
    certificate = authority.issue_for(
        read_csr(request.csr), record.name, machine_uri(record.machine), datetime.fromtimestamp(now, UTC)
    )
    machine = MachineRow(
        id=record.machine,
        name=record.name,
        record=envelope,
        identity=bytes.fromhex(record.keys.identity),
        certificate=certificate,
        enrolled=now,
        last_seen=None,
        revoked=None,
        commands_seen=0,
    )
    reply = EnrolmentReply(format="milkyway.enrolment-reply/1", certificate=certificate, record=envelope.decode())
    return machine, reply


def reply_bytes(reply: EnrolmentReply) -> bytes:
    """Return *reply* in the form that the machine receives."""
    return encode(reply)

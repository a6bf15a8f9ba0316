"""Enrolment: the request, which proves knowledge of the token, and the check of the reply, which can't have been swapped.

The proof is over the three keys, so the operator's tool detects a server that puts in another CSR. The record that the
operator then signs names the three keys, so a machine refuses the record or certificate of another one here. What is
accepted is kept by ``trust_state``.

This is the only module that reads certificates. It is imported only while the machine is not enrolled.
"""

from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from milkyway_agent.verifier.enrolment_record import EnrolmentRefusedError, check_record
from milkyway_agent.verifier.machine_keys import MachineSecrets, connection_key, machine_id, public_keys
from milkyway_formats.codec import decode
from milkyway_formats.enrolment import (
    EnrolmentRecord,
    EnrolmentReply,
    EnrolmentRequest,
    MachineConfiguration,
    proof,
    split_token,
)
from milkyway_formats.trust import Trust

MAX_REPLY_BYTES = 128 * 1024


class Enrolment(NamedTuple):
    """What a machine has once it is enrolled. ``envelope`` is the signed record as it came."""

    record: EnrolmentRecord
    envelope: str
    certificate: str


def make_request(secrets: MachineSecrets, configuration: MachineConfiguration) -> EnrolmentRequest:
    """Return the request for the token in *configuration*. Raises MalformedError if that is not a token."""
    token, secret = split_token(configuration.token)
    keys = public_keys(secrets)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, machine_id(secrets))])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(connection_key(secrets), SHA256())
    return EnrolmentRequest(
        format="milkyway.enrolment-request/1",
        token=token,
        csr=csr.public_bytes(Encoding.PEM).decode(),
        keys=keys,
        proof=proof(secret, token, keys),
        hostname=configuration.hostname,
    )


def check_reply(data: bytes, *, trust: Trust, secrets: MachineSecrets, configuration: MachineConfiguration) -> Enrolment:
    """Return the enrolment in the server's reply *data*.

    Checks, in this order: form; signatures of the record and their threshold; fleet; token; machine id; the three
    keys; the certificate can be read; its public key is this machine's connection key.
    """
    reply = decode(data, EnrolmentReply, what="enrolment reply", limit=MAX_REPLY_BYTES)
    record, _ = trust.verify_enrolment(reply.record.encode())
    check_record(record, secrets=secrets, fleet=trust.fleet)
    if record.token != split_token(configuration.token)[0]:
        raise EnrolmentRefusedError("cannot accept enrolment: its record is for another token")
    try:
        certificate = x509.load_pem_x509_certificate(reply.certificate.encode())
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except ValueError as error:
        raise EnrolmentRefusedError(f"cannot accept enrolment: its certificate can't be read: {error}") from error
    if key.hex() != public_keys(secrets).connection:
        raise EnrolmentRefusedError("cannot accept enrolment: the certificate is not for this machine's connection key")
    return Enrolment(record, reply.record, reply.certificate)

"""What the verifier gives the uplink: where to connect and with which keys, the enrolment, signed reports."""

from msgspec.structs import replace

from milkyway_agent.ipc.messages import MAX_MESSAGE_BYTES, Connect, Post
from milkyway_agent.verifier.enrolment_record import EnrolmentRefusedError
from milkyway_agent.verifier.machine_keys import connection_key_pem, identity_key
from milkyway_agent.verifier.standing import Standing
from milkyway_formats.codec import encode
from milkyway_formats.envelope import OversizeRefusedError, write_envelope
from milkyway_formats.errors import RefusedError
from milkyway_formats.names import UnixSeconds
from milkyway_formats.report import REPORT_TYPE, Report, Status


def connection(standing: Standing) -> Connect | None:
    """Return where the uplink is to connect, with the certificate or with a request for one; None if it is not to connect.

    A machine in quarantine does not ask to be enrolled; if it is enrolled already it still connects, to report that.
    """
    configuration, kept = standing.configuration, standing.store.enrolment
    if configuration is None or not configuration.control_host:
        return None
    connect = Connect(
        host=configuration.control_host,
        port=configuration.control_port,
        ca=configuration.ca,
        private_key=connection_key_pem(standing.store.secrets),
    )
    if standing.enrolled and kept is not None:
        return replace(connect, certificate=kept.certificate)
    if standing.quarantined or not configuration.token:
        return None
    # Certificates are needed for the enrolment alone: their part of cryptography is not loaded otherwise.
    from milkyway_agent.verifier.enrolment import make_request

    try:
        request = make_request(standing.store.secrets, configuration)
    except RefusedError as error:
        standing.note(error)
        return None
    return replace(connect, enrolment=encode(request).decode())


def take_enrolment(standing: Standing, reply: bytes) -> Connect:
    """Verify the control server's *reply*, keep it, and return how to connect from now on. Raises RefusedError."""
    from milkyway_agent.verifier.enrolment import check_reply  # as above

    trust, configuration = standing.trusted(), standing.configuration
    if standing.enrolled or configuration is None or not configuration.token:
        raise EnrolmentRefusedError("cannot accept enrolment: this machine did not ask for it")
    enrolment = check_reply(reply, trust=trust, secrets=standing.store.secrets, configuration=configuration)
    standing.store.save_enrolment(enrolment.envelope, enrolment.certificate)
    standing.enrolled = True
    standing.raise_floor(enrolment.record.issued)
    connect = connection(standing)
    assert connect is not None, "it has a control server that it asked for its enrolment"
    return connect


def signed_report(standing: Standing, status: Status, now: UnixSeconds) -> Post:
    """Return *status* as the machine's next signed report; its number is persisted before it is used."""
    store, trust = standing.store, standing.trusted()
    if store.lost:
        sequence = now  # the numbers used before are not known, but the seconds since 1970 are more than there were reports
    else:
        sequence = store.state.report_sequence + 1
        store.save(replace(store.state, report_sequence=sequence))
    for shorter in (status, replace(status, processes=[], refusals=[])):
        report = Report(
            format="milkyway.report/1",
            fleet=trust.fleet,
            machine=standing.machine,
            sequence=sequence,
            issued=now,
            status=shorter,
        )
        payload = encode(report)
        signature = identity_key(store.secrets).sign_payload(REPORT_TYPE, payload)
        post = Post(envelope=write_envelope(REPORT_TYPE, payload, [signature]).decode())
        if len(encode(post)) <= MAX_MESSAGE_BYTES:
            return post
    raise OversizeRefusedError("cannot send report: it is too long even without processes and refusals")

"""The operator's part of enrolment: check a machine's proof, make the record that gets signed. Pure.

The proof covers the machine's three keys and needs the token's secret, which only this tool and the machine have.
So a request that the server has changed is found out here.
"""

import hashlib
import hmac

from milkyway_control.fleet.config import KeptToken
from milkyway_control.operator_protocol import PendingView
from milkyway_formats.agent_protocol import MAX_ENROLMENT_BYTES
from milkyway_formats.codec import decode
from milkyway_formats.enrolment import EnrolmentRecord, EnrolmentRequest, proof
from milkyway_formats.errors import RefusedError
from milkyway_formats.hybrid import HybridPublicKey
from milkyway_formats.names import FleetId, UnixSeconds


class ProofRefusedError(RefusedError):
    """The request does not come from the holder of the token, or was changed on the way."""


def check_request(pending: PendingView, kept: KeptToken) -> EnrolmentRequest:
    """Return the request if its proof was made with the token's secret over exactly these keys."""
    request = decode(pending.request.encode(), EnrolmentRequest, what="enrolment request", limit=MAX_ENROLMENT_BYTES)
    expected = proof(bytes.fromhex(kept.secret), pending.token, request.keys)
    if request.token != pending.token or not hmac.compare_digest(request.proof, expected):
        raise ProofRefusedError(
            f"cannot enrol {kept.name}: the proof does not hold: the machine has another secret, "
            "or its keys were replaced on the way",
            hint="make a new token; if it happens again, the control server is not to be trusted",
        )
    return request


def record_of(request: EnrolmentRequest, kept: KeptToken, fleet: FleetId, now: UnixSeconds) -> EnrolmentRecord:
    """Return the record that makes this machine part of the fleet, with the name and groups that the token was made for."""
    return EnrolmentRecord(
        format="milkyway.enrolment/1",
        fleet=fleet,
        machine=HybridPublicKey(bytes.fromhex(request.keys.identity)).key_id,
        name=kept.name,
        keys=request.keys,
        token=request.token,
        issued=now,
        groups=kept.groups,
    )


def fingerprints(request: EnrolmentRequest) -> dict[str, str]:
    """Return the fingerprints of the three keys, for comparing with what the machine's console shows."""
    keys = request.keys
    return {
        "machine": HybridPublicKey(bytes.fromhex(keys.identity)).key_id,
        "connection": hashlib.sha256(bytes.fromhex(keys.connection)).hexdigest(),
        "encryption": hashlib.sha256(bytes.fromhex(keys.encryption)).hexdigest(),
    }

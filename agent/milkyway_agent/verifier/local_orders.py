"""Desired states without operators: signed by the machine for its root user, if the owner's root says ``local: change``.

``sign_here`` turns an unsigned draft into an envelope that the machine's identity key has signed, so that everything that is
kept on the disk is signed; ``verify_kept`` verifies a kept document at every boot, signed by operators or by the machine.
Neither is ever given anything that came from the network. For the reasons see ``docs/decisions/0013``.
"""

from typing import ClassVar

from milkyway_agent.core.admission import LocalRefusedError, check_local
from milkyway_agent.verifier.machine_keys import MachineSecrets, identity_key
from milkyway_formats.desired import DESIRED_TYPE, Desired
from milkyway_formats.envelope import Envelope, EnvelopeRefusedError, payload_of, read_envelope, write_envelope
from milkyway_formats.limits import MAX_DESIRED_BYTES
from milkyway_formats.trust import Trust, Verified, verify_by_key

WHAT = "desired state"


class PeerRefusedError(LocalRefusedError):
    """The owner's policy gives this power to root at the machine, and the caller is not root."""

    check: ClassVar[str] = "peer"


def sign_here(draft: Envelope, trust: Trust, secrets: MachineSecrets, *, change: bool) -> bytes:
    """Return the envelope of the unsigned *draft*, signed by this machine's identity key. *change*: PID 1 says that root asks.

    Checks, in this order: it is a desired state; the owner's root says ``local: change``; root asks. Its content is
    not checked yet: ``verify_kept`` and ``core.admission`` do that.
    """
    assert not draft.signatures, "what operators signed is judged by their signatures alone"
    if draft.payload_type != DESIRED_TYPE:
        raise EnvelopeRefusedError(
            "cannot accept order: it is not signed, and not a desired state", hint="commands need an operator's signature"
        )
    check_local(trust.owner, f"accept {WHAT}")
    if not change:
        raise PeerRefusedError(
            f"cannot accept {WHAT}: no operator signed it, and the caller is not root",
            hint="run `mwctl apply` as root, or have it signed (`milkyway fleet sign FILE`)",
        )
    payload = payload_of(draft)
    return write_envelope(DESIRED_TYPE, payload, [identity_key(secrets).sign_payload(DESIRED_TYPE, payload)])


def verify_kept(data: bytes, trust: Trust, secrets: MachineSecrets) -> tuple[Desired, Verified]:
    """Return the desired state in the envelope *data*, which comes from this machine's own disk or from ``sign_here``.

    Enough operators have signed it, or this machine has and the owner's root says ``local: change``. Raises RefusedError.
    """
    key = identity_key(secrets).public_key
    if [signature.keyid for signature in read_envelope(data, what=WHAT).signatures] != [key.key_id]:
        return trust.verify_desired(data)
    desired, verified = verify_by_key(data, key, DESIRED_TYPE, Desired, what=WHAT, limit=MAX_DESIRED_BYTES)
    check_local(trust.owner, f"resume {WHAT} {desired.version}")
    return desired, verified

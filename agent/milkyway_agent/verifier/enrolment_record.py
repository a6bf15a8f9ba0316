"""The check that an enrolment record is this machine's, made when it arrives and again at every boot."""

from typing import ClassVar

from milkyway_agent.verifier.machine_keys import MachineSecrets, machine_id, public_keys
from milkyway_formats.enrolment import EnrolmentRecord
from milkyway_formats.errors import RefusedError
from milkyway_formats.names import FleetId


class EnrolmentRefusedError(RefusedError):
    """The record, or the reply that it came in, is not for this machine."""

    check: ClassVar[str] = "enrolment"


def check_record(record: EnrolmentRecord, *, secrets: MachineSecrets, fleet: FleetId) -> None:
    """Raise EnrolmentRefusedError unless the verified *record* is of this machine: fleet, id and all three keys."""
    if record.fleet != fleet:
        raise EnrolmentRefusedError(
            f"cannot accept enrolment: its record is of fleet {record.fleet}, this machine's is {fleet}"
        )
    if record.machine != machine_id(secrets):
        raise EnrolmentRefusedError("cannot accept enrolment: its record names another machine")
    ours = public_keys(secrets)
    for name in ours.__struct_fields__:
        if getattr(record.keys, name) != getattr(ours, name):
            raise EnrolmentRefusedError(f"cannot accept enrolment: its record does not name this machine's {name} key")

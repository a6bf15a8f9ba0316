"""The desired-state document: everything that one machine should run, signed, versioned; at most 127 KiB (``limits``)."""

from typing import Annotated, Literal

from msgspec import Meta, field

from milkyway_formats.codec import Document
from milkyway_formats.deployment import Deployment
from milkyway_formats.names import FleetId, MachineId, UnixSeconds

DESIRED_TYPE = "application/vnd.milkyway.desired.v1+json"


class Desired(Document, frozen=True):
    """A higher ``version`` replaces a lower; a lower or equal one is refused unless signed with ``rollback``."""

    format: Literal["milkyway.desired/1"]
    fleet: FleetId
    machine: MachineId
    version: Annotated[int, Meta(ge=1, le=1 << 53)]
    issued: UnixSeconds
    not_before: UnixSeconds
    expires: UnixSeconds
    deployments: Annotated[list[Deployment], Meta(max_length=256)] = field(default_factory=list)
    rollback: bool = False

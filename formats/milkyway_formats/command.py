"""Commands: what should happen once. What should hold from now on is a desired-state document instead."""

from typing import Annotated, Literal

from msgspec import Meta

from milkyway_formats.codec import Document
from milkyway_formats.names import FleetId, MachineId, RootHash, ShortText, UnixSeconds

COMMAND_TYPE = "application/vnd.milkyway.command.v1+json"
CommandClass = Literal["read", "restart", "stop", "change", "deep"]
# From ``issued`` to ``expires``; a desired-state document is of class change.
LONGEST_LIFE_SECONDS: dict[CommandClass, int] = {
    "read": 24 * 3600,
    "restart": 24 * 3600,
    "stop": 24 * 3600,
    "change": 24 * 3600,
    "deep": 3600,
}
# `web/nginx` for a deployment's service, `dhcp` for one of CoreOS
ServiceAddress = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,30}(/[a-z][a-z0-9-]{0,30})?\Z")]


class RestartService(Document, tag="restart", frozen=True):
    """Stop a service and start it again (class restart)."""

    service: ServiceAddress


class StopService(Document, tag="stop", frozen=True):
    """Stop a service until it is started or the machine boots (class stop)."""

    service: ServiceAddress


class StartService(Document, tag="start", frozen=True):
    """Start a service that was stopped (class restart)."""

    service: ServiceAddress


class Reboot(Document, tag="reboot", frozen=True):
    """Shut down in order and boot again (class deep)."""


class PowerOff(Document, tag="poweroff", frozen=True):
    """Shut down in order and switch off (class deep)."""


Action = RestartService | StopService | StartService | Reboot | PowerOff


def class_of(action: Action) -> CommandClass:
    """Return the lowest class whose signers may order *action*."""
    match action:
        case RestartService() | StartService():
            return "restart"
        case StopService():
            return "stop"
        case Reboot() | PowerOff():
            return "deep"


class Command(Document, frozen=True):
    """One order to the machines listed.

    ``sequence`` counts per stream (one stream per machine and operator) from 1 without a gap;
    ``expect``, if given, is the root hash of the CoreOS that the machine must be running.
    """

    format: Literal["milkyway.command/1"]
    fleet: FleetId
    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    stream: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}\Z")]
    sequence: Annotated[int, Meta(ge=1, le=1 << 53)]
    issued: UnixSeconds
    not_before: UnixSeconds
    expires: UnixSeconds
    command_class: CommandClass
    machines: Annotated[list[MachineId], Meta(min_length=1, max_length=1000)]
    action: Action
    expect: RootHash | None = None
    reason: ShortText = ""

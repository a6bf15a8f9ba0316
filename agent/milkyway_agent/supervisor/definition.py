"""The definition of a supervised service, with its starter and its needs; and whether it can be supervised at all."""

from collections.abc import Container
from typing import NamedTuple

from milkyway_agent.core.calendar import parse
from milkyway_agent.core.dependencies import Needs
from milkyway_agent.launching.starter import FIRST_LISTENER, Starter
from milkyway_formats.errors import RefusedError
from milkyway_formats.execution import Execution
from milkyway_formats.service import ExecProbe, HttpProbe, ReadyByDescriptor, ReadyByProbe, Service
from milkyway_formats.service_check import check_service


class Definition(NamedTuple):
    """A service to supervise. *name*: its full name ("web/nginx"), like those in *needs*.

    *users*: the user ids that may listen on its port for it to be ready; None: any. *socket_context*: the SELinux context
    of its listeners; "": our own.
    """

    name: str
    service: Service
    starter: Starter
    needs: Needs = Needs()
    users: Container[int] | None = None
    socket_context: str = ""


def accepts(service: Service) -> bool:
    """Tell whether *service* has a process for each connection; then it has no main process."""
    return any(listener.accept for listener in service.listeners)


def check(definition: Definition) -> None:
    """Raise RefusedError if the service contradicts itself, or asks for what its starter does not provide."""
    check_service(definition.service)
    for timer in definition.service.timers:
        for text in timer.calendar:
            parse(text)
    _check_starter(definition)
    _check_listeners(definition)


def _check_listeners(definition: Definition) -> None:
    name, service = definition.name, definition.service
    if accepts(service):
        if not all(listener.accept for listener in service.listeners):
            raise RefusedError(f"cannot supervise {name}: either all of its listeners accept connections, or none")
        if service.timers:
            raise RefusedError(f"cannot supervise {name}: it runs for each connection, not at certain times")
        if service.stop.command or service.reload.command:
            raise RefusedError(f"cannot supervise {name}: a command can't say for which of its connections it is")
    elif isinstance(service.readiness, ReadyByDescriptor):
        taken = FIRST_LISTENER + len(service.listeners) + service.stored_descriptors
        if service.readiness.descriptor < taken and taken > FIRST_LISTENER:
            number = service.readiness.descriptor
            raise RefusedError(f"cannot supervise {name}: descriptor {number} is for a listener, or for a stored descriptor")


def _check_starter(definition: Definition) -> None:
    name, service, offers = definition.name, definition.service, definition.starter.abilities
    if service.listeners and not offers.listeners:
        raise RefusedError(f"cannot supervise {name}: its starter passes no listeners")
    if service.execution != Execution() and not offers.execution:
        raise RefusedError(f"cannot supervise {name}: its starter does not support `execution`")
    needs_descriptors = accepts(service) or service.stored_descriptors or isinstance(service.readiness, ReadyByDescriptor)
    if needs_descriptors and not offers.descriptors:
        raise RefusedError(f"cannot supervise {name}: its starter serves no connections, and passes no other descriptors")
    probes = [service.health.probe] if service.health else []
    if isinstance(service.readiness, ReadyByProbe):
        probes.append(service.readiness.probe)
    if any(isinstance(probe, HttpProbe) for probe in probes) and not offers.network:
        raise RefusedError(f"cannot supervise {name}: its supervisor makes no HTTP requests")
    runs_probes = any(isinstance(probe, ExecProbe) for probe in probes)
    if (service.stop.command or service.reload.command or runs_probes) and not offers.commands:
        raise RefusedError(f"cannot supervise {name}: its starter runs no commands beside it")

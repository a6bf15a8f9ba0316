"""Whether a service can be supervised at all as it is defined: what its fields ask for, and what its starter can give."""

from milkyway_agent.core.calendar import parse
from milkyway_agent.launching.child import runs_commands
from milkyway_agent.supervisor.service_record import Definition, accepts, is_direct
from milkyway_formats.errors import RefusedError
from milkyway_formats.execution import Execution
from milkyway_formats.service import ExecProbe, HttpProbe, ReadyByDescriptor, ReadyByProbe
from milkyway_formats.service_check import check_service

FIRST_LISTENER = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)


def check(definition: Definition) -> None:
    """Raise RefusedError when the service contradicts itself, or asks for what its starter does not give."""
    name, service = definition.name, definition.service
    check_service(service)
    for timer in service.timers:
        for text in timer.calendar:
            parse(text)
    starter = definition.starter
    if service.listeners and not starter.takes_listeners:
        raise RefusedError(f"cannot supervise {name}: its starter gives it no listeners")
    if service.execution != Execution() and not starter.reads_execution:
        raise RefusedError(f"cannot supervise {name}: its starter does not read execution")
    _check_starter(definition)
    if accepts(service):
        if not all(listener.accept for listener in service.listeners):
            raise RefusedError(f"cannot supervise {name}: either all of its listeners accept connections, or none does")
        if service.timers:
            raise RefusedError(f"cannot supervise {name}: it runs for each connection, not at times")
        if service.stop.command or service.reload.command:
            raise RefusedError(f"cannot supervise {name}: a command can't say which of its connections' processes it is for")
    elif isinstance(service.readiness, ReadyByDescriptor):
        taken = FIRST_LISTENER + len(service.listeners) + service.stored_descriptors
        if service.readiness.descriptor < taken and taken > FIRST_LISTENER:
            number = service.readiness.descriptor
            raise RefusedError(f"cannot supervise {name}: descriptor {number} is for a listener, or one that it has stored")


def _check_starter(definition: Definition) -> None:
    name, service, starter = definition.name, definition.service, definition.starter
    probes = [service.health.probe] if service.health else []
    if isinstance(service.readiness, ReadyByProbe):
        probes.append(service.readiness.probe)
    if not is_direct(starter):
        if accepts(service) or service.stored_descriptors or isinstance(service.readiness, ReadyByDescriptor):
            raise RefusedError(f"cannot supervise {name}: its starter serves no connections, and passes no further descriptors")
        if any(isinstance(probe, HttpProbe) for probe in probes):
            raise RefusedError(f"cannot supervise {name}: whoever supervises it asks nobody over the network")
    asks = bool(service.stop.command or service.reload.command) or any(isinstance(probe, ExecProbe) for probe in probes)
    if asks and not runs_commands(starter):
        raise RefusedError(f"cannot supervise {name}: its starter runs no commands beside it")

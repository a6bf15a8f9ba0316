"""Rules about a service's fields taken together, which no single type can express. Pure."""

from collections.abc import Mapping
from itertools import combinations

from milkyway_formats.errors import RefusedError
from milkyway_formats.execution import Execution
from milkyway_formats.listener import SOCKET_PATH_BYTES, Listener, Tcp, Udp, UnixDatagram, UnixStream, overlap
from milkyway_formats.service import HttpProbe, ReadyAtOnce, ReadyByDescriptor, ReadyByExit, ReadyByProbe, Service

# What containers can't do yet. A layer that asks for it is refused: it must not run with less than it was signed with.
_NOT_FOR_LAYERS = (
    "stored_descriptors",
    "conditions",
)
# What a layer may set of its services' execution: what restricts them, or holds anyway. Everything else is granted or
# comes another way (the user from the deployment's range, files as data), or is not for layers at all.
_OF_AN_EXECUTION = frozenset({"limits", "nice", "oom_score", "processors", "seccomp", "umask"})
_RESOURCES = frozenset({"as", "core", "cpu", "data", "fsize", "nofile", "nproc", "stack"})  # the others are for raising limits


class ServiceError(RefusedError):
    """A service contradicts itself, or asks for something that does not exist."""


def check_service(service: Service) -> None:
    """Raise ServiceError when the fields of *service* contradict one another."""
    name = service.name
    if service.type == "bundle":
        if service.command:
            raise ServiceError(f"cannot use service {name}: a bundle has no command of its own")
        if not isinstance(service.readiness, ReadyAtOnce) or service.listeners:
            raise ServiceError(f"cannot use service {name}: a bundle is ready when its parts are, and listens to nothing")
    elif not service.command:
        raise ServiceError(f"cannot use service {name}: it has no command")
    if service.command and not service.command[0].startswith("/"):
        raise ServiceError(f"cannot use service {name}: its command {service.command[0]!r} is not an absolute path")
    if isinstance(service.readiness, ReadyByExit) and service.type != "oneshot":
        raise ServiceError(f"cannot use service {name}: a {service.type} can't be ready by ending")
    if service.execution.dynamic_user and service.execution.account:
        raise ServiceError(f"cannot use service {name}: its user is either dynamic or {service.execution.account}, not both")
    if service.restart.delay_limit_ms < service.restart.delay_ms:
        raise ServiceError(f"cannot use service {name}: restart.delay_limit_ms is less than restart.delay_ms")
    if service.health is not None and service.type != "longrun":
        raise ServiceError(f"cannot use service {name}: only a longrun is asked for its health")
    _check_listeners(service)
    for timer in service.timers:
        if not (timer.calendar or timer.after_boot_ms or timer.after_end_ms):
            raise ServiceError(f"cannot use service {name}: one of its timers names no time")


def _check_listeners(service: Service) -> None:
    name = service.name
    for listener in service.listeners:
        if listener.accept and not isinstance(listener.address, (Tcp, UnixStream)):
            raise ServiceError(
                f"cannot use service {name}: listener {listener.name} has accept, but its address takes no connections"
            )
        if isinstance(listener.address, (UnixStream, UnixDatagram)) and len(listener.address.path.encode()) > SOCKET_PATH_BYTES:
            raise ServiceError(
                f"cannot use service {name}: the path of listener {listener.name} is longer than {SOCKET_PATH_BYTES} bytes"
            )
    names = [listener.name for listener in service.listeners]
    if len(set(names)) < len(names):
        raise ServiceError(f"cannot use service {name}: two of its listeners have the same name")
    for first, second in combinations(service.listeners, 2):
        if overlap(first.address, second.address):
            raise ServiceError(f"cannot use service {name}: its listeners {first.name} and {second.name} have the same address")


def check_listeners_of_all(services: Mapping[str, Service]) -> None:
    """Raise ServiceError when two of *services* listen at the same address and neither says that they conflict."""
    seen: list[tuple[Service, Listener]] = []
    for service in services.values():
        for listener in service.listeners:
            for other, theirs in seen:
                apart = other.name in service.conflicts or service.name in other.conflicts
                if other is not service and not apart and overlap(listener.address, theirs.address):
                    raise ServiceError(
                        f"cannot use service {service.name}: its listener {listener.name} has the address of {other.name}'s"
                        f" {theirs.name}",
                        hint="give it another, or say that the two conflict",
                    )
            seen.append((service, listener))


def check_layer_service(service: Service) -> None:
    """Raise ServiceError when *service* contradicts itself or asks for something that a layer's service can't have."""
    check_service(service)
    plain = Service(name=service.name, command=service.command)
    asked = [field for field in _NOT_FOR_LAYERS if getattr(service, field) != getattr(plain, field)]
    if isinstance(service.readiness, ReadyByDescriptor):
        asked.append("readiness: descriptor")
    # PID 1 makes no requests over the network, for a layer no more than for itself.
    probes = [service.readiness.probe] if isinstance(service.readiness, ReadyByProbe) else []
    probes += [service.health.probe] if service.health else []
    if any(isinstance(probe, HttpProbe) for probe in probes):
        asked.append("probes of type http")
    # PID 1 does not see the files inside a layer.
    if any(listener.accept or not isinstance(listener.address, (Tcp, Udp)) for listener in service.listeners):
        asked.append("listeners that accept, or have another address than tcp or udp")
    if service.restart.on_failure == "reboot":
        asked.append("restart.on_failure: reboot")
    execution, usual = service.execution, Execution()
    fields = [field for field in Execution.__struct_fields__ if getattr(execution, field) != getattr(usual, field)]
    asked += [f"execution.{field}" for field in fields if field not in _OF_AN_EXECUTION]
    asked += [f"execution.limits.{name}" for name in execution.limits if name not in _RESOURCES]
    if execution.nice < 0 or execution.oom_score < 0:
        asked.append("execution.nice and oom_score below 0")
    if asked:
        raise ServiceError(f"cannot use service {service.name} in a layer: {', '.join(asked)} not available to layers yet")

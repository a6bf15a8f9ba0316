"""From a directory of definitions to the plan of a supervisor: ``milkyway-agent --check DIR``, or a child of the supervisor.

Each ``NAME.yaml`` holds one ``milkyway_formats.service.Service``. They are read, checked one by one and together, and
written as a plan that can be loaded in a millisecond. This runs in a process of its own, so that the supervisor need
not import what reads files that people write, and can't be harmed by them.
"""

import contextlib
import marshal
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from milkyway_agent.core.calendar import parse
from milkyway_agent.core.dependencies import Graph, needs_of
from milkyway_agent.core.group_files import group_files
from milkyway_agent.core.restart import is_triggered
from milkyway_agent.early.launcher import encoded
from milkyway_agent.early.start import CONTROLLERS, DEFAULT, PLAN_FORMAT, files_of
from milkyway_agent.launching.arguments import capability_mask
from milkyway_agent.launching.listeners import check_address
from milkyway_agent.launching.service_arguments import arguments_for
from milkyway_formats.errors import ExitCode, MilkyWayError, RefusedError, UnavailableError
from milkyway_formats.service import ReadyAtOnce, ReadyByExit, ReadyByProbe, ReadyByTcp, Service
from milkyway_formats.service_check import check_listeners_of_all, check_service
from milkyway_formats.yaml_text import load

SUFFIX = ".yaml"
_PLAIN = Service(name="plain")
# Fields that mean something in the containers of deployments alone, each with what does the same here.
_OF_LAYERS = {
    "user": "execution.account names an account of this machine, execution.dynamic_user has one made",
    "domain": "nothing here has a policy of its own",
    "scratch": "execution.namespaces with mount, and a directory of its own, is what there is",
}


def read(directory: Path) -> dict[str, Service]:
    """Return the services that *directory* defines, by name, checked. Raises RefusedError or UnavailableError."""
    services: dict[str, Service] = {}
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix == SUFFIX and not path.name.startswith("."))
        for file in files:
            try:
                text = file.read_text()
            except UnicodeDecodeError as error:
                raise RefusedError(f"cannot read {file}: it is not UTF-8 text: {error}") from error
            service = load(text, Service, str(file))
            if service.name != file.stem:
                raise RefusedError(f"cannot read {file}: it defines {service.name}", hint=f"call it {service.name}{SUFFIX}")
            _check(service)
            services[service.name] = service
    except OSError as error:
        raise UnavailableError(f"cannot read {error.filename or directory}: {error.strerror}") from error
    for service in services.values():
        for other in (*service.requires, *service.wants):
            if other not in services:
                raise RefusedError(
                    f"cannot use service {service.name}: it needs {other}, which is not there",
                    hint=f"write {directory / other}{SUFFIX}",
                )
    Graph({name: needs_of(service) for name, service in services.items()}).check()
    check_listeners_of_all(services)
    return services


def _check(service: Service) -> None:
    check_service(service)
    try:
        capability_mask(service.execution.capabilities)
    except ValueError as error:
        raise RefusedError(f"cannot use service {service.name}: {error}") from error
    for field, instead in _OF_LAYERS.items():
        if getattr(service, field) != getattr(_PLAIN, field):
            raise RefusedError(f"cannot use service {service.name}: {field} is for services of layers", hint=instead)
    try:
        for timer in service.timers:
            for text in timer.calendar:
                parse(text)
        for listener in service.listeners:
            check_address(listener)
    except RefusedError as error:
        raise RefusedError(f"cannot use service {service.name}: {error}", hint=error.hint) from error


def plan_of(services: Mapping[str, Service], files: list[tuple[str, int, int, int]]) -> dict[str, object]:
    """Return the plan: what ``early.start`` starts by itself, and all definitions for the supervisor."""
    graph = Graph({name: needs_of(service) for name, service in services.items()})
    wanted = _wanted(services)
    zero = [
        (
            name,
            _encoded(_group_words(service)),
            _encoded(arguments_for(service, None, "", None, service.environment, service.command)),
        )
        for name, service in services.items()
        if name in wanted and not graph.predecessors(name) and not graph.conflicting(name) and _starts_early(service)
    ]
    return {
        "format": PLAN_FORMAT,
        "python": sys.hexversion,
        "files": files,
        "zero": zero,
        "services": msgspec.json.encode(list(services.values())),
    }


def _starts_early(service: Service) -> bool:
    """Tell whether nothing has to be made, resolved or looked at before *service* can be started."""
    execution = service.execution
    needs_nothing = not (
        is_triggered(service)
        or service.listeners
        or service.conditions
        or service.watchdog_ms
        or service.stored_descriptors
        or execution.account
        or execution.dynamic_user
        or execution.credentials
        or execution.seccomp != "none"
    )
    readiness = isinstance(service.readiness, (ReadyAtOnce, ReadyByExit, ReadyByTcp, ReadyByProbe))
    return needs_nothing and readiness and service.type != "bundle"


def _wanted(services: Mapping[str, Service]) -> set[str]:
    """Return what is started unless services were chosen: the default service and what it needs, or all."""
    if DEFAULT not in services:
        return set(services)
    found, ahead = set[str](), [DEFAULT]
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead += [*services[name].requires, *services[name].wants]
    return found


def _encoded(words: list[str]) -> bytes:
    return encoded(words) if words else b""


def _group_words(service: Service) -> list[str]:
    files = group_files(service.limits, frozenset(CONTROLLERS))
    return [word for name, value in files.items() for word in ("--cgroup-try", f"{name}={value}")]


def compile_plan(directory: Path, plan_file: Path) -> dict[str, Service]:
    """Read *directory*, write its plan to *plan_file* (replaced as a whole) and return the services."""
    try:
        files = files_of(str(directory))
    except OSError as error:
        raise UnavailableError(f"cannot read {error.filename or directory}: {error.strerror}") from error
    services = read(directory)
    new = plan_file.with_suffix(f".{os.getpid()}")
    try:
        with new.open("wb") as file:
            file.write(marshal.dumps(plan_of(services, files)))
        new.chmod(0o600)
        new.replace(plan_file)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise UnavailableError(f"cannot write {plan_file}: {error.strerror}") from error
    return services


def main(arguments: list[str]) -> int:
    """Compile the plan of a directory, ``[DIR, PLAN]``; return the exit code, with one line on standard error if not 0."""
    directory, plan_file = map(Path, arguments)
    try:
        services = compile_plan(directory, plan_file)
    except MilkyWayError as error:
        print(error, file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    print(f"{directory}: {len(services)} services")
    return ExitCode.OK

"""The launcher's arguments for one start of a service."""

from collections.abc import Mapping

from milkyway_agent.core.group_files import group_files
from milkyway_agent.launching.accounts import Account
from milkyway_agent.launching.arguments import arguments_of
from milkyway_agent.launching.places import Places
from milkyway_formats.errors import RefusedError
from milkyway_formats.service import Service


def arguments_for(
    service: Service,
    places: Places | None,
    cgroup: str,
    account: Account | None,
    environment: Mapping[str, str],
    command: list[str],
    *,
    beside: bool = False,
) -> list[str]:
    """Return the launcher's arguments that run *command* as *service* is defined. Raises RefusedError.

    *places*: None for a service that needs none of it, and no control group. *beside*: only if its control group exists.
    """
    execution = service.execution
    try:
        return arguments_of(
            command,
            cgroup=cgroup,
            make_cgroup=bool(cgroup) and not beside,
            cgroup_files=group_files(service.limits, places.controllers) if places and cgroup and not beside else {},
            user=account.user if account else None,
            groups=account.groups if account else (),
            capabilities=execution.capabilities,
            no_new_privileges=execution.no_new_privileges,
            seccomp=places.seccomp() if places and execution.seccomp == "default" else "",
            namespaces=execution.namespaces,
            umask=execution.umask,
            nice=execution.nice,
            oom_score=execution.oom_score or None,
            processors=execution.processors,
            limits={str(name): most for name, most in execution.limits.items()},
            directory=service.working_directory,
            environment=environment,
            listen_pid="LISTEN_FDS" in environment,
        )
    except ValueError as error:
        raise RefusedError(f"cannot start {service.name}: {error}") from error

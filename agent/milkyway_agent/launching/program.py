"""Programs of CoreOS: how each runs, and the static launcher's arguments for that.

Imported before trio (``pid1.early_boot``): nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from milkyway_agent.launching.arguments import arguments_of
from milkyway_agent.system import cgroups

if TYPE_CHECKING:
    from milkyway_formats.service import Limits

LAUNCH = "/usr/lib/milkyway/launch"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin", "LANG": "C.UTF-8"}


class Bounds(NamedTuple):
    """The limits of a program of CoreOS (0: none), like ``milkyway_formats.service.Limits`` for a service."""

    memory_bytes: int = 0
    pids: int = 0
    cpu_weight: int = 100


class Program(NamedTuple):
    """A program of CoreOS and how it runs. *descriptors*: called at each start; ours by number in the child, closed then."""

    command: tuple[str, ...]
    context: str = ""
    user: int = 0
    capabilities: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}
    directory: str = "/"
    terminal: str = ""
    open_files: int = 0
    oom_score: int | None = None
    seccomp: str = ""
    no_new_privileges: bool = True
    own_mounts: bool = False
    empty_network: bool = False
    limits: Limits | Bounds | None = None
    descriptors: Callable[[], dict[int, int]] | None = None


def launch_command(program: Program, cgroup: str, notify: str | None, launch: str = LAUNCH) -> list[str]:
    """Return the command that executes *program* through the static launcher."""
    namespaces = [*(["mount"] if program.own_mounts else []), *(["network"] if program.empty_network else [])]
    arguments = arguments_of(
        program.command,
        cgroup=cgroup,
        context=program.context,
        user=program.user or None,
        capabilities=program.capabilities,
        no_new_privileges=program.no_new_privileges,
        seccomp=program.seccomp,
        namespaces=namespaces,
        oom_score=program.oom_score,
        limits={"nofile": program.open_files} if program.open_files else {},
        directory=program.directory,
        terminal=program.terminal,
        environment={**program.environment, **({"NOTIFY_SOCKET": notify} if notify else {})},
    )
    return [launch, *arguments]


def make_group(path: str, limits: Limits | Bounds | None = None) -> bool:
    """Make the control group *path* if it does not exist, and set the *limits* for which there are controllers.

    Returns whether it was made.
    """
    is_new = True
    try:
        cgroups.create(path)
    except FileExistsError:
        is_new = False
    except FileNotFoundError:
        above = Path(path).parent
        if above.exists():
            raise
        make_group(str(above))  # the boot has failed to make it
        cgroups.create(path)
    if limits is None:
        return is_new
    there = cgroups.controllers(path)
    if "memory" in there:
        cgroups.set_memory_max(path, limits.memory_bytes or None)
    if "pids" in there:
        cgroups.set_pids_max(path, limits.pids or None)
    if "cpu" in there:
        cgroups.set_cpu_weight(path, limits.cpu_weight)
    return is_new

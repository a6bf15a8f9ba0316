"""Starters: the supervisor's interface to what turns a service into processes.

A starter belongs to one service. It starts the service's main process as a ``Child``, kills all of the
service's processes, and removes what a start made; the supervisor decides when.

There is one protocol, and it never waits: a start is submitted, and its outcome is reported by a call. Where a
start must be waited for (a container, a program that changes its SELinux domain), a ``TaskStarter`` does it in a task.
"""

import fcntl
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

import trio

from milkyway_agent.launching.child import Child, StartCallback
from milkyway_formats.errors import UnavailableError

FIRST_LISTENER = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
START_SECONDS = 60.0
NONE: Mapping[str, int] = {}


class Start(NamedTuple):
    """What one start is given. ``output``: standard output and error; ``notify``: the path of its sd_notify socket.

    ``descriptors``: all others, listeners included, by their numbers in the child. ``listeners``: the listeners by name, in
    the order in which the service finds them from number 3 on (sd_listen_fds(3)).
    """

    output: int
    notify: str | None
    descriptors: Mapping[int, int]
    environment: Mapping[str, str]
    listeners: Sequence[tuple[str, int]] = ()


class Abilities(NamedTuple):
    """What a starter provides besides a process: a service that asks for more is refused when it is defined.

    ``execution``: it follows the service's ``execution``. ``descriptors``: it passes descriptors besides listeners, and
    serves connections. ``commands``: it runs programs beside the service. ``network``: HTTP probes are possible.
    """

    listeners: bool = False
    execution: bool = False
    descriptors: bool = False
    commands: bool = False
    network: bool = False


Spawn = Callable[..., None]  # runs an async function, with its arguments, as a task


class Starter(Protocol):
    """Starts one service, and cleans up after it."""

    @property
    def cgroup(self) -> str:
        """The directory of the service's control group; "": it has none."""

    @property
    def abilities(self) -> Abilities:
        """What it provides besides a process."""

    def submit(self, start: Start, done: StartCallback, spawn: Spawn) -> None:
        """Start the service; *done* is called later with its process, or with the MilkyWayError or OSError.

        The descriptors of *start* belong to the caller and may be closed when this returns. *spawn* runs a task if the start
        needs one; if the task is cut off because the agent failed, the next agent begins it anew. Raises MilkyWayError or
        OSError; then nothing is left but what ``clean_up`` removes.
        """

    def serve(self, start: Start, done: StartCallback) -> None:
        """Start one more process of the service, for a connection, like ``submit``. Needs ``abilities.descriptors``."""

    def adopt(self, child: Child) -> None:
        """Treat *child*, which was started before this starter existed, as if ``submit`` had started it."""

    async def execute(self, command: list[str], seconds: float, environment: Mapping[str, str], output: int = -1) -> int | None:
        """Run *command* beside the service's process; return its exit status, or None if it took longer and was killed.

        *environment*: variables besides those of the service; *output*: where it writes (-1: that is discarded). Raises
        MilkyWayError or OSError if it can't be started, for example because the service is gone. Needs
        ``abilities.commands``.
        """

    def kill(self) -> None:
        """Send SIGKILL to all of the service's processes, if it has any."""

    def ended(self) -> None:
        """Called when the main process has ended, right before it is reaped."""

    def clear(self) -> bool:
        """Remove what a start made if no process is left; tell whether that is so and all of it is gone. Raises OSError."""

    async def clean_up(self) -> None:
        """Undo ``submit``: kill the processes that are left and remove what it made. Idempotent."""


class TaskStarter(ABC):
    """A starter whose ``start`` waits: what all such starters share."""

    abilities: ClassVar[Abilities]

    @abstractmethod
    async def start(self, output: int, notify: str | None, listeners: Mapping[str, int] = NONE) -> Child:
        """Start the service. *output*, *notify* and *listeners*: as in ``Start``. Raises what ``submit`` reports."""

    @abstractmethod
    def kill(self) -> None:
        """Send SIGKILL to all of the service's processes, if it has any."""

    @abstractmethod
    async def clean_up(self) -> None:
        """Undo ``start``. Idempotent."""

    def submit(self, start: Start, done: StartCallback, spawn: Spawn) -> None:
        """Have a task start the service and call *done*."""
        ours = start._replace(output=fcntl.fcntl(start.output, fcntl.F_DUPFD_CLOEXEC))
        try:
            spawn(self._answer, ours, done)
        except BaseException:
            os.close(ours.output)
            raise

    async def _answer(self, start: Start, done: StartCallback) -> None:
        outcome: Child | Exception
        try:
            with trio.fail_after(START_SECONDS):
                outcome = await self.start(start.output, start.notify, dict(start.listeners))
        except trio.TooSlowError:
            outcome = UnavailableError("cannot start it: it takes too long")
        except Exception as error:  # noqa: BLE001 (passed on to the service, which fails)
            outcome = error
        os.close(start.output)  # not if this was cut off: then it begins anew, with the same pipe
        done(outcome)

    def serve(self, start: Start, done: StartCallback) -> None:  # noqa: ARG002 (see below)
        """Refuse: it serves no connections, and no definition that asks for that is accepted."""
        raise UnavailableError("cannot serve a connection: its starter does not")

    def adopt(self, child: Child) -> None:  # noqa: B027 (its processes are found by their group)
        """Do nothing."""

    async def execute(
        self,
        command: list[str],  # noqa: ARG002 (part of the protocol: starters that run commands override this)
        seconds: float,  # noqa: ARG002 (as above)
        environment: Mapping[str, str],  # noqa: ARG002 (as above)
        output: int = -1,  # noqa: ARG002 (as above)
    ) -> int | None:
        """Refuse: it runs no commands, and no definition that asks for that is accepted."""
        raise UnavailableError("cannot run a command: its starter does not")

    def ended(self) -> None:  # noqa: B027 (``clean_up`` looks at its group)
        """Do nothing."""

    def clear(self) -> bool:
        """Leave it to ``clean_up``."""
        return False


def notify_path(directory: str, name: str) -> str:
    """Return the path of the sd_notify socket of the service *name*."""
    return str(Path(directory, f"{name.replace('/', '.')}.sock"))

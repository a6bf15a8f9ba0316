"""What turns a service into processes, and back: what the supervisor asks of it.

A starter belongs to one service. It starts the service's main process as a child of ours held by a
descriptor, kills all of its processes, and clears away what a start made; it decides nothing about when.

There is one protocol, and it never waits: a start is submitted and answered by a call. What must be waited for
(a container, a program that changes its SELinux domain) is a task of a ``TaskStarter``.
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

START_SECONDS = 60.0
NONE: Mapping[str, int] = {}


class Start(NamedTuple):
    """What one start is given. ``output``: standard output and error; ``notify``: the path of its sd_notify socket.

    ``descriptors``: all others by the child's number, the listeners among them; ``listeners``: these alone by their names,
    in the order in which the service finds them from number 3 on (sd_listen_fds(3)).
    """

    output: int
    notify: str | None
    descriptors: Mapping[int, int]
    environment: Mapping[str, str]
    listeners: Sequence[tuple[str, int]] = ()


class Abilities(NamedTuple):
    """What a starter gives beside a process: a service that asks for more is refused when it is defined.

    ``execution``: the process is what the service's ``execution`` says. ``descriptors``: further ones than listeners, and a
    process for each connection. ``commands``: programs run beside the service. ``network``: probes may ask over HTTP.
    """

    listeners: bool = False
    execution: bool = False
    descriptors: bool = False
    commands: bool = False
    network: bool = False


Spawn = Callable[..., None]  # runs a function that waits, with its arguments, as a task


class Starter(Protocol):
    """Turns one service into processes, and back."""

    @property
    def cgroup(self) -> str:
        """The directory of the service's control group, "" where it has none."""

    @property
    def abilities(self) -> Abilities:
        """What it gives beside a process."""

    def submit(self, start: Start, done: StartCallback, spawn: Spawn) -> None:
        """Start the service; *done* is called later with its process, claimed, or with the MilkyWayError or OSError.

        The descriptors of *start* are the caller's, and may be closed when this returns. *spawn* runs a task where the start
        takes one: a task that is cut off because the agent failed is begun anew by the next. Raises MilkyWayError or
        OSError, with everything it began taken back but what ``clean_up`` removes.
        """

    def serve(self, start: Start, done: StartCallback) -> None:
        """Start one more process of the service, for a connection; else as ``submit``. For those that give descriptors."""

    def adopt(self, child: Child) -> None:
        """Take *child*, which was started before there was this starter, for what ``submit`` started."""

    async def execute(self, command: list[str], seconds: float, environment: Mapping[str, str], output: int = -1) -> int | None:
        """Run *command* beside the service's process; return its exit status, None when it was killed for taking longer.

        *environment*: variables besides those that the service has; *output*: where it writes (-1: nobody wants it). Raises
        MilkyWayError or OSError when it can't be started, as when nothing of the service is there any more. For those that
        give commands.
        """

    def kill(self) -> None:
        """Send SIGKILL to all of the service's processes, if it has any."""

    def ended(self) -> None:
        """Take note that the main process has ended; it is reaped right after."""

    def clear(self) -> bool:
        """Remove what a start made, if no process is left in it; tell whether all of it is known to be gone. Raises OSError."""

    async def clean_up(self) -> None:
        """Undo ``submit``: end what is left of its processes and remove what it made. Idempotent."""


class TaskStarter(ABC):
    """A starter whose ``start`` must be waited for: what such starters have alike."""

    abilities: ClassVar[Abilities]

    @abstractmethod
    async def start(self, output: int, notify: str | None, listeners: Mapping[str, int] = NONE) -> Child:
        """Start the service. *output*, *notify* and *listeners* are as in ``Start``. Raises as ``submit`` answers."""

    @abstractmethod
    def kill(self) -> None:
        """Send SIGKILL to all of the service's processes, if it has any."""

    @abstractmethod
    async def clean_up(self) -> None:
        """Undo ``start``. Idempotent."""

    def submit(self, start: Start, done: StartCallback, spawn: Spawn) -> None:
        """Have a task start the service and call *done*."""
        spawn(self._answer, start._replace(output=fcntl.fcntl(start.output, fcntl.F_DUPFD_CLOEXEC)), done)

    async def _answer(self, start: Start, done: StartCallback) -> None:
        outcome: Child | Exception
        try:
            with trio.fail_after(START_SECONDS):
                outcome = await self.start(start.output, start.notify, dict(start.listeners))
        except trio.TooSlowError:
            outcome = UnavailableError("cannot start it: it takes too long")
        except Exception as error:  # noqa: BLE001 (told to the service that waits for it, which it makes failed)
            outcome = error
        os.close(start.output)  # not when this was cut off: then it is begun anew, with the same pipe
        done(outcome)

    def serve(self, start: Start, done: StartCallback) -> None:  # noqa: ARG002 (see below)
        """Refuse: it starts no process for a connection, and a definition that asks for one was refused."""
        raise UnavailableError("cannot serve a connection: its starter does not")

    def adopt(self, child: Child) -> None:  # noqa: B027 (its processes are known by their group)
        """Do nothing."""

    async def execute(
        self,
        command: list[str],  # noqa: ARG002 (the protocol's: a starter that runs commands has another method)
        seconds: float,  # noqa: ARG002 (as above)
        environment: Mapping[str, str],  # noqa: ARG002 (as above)
        output: int = -1,  # noqa: ARG002 (as above)
    ) -> int | None:
        """Refuse: it runs no commands, and a definition that asks for one was refused."""
        raise UnavailableError("cannot run a command: its starter does not")

    def ended(self) -> None:  # noqa: B027 (``clean_up`` looks at its group)
        """Do nothing."""

    def clear(self) -> bool:
        """Leave it to ``clean_up``."""
        return False


def notify_path(directory: str, name: str) -> str:
    """Return the sd_notify socket of the service *name*."""
    return str(Path(directory, f"{name.replace('/', '.')}.sock"))

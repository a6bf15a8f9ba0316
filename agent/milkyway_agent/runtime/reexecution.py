"""Re-execution: this process becomes a newer version of its program, and no service notices.

The state is written into a memory file. A child executes the new program first, and must confirm that it can read the
state; only then does this process execute the new program too. The old program's files are held open by descriptors: a new
version that fails nevertheless executes the old one from these (``__main__``), with the same state. The caller decides what
the state is and which descriptors it names: ``standalone`` hands over a ``KeptState``, PID 1 a ``KeptAgent``.
"""

import fcntl
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol, TypeVar

import msgspec
import trio

from milkyway_agent.early import carried_code
from milkyway_agent.runtime.reaper import Reaper
from milkyway_formats.codec import Document, decode, encode
from milkyway_formats.errors import RefusedError, UnavailableError

CHECK_SECONDS = 30.0
REST_SECONDS = 10.0
NEWEST = "MILKYWAY_NEWEST"  # in an old program's environment: the arguments of the newest, joined by SEPARATOR
SEPARATOR = "\x1f"
GATHER = "MILKYWAY_GATHER"  # in a checking child's environment: the descriptor for the code that it has imported
PACKAGES = ("milkyway_agent", "milkyway_formats")  # each is held itself: an upgrade may keep the directory above it
_OUT_OF_THE_WAY = 64  # above the numbers that a child's descriptors have
STATE_BYTES = 64 * 1024 * 1024
CHECK, ADOPT, OLD, CODE = "--check-state", "--adopt", "--old", "--code"
_MADE_BY_US = (ADOPT, OLD, CODE)
StateT = TypeVar("StateT", bound=Document)


class OldProgram:
    """The program that runs now, held by descriptors so that it can be executed after its files were replaced."""

    def __init__(self) -> None:
        held = [("", _hold("/proc/self/exe"))]
        held += [(name, _hold(sys.modules[name].__path__[0])) for name in PACKAGES]
        held += [("", _hold(path)) for path in sys.path if os.path.isdir(path)]
        self.descriptors = [descriptor for _, descriptor in held]
        self.argument = ",".join(f"{name}={descriptor}" if name else str(descriptor) for name, descriptor in held)

    @staticmethod
    def close(argument: str) -> None:
        """Close the descriptors of the old program, given as *argument*: this program has taken over from it."""
        for entry in filter(None, argument.split(",")):
            os.close(int(entry.rpartition("=")[2]))


def _hold(path: str) -> int:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)
    finally:
        os.close(opened)


class Handover(NamedTuple):
    """A state, and every descriptor that it names and that must stay open across the execution."""

    state: Document
    descriptors: Sequence[int]


class Reexecutable(Protocol):
    """What continues in the new program: all that a supervisor is doing."""

    async def wait_at_rest(self) -> None:
        """Return when nothing is under way that can't be handed over."""

    def drained(self) -> AbstractAsyncContextManager[None]:
        """Return a context in which no request is accepted; on entry, all earlier ones have been answered."""

    def keep(self) -> Handover:
        """Return the whole state as it is now."""

    def leave(self) -> None:
        """Close what the new program opens anew. Undo: ``stay``."""

    def stay(self) -> None:
        """Open it again: the execution failed."""


class Renewal:
    """Continues *life* in the newest version of its program, whose arguments are *program*; ``run`` is its task."""

    def __init__(self, life: Reexecutable, reaper: Reaper, program: Sequence[str], old: OldProgram | None = None) -> None:
        """*old*: the program that runs now, executed again when the new one fails; None: there is no way back."""
        self._life = life
        self._reaper = reaper
        self._program = program
        self._old = old
        self._code = -1  # a file with the new program's code, from the child that has imported it
        self._due = trio.Event()

    async def ask(self) -> None:
        """Have the newest version of this program confirm that it can take over; it does so soon after this returns.

        Raises UnavailableError when it can't: then nothing has changed.
        """
        await self._wait_at_rest()
        descriptor, code = write_state(self._life.keep().state), -1
        try:
            # Without a way back a program imports nothing but its files: PID 1 of a server, those that dm-verity protects.
            code = os.memfd_create("milkyway-code", os.MFD_CLOEXEC) if self._old else -1
            await check(self._program, descriptor, self._reaper, code)
            if code >= 0 and os.fstat(code).st_size:
                self._code, code = code, self._code
        finally:
            os.close(descriptor)
            if code >= 0:
                os.close(code)
        self._due.set()

    async def run(self) -> None:
        """Become the new program as soon as it has confirmed that it can take over and pending requests are answered."""
        while True:
            await self._due.wait()
            self._due = trio.Event()
            code, self._code = self._code, -1  # of the version checked just now: it must not be mixed with a later one
            try:
                async with self._life.drained():
                    await self._wait_at_rest()
                    self.execute_newest(code)
            finally:
                if code >= 0:
                    os.close(code)

    def execute_newest(self, code: int = -1) -> None:
        """Execute the program with the whole state. Returns only by raising OSError; then nothing has changed.

        *code*: a file with the program's code (``carried_code``); -1: it imports its files.
        """
        kept = self._life.keep()
        descriptor = write_state(kept.state)
        self._life.leave()
        try:
            arguments = [*self._program, ADOPT, str(descriptor)]
            more = [*self._old.descriptors] if self._old else []
            if self._old:
                arguments += [OLD, self._old.argument]
            if code >= 0:
                arguments += [CODE, str(code)]
                more.append(code)
            execute(arguments, [descriptor, *kept.descriptors, *more])
        finally:
            os.close(descriptor)
            self._life.stay()

    async def _wait_at_rest(self) -> None:
        with trio.move_on_after(REST_SECONDS) as waiting:
            await self._life.wait_at_rest()
        if waiting.cancelled_caught:
            raise UnavailableError(f"cannot re-execute: services were being started or cleaned up for {REST_SECONDS:.0f} s")


def newest_program() -> list[str]:
    """Return the arguments that execute the newest version of this program: our own, or those of a version that failed."""
    newest = os.environ.pop(NEWEST, "")
    arguments = newest.split(SEPARATOR) if newest else list(sys.orig_argv)
    for option in _MADE_BY_US:
        if option in arguments:
            at = arguments.index(option)
            del arguments[at : at + 2]
    arguments[0] = sys.executable
    return arguments


def write_state(state: Document) -> int:
    """Return a memory file that holds *state*, positioned at its beginning."""
    descriptor = os.memfd_create("milkyway-state", os.MFD_CLOEXEC)
    view = memoryview(encode(state))
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def read_state(descriptor: int, kind: type[StateT]) -> StateT:
    """Return the state, a *kind*, from the memory file *descriptor*. Raises RefusedError."""
    size = os.fstat(descriptor).st_size
    if size > STATE_BYTES:
        raise RefusedError(f"cannot read the state: {size} bytes, at most {STATE_BYTES} are allowed")
    return decode(os.pread(descriptor, size, 0), kind, what="the state", limit=STATE_BYTES)


async def check(program: Sequence[str], descriptor: int, reaper: Reaper, carried: int = -1) -> None:
    """Have the new program read the state in a child process. Raises UnavailableError unless it confirms that it can.

    *carried*: a file into which it writes the code that it has imported, if it knows how to.
    """
    code = None
    environment, passed = dict(os.environ), {2: 2, 3: descriptor}
    if carried >= 0:
        environment[GATHER], passed[4] = "4", carried
    try:
        with trio.move_on_after(CHECK_SECONDS):
            code = await reaper.run_child([*program, CHECK, "3"], environment, passed)
    except OSError as error:
        raise UnavailableError(f"cannot re-execute: the new program can't be executed: {error.strerror}") from error
    if code != 0:
        why = "did not answer in time" if code is None else f"ended with {code}"
        raise UnavailableError(f"cannot re-execute: the new program can't take over, it {why}")


def execute(arguments: Sequence[str], kept: Sequence[int]) -> None:
    """Execute *arguments*, with the descriptors *kept* open. Returns only by raising OSError; then nothing has changed."""
    for descriptor in kept:
        os.set_inheritable(descriptor, True)
    try:
        os.execv(arguments[0], list(arguments))
    finally:
        close_on_exec(kept)


def close_on_exec(descriptors: Iterable[int]) -> None:
    """Have *descriptors* closed when a program is executed, like all of ours."""
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)


def main_check(descriptor: int, kind: type[Document]) -> int:
    """Run as the child that checks the state, a *kind*: return 0 if it can be read, else 3 with a line on standard error."""
    try:
        read_state(descriptor, kind)
    except (RefusedError, OSError, msgspec.MsgspecError) as error:
        print(error, file=sys.stderr)
        return RefusedError.exit_code
    if GATHER in os.environ:
        with os.fdopen(int(os.environ[GATHER]), "wb") as file:
            file.write(carried_code.gather())
    return 0

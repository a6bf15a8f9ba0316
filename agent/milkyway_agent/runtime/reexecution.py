"""Re-execution: this process becomes a newer version of its program, and no service notices.

The state is written into a memory file. A child first executes the new program with it and must answer that it can read
it; only then does this process execute it too. What was imported before is kept by descriptors: a new version that fails
nevertheless executes the old one from these (``__main__``), with the same state. What the state is, and which descriptors
it names, is the caller's: ``standalone`` hands on a ``KeptState``, PID 1 a ``KeptAgent``.
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
NEWEST = "MILKYWAY_NEWEST"  # in the environment of an old program: the words of the newest, by this separator
SEPARATOR = "\x1f"
GATHER = "MILKYWAY_GATHER"  # in the environment of a child that checks: the file for the code that it has imported
PACKAGES = ("milkyway_agent", "milkyway_formats")  # ours, each held by itself: an upgrade may leave the directory above it
_OUT_OF_THE_WAY = 64  # of the numbers that a child's descriptors have
STATE_BYTES = 64 * 1024 * 1024
CHECK, ADOPT, OLD, CODE = "--check-state", "--adopt", "--old", "--code"
_MADE_BY_US = (ADOPT, OLD, CODE)
StateT = TypeVar("StateT", bound=Document)


class OldProgram:
    """The program that runs now, held by descriptors so that it can be executed when its files are others."""

    def __init__(self) -> None:
        held = [("", _hold("/proc/self/exe"))]
        held += [(name, _hold(sys.modules[name].__path__[0])) for name in PACKAGES]
        held += [("", _hold(path)) for path in sys.path if os.path.isdir(path)]
        self.descriptors = [descriptor for _, descriptor in held]
        self.words = ",".join(f"{name}={descriptor}" if name else str(descriptor) for name, descriptor in held)

    @staticmethod
    def close(words: str) -> None:
        """Let go of the program that *words* name: this one has taken over from it."""
        for one in filter(None, words.split(",")):
            os.close(int(one.rpartition("=")[2]))


def _hold(path: str) -> int:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)
    finally:
        os.close(opened)


class Kept(NamedTuple):
    """A state, and every descriptor that it names and that must stay open over the execution."""

    state: Document
    descriptors: Sequence[int]


class Life(Protocol):
    """What goes on in another program: a supervisor's whole life."""

    async def wait_at_rest(self) -> None:
        """Return when nothing is under way that can't be kept."""

    def drained(self) -> AbstractAsyncContextManager[None]:
        """Within it nobody asks anything, and whoever has asked before has been answered."""

    def keep(self) -> Kept:
        """Return all that is known now."""

    def leave(self) -> None:
        """Let go of what the new program opens anew. Undo: ``stay``."""

    def stay(self) -> None:
        """Open it again: the execution failed."""


class Renewal:
    """Has *life* go on in the newest version of its program, whose words are *program*; ``run`` is its task."""

    def __init__(self, life: Life, reaper: Reaper, program: Sequence[str], old: OldProgram | None = None) -> None:
        """*old*: what runs now, which executes again when the new program fails; none: there is no way back."""
        self._life = life
        self._reaper = reaper
        self._program = program
        self._old = old
        self._code = -1  # of the new program, from the child that has imported it
        self._due = trio.Event()

    async def ask(self) -> None:
        """Have the newest version of this program say that it can take over; it does so soon after this returns.

        Raises UnavailableError when it can't: then all is as before.
        """
        await self._wait_at_rest()
        descriptor, code = write_state(self._life.keep().state), -1
        try:
            # What can't go back runs from its files alone: PID 1 of a server, from those that dm-verity vouches for.
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
        """Become the new program as soon as it has said that it can, and whoever asked has their answer."""
        while True:
            await self._due.wait()
            self._due = trio.Event()
            code, self._code = self._code, -1  # of what was checked just now: a later version must not be mixed with it
            try:
                async with self._life.drained():
                    await self._wait_at_rest()
                    self.become_anew(code)
            finally:
                if code >= 0:
                    os.close(code)

    def become_anew(self, code: int = -1) -> None:
        """Execute the program with all that is known. Raises OSError, and then all is as before, or does not return.

        *code*: a file with its code (``carried_code``); -1: it imports its files.
        """
        kept = self._life.keep()
        descriptor = write_state(kept.state)
        self._life.leave()
        try:
            words = [*self._program, ADOPT, str(descriptor)]
            more = [*self._old.descriptors] if self._old else []
            if self._old:
                words += [OLD, self._old.words]
            if code >= 0:
                words += [CODE, str(code)]
                more.append(code)
            execute(words, [descriptor, *kept.descriptors, *more])
        finally:
            os.close(descriptor)
            self._life.stay()

    async def _wait_at_rest(self) -> None:
        with trio.move_on_after(REST_SECONDS) as waiting:
            await self._life.wait_at_rest()
        if waiting.cancelled_caught:
            raise UnavailableError("cannot re-execute: services are being started or cleared away without end")


def newest_program() -> list[str]:
    """Return the words that execute the newest version of this program: its own, or those of one that has failed."""
    newest = os.environ.pop(NEWEST, "")
    words = newest.split(SEPARATOR) if newest else list(sys.orig_argv)
    for option in _MADE_BY_US:
        if option in words:
            at = words.index(option)
            del words[at : at + 2]
    words[0] = sys.executable
    return words


def write_state(state: Document) -> int:
    """Return a memory file that holds *state*, at its beginning."""
    descriptor = os.memfd_create("milkyway-state", os.MFD_CLOEXEC)
    view = memoryview(encode(state))
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def read_state(descriptor: int, kind: type[StateT]) -> StateT:
    """Return the state, a *kind*, in the memory file *descriptor*. Raises RefusedError."""
    size = os.fstat(descriptor).st_size
    if size > STATE_BYTES:
        raise RefusedError(f"cannot read the state: {size} bytes, at most {STATE_BYTES} are allowed")
    return decode(os.pread(descriptor, size, 0), kind, what="the state", limit=STATE_BYTES)


async def check(program: Sequence[str], descriptor: int, reaper: Reaper, carried: int = -1) -> None:
    """Have the new program read the state as a child. Raises UnavailableError when it does not say that it can.

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


def execute(words: Sequence[str], kept: Sequence[int]) -> None:
    """Execute *words*, with the descriptors *kept* open. Returns only by raising OSError; then everything is as before."""
    for one in kept:
        os.set_inheritable(one, True)
    try:
        os.execv(words[0], list(words))
    finally:
        close_on_exec(kept)


def close_on_exec(descriptors: Iterable[int]) -> None:
    """Have *descriptors* closed when a program is executed, as all of ours are."""
    for one in descriptors:
        os.set_inheritable(one, False)


def main_check(descriptor: int, kind: type[Document]) -> int:
    """Be the child that says whether the state, a *kind*, can be read: 0, or 3 with one line on standard error."""
    try:
        read_state(descriptor, kind)
    except (RefusedError, OSError, msgspec.MsgspecError) as error:
        print(error, file=sys.stderr)
        return RefusedError.exit_code
    if GATHER in os.environ:
        with os.fdopen(int(os.environ[GATHER]), "wb") as file:
            file.write(carried_code.gather())
    return 0

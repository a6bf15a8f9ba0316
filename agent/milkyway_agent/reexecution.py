"""Re-execution: this process becomes a newer version of its program, and no service notices.

The state is written into a memory file. A child first executes the new program with it and must answer that it can read
it; only then does this process execute it too. What was imported before is kept by descriptors: a new version that fails
nevertheless executes the old one from these (``__main__``), with the same state.
"""

import os
import sys
from collections.abc import Sequence

import msgspec
import trio

from milkyway_agent.kept_state import KeptState, descriptors_of
from milkyway_agent.reaping import Reaper
from milkyway_formats.codec import decode, encode
from milkyway_formats.errors import RefusedError, UnavailableError

CHECK_SECONDS = 30.0
STATE_BYTES = 64 * 1024 * 1024
CHECK, ADOPT, OLD = "--check-state", "--adopt", "--old"
_MADE_BY_US = (ADOPT, OLD)


class OldProgram:
    """The program that runs now, held by descriptors so that it can be executed when its files are others."""

    def __init__(self) -> None:
        flags = os.O_PATH | os.O_CLOEXEC
        self.descriptors = [os.open("/proc/self/exe", flags)]
        self.descriptors += [os.open(path, flags | os.O_DIRECTORY) for path in sys.path if os.path.isdir(path)]


def command(*more: str) -> list[str]:
    """Return the words that execute this program anew, as it was executed, with *more* at its end."""
    words = list(sys.orig_argv)
    for option in _MADE_BY_US:
        if option in words:
            at = words.index(option)
            del words[at : at + 2]
    words[0] = sys.executable
    return [*words, *more]


def write_state(state: KeptState) -> int:
    """Return a memory file that holds *state*, at its beginning."""
    descriptor = os.memfd_create("milkyway-state", os.MFD_CLOEXEC)
    view = memoryview(encode(state))
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def read_state(descriptor: int) -> KeptState:
    """Return the state in the memory file *descriptor*. Raises RefusedError."""
    size = os.fstat(descriptor).st_size
    if size > STATE_BYTES:
        raise RefusedError(f"cannot read the state: {size} bytes, at most {STATE_BYTES} are allowed")
    return decode(os.pread(descriptor, size, 0), KeptState, what="the state", limit=STATE_BYTES)


async def check(descriptor: int, reaper: Reaper) -> None:
    """Have the new program read the state as a child. Raises UnavailableError when it does not say that it can."""
    code = None
    try:
        with trio.move_on_after(CHECK_SECONDS):
            code = await reaper.run_child(command(CHECK, "3"), dict(os.environ), {2: 2, 3: descriptor})
    except OSError as error:
        raise UnavailableError(f"cannot re-execute: the new program can't be executed: {error.strerror}") from error
    if code != 0:
        why = "did not answer in time" if code is None else f"ended with {code}"
        raise UnavailableError(f"cannot re-execute: the new program can't take over, it {why}")


def execute(state: KeptState, descriptor: int, old: OldProgram, also: Sequence[int] = ()) -> None:
    """Become the new program. Returns only by raising OSError; then everything is as before.

    *also*: further descriptors that stay open.
    """
    kept = [descriptor, *descriptors_of(state), *old.descriptors, *also]
    for one in kept:
        os.set_inheritable(one, True)
    try:
        words = command(ADOPT, str(descriptor), OLD, ",".join(map(str, old.descriptors)))
        os.execv(words[0], words)
    finally:
        for one in kept:
            os.set_inheritable(one, False)


def adopt(descriptor: int) -> KeptState:
    """Return the state that the program before us has left in *descriptor*, with all its descriptors closed on exec again."""
    state = read_state(descriptor)
    os.close(descriptor)
    for one in descriptors_of(state):
        os.set_inheritable(one, False)
    return state


def main_check(descriptor: int) -> int:
    """Be the child that says whether the state can be read: 0, or 3 with one line on standard error."""
    try:
        read_state(descriptor)
    except (RefusedError, OSError, msgspec.MsgspecError) as error:
        print(error, file=sys.stderr)
        return RefusedError.exit_code
    return 0

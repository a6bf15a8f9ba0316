"""``milkyway-agent --supervise DIR``: the supervisor by itself, on any Linux, in any container, with or without root.

This module is imported first and imports little: services that need nothing are started (``early.start``) before trio
and the supervisor are there. ``supervision`` is the rest of its life. Exit codes are those of every MilkyWay command.
"""

import posix  # as os has it, whose import takes as long as three starts
import sys

from milkyway_agent.early import start

TYPE_CHECKING = False  # typing's own constant costs its import; checkers take any of that name for true
if TYPE_CHECKING:
    from collections.abc import Callable

HELP = """usage: milkyway-agent --supervise DIR [--runtime DIR] [--state DIR] [--logs DIR] [--start NAME]...
                      [--verbose]
       milkyway-agent --check DIR

Supervise the services that DIR defines: one NAME.yaml each (docs/reference/service.md).

  --supervise DIR  start them and keep them running; SIGTERM or SIGINT stops all in order, SIGHUP reads DIR again
  --check DIR      read and check them, and write the plan that lets a start be quick; start nothing
  --runtime DIR    sockets, secrets and what a re-execution needs (default: below /run, or XDG_RUNTIME_DIR)
  --state DIR      when persistent timers last started their services (default: DIR/.state, or below the runtime directory)
  --logs DIR       keep what services write in rotated files there (default: print it)
  --start NAME     start NAME and what it needs (default: the service "default" if there is one, else all)
  --verbose        print every event, not only what services write and what goes wrong

Ask it with: mwctl --socket RUNTIME/mwctl.sock services

example: milkyway-agent --supervise examples/supervise --runtime /tmp/supervise
exit codes: 0 done, 1 a bug, 2 wrong usage, 3 refused, 4 not available now
"""
USAGE = 2
_VALUES = ("--supervise", "--check", "--runtime", "--state", "--logs", "--adopt", "--old", "--check-state")


class Options:
    """What the command line says."""

    __slots__ = ("adopt", "check", "check_state", "front", "logs", "old", "runtime", "start", "state", "supervise", "verbose")

    def __init__(self) -> None:
        self.supervise = self.check = self.runtime = self.state = self.logs = ""
        self.adopt = self.old = self.check_state = ""
        self.start: list[str] = []
        self.verbose = self.front = False


class UsageError(Exception):
    """The command line makes no sense."""


def read_options(arguments: list[str]) -> Options:
    """Return what *arguments* say. Raises UsageError. (argparse would cost more than starting a hundred services.)"""
    options, words = Options(), list(arguments)
    while words:
        word, _, value = words.pop(0).partition("=")
        if word == "--verbose":
            options.verbose = True
        elif word == "--front":
            options.front = True
        elif word in (*_VALUES, "--start"):
            if not value:
                if not words:
                    raise UsageError(f"{word} needs a value")
                value = words.pop(0)
            if word == "--start":
                options.start.append(value)
            else:
                setattr(options, word[2:].replace("-", "_"), value)
        else:
            raise UsageError(f"there is no option {word}")
    return options


def default_runtime(directory: str) -> str:
    """Return where a supervisor of *directory* keeps what lives as long as it runs."""
    import os

    name = "milkyway-supervise-" + os.path.realpath(directory).strip("/").replace("/", "-")
    base = os.environ.get("XDG_RUNTIME_DIR") or ("/run" if os.geteuid() == 0 else f"/tmp/milkyway-{os.geteuid()}")
    return f"{base}/{name}"


def main(arguments: list[str]) -> int:
    """Do what *arguments* say and return the exit code."""
    if arguments in (["--help"], ["-h"]):
        print(HELP, end="")
        return 0
    try:
        options = read_options(arguments)
        if not (options.supervise or options.check or options.check_state or options.front):
            raise UsageError("nothing to do")
    except UsageError as error:
        print(f"cannot understand the command line: {error}\nhint: milkyway-agent --help", file=sys.stderr)
        return USAGE
    if options.front:
        from milkyway_agent.front import server

        server.main()
        return 0
    if options.check_state:
        _import_program()
        from milkyway_agent.runtime.reexecution import main_check
        from milkyway_agent.supervisor.snapshot import KeptState

        return main_check(int(options.check_state), KeptState)
    if options.check:
        from milkyway_agent.standalone.definitions import main as check

        # With a runtime directory it is asked by a supervisor, whose directory may be read-only.
        plan = plan_file(options.check, options.runtime) if options.runtime else f"{options.check}/{start.PLAN_NAME}"
        return check([options.check, plan])
    return _supervise(options)


def _supervise(options: Options) -> int:
    directory = options.supervise = _absolute(options.supervise)
    # A successor has the definitions in its state: whatever became of the directory, its services go on.
    if not options.adopt and not _is_directory(directory):
        print(f"cannot supervise {directory}: there is no such directory", file=sys.stderr)
        return 3
    runtime = options.runtime = _absolute(options.runtime or default_runtime(directory))
    options.logs = options.logs and _absolute(options.logs)
    options.state = options.state and _absolute(options.state)
    try:
        _make_directory(runtime)
        held = _hold_again(runtime) if options.adopt else hold(runtime)
        if held.by and not options.adopt:
            print(f"cannot supervise {directory}: process {held.by} supervises with {runtime} already", file=sys.stderr)
            print("hint: another supervisor needs another --runtime", file=sys.stderr)
            return 4
        if held.groups and not options.adopt:
            from milkyway_agent.standalone import leftovers

            leftovers.end(held.groups)
        # A successor starts nothing early: it has no plan, and all that runs is in its state.
        begun = (
            start.begin("", "")
            if options.adopt
            else start.begin(directory, plan_file(directory, runtime), chosen=bool(options.start))
        )
        held.note(begun.groups)
    except OSError as error:
        print(f"cannot supervise {directory}: {error.strerror}: {error.filename or start.launch_program()}", file=sys.stderr)
        return 4
    import gc

    gc.disable()  # what is imported is no garbage, and looking through it takes its time; ``Supervision`` enables it
    return _import_program()(options, begun)


def _import_program() -> "Callable[[Options, start.Early], int]":
    """Import the rest of the program, and return what runs it."""
    from milkyway_agent.runtime import light_trio  # noqa: F401 (first of all that import trio)

    # isort: split
    from milkyway_agent.standalone import supervision

    return supervision.run


class Held:
    """The lock of a runtime directory. ``by``: the process that has it, "" where we do; ``groups``: what it noted last."""

    def __init__(self, descriptor: int, by: str, groups: str) -> None:
        self._descriptor = descriptor
        self.by = by
        self.groups = groups

    def note(self, groups: str) -> None:
        """Note the directory of our services' control groups, for whoever comes if we are killed."""
        if not self.by:
            try:
                posix.ftruncate(self._descriptor, 0)
                posix.pwrite(self._descriptor, f"{posix.getpid()}\n{groups}\n".encode(), 0)
            except OSError:
                return  # full: nobody will find what we leave, and until then all is well


def hold(runtime: str) -> Held:
    """Lock *runtime* for as long as this process lives or executes itself anew (lockf(3)). Raises OSError."""
    descriptor = posix.open(f"{runtime}/lock", posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC, 0o600)
    process, _, groups = posix.pread(descriptor, 4096, 0).decode(errors="replace").partition("\n")
    try:
        posix.lockf(descriptor, posix.F_TLOCK, 0)
    except (BlockingIOError, PermissionError):
        return Held(descriptor, process or "unknown", groups.strip())
    return Held(descriptor, "", groups.strip())


def _hold_again(runtime: str) -> Held:
    """Lock *runtime* as whoever takes over, whose services run: they go on without a lock, too."""
    try:
        return hold(runtime)
    except OSError:
        return Held(-1, "unknown", "")


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"{posix.getcwd()}/{path}"


def _is_directory(path: str) -> bool:
    try:
        posix.stat(f"{path}/.")
    except (OSError, ValueError):
        return False
    return True


def _make_directory(path: str) -> None:
    if not _is_directory(path):
        import os

        os.makedirs(path, 0o711, exist_ok=True)


def plan_file(directory: str, runtime: str) -> str:
    """Return where the plan of *directory* is: in it, or below *runtime* where it can't be written and has none that fits."""
    inside = f"{directory}/{start.PLAN_NAME}"
    if posix.access(directory, posix.W_OK) or start.read_plan(directory, inside):  # made when the image was
        return inside
    return f"{runtime}/{start.PLAN_NAME}"

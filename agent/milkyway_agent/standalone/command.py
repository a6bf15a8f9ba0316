"""``milkyway-agent --supervise DIR``: the supervisor by itself, on any Linux, in any container, with or without root.

This module is imported first and imports little: services that need nothing are started (``early.start``) before trio
and the supervisor are there. ``supervision`` is the rest of its life. Exit codes are those of every MilkyWay command.
"""

import posix  # as os has it, whose import takes as long as three starts
import sys

from milkyway_agent.early import start
from milkyway_agent.standalone.options import HELP, USAGE, Options, UsageError, default_runtime, read_options
from milkyway_agent.standalone.runtime_lock import hold, hold_again

TYPE_CHECKING = False  # typing's own constant costs its import; checkers take any of that name for true
if TYPE_CHECKING:
    from collections.abc import Callable


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

        # With a runtime directory a supervisor asks for it, whose definitions may be read-only.
        plan = start.plan_file(options.check, options.runtime) if options.runtime else f"{options.check}/{start.PLAN_NAME}"
        return check([options.check, plan])
    return _supervise(options)


def _supervise(options: Options) -> int:
    directory = options.supervise = _absolute(options.supervise)
    # A successor has the definitions in its state: its services go on, whatever became of the directory.
    if not options.adopt and not _is_directory(directory):
        print(f"cannot supervise {directory}: there is no such directory", file=sys.stderr)
        return 3
    runtime = options.runtime = _absolute(options.runtime or default_runtime(directory))
    options.logs = options.logs and _absolute(options.logs)
    options.state = options.state and _absolute(options.state)
    try:
        _make_directory(runtime)
        held = hold_again(runtime) if options.adopt else hold(runtime)
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
            else start.begin(directory, start.plan_file(directory, runtime), chosen=bool(options.start))
        )
        held.note(begun.groups)
    except OSError as error:
        print(f"cannot supervise {directory}: {error.strerror}: {error.filename or start.launch_program()}", file=sys.stderr)
        return 4
    import gc

    gc.disable()  # imports leave no garbage, and looking through them takes time; ``supervision.tidy_up`` enables it again
    return _import_program()(options, begun)


def _import_program() -> "Callable[[Options, start.Early], int]":
    """Import the rest of the program, and return what runs it."""
    from milkyway_agent.runtime import light_trio  # noqa: F401 (first of all that import trio)

    # isort: split
    from milkyway_agent.standalone import supervision

    return supervision.run


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

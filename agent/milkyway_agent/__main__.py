"""The agent's first lines. Standard library only, until the rest has proved that it can be imported.

As PID 1 of a server it never ends, or the kernel would panic: whatever goes wrong in here is printed, and what
remains is a process that reaps orphans and leaves the services alone. With options it is another of the agent's
programs: see ``--help``.
"""

import sys
import time

TYPE_CHECKING = False  # typing's own constant costs its import; checkers take any of that name for true
if TYPE_CHECKING:
    from collections.abc import Callable

    from milkyway_agent.pid1.early_boot import Early

BOOT = """
import sys
sys.path[:] = {paths!r}
for name, path in {packages!r}:
    package = sys.modules[name] = type(sys)(name)
    package.__path__ = [path]
from milkyway_agent.__main__ import main
sys.exit(main())
"""


def main() -> int:
    """Be PID 1, for ever; or, with options, a supervisor of its own and what belongs to it. Return the exit code."""
    arguments = sys.argv[1:]
    if "--code" in arguments:
        arguments = _carry(arguments)
    if arguments[:1] == ["--check-state"]:  # of PID 1: a supervisor's own comes after its other options
        return _check_state(int(arguments[1]))
    adopted = int(arguments[1]) if arguments[:1] == ["--adopt"] else -1
    if arguments and adopted < 0:
        return _supervise(arguments)
    born_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    print(f"milkyway: PID 1 at {born_ms / 1000:.2f} s", flush=True)
    try:
        early = _first_steps() if adopted < 0 else None
        _import_program()(born_ms, adopted=adopted, early=early)
    except BaseException:  # noqa: BLE001 (an end of any kind would be a panic)
        _print_traceback()
    print("milkyway: the agent has failed; services go on, nothing supervises them", file=sys.stderr, flush=True)
    _reap_for_ever()
    return 1


def _first_steps() -> "Early | None":
    """Have the first service run before the rest is imported; None where not even that can be."""
    try:
        from milkyway_agent.pid1.early_boot import Early

        early = Early()
        early.begin()
    except BaseException:  # noqa: BLE001 (the boot proper does it all)
        _print_traceback()
        return None
    return early


def _import_program() -> "Callable[..., object]":
    """Import PID 1's program, and return what runs it."""
    from milkyway_agent.runtime import light_trio  # noqa: F401 (first of all that import trio)

    # isort: split
    from milkyway_agent.pid1 import entry

    return entry.run


def _check_state(descriptor: int) -> int:
    """Say whether PID 1's program can be imported, and can read the state that it would go on from."""
    _import_program()
    from milkyway_agent.pid1.snapshot import KeptAgent
    from milkyway_agent.runtime.reexecution import main_check

    return main_check(descriptor, KeptAgent)


def _carry(arguments: list[str]) -> list[str]:
    """Import from what ``--code`` names, not from files; return the other arguments."""
    at = arguments.index("--code")
    try:
        import gc

        from milkyway_agent.early import carried_code

        gc.disable()  # as ``standalone.command`` does, but before these megabytes
        carried_code.carry(int(arguments[at + 1]))
    except Exception:  # noqa: BLE001 (it saves time, no more)
        _print_traceback()
    return arguments[:at] + arguments[at + 2 :]


def _supervise(arguments: list[str]) -> int:
    """Run the supervisor. A new version that can't take over makes room for the one before it."""
    try:
        from milkyway_agent.standalone import command

        return command.main(arguments)
    except BaseException:  # a new version must not take the services with it
        if "--adopt" not in arguments:
            raise
        _print_traceback()
    if "--old" in arguments:
        print("milkyway: the new program has failed; the one before it takes over again", file=sys.stderr, flush=True)
        try:
            _execute_old(arguments)
        except OSError:
            _print_traceback()
    print("milkyway: the supervisor has failed; services go on, nothing supervises them", file=sys.stderr, flush=True)
    _reap_for_ever()
    return 1


def _execute_old(arguments: list[str]) -> None:
    """Execute the program before this one from the descriptors that it has left us, with the same state."""
    import os  # late: nothing else here needs it, and the first services would wait for it

    at = arguments.index("--old")
    program, *held = (word.rpartition("=")[::2] for word in arguments[at + 1].split(","))
    packages = [(name, f"/proc/self/fd/{number}") for name, number in held if name]
    paths = [f"/proc/self/fd/{number}" for name, number in held if not name] + [path for path in sys.path if "zip" in path]
    ours = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    kept = arguments[:at] + arguments[at + 2 :]
    os.environ.setdefault("MILKYWAY_NEWEST", "\x1f".join([*ours, *kept]))  # as ``reexecution`` reads it
    os.execv(f"/proc/self/fd/{program[1]}", [sys.executable, "-IS", "-c", BOOT.format(paths=paths, packages=packages), *kept])


def _print_traceback() -> None:
    import traceback  # late: only a failure needs it

    traceback.print_exc()


def _refuse_clients() -> None:
    """Close the API's listener, which nobody serves any more: clients are refused at once, instead of waiting."""
    import os
    import socket

    for number in os.listdir("/proc/self/fd"):
        try:
            found = socket.socket(fileno=int(number))
        except OSError:  # it is no socket
            continue
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if listens and str(found.getsockname()).endswith("/mwctl.sock"):
            found.close()
        found.detach()


def _reap_for_ever() -> None:
    import os

    try:
        _refuse_clients()
    except BaseException:  # noqa: BLE001 (clients wait, then)
        _print_traceback()
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(10)
        except BaseException:  # noqa: BLE001 (see above)
            _print_traceback()


if __name__ == "__main__":
    sys.exit(main())

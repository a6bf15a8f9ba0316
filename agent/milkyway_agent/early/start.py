"""The first milliseconds of ``milkyway-agent --supervise``: start what needs nothing, before anything else is imported.

A directory of definitions is compiled beforehand into a plan (``definitions``). If the plan still matches the files, all
services that wait for no other are handed to the launcher here, with the standard library's smallest modules; trio and
the supervisor are imported afterwards and take over what runs. Nothing is decided here: the plan contains the launcher's
arguments for all that may be started this early.

The plan is marshal, which must not be read from untrusted sources: it is beside the definitions, and whoever can write
there can have anything executed anyway.
"""

import _signal  # type: ignore[import-not-found]  # no stub; signal makes enums of it, which takes longer than 100 starts
import marshal
import posix  # not os, whose import takes as long as three starts
import select
import sys
from time import sleep

from milkyway_agent.early.launcher import Launchers, NotStarted, Started, encoded

PLAN_NAME = ".plan"
PLAN_FORMAT = 3
DEFAULT = "default"  # if there is a service of this name, only it and what it needs are started
CGROUP_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
FIRST_NAMESPACE = "4026531836"  # PROC_PID_INIT_INO (include/linux/proc_ns.h)
CONTROLLERS = ("cpu", "memory", "io", "pids")
MANY = 32  # starts under way: with so many, answers are read in batches
GATHER_SECONDS = 0.002
AT_FIRST = 4  # services started before anything that only many need
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}

_Pipes = dict[int, tuple[str, int, int, bytes]]  # by request: the service, both ends of its output pipe, the arguments


class Early:
    """What was done early: by service, *started* (answer, both ends of its output pipe, arguments) and *failed* (why).

    The writing end is -1 if it is not kept for the next run: without control groups (``supervisor.process.io``).
    """

    __slots__ = ("failed", "groups", "launcher", "open_files", "plan", "started")

    def __init__(self, launcher: Launchers, groups: str, plan: "dict[str, object] | None") -> None:
        self.launcher = launcher
        self.groups = groups
        self.plan = plan
        self.open_files = 0  # the soft limit that services begin with
        self.started: dict[str, tuple[Started, int, int, bytes]] = {}
        self.failed: dict[str, str] = {}


def launch_program() -> str:
    """Return the path of the launcher: MILKYWAY_LAUNCH, or this installation's, or that of CoreOS."""
    # Beside the interpreter, not below sys.prefix: without the module site, that belongs to another installation.
    installed = f"{sys.executable.rpartition('/')[0].rpartition('/')[0]}/lib/milkyway/launch"
    for path in (posix.environ.get(b"MILKYWAY_LAUNCH", b"").decode(errors="surrogateescape"), installed):
        if path and _is_there(path):
            return path
    return "/usr/lib/milkyway/launch"


def begin(directory: str, plan_file: str, *, chosen: bool = False) -> Early:
    """Start what the plan of *directory* allows to start at once; return when the launcher has answered for all of it.

    *chosen*: other services are wanted than those in the plan, so none is started.

    Raises OSError when the launcher cannot be started.
    """
    launcher = Launchers(launch_program(), ENVIRONMENT)
    # SIGHUP, SIGINT, SIGTERM: a signal waits until it is handled (``supervision``); otherwise it would leave services
    # that are never stopped. The launcher is started already and blocks none of them, nor do its services.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (1, 2, 15))
    early = Early(launcher, make_groups(), read_plan(directory, plan_file))
    zero: list[tuple[str, bytes, bytes]] = [] if early.plan is None or chosen else early.plan["zero"]  # type: ignore[assignment]  # as ``definitions`` writes it
    pipes: _Pipes = {}
    _submit(early, zero[:AT_FIRST], 0, pipes)
    early.open_files = _raise_limit()  # while the first are started
    launcher.limit_open_files(early.open_files)
    _submit(early, zero[AT_FIRST:], AT_FIRST, pipes)
    _await(early, pipes)
    return early


def _raise_limit() -> int:
    """Raise our limit of open files: a service takes four. Return the soft limit before, 0 if it is unchanged."""
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return 0  # the limit that there is must do
    return soft


def read_plan(directory: str, plan_file: str) -> "dict[str, object] | None":
    """Return the plan in *plan_file* if it was made of exactly the files that *directory* holds now, else None."""
    try:
        with open(plan_file, "rb") as file:
            plan = marshal.loads(file.read())  # marshal.load would read it in pieces: ten times as long
        if plan["format"] == PLAN_FORMAT and plan["python"] == sys.hexversion and plan["files"] == files_of(directory):
            found: dict[str, object] = plan
            return found
    except (OSError, ValueError, EOFError, TypeError, KeyError):
        pass  # there is none, or it is unusable: it is made anew
    return None


def plan_file(directory: str, runtime: str) -> str:
    """Return where the plan of *directory* is: in it, or below *runtime* where it can't be written and has none that fits."""
    inside = f"{directory}/{PLAN_NAME}"
    if posix.access(directory, posix.W_OK) or read_plan(directory, inside):  # made when the image was
        return inside
    return f"{runtime}/{PLAN_NAME}"


def files_of(directory: str) -> list[tuple[str, int, int, int]]:
    """Return what shows whether the definitions in *directory* have changed: name, time of change, size, inode."""
    opened = posix.open(directory, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        found = []
        for name in sorted(posix.listdir(opened)):
            if name.endswith(".yaml") and not name.startswith("."):  # an editor's
                stat = posix.stat(name, dir_fd=opened)
                found.append((name, stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return found
    finally:
        posix.close(opened)


def make_groups() -> str:
    """Make the directory of the services' control groups and move ourselves beside it; return it, or "" if we may not."""
    try:
        with open("/proc/self/cgroup") as file:
            own = next(line.rstrip("\n")[3:] for line in file if line.startswith("0::"))
    except (OSError, StopIteration):
        return ""
    for mount in CGROUP_MOUNTS:
        if not _is_there(f"{mount}/cgroup.procs"):
            continue
        # Several supervisors may begin in the same group. The pid stays the same across a re-execution.
        number = _number()
        ours = f"/supervisor-{number}"
        base = f"{mount}{own}".rstrip("/").removesuffix(ours)
        services = f"{base}/services-{number}"
        try:
            _make_directory(services)
        except OSError:
            return ""
        if not own.endswith(ours):
            _hand_controllers_on(base, base + ours, services)
        return services
    return ""


def _number() -> str:
    """Return a number that no other supervisor has: our pid, and our pid namespace unless it is the machine's first."""
    try:
        namespace = posix.readlink("/proc/self/ns/pid")[len("pid:[") : -1]
    except OSError:
        namespace = FIRST_NAMESPACE
    return f"{posix.getpid()}" if namespace == FIRST_NAMESPACE else f"{posix.getpid()}-{namespace}"


def _hand_controllers_on(base: str, ours: str, services: str) -> None:
    """Enable our controllers for the services' groups, after leaving *base*: a group with processes can't enable any."""
    try:
        with open(f"{base}/cgroup.controllers") as file:
            have = file.read().split()
        wanted = " ".join(f"+{name}" for name in CONTROLLERS if name in have)
        if wanted:
            _make_directory(ours)
            _write(f"{ours}/cgroup.procs", "0")
            _write(f"{base}/cgroup.subtree_control", wanted)
            _write(f"{services}/cgroup.subtree_control", wanted)
    except OSError:
        return  # then there are no limits; the services' status says so


def _make_directory(path: str) -> None:
    try:  # noqa: SIM105 (contextlib would be another import)
        posix.mkdir(path, 0o755)
    except FileExistsError:
        pass


def _write(path: str, text: str) -> None:
    opened = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        posix.write(opened, text.encode())
    finally:
        posix.close(opened)


def _is_there(path: str) -> bool:
    try:
        posix.stat(path)
    except (OSError, ValueError):
        return False
    return True


def _submit(early: Early, zero: list[tuple[str, bytes, bytes]], before: int, pipes: _Pipes) -> None:
    """Submit all of *zero* (name, arguments for its group, arguments), after *before* others; add their *pipes*."""
    launcher, groups = early.launcher, early.groups
    for number, (name, for_group, arguments) in enumerate(zero, before + 1):
        if groups:
            arguments = encoded(("--cgroup", f"{groups}/{name}", "--cgroup-make")) + for_group + arguments
        reading, writing = posix.pipe2(posix.O_CLOEXEC)
        posix.set_blocking(reading, False)
        try:
            launcher.submit(number, arguments, {1: writing, 2: writing})
        except OSError as error:
            early.failed[name] = f"cannot start it: {error.strerror}"
            posix.close(reading)
            posix.close(writing)
            continue
        if not groups:
            posix.close(writing)
            writing = -1
        pipes[number] = (name, reading, writing, arguments)


def _await(early: Early, pipes: _Pipes) -> None:
    """Wait until all that was submitted is answered."""
    launcher = early.launcher
    watched = select.poll()
    watched.register(launcher.fileno(), select.POLLIN)
    while launcher.pending:
        watched.poll()
        if launcher.pending > MANY:
            sleep(GATHER_SECONDS)  # each time that we wake, some start has to wait for us
        for answer in launcher.results():
            name, reading, writing, arguments = pipes.pop(answer.number)
            if isinstance(answer, NotStarted):
                early.failed[name] = answer.why
                posix.close(reading)
                if writing >= 0:
                    posix.close(writing)
            else:
                early.started[name] = (answer, reading, writing, arguments)

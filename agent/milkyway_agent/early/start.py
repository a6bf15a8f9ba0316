"""The first milliseconds of ``milkyway-agent --supervise``: start what needs nothing, before anything else is imported.

A directory of definitions is compiled beforehand into a plan (``definitions``). If it still fits the files, all
services that wait for nobody are handed to the launcher here, with the standard library's smallest modules; trio and
the supervisor are imported afterwards and take over what runs. Nothing is decided here: what may be
started this early is said in the plan, word for word.

The plan is marshal, which must not be read from strangers: it lies beside the definitions, and whoever can write
there can have anything executed anyway.
"""

import _signal  # type: ignore[import-not-found]  # no stub; signal makes enumerations of it, which takes longer than 100 starts
import marshal
import posix  # as os has it, whose import takes as long as three starts
import select
import sys
from time import sleep

from milkyway_agent.early.launcher import Launchers, NotStarted, Started, encoded

PLAN_NAME = ".plan"
PLAN_FORMAT = 3
DEFAULT = "default"  # the service that is started, with what it needs, where there is one of that name
CGROUP_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
FIRST_NAMESPACE = "4026531836"  # PROC_PID_INIT_INO (include/linux/proc_ns.h)
CONTROLLERS = ("cpu", "memory", "io", "pids")
MANY = 32  # starts under way: whoever waits for so many need not hear of each at once
GATHER_SECONDS = 0.002
AT_FIRST = 4  # services, before anything is done that is for many
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}

_Pipes = dict[int, tuple[str, int, int, bytes]]  # by the request's number: the service, both ends of its output, the words


class Early:
    """What was done early: *started* by name (answer, both ends of its output, its request), *failed* by name (why).

    The writing end is -1 where it is not kept for the next run: without a control group (``supervisor.process.io``).
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
    """Return the launcher: MILKYWAY_LAUNCH, or that of this installation, or that of CoreOS."""
    # Beside the interpreter, not below sys.prefix: without the module site that is the prefix of another installation.
    installed = f"{sys.executable.rpartition('/')[0].rpartition('/')[0]}/lib/milkyway/launch"
    for path in (posix.environ.get(b"MILKYWAY_LAUNCH", b"").decode(errors="surrogateescape"), installed):
        if path and _is_there(path):
            return path
    return "/usr/lib/milkyway/launch"


def begin(directory: str, plan_file: str, *, chosen: bool = False) -> Early:
    """Start what the plan of *directory* lets start at once; return when the launcher has answered for all of it.

    *chosen*: other services are wanted than the plan is of, so none is started.

    Raises OSError when there is no launcher.
    """
    launcher = Launchers(launch_program(), ENVIRONMENT)
    # SIGHUP, SIGINT, SIGTERM: an order that comes before somebody heeds it waits (``supervision``), or services would be
    # left that nobody stops. The launcher, which is there, has none blocked, and so the services.
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
    """Have room for four descriptors for each service. Return the soft limit that there was, 0 where it is as it was."""
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return 0  # with what there is, then
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
        pass  # none, or none that is any good: it is made anew
    return None


def plan_file(directory: str, runtime: str) -> str:
    """Return where the plan of *directory* is: in it, or below *runtime* where it can't be written and has none that fits."""
    inside = f"{directory}/{PLAN_NAME}"
    if posix.access(directory, posix.W_OK) or read_plan(directory, inside):  # made when the image was
        return inside
    return f"{runtime}/{PLAN_NAME}"


def files_of(directory: str) -> list[tuple[str, int, int, int]]:
    """Return what tells the definitions in *directory* from changed ones: name, time of change, size, inode."""
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
    """Make the directory of the services' control groups and move ourselves beside it; return it, "" where we may not."""
    try:
        with open("/proc/self/cgroup") as file:
            own = next(line.rstrip("\n")[3:] for line in file if line.startswith("0::"))
    except (OSError, StopIteration):
        return ""
    for mount in CGROUP_MOUNTS:
        if not _is_there(f"{mount}/cgroup.procs"):
            continue
        # Several supervisors may begin in one group. The pid stays the same over a re-execution.
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
    """Return what no other supervisor has: our pid, and our pid namespace's number where that is not the machine's first."""
    try:
        namespace = posix.readlink("/proc/self/ns/pid")[len("pid:[") : -1]
    except OSError:
        namespace = FIRST_NAMESPACE
    return f"{posix.getpid()}" if namespace == FIRST_NAMESPACE else f"{posix.getpid()}-{namespace}"


def _hand_controllers_on(base: str, ours: str, services: str) -> None:
    """Give the services' groups the controllers that we have; a group with processes of its own can't hand any on."""
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
        return  # no limits then; the services' status says so


def _make_directory(path: str) -> None:
    try:  # noqa: SIM105 (contextlib would be one import more)
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
    """Submit all of *zero* (name, words for its group, words), of which some are submitted *before*; note their pipes."""
    launcher, groups = early.launcher, early.groups
    for number, (name, for_group, words) in enumerate(zero, before + 1):
        if groups:
            words = encoded(("--cgroup", f"{groups}/{name}", "--cgroup-make")) + for_group + words
        reading, writing = posix.pipe2(posix.O_CLOEXEC)
        posix.set_blocking(reading, False)
        try:
            launcher.submit(number, words, {1: writing, 2: writing})
        except OSError as error:
            early.failed[name] = f"cannot start it: {error.strerror}"
            posix.close(reading)
            posix.close(writing)
            continue
        if not groups:
            posix.close(writing)
            writing = -1
        pipes[number] = (name, reading, writing, words)


def _await(early: Early, pipes: _Pipes) -> None:
    """Wait until all that was submitted is answered."""
    launcher = early.launcher
    watched = select.poll()
    watched.register(launcher.fileno(), select.POLLIN)
    while launcher.pending:
        watched.poll()
        if launcher.pending > MANY:
            sleep(GATHER_SECONDS)  # each time that we wake, a start somewhere waits for us
        for answer in launcher.results():
            name, reading, writing, words = pipes.pop(answer.number)
            if isinstance(answer, NotStarted):
                early.failed[name] = answer.why
                posix.close(reading)
                if writing >= 0:
                    posix.close(writing)
            else:
                early.started[name] = (answer, reading, writing, words)

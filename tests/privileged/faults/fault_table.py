"""Which functions of ``milkyway_agent.system`` PID 1 uses, and how each may fail: the table that the fault tests go through.

``used`` finds the functions by reading what PID 1 imports; ``FAULTS`` has the plausible errors of each, by the manual page
of its system call, and where it is called. If PID 1 uses a function that is not in the table, a test fails.
"""

import ast
import errno
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Literal, NamedTuple

SYSTEM = "milkyway_agent.system"
# "start": before there is an agent; "boot", "end": in a phase of these; "life": while services run.
When = Literal["start", "boot", "life", "end"]


class Failing(NamedTuple):
    """How a function may fail. *errors*: names of errnos. *exercise*: what PID 1 does so that it is called.

    *silent*: why a failure is not logged; "": it is. *answers*: errors that mean that there is nothing to do, and are not
    logged. *once*: PID 1 calls it only once, so each case needs a new PID 1.
    """

    errors: str
    when: When = "life"
    exercise: str = "life"
    silent: str = ""
    answers: str = ""
    stand_ins: tuple[str, ...] = ()
    once: bool = False

    def is_answer(self, number: int) -> bool:
        """Tell whether the error *number* is one of the answers."""
        return errno.errorcode[number] in self.answers.split()

    def numbers(self) -> list[int]:
        """Return the errors as numbers."""
        return [getattr(errno, name) for name in self.errors.split()]


# Errors for which PID 1 has words of its own.
WORDS = {
    errno.EADDRINUSE: "another process listens there already",
    errno.EADDRNOTAVAIL: "the address is not this machine's",
    errno.EACCES: "not permitted",
    errno.ENOENT: "its directory is missing",
    errno.EROFS: "its directory is read-only",
    errno.EBUSY: "no loop device stays free",
    errno.ECANCELED: "clock was set",
}
ENDED = "the process may have ended: then nothing is known about it"
ONE_BY_ONE = "its processes are killed one by one then"
GONE = "ENOENT ENODEV"  # the group was removed
FIGURES = "one figure less is shown"
_FILE = "ENOENT EACCES EMFILE ENFILE ENOMEM"  # open(2)
_GROUP = "ENOENT ENODEV EMFILE ENFILE ENOMEM EIO"  # open(2); ENODEV: the group was removed since (kernfs)
_DM = "ENOENT ENXIO EBUSY EINVAL ENOMEM EPERM EIO"  # open(2) of /dev/mapper/control, dm-ioctl.h

FAULTS: dict[str, Failing] = {
    # mkdir(2), rmdir(2), cgroup-v2.rst: EAGAIN beyond cgroup.max.descendants
    "cgroups.create": Failing("EAGAIN ENOMEM ENOENT EROFS EACCES ENOSPC"),
    "cgroups.remove": Failing("EBUSY EACCES EROFS EIO ENOMEM"),
    "cgroups.children": Failing("EMFILE ENFILE ENOMEM EACCES EIO"),
    "cgroups.attach": Failing(f"{_GROUP} ESRCH EBUSY EAGAIN EINVAL EOPNOTSUPP", "boot"),
    "cgroups.kill": Failing("ENODEV EMFILE ENFILE ENOMEM EIO EOPNOTSUPP", exercise="stubborn", silent=ONE_BY_ONE, answers=GONE),
    "cgroups.processes": Failing(f"{_GROUP} EOPNOTSUPP", exercise="survivor", answers=GONE),
    "cgroups.is_populated": Failing("ENODEV EMFILE ENFILE ENOMEM EIO", exercise="stubborn", answers=GONE),
    "cgroups.controllers": Failing(_GROUP, "boot"),
    "cgroups.enable": Failing(f"{_GROUP} EBUSY EINVAL", "boot"),
    "cgroups.set_memory_max": Failing(f"{_GROUP} EBUSY EINVAL", stand_ins=("controllers",)),
    "cgroups.set_pids_max": Failing(f"{_GROUP} EINVAL", stand_ins=("controllers",)),
    "cgroups.set_cpu_weight": Failing(f"{_GROUP} EINVAL", stand_ins=("controllers",)),
    "cgroups.of_process": Failing("ENOENT ESRCH EMFILE ENFILE ENOMEM", exercise="other_speaks", silent=ENDED),
    "cgroups.memory_current": Failing(_GROUP, exercise="figures", silent=FIGURES),
    "cgroups.pids_current": Failing(_GROUP, exercise="figures", silent=FIGURES),
    "cgroups.cpu_usage_usec": Failing(_GROUP, exercise="figures", silent=FIGURES),
    "cgroups.io_stat": Failing(_GROUP, exercise="figures", silent=FIGURES),
    "cgroups.pressure": Failing(_GROUP, exercise="figures", silent=FIGURES),
    # open(2), write(2): psi.rst
    "cgroups.pressure_trigger": Failing(f"{_GROUP} EOPNOTSUPP EINVAL EBUSY EPERM"),
    # open(2), write(2), tty(4)
    "console.open_console": Failing("ENOENT ENXIO ENODEV EIO EACCES EMFILE", "start"),
    "console.write_line": Failing("EIO ENXIO ENOSPC EPERM", silent="there is no better place to report it than the console"),
    # netdevice(7), socket(2)
    "interfaces.set_up": Failing("ENODEV EPERM EMFILE ENFILE ENOMEM ENOBUFS", "boot"),
    "interfaces.flags": Failing("ENODEV EPERM EMFILE", "boot"),
    "interfaces.set_flags": Failing("ENODEV EPERM EMFILE", "boot"),
    "kernel.boot_id": Failing(_FILE, "boot", exercise="api"),
    "kernel.cmdline": Failing(f"{_FILE} EIO", "boot"),
    "kernel.sysctl": Failing(f"{_FILE} EINVAL EPERM EROFS", "boot"),
    "kernel.finit_module": Failing("ENOENT ENOEXEC EBADMSG EKEYREJECTED EPERM ENOMEM EINTR EBUSY", "boot"),
    # loop(4), linux/loop.h
    "loop.get_free": Failing("ENOENT ENOSPC ENOMEM EMFILE EACCES", exercise="layer", stand_ins=("layers",)),
    "loop.configure": Failing("EBUSY ENOENT ENXIO EINVAL EIO EMFILE", exercise="layer", stand_ins=("layers",)),
    "memory.mlockall": Failing("ENOMEM EPERM EAGAIN", "start"),
    # mount(2), umount(2)
    "mounts.mount": Failing("EBUSY ENODEV ENOENT EINVAL ENOMEM EPERM EIO EROFS", "boot", stand_ins=("disks",)),
    "mounts.umount2": Failing("EBUSY EINVAL ENOENT EPERM ENOMEM", "end"),
    "mounts.is_mounted": Failing(_FILE, "boot"),
    "mounts.mountinfo": Failing("EMFILE", "boot"),
    # reboot(2)
    "power.restart": Failing("EPERM EINVAL", "end"),
    "power.power_off": Failing("EPERM EINVAL", "end"),
    "power.set_ctrl_alt_del": Failing("EPERM EINVAL", "boot"),
    # posix_spawn(3): fork(2), execve(2)
    "processes.spawn": Failing("ENOENT EACCES EPERM ENOMEM EAGAIN EMFILE ENFILE E2BIG ETXTBSY ENOEXEC EIO"),
    "processes.pidfd_open": Failing("ESRCH EMFILE ENFILE ENOMEM ENODEV EINVAL"),
    "processes.pidfd_send_signal": Failing("ESRCH EPERM EINVAL", exercise="stubborn"),
    "processes.has_ended": Failing("ECHILD EINVAL EBADF"),
    "processes.reap": Failing("ECHILD EINVAL EBADF"),
    "processes.children": Failing(_FILE, exercise="orphan", answers="ENOENT"),  # all of /proc is read then
    "processes.processes": Failing(_FILE, exercise="api"),
    "processes.pss_bytes": Failing(f"{_FILE} ESRCH", exercise="api", silent=ENDED),
    "processes.listening_users": Failing("EMFILE ENFILE ENOMEM ESRCH ENOENT", exercise="port"),
    "reaper.first_ended": Failing("EPERM EIO", exercise="orphan"),  # of ptrace(2): a child that traces itself
    "reaper.zombies": Failing(_FILE, exercise="orphan"),
    # proc_pid_attr(5), getxattr(2), setxattr(2)
    "selinux.is_enabled": Failing("EACCES ENOMEM", exercise="api"),
    "selinux.is_enforcing": Failing(f"{_FILE} EIO", "boot"),
    "selinux.getcon": Failing(f"{_FILE} ESRCH", exercise="api", silent=ENDED),
    "selinux.getfilecon": Failing("ENODATA EOPNOTSUPP ENOENT EACCES ENOMEM", "boot"),
    "selinux.setfilecon": Failing("EOPNOTSUPP ENOSPC EROFS EPERM EINVAL EACCES ENOMEM", "boot"),
    "selinux.load_policy": Failing("ENOMEM EINVAL EACCES ENOENT EIO EMFILE", exercise="policy"),
    "selinux.setfscreatecon": Failing("EACCES EINVAL ENOMEM EMFILE ENOENT", exercise="layer"),
    "selinux.setsockcreatecon": Failing("EACCES EINVAL ENOMEM EMFILE ENOENT", exercise="listeners"),
    # signalfd(2)
    "signals.signalfd": Failing("EMFILE ENFILE ENOMEM ENODEV", "boot"),
    "signals.read": Failing("EINVAL EIO", exercise="orphan"),
    # socket(2), bind(2), listen(2), accept(2), recv(2), unix(7)
    "sockets.datagram": Failing("EMFILE ENFILE ENOMEM ENOBUFS EADDRINUSE EACCES ENOENT EROFS ENOSPC"),
    "sockets.borrowed": Failing("ENOTSOCK EBADF ENOMEM", exercise="life"),
    "sockets.receive_notify": Failing("ENOMEM ENOBUFS ECONNRESET EINTR"),
    "sockets.listen_internet": Failing(
        "EADDRINUSE EADDRNOTAVAIL EACCES EAFNOSUPPORT EMFILE ENFILE ENOMEM", exercise="listeners"
    ),
    "sockets.listen_unix": Failing("EADDRINUSE ENOENT EACCES EROFS ENOSPC EMFILE ENOMEM", exercise="listeners"),
    "sockets.is_listening": Failing("EACCES EMFILE ENOMEM EAGAIN", exercise="stale_socket"),
    "sockets.bound_file": Failing("ENOENT EPERM EMFILE", exercise="listeners", silent="the file stays, and is stale"),
    "sockets.accept": Failing("EMFILE ENFILE ENOBUFS ENOMEM", exercise="listeners"),
    # open(2), write(2), fsync(2), rename(2)
    "state_file.replace": Failing("ENOSPC EDQUOT EIO EROFS ENOENT EACCES EMFILE ENFILE ENOMEM", exercise="timer"),
    # timerfd_create(2)
    "timerfd.timerfd_create": Failing("EMFILE ENFILE ENOMEM ENODEV", exercise="listeners", once=True),
    "timerfd.timerfd_settime": Failing("ECANCELED", exercise="listeners"),
    "timerfd.read": Failing("ECANCELED EAGAIN", exercise="timer", answers="EAGAIN"),
    "verity.status": Failing(_DM, exercise="layer", stand_ins=("layers",)),
    "verity.create": Failing(_DM, exercise="layer", stand_ins=("layers",)),
    "verity.load": Failing(_DM, exercise="layer", stand_ins=("layers",)),
    "verity.resume": Failing(_DM, exercise="layer", stand_ins=("layers",)),
    "verity.remove": Failing(_DM, exercise="layer", stand_ins=("layers", "no_image")),
    # watchdog-api.rst, ioctl(2)
    "watchdog.open_watchdog": Failing("EBUSY ENOENT ENODEV EACCES EMFILE", "boot"),
    "watchdog.set_timeout": Failing("EINVAL EOPNOTSUPP ENOTTY EIO", "boot"),
    "watchdog.keepalive": Failing("EIO ENOTTY EOPNOTSUPP", "boot", exercise="nothing"),
    "watchdog.close_watchdog": Failing("EIO EINVAL", "end"),
}
NEVER: dict[str, str] = {
    "console.printable": "pure",
    "kernel.boottime_ms": "clock_gettime(2) of a clock that every kernel has",
    "kernel.realtime_ms": "as kernel.boottime_ms",
    "kernel.parse_cmdline": "pure; its ValueError is a phase's failure (tests/unit/agent/system/test_texts.py)",
    "libc.call": "each function that calls it is in the table",
    "loop.loop_config": "pure",
    "mounts.parse_mountinfo": "pure",
    "power.sync": "sync(2): always successful",
    "processes.parse_stat": "pure",
    "processes.parse_listening": "pure",
    "reaper.reap": "waitpid(2) says ECHILD, which it takes for an answer, and nothing else of a child of ours",
    "cgroups.parse_keyed": "pure",
    "cgroups.parse_io_stat": "pure",
    "cgroups.parse_pressure": "pure",
    "signals.block": "pthread_sigmask(3): the signals are there",
    "signals.restore": "as signals.block",
    "sockets.sender": "pure",
    "verity.table": "pure",
    "verity.request": "pure",
}


def imported() -> list[str]:
    """Return the modules of the agent that PID 1 imports, found by another process."""
    code = "import sys, milkyway_agent.pid1.entry; print(*(name for name in sys.modules if name.startswith('milkyway_agent.')))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.split()


def used() -> set[str]:
    """Return the public functions of ``system`` that a module of PID 1 uses, or a used function of the same module."""
    modules = imported()
    functions = {name.rpartition(".")[2]: _public(name) for name in modules if name.startswith(f"{SYSTEM}.")}
    found: set[str] = set()
    for name in modules:
        tree = _tree(name)
        taken = _taken(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                module = node.value.id
                if node.attr in functions.get(module, ()):
                    found.add(f"{module}.{node.attr}")
        found |= {f"{module}.{function}" for module, function in taken if function in functions.get(module, ())}
    while more := {callee for caller in found for callee in _calls(caller, functions)} - found:
        found |= more
    return found


def _tree(module: str) -> ast.Module:
    path = import_module(module).__file__
    assert path is not None, "our modules are files"
    return ast.parse(Path(path).read_text(encoding="utf-8"))


def _taken(tree: ast.Module) -> set[tuple[str, str]]:
    """Return what is imported by name: ``from milkyway_agent.system.state_file import replace``."""
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module)
    return {
        (str(node.module).rpartition(".")[2], alias.name)
        for node in imports
        if str(node.module).startswith(f"{SYSTEM}.")
        for alias in node.names
    }


def _public(module: str) -> set[str]:
    members = vars(import_module(module)).items()
    return {
        name
        for name, member in members
        if inspect.isfunction(inspect.unwrap(member)) and member.__module__ == module and not name.startswith("_")
    }


def _calls(function: str, functions: dict[str, set[str]]) -> set[str]:
    module, _, name = function.partition(".")
    source = inspect.getsource(inspect.unwrap(getattr(import_module(f"{SYSTEM}.{module}"), name)))
    called = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    return {f"{module}.{name}" for name in called & functions[module]}

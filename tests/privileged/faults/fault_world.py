"""The surroundings of a faulty PID 1: everything that a server has, and nothing that belongs to this machine.

``enter`` makes them inside new namespaces: a root in memory over the real one, so that whatever is written disappears
with it. /proc/sys, /sys/fs/selinux and the watchdog are plain files: the real ones belong to the machine or don't exist.
``hold_group`` makes the control group that is the root of its hierarchy, and removes it.
"""

import errno
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from milkyway_agent.core.contexts import process_context
from milkyway_agent.pid1.boot_steps import SYSCTLS
from milkyway_agent.system import cgroups, mounts
from tests.fakes import namespaces

OWN = (
    namespaces.CLONE_NEWNS
    | namespaces.CLONE_NEWCGROUP
    | namespaces.CLONE_NEWPID
    | namespaces.CLONE_NEWNET
    | namespaces.CLONE_NEWIPC
    | namespaces.CLONE_NEWUTS
)
HOUSE = Path("/usr/lib/milkyway")
COMMAND_LINE = f"milkyway.slot=a milkyway.roothash={'0' * 64} milkyway.salt={'0' * 64} milkyway.blocks=1 milkyway.development=1"
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}  # mem(4), tty(4)

# Answers Begin like the verifier, with only the standard library: hundreds of them are started.
VERIFIER = """
import re, socket
link = socket.socket(fileno=3)
while True:
    data, fds, _, _ = socket.recv_fds(link, 131072, 4)
    if not data:
        break
    if b'"type":"begin"' in data:
        number = re.search(rb'"request":([0-9]+)', data)[1]
        link.send(b'{"type":"begun","request":' + number + b',"machine":null}')
"""
FRONT = "from milkyway_agent.front.server import main; main()"


def enter(scratch: str, launch: str, console: str) -> None:
    """Make the world at *scratch* (an empty directory) and enter it. *console*: the file that is its /dev/console.

    The init of the namespaces OWN calls this.
    """
    mounts.mount("none", "/", "", mounts.MS_REC | mounts.MS_PRIVATE)
    mounts.mount("tmpfs", scratch, "tmpfs")
    for name in ("upper", "work", "root"):
        Path(scratch, name).mkdir(0o755)
    mounts.mount("overlay", f"{scratch}/root", "overlay", 0, f"lowerdir=/,upperdir={scratch}/upper,workdir={scratch}/work")
    shown = os.open(console, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    os.chroot(f"{scratch}/root")
    os.chdir("/")
    _make_proc()
    _make_sys()
    _make_dev(shown)
    os.close(shown)
    _make_house(Path(launch).read_bytes())
    for name in ("/data", "/secure-config"):
        Path(name).mkdir(0o755)
        mounts.mount("tmpfs", name, "tmpfs")  # there is no disk: so they count as mounted
    Path("/secure-config/data.key").write_text("secret")
    mounts.mount("/tmp", "/tmp", "", mounts.MS_BIND | mounts.MS_REC)
    # The machine's own mounts stay hidden below; the boot mounts /run, /dev/pts and the rest.


def _make_proc() -> None:
    context, words = Path("/milkyway-context"), Path("/milkyway-cmdline")
    context.write_text(process_context("agent_t"))
    words.write_text(COMMAND_LINE)
    mounts.mount("proc", "/proc", "proc")
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text()
    mounts.mount(str(context), "/proc/1/attr/current", "", mounts.MS_BIND)
    mounts.mount(str(words), "/proc/cmdline", "", mounts.MS_BIND)
    mounts.mount("tmpfs", "/proc/sys", "tmpfs")
    for name in [*(name for name, _ in SYSCTLS), "kernel.modules_disabled", "kernel.random.boot_id"]:
        path = Path("/proc/sys", name.replace(".", "/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    Path("/proc/sys/kernel/random/boot_id").write_text(boot_id)


def _make_sys() -> None:
    mounts.mount("sysfs", "/sys", "sysfs")
    mounts.mount("tmpfs", "/sys/fs", "tmpfs")
    for name in ("cgroup", "selinux"):
        Path("/sys/fs", name).mkdir()
    mounts.mount("tmpfs", "/sys/fs/selinux", "tmpfs")
    for name, text in (("enforce", "1"), ("load", ""), ("context", "")):
        Path("/sys/fs/selinux", name).write_text(text)
    # secure-config is looked for among the block devices.
    mounts.mount("tmpfs", "/sys/class/block", "tmpfs")
    Path("/sys/class/block/vda1").mkdir()
    Path("/sys/class/block/vda1/uevent").write_text("DEVNAME=vda1\nPARTNAME=secure-config\n")


def _make_dev(console: int) -> None:
    mounts.mount("tmpfs", "/dev", "tmpfs")
    for name, number in DEVICES.items():
        os.mknod(f"/dev/{name}", 0o666 | stat.S_IFCHR, os.makedev(*number))
    for name in ("console", "watchdog"):
        Path("/dev", name).touch()
    mounts.mount(f"/proc/self/fd/{console}", "/dev/console", "", mounts.MS_BIND)


def _make_house(launch: bytes) -> None:
    HOUSE.mkdir(parents=True)
    (HOUSE / "modules").write_text("/usr/lib/milkyway/none.ko\n")
    (HOUSE / "none.ko").write_bytes(b"")
    (HOUSE / "policy").mkdir()
    (HOUSE / "policy/base.policy").write_bytes(b"policy")
    paths = os.pathsep.join(path for path in sys.path if path)
    programs = {
        "launch": launch,
        "verifier": f"#!{sys.executable} -IS\n{VERIFIER}".encode(),
        "front": f"#!/bin/sh\nPYTHONPATH={paths} exec {sys.executable} -c '{FRONT}'\n".encode(),
        "uplink": b"#!/bin/sh\nexec sleep 1000\n",
        "dhcp": b"#!/bin/sh\nexec sleep 1000\n",
        "disk": b"#!/bin/sh\necho opened\n",
        "compiler": b"#!/bin/sh\nexit 1\n",
    }
    for name, content in programs.items():
        (HOUSE / name).write_bytes(content)
        (HOUSE / name).chmod(0o755)


@contextmanager
def hold_group(path: str) -> Iterator[None]:
    """Enter the new control group *path*, so that CLONE_NEWCGROUP makes it the root; remove it afterwards."""
    cgroups.create(path)
    outside = os.open(f"{os.path.dirname(path)}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    try:
        cgroups.attach(path, 0)
        yield
    finally:
        os.write(outside, b"0")
        os.close(outside)


def remove_groups(path: str) -> None:
    """Remove the group *path* with those below it; all of their processes have ended."""
    for child in cgroups.children(path):
        remove_groups(child)
    deadline = time.monotonic() + 10
    while True:
        try:
            cgroups.remove(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:  # a process that has ended stays in its group until the kernel has finished with it
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)

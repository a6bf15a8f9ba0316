"""The phases of the boot that are plain deeds: mounts, labels, kernel parameters, modules, groups, directories.

One function for each phase of ``core.boot`` that needs no other process; ``pid1.boot_deeds`` calls them.
Each raises OSError (or a MilkyWayError) when it failed, having done all it could: a parameter that
this kernel doesn't have never keeps the next from being set.
"""

import errno
import fnmatch
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from milkyway_agent.core.contexts import object_context, process_context
from milkyway_agent.system import cgroups, interfaces, kernel, mounts, selinux, verity
from milkyway_formats.errors import UnavailableError

T = TypeVar("T")

MODULES = Path("/usr/lib/milkyway/modules")
RUN = Path("/run/milkyway")
DATA = Path("/data")
MAPPED_DATA = "/dev/mapper/data"
SECURE_CONFIG = Path("/secure-config")
CGROUP = "/sys/fs/cgroup"

_PLAIN = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
FILESYSTEMS = (
    ("proc", "/proc", "proc", _PLAIN, ""),
    ("sysfs", "/sys", "sysfs", _PLAIN, ""),
    ("selinuxfs", "/sys/fs/selinux", "selinuxfs", mounts.MS_NOSUID | mounts.MS_NOEXEC, ""),
    ("tmpfs", "/run", "tmpfs", _PLAIN, "mode=755,size=25%,nr_inodes=100000"),
    ("tmpfs", "/tmp", "tmpfs", _PLAIN, "mode=1777,size=10%,nr_inodes=50000"),
    ("devpts", "/dev/pts", "devpts", mounts.MS_NOSUID | mounts.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"),
)
NEEDED = ("/proc", "/sys", "/run")
# Nodes that the kernel made before there was a policy, and those of modules. The first match counts.
DEVICE_LABELS = (
    (("null", "zero", "full", "random", "urandom", "ptmx"), "null_device_t"),
    (("console", "tty", "ttyS*", "hvc*", "tty[0-9]*"), "console_device_t"),
    (("kmsg",), "kmsg_device_t"),
    (("watchdog", "watchdog[0-9]*"), "watchdog_device_t"),
    (("mapper/control",), "dm_control_t"),
    (("loop-control", "loop[0-9]*"), "loop_device_t"),
    (("vd*", "sd*", "nvme*n*", "dm-*"), "disk_device_t"),
)
RUN_DIRECTORIES = (
    ("", "agent_run_t", 0o755),
    ("layers", "agent_run_t", 0o700),
    ("stacks", "agent_run_t", 0o700),
    ("empty", "agent_run_t", 0o755),
    ("net", "net_run_t", 0o755),
    ("crun", "launcher_run_t", 0o700),
    ("bundles", "agent_run_t", 0o700),
    ("notify", "agent_run_t", 0o711),
)
DATA_DIRECTORIES = (
    ("", "datadir_t", 0o755),
    ("agent", "agent_data_t", 0o700),
    ("agent/layers", "layer_store_t", 0o700),
    ("agent/staging", "staging_t", 0o700),
    ("agent/trust", "trust_t", 0o700),
    ("agent/state", "agent_state_t", 0o700),
    ("agent/log", "log_t", 0o700),
    ("common", "common_t", 0o755),
    ("secure", "secure_t", 0o755),
    ("group", "group_t", 0o755),
    ("cache", "cache_t", 0o755),
)
# Each with its reason where the name does not say it (Documentation/admin-guide/sysctl).
SYSCTLS = (
    ("kernel.panic", "10"),
    ("kernel.panic_on_oops", "1"),
    ("kernel.dmesg_restrict", "1"),
    ("kernel.kptr_restrict", "2"),
    ("kernel.sysrq", "0"),
    ("kernel.unprivileged_bpf_disabled", "1"),
    ("kernel.perf_event_paranoid", "3"),
    ("kernel.kexec_load_disabled", "1"),
    ("kernel.core_pattern", "|/bin/false"),  # a core dump would be an unasked-for file full of secrets
    ("user.max_user_namespaces", "0"),  # crun needs none, and to a layer they are only kernel to attack
    ("fs.protected_symlinks", "1"),
    ("fs.protected_hardlinks", "1"),
    ("fs.protected_fifos", "2"),
    ("fs.protected_regular", "2"),
    ("vm.memfd_noexec", "2"),  # no code from memory files
    ("dev.tty.ldisc_autoload", "0"),
    ("net.ipv4.conf.all.rp_filter", "1"),
)


def filesystems() -> list[str]:
    """Mount what the kernel offers and the two file systems in memory; then the directories below /run/milkyway.

    Returns a line for each file system that is not mounted and that little depends on; raises UnavailableError where
    one of NEEDED or a directory is missing.
    """
    failures = {entry[1]: why for entry in FILESYSTEMS if (why := "; ".join(_try_each([entry], _mount)))}
    missing = [why for target, why in failures.items() if target in NEEDED]
    missing += _try_each(RUN_DIRECTORIES, lambda entry: _directory(RUN / entry[0], entry[2]))
    if missing:
        raise UnavailableError("; ".join(missing))
    return list(failures.values())


def _mount(entry: tuple[str, str, str, int, str]) -> None:
    source, target, fstype, flags, data = entry
    if not (Path("/proc/self").exists() and mounts.is_mounted(target)):
        if target.startswith("/dev/"):
            Path(target).mkdir(exist_ok=True)
        mounts.mount(source, target, fstype, flags, data)


def labels() -> None:
    """Label the device nodes that are older than the policy, and the directories below /run/milkyway."""
    if not selinux.is_enforcing():
        raise UnavailableError("the kernel does not enforce its policy")
    own = selinux.getcon()
    if own != process_context("agent_t"):
        raise UnavailableError(f"PID 1 runs as {own}, not in its own domain")
    devices()
    _each(RUN_DIRECTORIES, lambda entry: _label(RUN / entry[0], entry[1]))


def devices() -> None:
    """Label the device nodes by DEVICE_LABELS. To be called again when modules have made new ones."""
    nodes = [path for directory in (Path("/dev"), Path("/dev/mapper")) if directory.exists() for path in directory.iterdir()]
    _each((node for node in nodes if not node.is_dir() and not node.is_symlink()), _label_device)


def kernel_parameters() -> list[str]:
    """Load the modules of this root, set the kernel's parameters, and forbid any further module.

    Returns a line for each module or parameter that this kernel did not take: that need not stop the boot.
    """
    missing = _try_each(MODULES.read_text().split(), _load_module)
    devices()
    missing += _try_each(SYSCTLS, lambda entry: kernel.sysctl(*entry))
    kernel.sysctl("kernel.modules_disabled", "1")
    return missing


def load(names: Iterable[str]) -> None:
    """Load the modules *names* of this root. All that they depend on must be among them or loaded."""
    _each((path for path in MODULES.read_text().split() if Path(path).name.partition(".")[0] in names), _load_module)


def groups() -> list[str]:
    """Mount cgroup v2, hand its controllers on, move PID 1 into a group of its own.

    Returns a line for each failure that leaves services their groups: they then run without some limits.
    """
    if not mounts.is_mounted(CGROUP):
        mounts.mount("cgroup2", CGROUP, "cgroup2", _PLAIN, "nsdelegate,memory_recursiveprot")
    for name in ("agent", "coreos", "deployments"):
        Path(CGROUP, name).mkdir(exist_ok=True)
    return _try_each([f"{CGROUP}/agent"], lambda path: cgroups.attach(path, 0)) + _try_each([CGROUP], _hand_on_controllers)


def _hand_on_controllers(root: str) -> None:
    usable: list[str] = [name for name in ("cpu", "memory", "io", "pids") if name in cgroups.controllers(root)]
    for path in (root, f"{root}/coreos", f"{root}/deployments"):
        cgroups.enable(path, usable)


def loopback() -> None:
    """Bring the loopback interface up."""
    interfaces.set_up("lo")


def partition(name: str) -> str:
    """Return the device of the partition called *name*. Raises UnavailableError when there is none."""
    for uevent in Path("/sys/class/block").glob("*/uevent"):
        lines = uevent.read_text().splitlines()
        if f"PARTNAME={name}" in lines:
            return "/dev/" + next(line.removeprefix("DEVNAME=") for line in lines if line.startswith("DEVNAME="))
    raise UnavailableError(f"no partition is called {name!r}")


def secure_config() -> None:
    """Mount the partition secure-config, read-only, with one label for all of it."""
    context = object_context("secure_config_t")
    device = partition("secure-config")
    mounts.mount(device, str(SECURE_CONFIG), "erofs", mounts.MS_RDONLY | _PLAIN, f'context="{context}"')


def mount_data(*, verifier_user: int) -> None:
    """Mount the opened data disk and make its directories. Nothing below it is executable. Undo: ``unmount_data``."""
    if not mounts.is_mounted(str(DATA)):
        mounts.mount(MAPPED_DATA, str(DATA), "btrfs", _PLAIN | mounts.MS_NOATIME)
    _each(DATA_DIRECTORIES, lambda entry: _labelled_directory(DATA / entry[0], entry[1], entry[2]))
    os.chown(DATA / "agent/trust", verifier_user, verifier_user)  # the only directory of the verifier's


def unmount_data() -> None:
    """Unmount the data disk and remove its mapping, so that everything is written to it."""
    if mounts.is_mounted(str(DATA)):
        mounts.umount2(str(DATA))
    if Path(MAPPED_DATA).exists():
        verity.remove("data", deferred=True)


def _directory(path: Path, mode: int) -> None:
    path.mkdir(exist_ok=True)
    path.chmod(mode)


def _labelled_directory(path: Path, kind: str, mode: int) -> None:
    path.mkdir(exist_ok=True)
    _label(path, kind)
    path.chmod(mode)


def _label(path: Path, kind: str) -> None:
    context = object_context(kind)
    if selinux.getfilecon(str(path)) != context:
        selinux.setfilecon(str(path), context)


def _label_device(path: Path) -> None:
    name = str(path.relative_to("/dev"))
    kind = next((kind for patterns, kind in DEVICE_LABELS if any(fnmatch.fnmatch(name, p) for p in patterns)), None)
    if kind is not None:
        _label(path, kind)


def _load_module(path: str) -> None:
    try:
        kernel.finit_module(path)
    except OSError as error:
        # EEXIST: it is built in or there already; ENODEV: its hardware is not in this machine.
        if error.errno not in (errno.EEXIST, errno.ENODEV):
            raise


def _each(items: Iterable[T], deed: Callable[[T], None]) -> None:
    """Do *deed* to every item; raise one UnavailableError that names all that failed."""
    failures = _try_each(items, deed)
    if failures:
        raise UnavailableError("; ".join(failures))


def _try_each(items: Iterable[T], deed: Callable[[T], None]) -> list[str]:
    """Do *deed* to every item; return a line for each that failed."""
    failures = []
    for item in items:
        try:
            deed(item)
        except OSError as error:
            failures.append(f"{error.filename or item}: {os.strerror(error.errno) if error.errno else error}")
    return failures

"""The command line of the launcher for one start (agent/launch/launch.c). Pure."""

from collections.abc import Iterable, Mapping, Sequence

# linux/capability.h, in the order of their numbers
CAPABILITIES = """
chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service net_broadcast
net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice
sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override mac_admin syslog
wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore
""".split()  # noqa: SIM905 (forty quoted words would be no easier to read)
NAMESPACES = {
    "mount": "--mount-private",
    "network": "--netns-empty",
    "ipc": "--ipc-private",
    "uts": "--uts-private",
    "pid": "--pid-private",
}
_NONE: Mapping[str, str] = {}
_NO_LIMITS: Mapping[str, int] = {}


def capability_mask(names: Iterable[str]) -> int:
    """Return the capabilities *names* (without ``cap_``) as a bit mask. Raises ValueError for unknown ones."""
    mask = 0
    for name in names:
        if name not in CAPABILITIES:
            raise ValueError(f"cannot keep capability {name}: there is none of that name")
        mask |= 1 << CAPABILITIES.index(name)
    return mask


def arguments_of(
    command: Sequence[str],
    *,
    cgroup: str = "",
    make_cgroup: bool = False,
    cgroup_files: Mapping[str, str] = _NONE,
    cgroup_files_if_there: Mapping[str, str] = _NONE,
    context: str = "",
    user: int | None = None,
    groups: Sequence[int] = (),
    capabilities: Iterable[str] = (),
    no_new_privileges: bool = True,
    seccomp: str = "",
    namespaces: Iterable[str] = (),
    umask: int | None = None,
    nice: int = 0,
    oom_score: int | None = None,
    processors: Iterable[int] = (),
    limits: Mapping[str, int] = _NO_LIMITS,
    directory: str = "/",
    terminal: str = "",
    environment: Mapping[str, str] = _NONE,
    listen_pid: bool = False,
) -> list[str]:
    """Return the arguments with which the launcher executes *command* (its program by absolute path) as described.

    *cgroup_files*: values by file, written before the start; those of *cgroup_files_if_there* need not exist. *user*: None
    for our own; *groups*: the main one first (default: the user's number). *seccomp*: the path of a filter. *namespaces*:
    names of ``milkyway_formats.execution.Namespace``; "pid" works with a ``Launcher`` only. Raises ValueError for an
    unknown capability.
    """
    arguments = ["--cgroup", cgroup] if cgroup else []
    if make_cgroup:
        arguments.append("--cgroup-make")
    for option, files in (("--cgroup-set", cgroup_files), ("--cgroup-try", cgroup_files_if_there)):
        for file, value in files.items():
            arguments += [option, f"{file}={value}"]
    if context:
        arguments += ["--context", context]
    if user is not None:
        arguments += ["--user", f"{user}:{','.join(map(str, groups or (user,)))}"]
    if mask := capability_mask(capabilities):
        arguments += ["--keep-caps", hex(mask)]
    if no_new_privileges:
        arguments.append("--no-new-privs")
    if seccomp:
        arguments += ["--seccomp", seccomp]
    for name, most in limits.items():
        arguments += ["--rlimit", f"{name}={most}"]
    if umask is not None:
        arguments += ["--umask", f"0{umask:o}"]
    if nice:
        arguments += ["--nice", str(nice)]
    if oom_score is not None:
        arguments += ["--oom-score-adj", str(oom_score)]
    if chosen := ",".join(map(str, processors)):
        arguments += ["--cpus", chosen]
    if directory != "/":
        arguments += ["--directory", directory]
    arguments += [NAMESPACES[name] for name in namespaces]
    if terminal:
        arguments += ["--terminal", terminal]
    for name, text in environment.items():
        arguments += ["--env", f"{name}={text}"]
    if listen_pid:
        arguments.append("--listen-pid")
    return [*arguments, "--", *command]

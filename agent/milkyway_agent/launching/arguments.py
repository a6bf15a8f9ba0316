"""What the launcher is told of one start, in its words (agent/launch/launch.c). Pure."""

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
    """Return the capabilities *names* (without ``cap_``) as a bit mask. Raises ValueError for what the kernel has not."""
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
    """Return the words that have the launcher make *command* (its program by absolute path) what it should be.

    *cgroup_files*: file to value, written before it starts; of those *if_there* none need exist. *user* with *groups*, the
    main one first (default: of the user's number), None: stays who we are. *seccomp*: the path of a filter.
    *namespaces*: names of ``milkyway_formats.execution.Namespace``; "pid" works for a ``Launcher`` only.
    Raises ValueError for a capability that there isn't.
    """
    words = ["--cgroup", cgroup] if cgroup else []
    if make_cgroup:
        words.append("--cgroup-make")
    for option, files in (("--cgroup-set", cgroup_files), ("--cgroup-try", cgroup_files_if_there)):
        for file, value in files.items():
            words += [option, f"{file}={value}"]
    if context:
        words += ["--context", context]
    if user is not None:
        words += ["--user", f"{user}:{','.join(map(str, groups or (user,)))}"]
    if mask := capability_mask(capabilities):
        words += ["--keep-caps", hex(mask)]
    if no_new_privileges:
        words.append("--no-new-privs")
    if seccomp:
        words += ["--seccomp", seccomp]
    for name, most in limits.items():
        words += ["--rlimit", f"{name}={most}"]
    if umask is not None:
        words += ["--umask", f"0{umask:o}"]
    if nice:
        words += ["--nice", str(nice)]
    if oom_score is not None:
        words += ["--oom-score-adj", str(oom_score)]
    if chosen := ",".join(map(str, processors)):
        words += ["--cpus", chosen]
    if directory != "/":
        words += ["--directory", directory]
    words += [NAMESPACES[name] for name in namespaces]
    if terminal:
        words += ["--terminal", terminal]
    for name, text in environment.items():
        words += ["--env", f"{name}={text}"]
    if listen_pid:
        words.append("--listen-pid")
    return [*words, "--", *command]

"""The OCI configuration (config.json) of one service of a deployment: the service gets only what is named here."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from milkyway_agent.core.contexts import object_context, process_context
from milkyway_agent.core.group_files import group_files
from milkyway_agent.core.stack import stack_mount, type_name
from milkyway_agent.core.uid_range import first_uid
from milkyway_agent.launching.seccomp import profile
from milkyway_formats.deployment import Deployment
from milkyway_formats.grants import Connect, HoldCapability, Listen, UseData
from milkyway_formats.manifest import Manifest
from milkyway_formats.service import Service

NOTIFY_INSIDE = "/dev/milkyway-notify"  # in the container's own /dev, the only place where a file can appear
_DATA_BY_CLASS = {"common": "/data/common", "secure": "/data/secure", "group": "/data/group"}
# Files of /proc that say more about the machine than a layer need know (the list of runc and crun).
MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
)  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


class Host(NamedTuple):
    """What this host's kernel offers to containers: its cgroup controllers, and whether SELinux is there."""

    controllers: frozenset[str]
    selinux: bool


def group_of(deployment: Deployment, service: Service) -> str:
    """Return the control group of a deployment's service, below the root of the hierarchy."""
    return f"/deployments/{deployment.id}/{service.name}"


def domain_of(deployment: Deployment, service: Service) -> str:
    """Return the SELinux domain that the service runs in."""
    return type_name(deployment.id, deployment.generation, service.domain)


def has_network(deployment: Deployment) -> bool:
    """Tell whether the deployment shares the machine's network; without a grant for that, it has an empty network."""
    return any(isinstance(grant, Listen | Connect) for grant in deployment.grants)


def capabilities(deployment: Deployment) -> list[str]:
    """Return the capabilities that the deployment was granted, with the kernel's names."""
    return sorted({f"CAP_{grant.name.upper()}" for grant in deployment.grants if isinstance(grant, HoldCapability)})


def configuration(
    service: Service,
    deployment: Deployment,
    manifest: Manifest,
    host: Host,
    *,
    notify: str | None = None,
    listeners: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the OCI configuration of *service* of *deployment*. *manifest*: that of the deployment's app layer."""
    user = first_uid(deployment.id) + service.user
    kept = capabilities(deployment)
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **service.environment}
    if notify:
        environment["NOTIFY_SOCKET"] = NOTIFY_INSIDE
        if service.watchdog_ms:
            environment |= {"WATCHDOG_USEC": str(service.watchdog_ms * 1000), "WATCHDOG_PID": "1"}
    if listeners:  # its program is PID 1 of its pid namespace
        environment |= {"LISTEN_FDS": str(len(listeners)), "LISTEN_FDNAMES": ":".join(listeners), "LISTEN_PID": "1"}
    process: dict[str, Any] = {
        "terminal": False,
        "user": {"uid": user, "gid": user, "umask": service.execution.umask},
        "args": service.command,
        "env": [f"{name}={value}" for name, value in environment.items()],
        "cwd": service.working_directory,
        # Ambient too: the program is not root, and keeps only ambient capabilities across execve.
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), kept),
        "noNewPrivileges": True,
        "rlimits": [
            {"type": f"RLIMIT_{name.upper()}", "soft": most, "hard": most} for name, most in service.execution.limits.items()
        ],
    }
    if service.execution.nice:
        process["scheduler"] = {"policy": "SCHED_OTHER", "nice": service.execution.nice}
    if service.execution.oom_score:
        process["oomScoreAdj"] = service.execution.oom_score
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in namespaces(deployment)],
        "cgroupsPath": group_of(deployment, service),
        "seccomp": profile(),
        "maskedPaths": list(MASKED),
        "readonlyPaths": list(READ_ONLY),
    }
    if files := group_files_of(service, host.controllers):
        linux["resources"] = {"unified": files}
    scratch = ""
    if host.selinux:
        process["selinuxLabel"] = process_context(domain_of(deployment, service))
        scratch = object_context(type_name(deployment.id, deployment.generation, "scratch"))
    return {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": stack_mount(deployment.id, deployment.generation), "readonly": True},
        "hostname": deployment.name,
        "mounts": mounts(service, deployment, manifest, user=user, scratch=scratch, notify=notify),
        "linux": linux,
    }


def namespaces(deployment: Deployment) -> list[str]:
    """Return the kinds of namespaces that the deployment's services have for themselves."""
    return ["pid", "mount", "ipc", "uts", "cgroup", *(() if has_network(deployment) else ("network",))]


def group_files_of(service: Service, controllers: frozenset[str]) -> dict[str, str]:
    """Return what to write into the files of the service's group, as far as the machine has *controllers* for that."""
    files = group_files(service.limits, controllers)
    # For the group, not the process, which could give itself the other processors back.
    if service.execution.processors and "cpuset" in controllers:
        files["cpuset.cpus"] = ",".join(map(str, service.execution.processors))
    return files


def mounts(
    service: Service, deployment: Deployment, manifest: Manifest, *, user: int, scratch: str, notify: str | None
) -> list[dict[str, Any]]:
    """Return what is mounted over the stack: /proc, a small /dev, each writable path, each granted data source.

    *scratch*: the SELinux context of each tmpfs ("": no SELinux). The layer must have the mount points in its stack.
    """
    label = [f'rootcontext="{scratch}"'] if scratch else []
    found: list[dict[str, Any]] = [
        _mount("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "noexec", "strictatime", "mode=755", "size=64k", *label]),
    ]
    for path in service.scratch:
        sizes = [f"size={path.size_bytes}", f"nr_inodes={path.inodes}", "mode=0755", f"uid={user}", f"gid={user}"]
        found.append(_mount(path.path, "tmpfs", "tmpfs", ["noexec", "nosuid", "nodev", *sizes, *label]))
    bindings = {binding.name: binding for binding in deployment.data}
    places = {wanted.name: wanted.path for wanted in manifest.data}
    for grant in deployment.grants:
        if isinstance(grant, UseData) and grant.name in bindings and places.get(grant.name):
            binding = bindings[grant.name]
            source = f"{_DATA_BY_CLASS[binding.data_class]}/{binding.source}"
            access = "rw" if grant.access == "write" else "ro"
            found.append(_mount(places[grant.name], "bind", source, ["bind", access, "noexec", "nosuid", "nodev"]))
    if notify:
        found.append(_mount(NOTIFY_INSIDE, "bind", notify, ["bind", "noexec", "nosuid", "nodev"]))
    return found


def _mount(destination: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": options}

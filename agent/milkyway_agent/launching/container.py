"""Layer services as containers: the OCI configuration of one, and its start through crun.

What a service gets is only what is named here: its stack as a read-only root, fresh namespaces, the
capabilities, the network and the data of its grants, one tmpfs for each writable path. ``create``
makes all of it and stops before the program; the program's process, by then a child of ours, is held
by a descriptor, and ``start`` lets it go on.

The program is PID 1 of its own pid namespace: the kernel keeps from it every signal for which it has no
handler. One without a handler for its stop signal is killed after its stop timeout.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import trio

from milkyway_agent.core.contexts import object_context, process_context
from milkyway_agent.core.group_files import group_files
from milkyway_agent.core.stack import stack_mount, type_name
from milkyway_agent.core.uid_range import first_uid
from milkyway_agent.launching.child import (
    NONE,
    Running,
    bury,
    clear_group,
    collect,
    end_now,
    hold,
    kill_group,
    kill_process_group,
    settled,
)
from milkyway_agent.launching.seccomp import profile
from milkyway_agent.runtime.reaper import Reaper
from milkyway_formats.deployment import Deployment
from milkyway_formats.errors import UnavailableError
from milkyway_formats.grants import Connect, HoldCapability, Listen, UseData
from milkyway_formats.manifest import Manifest
from milkyway_formats.service import Service

CRUN = "/usr/bin/crun"
FIRST_LISTENER = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
NO_DESCRIPTORS: Mapping[int, int] = {}
CRUN_STATE = "/run/milkyway/crun"
BUNDLES = "/run/milkyway/bundles"
CGROUPS = "/sys/fs/cgroup"
NOTIFY_INSIDE = "/dev/milkyway-notify"  # in the container's own /dev, the one place where a file can appear
_DATA_BY_CLASS = {"common": "/data/common", "secure": "/data/secure", "group": "/data/group"}
# What of /proc says more about the machine than a layer need know (the list is the one that runc and crun ship).
MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
)  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


class Machine(NamedTuple):
    """What of the machine shapes a container: its controllers, and whether there is SELinux."""

    controllers: frozenset[str]
    selinux: bool


def group_of(deployment: Deployment, service: Service) -> str:
    """Return the control group of a deployment's service, below the root of the hierarchy."""
    return f"/deployments/{deployment.id}/{service.name}"


def domain_of(deployment: Deployment, service: Service) -> str:
    """Return the SELinux domain that the service runs in."""
    return type_name(deployment.id, deployment.generation, service.domain)


def has_network(deployment: Deployment) -> bool:
    """Tell whether the deployment shares the machine's network; without a grant for it, its own is empty."""
    return any(isinstance(grant, Listen | Connect) for grant in deployment.grants)


def capabilities(deployment: Deployment) -> list[str]:
    """Return the capabilities that the deployment was granted, by the kernel's names."""
    return sorted({f"CAP_{grant.name.upper()}" for grant in deployment.grants if isinstance(grant, HoldCapability)})


def configuration(
    service: Service,
    deployment: Deployment,
    manifest: Manifest,
    machine: Machine,
    *,
    notify: str | None = None,
    listeners: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the OCI configuration (config.json) of *service* of *deployment*, whose app layer's *manifest* this is."""
    user = first_uid(deployment.id) + service.user
    kept = capabilities(deployment)
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **service.environment}
    if notify:
        environment["NOTIFY_SOCKET"] = NOTIFY_INSIDE
        if service.watchdog_ms:
            environment |= {"WATCHDOG_USEC": str(service.watchdog_ms * 1000), "WATCHDOG_PID": "1"}
    if listeners:  # its program is the first of its pid namespace
        environment |= {"LISTEN_FDS": str(len(listeners)), "LISTEN_FDNAMES": ":".join(listeners), "LISTEN_PID": "1"}
    process: dict[str, Any] = {
        "terminal": False,
        "user": {"uid": user, "gid": user, "umask": service.execution.umask},
        "args": service.command,
        "env": [f"{name}={value}" for name, value in environment.items()],
        "cwd": service.working_directory,
        # Ambient too: the program is nobody special, and keeps over execve only what is ambient.
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
    if files := group_files_of(service, machine.controllers):
        linux["resources"] = {"unified": files}
    scratch = ""
    if machine.selinux:
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
    """Return the kinds of namespace that the deployment's services have of their own."""
    return ["pid", "mount", "ipc", "uts", "cgroup", *(() if has_network(deployment) else ("network",))]


def group_files_of(service: Service, controllers: frozenset[str]) -> dict[str, str]:
    """Return what is written into the files of the service's group, of what the machine has *controllers* for."""
    files = group_files(service.limits, controllers)
    # By the group, not by the process: it could give itself the others back.
    if service.execution.processors and "cpuset" in controllers:
        files["cpuset.cpus"] = ",".join(map(str, service.execution.processors))
    return files


def mounts(
    service: Service, deployment: Deployment, manifest: Manifest, *, user: int, scratch: str, notify: str | None
) -> list[dict[str, Any]]:
    """Return what is mounted over the stack: /proc, a small /dev, each writable path, each granted data source.

    *scratch* is the context of the tmpfs ones ("": no SELinux). Mount points in the stack are the layer's to have.
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


def _kill_with_its_own(running: Running) -> None:
    end_now(running)
    kill_process_group(running.pid)


def _mount(destination: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": options}


class Container:
    """Starts one service of a deployment through crun."""

    takes_listeners = True
    reads_execution = True

    def __init__(
        self,
        service: Service,
        deployment: Deployment,
        manifest: Manifest,
        machine: Machine,
        reaper: Reaper,
        *,
        crun: str = CRUN,
        cgroups_root: str = CGROUPS,
    ) -> None:
        self.cgroup = cgroups_root + group_of(deployment, service)
        self._service = service
        self._deployment = deployment
        self._manifest = manifest
        self._machine = machine
        self._reaper = reaper
        self._name = f"{deployment.id}.v{deployment.generation}.{service.name}"
        self._bundle = Path(BUNDLES, self._name)
        self._crun = [crun, "--cgroup-manager=cgroupfs", "--root", CRUN_STATE]
        self._commands = count()
        self._context = process_context(domain_of(deployment, service)) if machine.selinux else ""

    async def start(self, output: int, notify: str | None, listeners: Mapping[str, int] = NONE) -> Running:
        """Create the container, hold its first process, let it execute the program; return when it is in its domain."""
        config = configuration(
            self._service, self._deployment, self._manifest, self._machine, notify=notify, listeners=tuple(listeners)
        )
        passed = dict(enumerate(listeners.values(), start=FIRST_LISTENER))
        if Path(CRUN_STATE, self._name).exists():  # of a start that was cut off
            await self.clean_up()
        self._bundle.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._bundle / "config.json").write_bytes(msgspec.json.encode(config))
        pid_file = self._bundle / "pid"
        pid_file.unlink(missing_ok=True)
        with self._reaper.holding():
            words = ["--bundle", str(self._bundle), "--pid-file", str(pid_file), "--preserve-fds", str(len(passed)), self._name]
            await self._run("create", words, output, passed)
            running = hold(int(pid_file.read_text()), self._reaper)
        try:
            await self._run("start", [self._name], output)
        except BaseException:
            self.kill()
            os.close(running.pidfd)
            self._reaper.release(running.pid)  # it is an orphan like any other now
            raise
        return await settled(running, self._context, self._reaper)

    async def execute(self, command: list[str], seconds: float, environment: Mapping[str, str], output: int = -1) -> int | None:
        """Run *command* in the container, as the service is; see ``starter.Commanding``."""
        if output >= 0:
            return await self._execute(command, seconds, environment, output)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            os.set_blocking(reading, False)
            return await self._execute(command, seconds, environment, writing, reading)
        finally:
            os.close(writing)
            os.close(reading)

    async def _execute(
        self, command: list[str], seconds: float, environment: Mapping[str, str], output: int, unread: int = -1
    ) -> int | None:
        """Run *command* as ``execute`` does. *unread*: the other end of *output*, where nobody wants what it writes."""
        running = await self._begin(command, environment, output)
        in_time = False
        try:
            async with trio.open_nursery() as nursery:
                if unread >= 0:  # it must not wait for us
                    nursery.start_soon(collect, unread, bytearray(), 0)
                with trio.move_on_after(seconds):
                    await trio.lowlevel.wait_readable(running.pidfd)
                    in_time = True
                nursery.cancel_scope.cancel()
        finally:
            code = await bury(running, partial(_kill_with_its_own, running), self._reaper)
        return code if in_time else None

    async def _begin(self, command: list[str], environment: Mapping[str, str], output: int) -> Running:
        """Have crun execute *command* as the service's own process is executed; hold it."""
        process = configuration(self._service, self._deployment, self._manifest, self._machine)["process"]
        inside = {**environment, "MAINPID": "1"} if "MAINPID" in environment else environment
        process |= {"args": command, "env": process["env"] + [f"{name}={value}" for name, value in inside.items()]}
        number = next(self._commands)
        words, pid_file = self._bundle / f"command-{number}.json", self._bundle / f"command-{number}.pid"
        # Not /dev/null: crun gives all three to the service's user (fchown), and that one is the machine's.
        nothing, silent = os.pipe2(os.O_CLOEXEC)
        os.close(silent)
        try:
            words.write_bytes(msgspec.json.encode(process))
            with self._reaper.holding():
                options = ["--detach", "--process", str(words), "--pid-file", str(pid_file)]
                await self._run("exec", [*options, self._name], output, {0: nothing})
                return hold(int(pid_file.read_text()), self._reaper)
        finally:
            os.close(nothing)
            for file in (words, pid_file):
                file.unlink(missing_ok=True)

    def kill(self) -> None:
        """Kill all processes of the container's group."""
        kill_group(self.cgroup)

    async def clean_up(self) -> None:
        """Delete the container, its group and its bundle."""
        state = Path(CRUN_STATE, self._name)
        code = 0
        if state.exists():
            code = await self._reaper.run_child([*self._crun, "delete", "--force", self._name], {}, {})
        await clear_group(self.cgroup)
        if state.exists():
            raise UnavailableError(f"cannot delete container {self._name}: crun ended with {code}")
        if self._bundle.exists():
            for file in self._bundle.iterdir():
                file.unlink()
            self._bundle.rmdir()

    async def _run(self, verb: str, arguments: list[str], output: int, passed: Mapping[int, int] = NO_DESCRIPTORS) -> None:
        code = await self._reaper.run_child([*self._crun, verb, *arguments], {}, {1: output, 2: output, **passed})
        if code:
            raise UnavailableError(f"cannot {verb} the container: crun ended with {code}")

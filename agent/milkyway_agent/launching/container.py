"""Starting the services of layers as containers, through crun.

What a service gets is only what ``oci_config`` names: its stack as a read-only root, fresh namespaces, the
capabilities, the network and the data of its grants, a tmpfs for each writable path. ``crun create`` makes
all of it and stops before the program; its process, by then a child of ours, is held by a pidfd, and
``crun start`` lets it go on.

The program is PID 1 of its own pid namespace, so the kernel does not deliver signals for which it has no
handler. A program without a handler for its stop signal is killed after its stop timeout.
"""

import os
from collections.abc import Mapping
from functools import partial
from itertools import count
from pathlib import Path

import msgspec
import trio

from milkyway_agent.core.contexts import process_context
from milkyway_agent.launching.child import Child, hold, kill_and_reap, kill_child, kill_process_group, settled
from milkyway_agent.launching.control_groups import clear_group, kill_group
from milkyway_agent.launching.oci_config import Host, configuration, domain_of, group_of
from milkyway_agent.launching.run_to_end import collect
from milkyway_agent.launching.starter import FIRST_LISTENER, NONE, Abilities, TaskStarter
from milkyway_agent.runtime.reaper import Reaper
from milkyway_formats.deployment import Deployment
from milkyway_formats.errors import UnavailableError
from milkyway_formats.manifest import Manifest
from milkyway_formats.service import Service

CRUN = "/usr/bin/crun"
NO_DESCRIPTORS: Mapping[int, int] = {}
CRUN_STATE = "/run/milkyway/crun"
BUNDLES = "/run/milkyway/bundles"
CGROUPS = "/sys/fs/cgroup"


def _kill_with_group(child: Child) -> None:
    kill_child(child)
    kill_process_group(child.pid)


class ContainerStarter(TaskStarter):
    """Starts one service of a deployment through crun."""

    abilities = Abilities(listeners=True, execution=True, commands=True)  # PID 1 uses no network

    def __init__(
        self,
        service: Service,
        deployment: Deployment,
        manifest: Manifest,
        host: Host,
        reaper: Reaper,
        *,
        crun: str = CRUN,
        cgroups_root: str = CGROUPS,
    ) -> None:
        self.cgroup = cgroups_root + group_of(deployment, service)
        self._service = service
        self._deployment = deployment
        self._manifest = manifest
        self._host = host
        self._reaper = reaper
        self._name = f"{deployment.id}.v{deployment.generation}.{service.name}"
        self._bundle = Path(BUNDLES, self._name)
        self._crun = [crun, "--cgroup-manager=cgroupfs", "--root", CRUN_STATE]
        self._commands = count()
        self._context = process_context(domain_of(deployment, service)) if host.selinux else ""

    async def start(self, output: int, notify: str | None, listeners: Mapping[str, int] = NONE) -> Child:
        """Create the container, hold its first process, let it execute the program; return once it is in its domain."""
        config = configuration(
            self._service, self._deployment, self._manifest, self._host, notify=notify, listeners=tuple(listeners)
        )
        passed = dict(enumerate(listeners.values(), start=FIRST_LISTENER))
        if Path(CRUN_STATE, self._name).exists():  # left by a start that was cut off
            await self.clean_up()
        self._bundle.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._bundle / "config.json").write_bytes(msgspec.json.encode(config))
        pid_file = self._bundle / "pid"
        pid_file.unlink(missing_ok=True)
        with self._reaper.holding():
            options = ["--bundle", str(self._bundle), "--pid-file", str(pid_file), "--preserve-fds", str(len(passed))]
            await self._run("create", [*options, self._name], output, passed)
            child = hold(int(pid_file.read_text()), self._reaper)
        try:
            await self._run("start", [self._name], output)
        except BaseException:
            self.kill()
            os.close(child.pidfd)
            self._reaper.release(child.pid)  # from now on an orphan like any other
            raise
        return await settled(child, self._context, self._reaper)

    async def execute(self, command: list[str], seconds: float, environment: Mapping[str, str], output: int = -1) -> int | None:
        """Run *command* in the container; see ``Starter``."""
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
        """Run *command* as ``execute`` does. *unread*: the other end of *output*, if what it writes is discarded."""
        child = await self._begin(command, environment, output)
        in_time = False
        try:
            async with trio.open_nursery() as nursery:
                if unread >= 0:  # so that a full pipe does not block it
                    nursery.start_soon(collect, unread, bytearray(), 0)
                with trio.move_on_after(seconds):
                    await trio.lowlevel.wait_readable(child.pidfd)
                    in_time = True
                nursery.cancel_scope.cancel()
        finally:
            code = await kill_and_reap(child, partial(_kill_with_group, child), self._reaper)
        return code if in_time else None

    async def _begin(self, command: list[str], environment: Mapping[str, str], output: int) -> Child:
        """Have crun execute *command* like the service's own process, and hold it."""
        process = configuration(self._service, self._deployment, self._manifest, self._host)["process"]
        inside = {**environment, "MAINPID": "1"} if "MAINPID" in environment else environment
        process |= {"args": command, "env": process["env"] + [f"{name}={value}" for name, value in inside.items()]}
        number = next(self._commands)
        process_file, pid_file = self._bundle / f"command-{number}.json", self._bundle / f"command-{number}.pid"
        # Not /dev/null: crun gives all three descriptors to the service's user (fchown), and /dev/null is the machine's.
        nothing, silent = os.pipe2(os.O_CLOEXEC)
        os.close(silent)
        try:
            process_file.write_bytes(msgspec.json.encode(process))
            with self._reaper.holding():
                options = ["--detach", "--process", str(process_file), "--pid-file", str(pid_file)]
                await self._run("exec", [*options, self._name], output, {0: nothing})
                return hold(int(pid_file.read_text()), self._reaper)
        finally:
            os.close(nothing)
            for file in (process_file, pid_file):
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

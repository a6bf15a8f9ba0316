"""A server as the local API and the reports show it, put together whenever it is asked for."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Literal

from milkyway_agent.api.access import Local
from milkyway_agent.api.log_query import LogLine, LogQuery
from milkyway_agent.api.logs import open_log
from milkyway_agent.api.machine import VERSION, Applied
from milkyway_agent.api.service_verbs import ServiceVerbs
from milkyway_agent.api.usage import pss_bytes
from milkyway_agent.api.view import SupervisorView
from milkyway_agent.core import stack
from milkyway_agent.deployments.convergence import Convergence
from milkyway_agent.deployments.deployment_set import Progress
from milkyway_agent.pid1.program_table import GROUPS
from milkyway_agent.pid1.state import ServerState
from milkyway_agent.system import kernel, processes, selinux, verity
from milkyway_formats.errors import UnavailableError
from milkyway_formats.report import (
    DeploymentStatus,
    LayerStatus,
    ProcessStatus,
    RootStatus,
    ServiceStatus,
    Status,
    TrustStatus,
)

KERNEL_THREADS = 2  # kthreadd: itself and its children run no program


class LiveMachine(ServiceVerbs):
    """Implements ``api.machine.Machine`` over the state of a server. *reexecute*: has this program executed anew."""

    def __init__(self, state: ServerState, *, reexecute: Callable[[], Awaitable[None]]) -> None:
        self._state = state
        self._reexecute = reexecute
        view = SupervisorView(
            state.supervisor, state.log, version=VERSION, phases=lambda: state.boot.finished_ms, others=self._programs
        )
        super().__init__(state.supervisor, view)

    def snapshot(self) -> Status:
        """Return the status of this moment."""
        state = self._state
        line = state.command_line
        convergence = state.convergence
        uptime = kernel.boottime_ms()
        begun = convergence.begun if convergence else None
        configuration = begun.configuration if begun else None
        return Status(
            slot=None,
            root_hash=line.root_hash if line else "0" * 64,
            selinux=_selinux_mode(),
            development=bool(line and line.development),
            version=VERSION,
            boot_id=kernel.boot_id(),
            booted=int(time.time()) - uptime // 1000,
            uptime_ms=uptime,
            desired_version=convergence.desired.version if convergence and convergence.desired else 0,
            services=[service for service in state.services() if "/" not in service.name],
            deployments=self._deployments(convergence) if convergence else [],
            processes=process_statuses(),
            boot_failures=state.boot.failures(),
            boot_ms=dict(state.boot.finished_ms),
            refusals=list(convergence.refusals) if convergence else [],
            hostname=configuration.hostname if configuration else "",
            quarantined=begun.quarantined if begun else "",
            connected=convergence.connected if convergence and configuration and configuration.control_host else None,
        )

    async def status(self) -> Status:
        """Return the status of this moment."""
        return self.snapshot()

    async def trust(self) -> TrustStatus:
        """Return whose signatures the machine accepts."""
        convergence = self._state.convergence
        begun = convergence.begun if convergence else None
        if convergence is None or begun is None:
            raise UnavailableError("cannot show trust: the verifier has not begun", hint="see `mwctl status` for why")
        return TrustStatus(
            machine=begun.machine,
            fleet=begun.configuration.fleet if begun.configuration else None,
            desired_version=convergence.desired.version if convergence.desired else 0,
            quarantined=begun.quarantined,
            roots=begun.roots,
        )

    def local(self) -> Local:
        """Return the owner's policy on root at this machine; "read" while no owner is known."""
        begun = self._state.convergence.begun if self._state.convergence else None
        return owners_policy(begun.roots if begun else [])

    async def logs(self, query: LogQuery) -> AsyncGenerator[LogLine, None]:
        """Return the lines that *query* names."""
        return open_log(self._state.log, query, [service.name for service in self._state.services()])

    async def apply(self, envelope_fd: int, *, change: bool) -> Applied:
        """Have the verifier admit an envelope."""
        if self._state.convergence is None:
            raise UnavailableError("cannot apply: the verifier does not run", hint="see `mwctl status` for why")
        return await self._state.convergence.apply(envelope_fd, int(time.time()), change=change)

    async def reexec(self) -> None:
        """Have the agent execute its program anew; services go on."""
        await self._reexecute()

    async def reboot(self) -> None:
        """Begin a reboot."""
        self._state.end("reboot")

    async def poweroff(self) -> None:
        """Begin a power-off."""
        self._state.end("poweroff")

    def _programs(self) -> dict[str, str]:
        """Return the control groups of the agent's own programs."""
        return {program.name: f"{GROUPS}/{program.name}" for program in self._state.own_programs()}

    def _deployments(self, convergence: Convergence) -> list[DeploymentStatus]:
        services = {service.name: service for service in self._state.services()}
        return [_deployment(progress, services) for progress in convergence.progress.values()]


def owners_policy(roots: Sequence[RootStatus]) -> Local:
    """Return what the owner's root among *roots* lets root at the machine do; "read" if there is none."""
    return next((root.local for root in roots if root.side == "owner"), "read")


def _deployment(progress: Progress, services: dict[str, ServiceStatus]) -> DeploymentStatus:
    deployment = progress.deployment
    own = [service for name, service in services.items() if name.startswith(f"{deployment.name}/")]
    failed = [f"{service.name}: {service.reason}" for service in own if service.state == "failed"]
    layers = [
        LayerStatus(path=pin.path, version=pin.version, root_hash=pin.root_hash, verity_device=device.path)
        for pin in deployment.stack
        if (device := _verity_device(pin.sha256)) is not None
    ]
    return DeploymentStatus(
        id=deployment.id,
        name=deployment.name,
        generation=deployment.generation,
        state="failed" if failed and progress.state == "active" else progress.state,
        services=own,
        layers=layers,
        reason=progress.reason or "; ".join(failed),
    )


def _verity_device(sha256: str) -> verity.Device | None:
    try:
        return verity.status(stack.layer_device(sha256))
    except OSError:
        return None


def process_statuses() -> list[ProcessStatus]:
    """Return every process but the kernel's own threads, each with its context and memory."""
    found = []
    for process in processes.processes():
        if process.pid == KERNEL_THREADS or process.parent == KERNEL_THREADS or process.state == "Z":
            continue
        try:
            context = selinux.getcon(process.pid)
        except OSError:
            continue  # it ended while we read
        found.append(
            ProcessStatus(
                pid=process.pid, name=process.name, context=context, parent=process.parent, pss_bytes=pss_bytes(process.pid)
            )
        )
    return found


def _selinux_mode() -> Literal["enforcing", "permissive", "disabled"]:
    if not selinux.is_enabled():
        return "disabled"
    return "enforcing" if selinux.is_enforcing() else "permissive"

"""What the local API asks of a machine, answered by a supervisor that is none: ``api_types.Machine`` for ``--supervise``."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from milkyway_agent.api.logs import open_log
from milkyway_agent.api.machine import Applied, LogLine, LogQuery
from milkyway_agent.api.view import Observation
from milkyway_agent.pid1.agent_programs import pss_bytes
from milkyway_agent.pid1.machine_api import BY, VERSION
from milkyway_agent.system import kernel, selinux
from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.report import ProcessStatus, ServiceStatus, Status, TrustStatus

if TYPE_CHECKING:
    from milkyway_agent.standalone.supervision import Supervision

_NO_ROOT = "0" * 64


class SupervisedMachine:
    """Answers for one ``Supervision``."""

    def __init__(self, supervision: Supervision) -> None:
        self._supervision = supervision
        self._supervisor = supervision.supervisor
        self.view = Observation(supervision.supervisor, supervision.log, version=VERSION)

    async def status(self) -> Status:
        """Return the services and their supervisor; there is no root, no slot and no trust to speak of."""
        uptime = kernel.boottime_ms()
        own = ProcessStatus(pid=os.getpid(), name="milkyway-agent", context="", pss_bytes=pss_bytes(os.getpid()))
        return Status(
            slot=None,
            root_hash=_NO_ROOT,
            selinux="enforcing" if selinux.is_enabled() and selinux.is_enforcing() else "disabled",
            development=False,
            version=VERSION,
            boot_id=kernel.boot_id(),
            booted=int(time.time()) - uptime // 1000,
            uptime_ms=uptime,
            desired_version=0,
            services=self._supervisor.status(),
            processes=[own],
            hostname=os.uname().nodename,
        )

    async def trust(self) -> TrustStatus:
        """Say that there is none."""
        raise UnavailableError("cannot show trust: this supervisor runs what its directory says, and nobody signs that")

    async def logs(self, query: LogQuery) -> AsyncGenerator[LogLine, None]:
        """Return the lines that *query* names."""
        return open_log(self._supervision.log, query, self._supervisor.names())

    async def start(self, service: str) -> ServiceStatus:
        """Start a service."""
        self.view.check_name("start", service)
        await self._supervisor.start_and_wait(service, by=BY)
        return self._supervisor.status_of(service)

    async def stop(self, service: str) -> ServiceStatus:
        """Stop a service."""
        self.view.check_name("stop", service)
        await self._supervisor.stop(service, by=BY)
        return self._supervisor.status_of(service)

    async def restart(self, service: str) -> ServiceStatus:
        """Stop a service and start it again."""
        self.view.check_name("restart", service)
        await self._supervisor.restart_and_wait(service, by=BY)
        return self._supervisor.status_of(service)

    async def reload(self, service: str) -> ServiceStatus:
        """Have a service read its configuration again."""
        self.view.check_name("reload", service)
        await self._supervisor.reload(service)
        return self._supervisor.status_of(service)

    async def apply(self, envelope_fd: int, *, change: bool) -> Applied:  # noqa: ARG002 (the protocol's signature)
        """Refuse: there is nobody to sign for."""
        raise RefusedError("cannot apply: this supervisor runs what its directory says", hint="change it and send SIGHUP")

    async def reboot(self) -> None:
        """Refuse: the machine is not ours."""
        raise RefusedError("cannot reboot: this supervisor is not the machine's", hint="`mwctl poweroff` ends it")

    async def poweroff(self) -> None:
        """Begin the supervisor's end."""
        self._supervision.end()

    async def reexec(self) -> None:
        """Begin to become the newest version of the program, once it has answered that it can take over."""
        await self._supervision.reexecute()

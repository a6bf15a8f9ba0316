"""What the local API asks of a machine, answered for ``--supervise``: implements ``api.machine.Machine``."""

import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

from milkyway_agent.api.log_query import LogLine, LogQuery
from milkyway_agent.api.logs import open_log
from milkyway_agent.api.machine import VERSION, Applied
from milkyway_agent.api.service_verbs import ServiceVerbs
from milkyway_agent.api.usage import pss_bytes
from milkyway_agent.api.view import SupervisorView
from milkyway_agent.log.log import Log
from milkyway_agent.supervisor.supervisor import Supervisor
from milkyway_agent.system import kernel, selinux
from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.report import ProcessStatus, Status, TrustStatus

_NO_ROOT = "0" * 64


class SupervisedMachine(ServiceVerbs):
    """Answers for one supervisor. *end* begins its orderly end; *reexecute* has the newest version of the program take over."""

    def __init__(
        self, supervisor: Supervisor, log: Log, *, end: Callable[[], None], reexecute: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(supervisor, SupervisorView(supervisor, log, version=VERSION))
        self._log = log
        self._end = end
        self._reexecute = reexecute

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
        return open_log(self._log, query, self._supervisor.names())

    async def apply(self, envelope_fd: int, *, change: bool) -> Applied:  # noqa: ARG002 (the protocol's signature)
        """Refuse: there is nobody to sign for."""
        raise RefusedError("cannot apply: this supervisor runs what its directory says", hint="change it and send SIGHUP")

    async def reboot(self) -> None:
        """Refuse: the machine is not ours."""
        raise RefusedError("cannot reboot: this supervisor is not the machine's", hint="`mwctl poweroff` ends it")

    async def poweroff(self) -> None:
        """Begin the supervisor's end."""
        self._end()

    async def reexec(self) -> None:
        """Begin to become the newest version of the program, once it has answered that it can take over."""
        await self._reexecute()

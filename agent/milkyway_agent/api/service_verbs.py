"""The verbs of the local API that act on a service, for every machine that has a supervisor."""

from milkyway_agent.api.view import SupervisorView
from milkyway_agent.supervisor.supervisor import Supervisor
from milkyway_formats.report import ServiceStatus

BY = "mwctl"  # who asked for it, as `mwctl why` shows


class ServiceVerbs:
    """Start, stop, restart and reload, as ``api.machine.Machine`` has them. An unknown name is refused, with a hint."""

    def __init__(self, supervisor: Supervisor, view: SupervisorView) -> None:
        self.view = view
        self._supervisor = supervisor

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

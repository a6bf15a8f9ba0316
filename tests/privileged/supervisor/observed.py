"""A real supervisor behind the real local API, to test what that shows; the rest of the machine is fake."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from milkyway_agent.api.view import SupervisorView
from milkyway_formats.report import ServiceStatus
from tests.fakes.api import RunningApi, running_api
from tests.fakes.machine import FakeMachine
from tests.privileged.supervisor.supervised import Supervised, supervised


class ObservedMachine(FakeMachine):
    """The fake machine, with the view and the services of a real supervisor."""

    def __init__(self, harness: Supervised) -> None:
        super().__init__()
        self._harness = harness
        self._observation = SupervisorView(harness.supervisor, harness.log, version="0.1.0")

    @property
    def view(self) -> SupervisorView:  # type: ignore[override]  # the real view in place of the fake one
        return self._observation

    async def reload(self, service: str) -> ServiceStatus:
        self.view.check_name("reload", service)
        await self._harness.supervisor.reload(service)
        return self._harness.supervisor.status_of(service)


class Observed(NamedTuple):
    """A supervisor and the API that shows it."""

    harness: Supervised
    api: RunningApi


@asynccontextmanager
async def observed() -> AsyncIterator[Observed]:
    """Give a running supervisor with an API; afterwards nothing of either is left."""
    async with supervised() as harness, running_api(ObservedMachine(harness)) as api:
        yield Observed(harness, api)

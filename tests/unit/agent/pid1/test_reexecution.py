"""PID 1 hands on only what is at rest: its services and the deployments together."""

from types import SimpleNamespace
from typing import Any

import pytest

from milkyway_agent.api.draining import Drain
from milkyway_agent.pid1.reexecution import ServerReexecution
from milkyway_formats.errors import UnavailableError


class Convergence:
    """As ``convergence.Convergence`` in what a re-execution asks of it."""

    def __init__(self) -> None:
        self.at_rest = False
        self.waits = 0

    async def wait_at_rest(self) -> None:
        """Come to rest."""
        self.waits += 1
        self.at_rest = True


class Services:
    """As ``supervisor.Supervisor`` in that; *meanwhile* happens while its first service is waited for."""

    def __init__(self, meanwhile: Any) -> None:
        self._meanwhile = [meanwhile]

    async def wait_at_rest(self) -> None:
        """Come to rest."""
        if self._meanwhile:
            self._meanwhile.pop()()


def reexecution(convergence: Convergence | None, meanwhile: Any, **finished_ms: int) -> ServerReexecution:
    boot = SimpleNamespace(finished_ms=finished_ms)
    state: Any = SimpleNamespace(boot=boot, convergence=convergence, supervisor=Services(meanwhile))
    return ServerReexecution(state, Drain())


async def test_a_deployment_that_begins_anew_while_a_service_is_waited_for_is_waited_for_too() -> None:
    convergence = Convergence()

    def begin_anew() -> None:
        convergence.at_rest = False

    await reexecution(convergence, begin_anew, ready=1).wait_at_rest()
    assert (convergence.at_rest, convergence.waits) == (True, 2)


async def test_without_deployments_the_services_are_enough() -> None:
    await reexecution(None, lambda: None, ready=1).wait_at_rest()


async def test_nothing_is_handed_on_before_the_boot_is_over() -> None:
    with pytest.raises(UnavailableError, match="the boot is not over"):
        await reexecution(None, lambda: None).wait_at_rest()

"""The control server as a whole: both ports, one store, until it is told to stop."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import structlog
import trio

from milkyway_control.server.agent_endpoint import AgentEndpoint
from milkyway_control.server.http_service import HttpService, Limits
from milkyway_control.server.operator_api import OperatorApi
from milkyway_control.server.site import Site
from milkyway_control.server.wakeups import Wakeups
from milkyway_control.tls import server_context
from milkyway_formats.agent_protocol import POLL_HOLD_S
from milkyway_formats.errors import UnavailableError
from milkyway_formats.names import UnixSeconds

log = structlog.get_logger()

BACKLOG = 1024


class PortUnavailableError(UnavailableError):
    """The port can't be listened at, for example because another program does."""


@dataclass(frozen=True)
class Ports:
    """Where the server listens; 0 lets the kernel choose."""

    address: str = "0.0.0.0"
    agents: int = 0
    operators: int = 0


@dataclass(frozen=True)
class Conduct:
    """Times and limits that only tests change."""

    hold_s: float = POLL_HOLD_S
    agent_limits: Limits = field(default_factory=Limits)
    operator_limits: Limits = field(default_factory=partial(Limits, connections=256, anonymous=0))


def unix_now() -> UnixSeconds:
    """Return the time now; the clock in production."""
    return int(time.time())


async def serve(
    site: Site,
    ports: Ports,
    *,
    clock: Callable[[], UnixSeconds] = unix_now,
    conduct: Conduct | None = None,
    task_status: trio.TaskStatus[Ports] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve *site* until cancelled. Once both ports accept connections, ``task_status`` gets their numbers."""
    conduct = conduct or Conduct()
    store, blobs, wakeups = site.store(), site.blobs(), Wakeups()
    try:
        await trio.to_thread.run_sync(store.check)
        await trio.to_thread.run_sync(blobs.prepare)
        fleet = site.settings.fleet
        agents = AgentEndpoint(store, blobs, wakeups, fleet=fleet, clock=clock, hold_s=conduct.hold_s)
        operators = OperatorApi(store, blobs, wakeups, fleet=fleet, authority=site.machines.read(), clock=clock)
        agent_tls = server_context(site.machines.server, site.machines.ca, clients_required=False)
        operator_tls = server_context(site.operators.server, site.operators.ca, clients_required=True)
        async with trio.open_nursery() as nursery:
            agent_port = await nursery.start(
                _listen, ports.address, ports.agents, HttpService(agents.handle, agent_tls, conduct.agent_limits).serve
            )
            operator_port = await nursery.start(
                _listen,
                ports.address,
                ports.operators,
                HttpService(operators.handle, operator_tls, conduct.operator_limits).serve,
            )
            bound = Ports(ports.address, agent_port, operator_port)
            log.info("control_server_started", fleet=fleet, agent_port=bound.agents, operator_port=bound.operators)
            task_status.started(bound)
    finally:
        store.close()


async def _listen(
    address: str, port: int, handler: Callable[[trio.SocketStream], Awaitable[object]], *, task_status: trio.TaskStatus[int]
) -> None:
    try:
        listeners = await trio.open_tcp_listeners(port, host=address, backlog=BACKLOG)
    except OSError as error:
        raise PortUnavailableError(f"cannot listen on {address}:{port}: {error.strerror}") from error
    bound: int = listeners[0].socket.getsockname()[1]
    task_status.started(bound)
    await trio.serve_listeners(handler, listeners)

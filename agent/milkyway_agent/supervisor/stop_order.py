"""Stopping many services in order. Each waits only for those that come after it: one that hangs delays only what it needs."""

from collections.abc import Awaitable, Callable, Mapping

from milkyway_agent.core.service_state import Event
from milkyway_agent.supervisor.engine import Engine
from milkyway_agent.supervisor.service_record import ServiceRecord


async def end_in_order(
    engine: Engine,
    change: Callable[[], Awaitable[None]],
    ours: Mapping[str, ServiceRecord],
    event: Event,
    is_over: Callable[[ServiceRecord], bool],
) -> None:
    """Let *event* happen to each of *ours*, once *is_over* holds for all that come after it; return when it holds for all.

    A service that is removed meanwhile counts as over. Other services are not touched, but those before and after them
    keep their order. *change* returns when something has happened to any service. Cancel it to stop waiting.
    """
    going: list[str] = []
    order = engine.graph.stopping()
    while order.is_active():
        begun = order.get_ready()
        for name in begun:
            if name in ours:
                engine.post(ours[name], event)
        going += begun
        over = {
            name for name in going if name not in ours or is_over(ours[name]) or engine.services.get(name) is not ours[name]
        }
        if over:
            order.done(*over)
            going = [name for name in going if name not in over]
        else:
            await change()

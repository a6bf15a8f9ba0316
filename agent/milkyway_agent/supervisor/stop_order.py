"""Stopping many services in order: nobody waits but for those that started after it, so a deaf one delays its own alone."""

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
    """Have *event* happen to each of *ours*, by name, once all that come after it are as *is_over* says; return when all are.

    One that is removed meanwhile is over too. Others than *ours* are not touched, but what comes before and after them
    keeps its order. *change* returns when something has happened to some service. Cancel it to stop waiting.
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

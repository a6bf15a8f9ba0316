"""Stopping many services in order: nobody waits but for those that started after it, so a deaf one delays its own alone."""

from collections.abc import Callable, Mapping

from milkyway_agent.core.service_state import Event
from milkyway_agent.supervisor.engine import Lives
from milkyway_agent.supervisor.service_record import Attended


async def end_in_order(lives: Lives, ours: Mapping[str, Attended], event: Event, is_over: Callable[[Attended], bool]) -> None:
    """Have *event* happen to each of *ours*, by name, once all that come after it are as *is_over* says; return when all are.

    One that is removed meanwhile is over too. Others than *ours* are not touched, but what comes before and after them
    keeps its order. Cancel it to stop waiting.
    """
    going: list[str] = []
    order = lives.graph.stopping()
    while order.is_active():
        begun = order.get_ready()
        for name in begun:
            if name in ours:
                lives.post(ours[name], event)
        going += begun
        over = {name for name in going if name not in ours or is_over(ours[name]) or lives.services.get(name) is not ours[name]}
        if over:
            order.done(*over)
            going = [name for name in going if name not in over]
        else:
            await lives.change()

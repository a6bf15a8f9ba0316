"""What an end that nobody asked for is judged to be, from what was known of the service; ``core.restart`` decides."""

from milkyway_agent.core import restart
from milkyway_agent.core.service_state import Event, Row
from milkyway_agent.supervisor.service_record import Attended


def judge_end(one: Attended, code: int | None, now_ms: int, chance: float) -> Event:
    """Return the event that is the end of *one* with *code* (None: it could not be started), and note why.

    *chance*: from 0 up to 1, for the delay's jitter. The delay is in ``one.delay_ms``.
    """
    service = one.definition.service
    # What is being stopped because it was late, unhealthy or hung has failed, however it ends; a oneshot is done.
    judged = None if one.row is Row.FALTERING and service.type != "oneshot" else code
    verdict = restart.judge(service, judged, one.starts, now_ms, chance, restart.is_triggered(service))
    one.starts, one.delay_ms = verdict.starts, verdict.delay_ms
    if verdict.event is Event.RETRIED:
        one.restarts += 1
    if one.row is Row.FALTERING or code is None:
        detail = verdict.reason.partition("; ")[2]
        one.reason = f"{one.reason}; {detail}" if detail else one.reason
    else:
        one.reason = "" if verdict.event in (Event.COMPLETED, Event.REARMED) and code == 0 else verdict.reason
    return verdict.event

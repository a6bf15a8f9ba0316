"""The state that a program hands over is read by earlier programs, too: the names in it never change."""

from milkyway_agent.core.service_state import Event
from milkyway_agent.supervisor.snapshot import CAUSES, ROWS

CAUSES_OF_FORMAT_1 = {
    *("wanted", "unwanted", "restart asked", "reload asked", "permitted", "arm", "skipped", "triggered", "held", "dissolved"),
    *("backoff over", "ready", "late", "unhealthy", "hung", "overdue", "ended", "completed", "retried", "finished", "rested"),
    *("gave up", "broken"),
}
ROWS_OF_FORMAT_1 = {
    *("idle", "waiting", "armed", "starting", "started", "completed", "stopping", "restarting", "faltering", "failed"),
}


def test_causes_and_rows_are_kept_by_the_names_that_format_1_has_for_them() -> None:
    assert set(CAUSES) == CAUSES_OF_FORMAT_1
    assert set(ROWS) == ROWS_OF_FORMAT_1
    assert set(CAUSES.values()) == set(Event) - {Event.ARM_FAILED}, "which format 1 does not have"

"""Ten thousand random kills of a hundred services, with fifty re-executions of the supervisor in between."""

import random

from tests.privileged.faults.kill_storm import check, standing, storm, storm_struck
from tests.soak.report import Report

KILLS, RE_EXECUTIONS = 10_000, 50
PART = 1_000


def test_ten_thousand_kills_and_fifty_re_executions_leave_everything_as_it_was() -> None:
    report = Report("kill-storm")
    grown = []
    while report.counts["kills"] < KILLS:
        chance = random.Random(report.seed + report.counts["kills"])
        with storm_struck() as supervisor:
            before = standing(supervisor)
            re_executions = RE_EXECUTIONS * PART // KILLS
            storm(supervisor, PART, re_executions, chance)
            after = standing(supervisor)
            check(before, after, supervisor)
            assert supervisor.stop() == 0
        grown.append(after.pss_bytes / before.pss_bytes)
        report.add(kills=PART, re_executions=re_executions)
    report.finish(services=100, memory_growth_at_most=round(max(grown, default=1.0), 3))

"""When a machine reports, by a clock that jumps."""

import trio
import trio.testing

from milkyway_agent.deployments.reports import REPORT_SECONDS, Reports
from milkyway_agent.ipc.messages import Acted, SendReport
from milkyway_agent.log.log import Log
from tests.fakes.machine import STATUS
from tests.fakes.verifier_answers import FakeVerifier

NOW = 1_700_000_000


class Place:
    """Reports to a verifier; a task sends them."""

    def __init__(self) -> None:
        self.verifier = FakeVerifier()
        self.log = Log(lambda: 0)
        self.reports = Reports(self.verifier, lambda: STATUS, lambda: NOW, self.log.note)

    async def run(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.reports.run()

    def sent(self) -> list[SendReport]:
        return [message for message in self.verifier.told if isinstance(message, SendReport)]


async def test_without_a_change_there_is_a_report_every_few_minutes(autojump_clock: trio.testing.MockClock) -> None:
    place = Place()
    await place.run(3.5 * REPORT_SECONDS)
    assert place.sent() == [SendReport(now=NOW, status=STATUS)] * 3


async def test_what_happens_together_is_reported_together(autojump_clock: trio.testing.MockClock) -> None:
    place = Place()
    place.reports.make_due()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.run, 60.0)
        for _ in range(5):
            await trio.sleep(0.1)
            place.reports.make_due()
    assert len(place.sent()) == 1


async def test_the_outcome_of_an_order_is_told_at_once_and_a_report_follows(autojump_clock: trio.testing.MockClock) -> None:
    place = Place()
    await place.reports.tell_acted("id", "failed", "no such service")
    assert place.verifier.told == [Acted(id="id", outcome="failed", detail="no such service")]
    await place.run(60.0)
    assert len(place.sent()) == 1


async def test_a_report_that_cannot_be_sent_is_noted_and_does_not_spin(autojump_clock: trio.testing.MockClock) -> None:
    place = Place()
    place.verifier.gone = True
    await place.reports.tell_acted("id", "done", "")
    await place.run(REPORT_SECONDS)
    assert place.log.ring.events() == ["act_not_told", "report_not_sent"]
    place.verifier.gone = False
    await place.run(REPORT_SECONDS + 10)
    assert len(place.sent()) == 1

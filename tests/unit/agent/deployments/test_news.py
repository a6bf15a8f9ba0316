"""News of the verifier: orders are handed on, the rest is kept for the status."""

from collections import deque

from milkyway_agent.deployments.news import NewsReader
from milkyway_agent.deployments.verifier_link import News
from milkyway_agent.ipc.messages import Begun, CommandAdmitted, DesiredAdmitted, LinkState, RefusalNoted
from milkyway_agent.log.log import Log
from milkyway_formats.command import Reboot
from milkyway_formats.desired import Desired

BEGUN = Begun(request=1, machine="c" * 64)
COMMAND = CommandAdmitted(request=0, id="c1", signers=["alice"], action=Reboot())
DESIRED = DesiredAdmitted(
    request=0,
    desired=Desired(format="milkyway.desired/1", fleet="f", machine="c" * 64, version=1, issued=0, not_before=0, expires=1),
    id="d1",
)


class Site:
    """A reader and what it called."""

    def __init__(self) -> None:
        self.called: list[object] = []
        self.refusals: deque[str] = deque(maxlen=3)
        self.log = Log(lambda: 0)
        self.reader = NewsReader(
            self.refusals,
            self.log.note,
            on_begun=lambda: self.called.append("begun"),
            on_desired=self.called.append,
            on_command=self._command,
            on_refusal=lambda: self.called.append("refusal"),
        )

    async def _command(self, command: CommandAdmitted) -> None:
        self.called.append(command)

    async def take(self, *news: News) -> None:
        for message in news:
            await self.reader.take(message)


async def test_orders_are_handed_on_in_their_order() -> None:
    site = Site()
    assert site.reader.begun is None
    await site.take(BEGUN, DESIRED, COMMAND)
    assert site.called == ["begun", DESIRED, COMMAND]
    assert site.reader.begun == BEGUN


async def test_the_link_is_unknown_until_the_uplink_says() -> None:
    site = Site()
    assert site.reader.connected is None
    for connected in (True, False):
        await site.take(LinkState(connected=connected, detail="why"))
        assert site.reader.connected is connected
    assert site.log.ring.events() == ["link_changed", "link_changed"]


async def test_a_refusal_is_kept_and_reported_unless_it_is_the_last_one_again() -> None:
    """A report that can't be sent is refused itself: if that were reported there would be no end to it."""
    site = Site()
    await site.take(*[RefusalNoted(check="uplink", message="cannot send report: too long")] * 4)
    assert (site.called, list(site.refusals)) == (["refusal"], ["cannot send report: too long"])
    assert site.log.ring.events() == ["refused"] * 4
    await site.take(RefusalNoted(check="threshold", message="cannot accept"))
    assert site.called == ["refusal"] * 2


async def test_only_the_newest_refusals_are_kept() -> None:
    site = Site()
    await site.take(*[RefusalNoted(check="form", message=str(number)) for number in range(5)])
    assert list(site.refusals) == ["2", "3", "4"]

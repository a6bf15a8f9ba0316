"""Reports for the owner: the machine's status, at intervals and soon after a change, and the outcome of each order.

Both go to the verifier, which signs a report and hands it to the uplink. A report that can't be sent is not kept: the
next contains all of it.
"""

from collections.abc import Awaitable, Callable
from typing import Literal

import trio

from milkyway_agent.deployments.verifier_link import Note, Verifier
from milkyway_agent.ipc.messages import Acted, SendReport
from milkyway_formats.errors import UnavailableError
from milkyway_formats.names import UnixSeconds
from milkyway_formats.report import Status

REPORT_SECONDS = 300.0
DONE_SECONDS = 1.0

Outcome = Literal["done", "failed"]
# Tells the outcome of the order with this id, and the reasons if it failed.
TellActed = Callable[[str, Outcome, str], Awaitable[None]]


class Reports:
    """Sends reports. *status* returns what there is to say, *now* the time as this machine estimates it."""

    def __init__(self, verifier: Verifier, status: Callable[[], Status], now: Callable[[], UnixSeconds], note: Note) -> None:
        self._verifier = verifier
        self._status = status
        self._now = now
        self._note = note
        self._due = trio.Event()

    def make_due(self) -> None:
        """Have a report sent soon."""
        self._due.set()

    async def tell_acted(self, identifier: str, outcome: Outcome, detail: str) -> None:
        """Tell the verifier the outcome of the order *identifier*, and have a report sent soon."""
        self.make_due()
        try:
            await self._verifier.tell(Acted(id=identifier, outcome=outcome, detail=detail))
        except UnavailableError as error:
            self._note("act_not_told", id=identifier, why=str(error))

    async def run(self) -> None:
        """Send a report when one is due, and every REPORT_SECONDS, until cancelled."""
        while True:
            with trio.move_on_after(REPORT_SECONDS):
                await self._due.wait()
            await trio.sleep(DONE_SECONDS)  # what happens together is reported together
            self._due = trio.Event()
            try:
                await self._verifier.tell(SendReport(now=self._now(), status=self._status()))
            except UnavailableError as error:
                self._note("report_not_sent", why=str(error))

"""The rollout of the newest desired state: carried out until it holds.

What is unavailable now is tried again after growing delays; what was refused waits for another document.
A newer document is taken up when the round that is under way has ended.
"""

from collections.abc import Callable

import trio

from milkyway_agent.core.polling import Patience, delay_ms
from milkyway_agent.deployments.deployment_set import DeploymentSet
from milkyway_agent.deployments.reports import Outcome, TellActed
from milkyway_agent.deployments.verifier_link import Note
from milkyway_agent.ipc.messages import DesiredAdmitted

RETRY = Patience(first_ms=1_000, limit_ms=60_000)
DETAIL_LENGTH = 4000  # a message's Text has at most 4096 characters


class Rollout:
    """Brings *deployments* to the newest desired state. *chance* returns numbers in [0, 1) for the jitter of the delays."""

    def __init__(self, deployments: DeploymentSet, tell_acted: TellActed, chance: Callable[[], float], note: Note) -> None:
        self.closed = False
        self._deployments = deployments
        self._tell_acted = tell_acted
        self._chance = chance
        self._note = note
        self._newest: DesiredAdmitted | None = None
        self._changed = trio.Event()
        self._converging = trio.Lock()

    @property
    def at_rest(self) -> bool:
        """Whether no deployment is being fetched, brought up or taken down."""
        return not self._converging.locked()

    async def wait_at_rest(self) -> None:
        """Return when no round is under way."""
        while not self.at_rest:
            async with self._converging:
                pass

    def want(self, admitted: DesiredAdmitted) -> None:
        """Have ``run`` carry out *admitted*, in place of any before it."""
        self._note("desired_admitted", version=admitted.desired.version, deployments=len(admitted.desired.deployments))
        self._newest = admitted
        self._changed.set()

    def close(self) -> None:
        """Begin no more rounds: the machine goes down."""
        self.closed = True

    async def take_down(self) -> None:
        """Stop and unmount all deployments, once the round that is under way has ended."""
        async with self._converging:
            await self._deployments.take_down()

    async def run(self) -> None:
        """Carry out what is wanted, until cancelled.

        The outcome is told after a document's first round, and again when later rounds have made it hold at last.
        """
        failures = 0
        while True:
            wait = delay_ms(RETRY, failures, self._chance()) / 1000 if failures else float("inf")
            with trio.move_on_after(wait):
                await self._changed.wait()
            if self._changed.is_set():
                failures = 0
            self._changed = trio.Event()
            if self._newest is None or self.closed:
                continue
            admitted = self._newest
            async with self._converging:
                complete = await self._deployments.converge(admitted.desired)
            failures = 0 if complete else failures + 1
            if failures <= 1:
                reasons = self._deployments.reasons()
                outcome: Outcome = "failed" if reasons else "done"
                await self._tell_acted(admitted.id, outcome, "; ".join(reasons)[:DETAIL_LENGTH])

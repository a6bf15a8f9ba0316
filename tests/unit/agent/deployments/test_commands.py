"""What signed commands do to services that remember, and what is told of it."""

import pytest

from milkyway_agent.deployments.commands import Commands
from milkyway_agent.ipc.messages import CommandAdmitted
from milkyway_agent.log.log import Log
from milkyway_formats.command import Action, PowerOff, Reboot, RestartService, StartService, StopService
from milkyway_formats.errors import RefusedError


class Site:
    """Implements ``commands.Services`` for one service, and everything else that commands reach."""

    def __init__(self) -> None:
        self.log = Log(lambda: 0)
        self.done: list[str] = []
        self.told: list[tuple[str, str, str]] = []
        self.commands = Commands(self, self._order_end, self._tell_acted, self.log.note)

    async def carry_out(self, action: Action) -> None:
        await self.commands.carry_out(CommandAdmitted(request=0, id="c1", signers=["alice", "bob"], action=action))

    def start(self, *names: str, by: str = "") -> None:
        for name in names:
            self._record("start", name, by)

    def restart(self, name: str, by: str = "") -> None:
        self._record("restart", name, by)

    async def stop(self, name: str) -> None:
        self._record("stop", name, "")

    def _record(self, verb: str, name: str, by: str) -> None:
        if name != "web/nginx":
            raise RefusedError(f"cannot {verb} {name}: there is no such service")
        self.done.append(f"{verb} {name} {by}".rstrip())

    def _order_end(self, end: str) -> None:
        self.done.append(end)

    async def _tell_acted(self, identifier: str, outcome: str, detail: str) -> None:
        self.told.append((identifier, outcome, detail))


@pytest.mark.parametrize(
    ("action", "done"),
    [
        (RestartService(service="web/nginx"), "restart web/nginx a signed command"),
        (StartService(service="web/nginx"), "start web/nginx a signed command"),
        (StopService(service="web/nginx"), "stop web/nginx"),
        (Reboot(), "reboot"),
        (PowerOff(), "poweroff"),
    ],
)
async def test_a_command_is_carried_out_and_its_outcome_told(action: Action, done: str) -> None:
    site = Site()
    await site.carry_out(action)
    assert site.done == [done]
    assert site.told == [("c1", "done", "")]
    admitted, carried_out = site.log.ring.records
    assert admitted.facts == {"id": "c1", "signers": "alice, bob", "action": type(action).__name__}
    assert (carried_out.event, carried_out.facts["outcome"]) == ("command_carried_out", "done")


@pytest.mark.parametrize("kind", [RestartService, StartService, StopService])
async def test_a_command_for_a_service_that_is_not_there_fails_and_says_why(
    kind: type[RestartService | StartService | StopService],
) -> None:
    site = Site()
    await site.carry_out(kind(service="web/other"))
    ((_, outcome, detail),) = site.told
    assert outcome == "failed"
    assert detail.endswith("web/other: there is no such service")
    assert site.log.ring.records[-1].facts["detail"] == detail

"""What a signed command does. The verifier has admitted it and persisted its sequence: it is carried out at most once."""

from collections.abc import Callable
from typing import Literal, Protocol

from milkyway_agent.deployments.reports import Outcome, TellActed
from milkyway_agent.deployments.verifier_link import Note
from milkyway_agent.ipc.messages import CommandAdmitted
from milkyway_formats.command import Action, PowerOff, Reboot, RestartService, StartService, StopService
from milkyway_formats.errors import MilkyWayError

BY = "a signed command"  # who asks, as `mwctl why` shows it

OrderEnd = Callable[[Literal["reboot", "poweroff"]], None]


class Services(Protocol):
    """The services that a command can name, by their full names. Each verb raises RefusedError for a name that is not there."""

    def start(self, *names: str, by: str = "") -> None:
        """Start services; *by*: who asks."""

    def restart(self, name: str, by: str = "") -> None:
        """Stop and start a service; *by*: who asks."""

    async def stop(self, name: str) -> None:
        """Stop a service; return when it is stopped."""


class Commands:
    """Carries out commands and tells their outcome. *order_end* begins a reboot or a power-off."""

    def __init__(self, services: Services, order_end: OrderEnd, tell_acted: TellActed, note: Note) -> None:
        self._services = services
        self._order_end = order_end
        self._tell_acted = tell_acted
        self._note = note

    async def carry_out(self, command: CommandAdmitted) -> None:
        """Carry out *command*. Where it fails that is noted and told, not raised."""
        self._note("command_admitted", id=command.id, signers=", ".join(command.signers), action=type(command.action).__name__)
        outcome: Outcome = "done"
        detail = ""
        try:
            await self._act(command.action)
        except MilkyWayError as error:
            outcome, detail = "failed", str(error)
        self._note("command_carried_out", id=command.id, outcome=outcome, detail=detail)
        await self._tell_acted(command.id, outcome, detail)

    async def _act(self, action: Action) -> None:
        match action:
            case RestartService():
                self._services.restart(action.service, by=BY)
            case StartService():
                self._services.start(action.service, by=BY)
            case StopService():
                await self._services.stop(action.service)
            case Reboot():
                self._order_end("reboot")
            case PowerOff():
                self._order_end("poweroff")

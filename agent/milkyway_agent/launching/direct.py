"""Starting services through the launcher that waits for requests: one message for each start, without a task.

For services that are not containers: those of ``--supervise``. What ``milkyway_formats.execution`` asks for
becomes arguments of the launcher here; secrets and dynamic users are made before a start and removed after it.
"""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import trio

from milkyway_agent.early.launcher import encoded
from milkyway_agent.launching import credentials
from milkyway_agent.launching.accounts import Account, busy_users, resolve
from milkyway_agent.launching.child import Child, StartCallback, kill_and_reap, kill_process_group
from milkyway_agent.launching.control_groups import clear_group, kill_group
from milkyway_agent.launching.credentials import Secret
from milkyway_agent.launching.launcher_link import LauncherLink
from milkyway_agent.launching.places import Places
from milkyway_agent.launching.service_arguments import arguments_for
from milkyway_agent.launching.starter import Abilities, Spawn, Start
from milkyway_agent.system import cgroups
from milkyway_formats.service import Service

NO_COMMANDS: dict[trio.Event, int] = {}  # shared by all that run none; never changed, only replaced


class DirectStarter:
    """Starts one service through the launcher."""

    abilities = Abilities(listeners=True, execution=True, descriptors=True, commands=True, network=True)
    __slots__ = ("_commands", "_link", "_name", "_places", "_same", "_secrets", "_service", "_session", "cgroup")

    def __init__(self, name: str, service: Service, link: LauncherLink, places: Places) -> None:
        self.cgroup = f"{places.groups}/{name}" if places.groups else ""
        self._name = name
        self._service = service
        self._link = link
        self._places = places
        self._session = 0  # the main process's pid until it is reaped: without a control group, what can be killed
        self._commands = NO_COMMANDS  # the pid of what ``execute`` runs (0: not known yet), by the event that it is reaped
        self._secrets = ""  # their directory, while they exist
        self._same = b""  # the encoded arguments, once known, if they are the same for every start

    def submit(self, start: Start, done: StartCallback, spawn: Spawn) -> None:  # noqa: ARG002 (it needs no task)
        """Start the service; see ``Starter``."""
        self._submit(start, partial(self._started, done))

    def serve(self, start: Start, done: StartCallback) -> None:
        """Start a process for one connection; see ``Starter``."""
        self._submit(start, done)

    def _submit(self, start: Start, done: StartCallback) -> None:
        arguments = self._same if self._same and not start.environment else self._arguments(start)
        self._link.submit(arguments, {1: start.output, 2: start.output, **start.descriptors}, done)

    def _arguments(self, start: Start) -> list[str] | bytes:
        account = self._account()
        environment = {**self._service.environment, **start.environment}
        if self._service.execution.credentials:
            self._place_secrets(account)
            environment[credentials.ENVIRONMENT] = self._secrets
        arguments = arguments_for(self._service, self._places, self.cgroup, account, environment, self._service.command)
        execution = self._service.execution
        if start.environment or account or execution.credentials or execution.seccomp == "default":
            return arguments  # they differ between starts, or name files that must be made anew if they are gone
        self._same = encoded(arguments)
        return self._same

    def _started(self, done: StartCallback, outcome: Child | Exception) -> None:
        if isinstance(outcome, Child):
            self._session = outcome.pid
        done(outcome)

    async def execute(self, command: list[str], seconds: float, environment: Mapping[str, str], output: int = -1) -> int | None:
        """Run *command* beside the service; see ``Starter``."""
        told = trio.Event()
        answers: list[Child | Exception] = []

        def answered(outcome: Child | Exception) -> None:
            answers.append(outcome)
            told.set()

        variables = {**self._service.environment, **environment}
        if self._secrets:
            variables[credentials.ENVIRONMENT] = self._secrets
        # It does not make the group: if that was removed meanwhile, the command must not be started.
        arguments = arguments_for(self._service, self._places, self.cgroup, self._account(), variables, command, beside=True)
        self._link.submit(arguments, {1: output, 2: output} if output >= 0 else {}, answered)
        gone = trio.Event()
        # From now on ``clean_up`` waits for it: it may run already.
        self._commands = {**self._commands, gone: 0}
        try:
            with trio.CancelScope(shield=True):
                await told.wait()
            (outcome,) = answers
            if isinstance(outcome, Exception):
                raise outcome
            self._commands[gone] = outcome.pid
            in_time = False
            if not self.cgroup and not self._session:
                seconds = 0  # the service has ended meanwhile: nothing else would end this command
            try:
                with trio.move_on_after(seconds):
                    await trio.lowlevel.wait_readable(outcome.pidfd)
                    in_time = True
            finally:
                ended = await kill_and_reap(outcome, partial(kill_process_group, outcome.pid), self._link.reaper)
        finally:
            gone.set()
            self._commands = {event: pid for event, pid in self._commands.items() if event is not gone}
        return ended if in_time else None

    def repeat(self, arguments: bytes) -> None:
        """Use *arguments*, with which it was started early, from now on: its arguments are the same for every start."""
        self._same = arguments

    def adopt(self, child: Child) -> None:
        """Take over the main process; see ``Starter``."""
        self._session = child.pid
        if self._service.execution.credentials:
            self._secrets = self._place()

    def kill(self) -> None:
        """Kill all processes of the service: those in its control group, or without one those in its main process's group."""
        if self.cgroup:
            kill_group(self.cgroup)
            return
        for leader in (self._session, *self._commands.values()):
            if leader:
                kill_process_group(leader)

    def ended(self) -> None:
        """Without a control group, kill what the main process leaves behind: its number may be reused once it is reaped."""
        if not self.cgroup:
            self.kill()
        self._session = 0

    def clear(self) -> bool:
        """Remove the control group if nothing is left in it; tell whether nothing is left of the service."""
        if self._commands:
            return False
        if not self.cgroup:
            self.kill()
            self._forget()
            return True
        try:
            cgroups.remove(self.cgroup)
        except FileNotFoundError:
            pass
        except OSError:  # EBUSY: something is left in it, or below it
            return False
        self._forget()
        return True

    async def clean_up(self) -> None:
        """Kill what is left, wait for it, and remove control group, secrets and user."""
        if self.cgroup:
            await clear_group(self.cgroup)
        else:
            self.kill()
        for gone in list(self._commands):
            await gone.wait()
        self._forget()

    def _forget(self) -> None:
        self._session = 0
        if self._service.execution.dynamic_user:
            self._places.users.release(self._name)
        if self._service.execution.credentials:
            credentials.remove(self._place())  # even those that a program before this one placed
            self._secrets = ""

    def _account(self) -> Account | None:
        execution = self._service.execution
        if execution.dynamic_user:
            users = self._places.users
            return users.hold(self._name, () if self._name in users.held else busy_users())
        return resolve(execution.account) if execution.account else None

    def _place_secrets(self, account: Account | None) -> None:
        if self._secrets:
            return  # the process of another connection uses them, or the last start failed half-way: they are the same
        user, group = (account.user, account.groups[0]) if account else (os.geteuid(), os.getegid())
        place = self._place()
        Path(place).parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        wanted = [Secret(secret.name, secret.source) for secret in self._service.execution.credentials]
        credentials.place(place, wanted, user, group)
        self._secrets = place

    def _place(self) -> str:
        return f"{self._places.runtime}/credentials/{self._name}"

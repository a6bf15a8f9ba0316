"""Starting services through the waiting launcher: no task, no process between, one message for each start.

For services that are not containers: those of ``--supervise``. What ``milkyway_formats.execution`` asks for
becomes the launcher's words here; secrets and dynamic users are made before and taken back after.
"""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import trio

from milkyway_agent.early.launcher import encoded
from milkyway_agent.launching import credentials
from milkyway_agent.launching.accounts import Account, busy_users, resolve
from milkyway_agent.launching.child import Child, StartCallback, bury, kill_process_group
from milkyway_agent.launching.control_groups import clear_group, kill_group
from milkyway_agent.launching.credentials import Secret
from milkyway_agent.launching.launcher_link import LauncherLink
from milkyway_agent.launching.places import Places
from milkyway_agent.launching.service_arguments import arguments_for
from milkyway_agent.launching.starter import Abilities, Spawn, Start
from milkyway_agent.system import cgroups
from milkyway_formats.service import Service

NO_COMMANDS: dict[trio.Event, int] = {}  # one for all at rest; never changed, only replaced


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
        self._session = 0  # the leader's pid, for as long as it is not reaped: without a group, what can be killed
        self._commands = NO_COMMANDS  # what ``execute`` runs: set once it is reaped, to its pid (0: not known yet)
        self._secrets = ""  # where they are, while they are
        self._same = b""  # the words of each start, once known, where no start differs from another

    def submit(self, start: Start, done: StartCallback, spawn: Spawn) -> None:  # noqa: ARG002 (it needs no task)
        """Start the service; see ``Starter``."""
        self._submit(start, partial(self._started, done))

    def serve(self, start: Start, done: StartCallback) -> None:
        """Start a process for one connection; see ``Starter``."""
        self._submit(start, done)

    def _submit(self, start: Start, done: StartCallback) -> None:
        words = self._same if self._same and not start.environment else self._words(start)
        self._link.submit(words, {1: start.output, 2: start.output, **start.descriptors}, done)

    def _words(self, start: Start) -> list[str] | bytes:
        account = self._account()
        environment = {**self._service.environment, **start.environment}
        if self._service.execution.credentials:
            self._place_secrets(account)
            environment[credentials.ENVIRONMENT] = self._secrets
        words = arguments_for(self._service, self._places, self.cgroup, account, environment, self._service.command)
        execution = self._service.execution
        if start.environment or account or execution.credentials or execution.seccomp == "default":
            return words  # they depend on the moment, or on what must be made anew if it is gone
        self._same = encoded(words)
        return self._same

    def _started(self, done: StartCallback, outcome: Child | Exception) -> None:
        if isinstance(outcome, Child):
            self._session = outcome.pid
        done(outcome)

    async def execute(self, command: list[str], seconds: float, environment: Mapping[str, str], output: int = -1) -> int | None:
        """Run *command* as the service is; see ``Starter``."""
        told = trio.Event()
        answers: list[Child | Exception] = []

        def answered(outcome: Child | Exception) -> None:
            answers.append(outcome)
            told.set()

        variables = {**self._service.environment, **environment}
        if self._secrets:
            variables[credentials.ENVIRONMENT] = self._secrets
        # It does not make the group: where that has been cleared away meanwhile, the command must not be started.
        words = arguments_for(self._service, self._places, self.cgroup, self._account(), variables, command, beside=True)
        self._link.submit(words, {1: output, 2: output} if output >= 0 else {}, answered)
        gone = trio.Event()
        # From now on whoever clears up waits for it: it is under way, and may run already.
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
                seconds = 0  # the service has ended meanwhile: nobody else would end this
            try:
                with trio.move_on_after(seconds):
                    await trio.lowlevel.wait_readable(outcome.pidfd)
                    in_time = True
            finally:
                ended = await bury(outcome, partial(kill_process_group, outcome.pid), self._link.reaper)
        finally:
            gone.set()
            self._commands = {event: pid for event, pid in self._commands.items() if event is not gone}
        return ended if in_time else None

    def repeat(self, words: bytes) -> None:
        """Start it by *words* from now on, by which it was started early: then no start of it differs from another."""
        self._same = words

    def adopt(self, child: Child) -> None:
        """Take over the main process; see ``Starter``."""
        self._session = child.pid
        if self._service.execution.credentials:
            self._secrets = self._place()

    def kill(self) -> None:
        """Kill all processes of the service: its group, or where there is none the process group of its main process."""
        if self.cgroup:
            kill_group(self.cgroup)
            return
        for leader in (self._session, *self._commands.values()):
            if leader:
                kill_process_group(leader)

    def ended(self) -> None:
        """Where there is no group, kill what the main process leaves: once it is reaped, its number may be another's."""
        if not self.cgroup:
            self.kill()
        self._session = 0

    def clear(self) -> bool:
        """Remove the group if nothing is left in it; tell whether all of it is gone."""
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
        """Kill what is left, wait for it, and remove group, secrets and user."""
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
            credentials.remove(self._place())  # whoever placed them: it may have been the agent before us
            self._secrets = ""

    def _account(self) -> Account | None:
        execution = self._service.execution
        if execution.dynamic_user:
            users = self._places.users
            return users.hold(self._name, () if self._name in users.held else busy_users())
        return resolve(execution.account) if execution.account else None

    def _place_secrets(self, account: Account | None) -> None:
        if self._secrets:
            return  # another connection's process has them, or the start before failed half-way: they are the same
        user, group = (account.user, account.groups[0]) if account else (os.geteuid(), os.getegid())
        place = self._place()
        Path(place).parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        wanted = [Secret(one.name, one.source) for one in self._service.execution.credentials]
        credentials.place(place, wanted, user, group)
        self._secrets = place

    def _place(self) -> str:
        return f"{self._places.runtime}/credentials/{self._name}"

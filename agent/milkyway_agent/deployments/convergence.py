"""From the desired state to what runs: take the verifier's news, fetch what is missing, carry it out, report.

Each deployment stands for itself: one that can't be fetched, is refused or doesn't start keeps what it
had (or has nothing), its reason shows in the status, and all others go on. What is "not now" is tried again
with growing patience; what was refused waits for another document.
"""

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import trio

from milkyway_agent.api.machine import Applied
from milkyway_agent.core import effects
from milkyway_agent.core.contexts import object_context
from milkyway_agent.core.effects import DeploymentEffect
from milkyway_agent.core.polling import Patience, delay_ms
from milkyway_agent.core.transition import wanted_effects
from milkyway_agent.core.uid_range import check_apart
from milkyway_agent.deployments.data import DataPlane
from milkyway_agent.deployments.executor import Executor
from milkyway_agent.deployments.layer_store import LayerStore
from milkyway_agent.deployments.layers import LayerDamagedError, LayerPlane
from milkyway_agent.deployments.policy import PolicyPlane, Programs
from milkyway_agent.deployments.services import GroupPlane, ServicePlane
from milkyway_agent.deployments.snapshot import KeptDeployments
from milkyway_agent.deployments.stacks import StackPlane
from milkyway_agent.deployments.verifier_link import NotAdmittedError, TrustLink
from milkyway_agent.ipc.messages import (
    Acted,
    AdmitLocally,
    Begun,
    CommandAdmitted,
    DesiredAdmitted,
    FetchLayer,
    LayerVerified,
    LinkState,
    RefusalNoted,
    SendReport,
    VerifyLayer,
)
from milkyway_agent.launching.container import Machine
from milkyway_agent.log.log import Log
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.supervisor.supervisor import Supervisor
from milkyway_agent.system import cgroups, kernel, selinux
from milkyway_formats.command import Action, PowerOff, Reboot, RestartService, StartService, StopService
from milkyway_formats.deployment import Deployment, LayerPin
from milkyway_formats.desired import Desired
from milkyway_formats.errors import MilkyWayError, RefusedError, UnavailableError
from milkyway_formats.manifest import Manifest
from milkyway_formats.report import DeploymentState, Status

RETRY = Patience(first_ms=1_000, limit_ms=60_000)
REPORT_SECONDS = 300.0
REFUSALS_KEPT = 20
DONE_SECONDS = 1.0


class Progress(NamedTuple):
    """How far a deployment is, and why not further."""

    deployment: Deployment
    state: DeploymentState
    reason: str = ""


class Convergence:
    """Keeps the machine at its desired state. *order_end* begins a reboot or a power-off."""

    def __init__(
        self,
        link: TrustLink,
        store: LayerStore,
        supervisor: Supervisor,
        reaper: Reaper,
        programs: Programs,
        log: Log,
        *,
        order_end: Callable[[Literal["reboot", "poweroff"]], None],
        status: Callable[[], Status],
        chance: Callable[[], float],
    ) -> None:
        self.begun: Begun | None = None
        self.connected: bool | None = None
        self.desired: Desired | None = None
        self.progress: dict[str, Progress] = {}
        self.refusals: deque[str] = deque(maxlen=REFUSALS_KEPT)
        machine = Machine(frozenset(cgroups.controllers("/sys/fs/cgroup")), selinux=True)
        self._services = ServicePlane(supervisor, reaper, machine)
        self._policy = PolicyPlane(link, programs, store.path)
        self._executor = Executor(
            {
                effects.OpenLayer: LayerPlane(store.path, selinux=True),
                effects.LoadInstance: self._policy,
                effects.HoldData: DataPlane(Path("/data"), selinux=True),
                effects.MountStack: StackPlane(selinux=True),
                effects.MakeGroup: GroupPlane(),
                effects.RunServices: self._services,
            },
            log,
        )
        self._link = link
        self._store = store
        self._supervisor = supervisor
        self._log = log
        self._order_end = order_end
        self._status = status
        self._chance = chance
        self._groups: dict[str, tuple[DeploymentEffect, ...]] = {}
        self._manifests: dict[str, Manifest] = {}
        self._pending: DesiredAdmitted | None = None
        self._changed = trio.Event()
        self._report_due = trio.Event()
        self._closed = False
        self._converging = trio.Lock()

    def keep(self) -> KeptDeployments:
        """Return what holds now, for ``go_on`` of the agent that replaces this one."""
        return KeptDeployments(
            groups={identifier: list(group) for identifier, group in self._groups.items()},
            present=list(self._executor.present),
            instances=self._policy.keep(),
        )

    def go_on(self, kept: KeptDeployments) -> None:
        """Begin with what an agent before this one has done; the services are in the supervisor already."""
        self._groups = {identifier: tuple(group) for identifier, group in kept.groups.items()}
        self._executor.present = tuple(kept.present)
        self._policy.go_on(kept.instances)
        for effect in kept.present:
            if isinstance(effect, effects.RunServices):
                self.progress[effect.deployment.id] = Progress(effect.deployment, "active")

    @property
    def at_rest(self) -> bool:
        """Whether no deployment is being fetched, brought up or taken down."""
        return not self._converging.locked()

    async def wait_at_rest(self) -> None:
        """Return when that is so."""
        while not self.at_rest:
            async with self._converging:
                pass

    async def run(self) -> None:
        """Take news, converge and report, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_news)
            nursery.start_soon(self._converge_always)
            nursery.start_soon(self._report_always)

    async def apply(self, envelope_fd: int, now: int, *, change: bool) -> Applied:
        """Have the verifier admit an envelope that was handed in on the machine, and act on it.

        *change*: whoever handed it in may do without operators' signatures, if the verifier's own root says so too.
        """
        if self._closed:
            raise UnavailableError("cannot apply: the machine is shutting down")
        question = AdmitLocally(request=self._link.number(), now=now, change=change)
        answer = await self._link.ask_any(question, [envelope_fd])
        match answer:
            case DesiredAdmitted():
                self._want(answer)
                return Applied(kind="desired", id=answer.id, version=answer.desired.version)
            case CommandAdmitted():
                await self._obey(answer)
                return Applied(kind="command", id=answer.id)
            case _:
                raise UnavailableError(f"cannot apply: the verifier answered with a {type(answer).__name__}")

    def close(self) -> None:
        """Take no more changes: the machine goes down."""
        self._closed = True

    async def take_down(self) -> None:
        """Stop and unmount all deployments, newest first. What is installed stays."""
        async with self._converging:
            await self._executor.converge(())

    # --- news ------------------------------------------------------------------------------------------------------------

    async def _take_news(self) -> None:
        async for news in self._link.news:
            match news:
                case Begun():
                    self.begun = news
                    self._manifests.clear()  # a new verifier has verified nothing yet
                case DesiredAdmitted():
                    self._want(news)
                case CommandAdmitted():
                    await self._obey(news)
                case RefusalNoted():
                    self._log.note("refused", check=news.check, why=news.message)
                    if news.message not in list(self.refusals)[-1:]:
                        self.refusals.append(news.message)
                        # Only what is new: a report that can't be sent is such news itself.
                        self._report_due.set()
                case LinkState():
                    self.connected = news.connected
                    self._log.note("link_changed", connected=news.connected, detail=news.detail)

    def _want(self, admitted: DesiredAdmitted) -> None:
        self._log.note("desired_admitted", version=admitted.desired.version, deployments=len(admitted.desired.deployments))
        self._pending = admitted
        self._changed.set()

    async def _obey(self, command: CommandAdmitted) -> None:
        """Carry out a command, at most once: its sequence was persisted before it came here."""
        self._log.note(
            "command_admitted", id=command.id, signers=", ".join(command.signers), action=type(command.action).__name__
        )
        outcome: Literal["done", "failed"] = "done"
        detail = ""
        try:
            await self._act(command.action)
        except MilkyWayError as error:
            outcome, detail = "failed", str(error)
        self._log.note("command_carried_out", id=command.id, outcome=outcome, detail=detail)
        await self._tell_acted(command.id, outcome, detail)

    async def _act(self, action: Action) -> None:
        match action:
            case RestartService():
                self._supervisor.restart(action.service, by="a signed command")
            case StartService():
                self._supervisor.start(action.service, by="a signed command")
            case StopService():
                await self._supervisor.stop(action.service)
            case Reboot():
                self._order_end("reboot")
            case PowerOff():
                self._order_end("poweroff")

    # --- the desired state -------------------------------------------------------------------------------------------------

    async def _converge_always(self) -> None:
        failures = 0
        while True:
            wait = delay_ms(RETRY, failures, self._chance()) / 1000 if failures else float("inf")
            with trio.move_on_after(wait):
                await self._changed.wait()
            if self._changed.is_set():
                failures = 0
            self._changed = trio.Event()
            if self._pending is None or self._closed:
                continue
            admitted = self._pending
            async with self._converging:
                complete = await self._converge(admitted.desired)
            failures = 0 if complete else failures + 1
            if failures <= 1:
                outcome: Literal["done", "failed"] = "failed" if self._reasons() else "done"
                await self._tell_acted(admitted.id, outcome, "; ".join(self._reasons())[:4000])

    def _reasons(self) -> list[str]:
        return [f"{one.deployment.name}: {one.reason}" for one in self.progress.values() if one.reason]

    async def _converge(self, desired: Desired) -> bool:
        """Bring each deployment of *desired* up, and all others down. Return False when trying again may help."""
        self.desired = desired
        complete = True
        wanted = {deployment.id: deployment for deployment in desired.deployments}
        for identifier in [identifier for identifier in self._groups if identifier not in wanted]:
            complete &= await self._remove(identifier)
        self.progress = {identifier: one for identifier, one in self.progress.items() if identifier in wanted}
        for deployment in desired.deployments:
            complete &= await self._bring_up(deployment)
        keep = {pin.sha256 for deployment in desired.deployments for pin in deployment.stack}
        keep |= {effect.sha256 for effect in self._executor.present if isinstance(effect, effects.OpenLayer)}
        for sha256 in self._store.sweep(keep):
            self._log.note("layer_removed", sha256=sha256)
            self._manifests.pop(sha256, None)
        return complete

    async def _remove(self, identifier: str) -> bool:
        group = self._groups.pop(identifier)
        try:
            self._services.must_start = False
            await self._executor.converge(wanted_effects(self._groups.values()))
        except (MilkyWayError, OSError) as error:
            self._groups[identifier] = group
            self._log.note("deployment_not_removed", deployment=identifier, why=str(error))
            return False
        self._log.note("deployment_removed", deployment=identifier)
        return True

    async def _bring_up(self, deployment: Deployment) -> bool:
        """Bring one deployment to its newest version, or leave what is there. Return False when trying again may help."""
        before = self._groups.get(deployment.id)
        try:
            check_apart([*self._groups, deployment.id])
            self._move(deployment, "verifying")
            manifests = [await self._install(deployment, pin) for pin in deployment.stack]
            self._move(deployment, "activating")
            self._groups[deployment.id] = effects.effects_of(deployment, manifests)
            # An upgrade that doesn't start goes back to what ran; a first version that doesn't start shows why.
            self._services.must_start = before is not None
            await self._executor.converge(wanted_effects(self._groups.values()))
        except (MilkyWayError, OSError) as error:
            if before is None:
                self._groups.pop(deployment.id, None)
            else:
                self._groups[deployment.id] = before
            self._move(deployment, "failed", str(error))
            self._log.note("deployment_failed", deployment=deployment.name, why=str(error))
            if isinstance(error, NotAdmittedError):
                self.refusals.append(str(error))
            if isinstance(error, LayerDamagedError):  # the next try fetches it anew
                self._store.remove(error.sha256)
            return isinstance(error, RefusedError)
        self._move(deployment, "active")
        return True

    def _move(self, deployment: Deployment, state: DeploymentState, reason: str = "") -> None:
        self.progress[deployment.id] = Progress(deployment, state, reason)

    async def _install(self, deployment: Deployment, pin: LayerPin) -> Manifest:
        """Return the verified manifest of *pin*, which is in the store when this returns."""
        known = self._manifests.get(pin.sha256)
        if known is not None and self._store.has(pin.sha256):
            return known
        if self._store.has(pin.sha256):
            try:
                return await self._verify_installed(pin)
            except NotAdmittedError as error:  # what is on the disk is not what was installed: fetch it again
                self._log.note("installed_layer_refused", layer=pin.path, why=str(error))
                self._store.remove(pin.sha256)
        self._move(deployment, "staging")
        return await self._fetch(pin)

    async def _verify_installed(self, pin: LayerPin) -> Manifest:
        file = os.open(self._store.path(pin.sha256), os.O_RDONLY | os.O_CLOEXEC)
        try:
            question = VerifyLayer(request=self._link.number(), sha256=pin.sha256, size=pin.size)
            answer = await self._link.ask(question, LayerVerified, [file])
        finally:
            os.close(file)
        self._manifests[pin.sha256] = answer.manifest
        return answer.manifest

    async def _fetch(self, pin: LayerPin) -> Manifest:
        staged = self._store.stage(pin.sha256, pin.size)
        try:
            question = FetchLayer(request=self._link.number(), sha256=pin.sha256, size=pin.size)
            answer = await self._link.ask(question, LayerVerified, [staged.writer, staged.reader])
            self._store.keep(pin.sha256)
        except BaseException:
            self._store.discard(pin.sha256)
            raise
        finally:
            os.close(staged.writer)
            os.close(staged.reader)
        self._log.note("layer_installed", layer=pin.path, version=pin.version, bytes=pin.size)
        self._manifests[pin.sha256] = answer.manifest
        return answer.manifest

    # --- reports -------------------------------------------------------------------------------------------------------------

    async def _tell_acted(self, identifier: str, outcome: Literal["done", "failed"], detail: str) -> None:
        self._report_due.set()
        try:
            await self._link.tell(Acted(id=identifier, outcome=outcome, detail=detail))
        except UnavailableError as error:
            self._log.note("act_not_told", id=identifier, why=str(error))

    async def _report_always(self) -> None:
        while True:
            with trio.move_on_after(REPORT_SECONDS):
                await self._report_due.wait()
            await trio.sleep(DONE_SECONDS)  # what happens together is reported together
            self._report_due = trio.Event()
            try:
                await self._link.tell(SendReport(now=kernel.realtime_ms() // 1000, status=self._status()))
            except UnavailableError as error:
                self._log.note("report_not_sent", why=str(error))


def protect_installed(path: Path) -> None:
    """Label a verified layer file as installed: from then on the uplink's descriptor writes no more to it."""
    selinux.setfilecon(str(path), object_context("layer_store_t"))

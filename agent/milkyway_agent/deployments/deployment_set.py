"""The deployments that a machine has: each is brought up to what a desired state says, or taken away.

Deployments don't depend on each other: one that can't be fetched, is refused or doesn't start stays at the version that
it had, if any, and the status shows the reason; all others are carried out.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from milkyway_agent.core import effects
from milkyway_agent.core.effects import DeploymentEffect
from milkyway_agent.core.transition import wanted_effects
from milkyway_agent.core.uid_range import check_apart
from milkyway_agent.deployments.executor import Executor
from milkyway_agent.deployments.layer_install import LayerInstaller
from milkyway_agent.deployments.layers import LayerDamagedError
from milkyway_agent.deployments.verifier_link import NotAdmittedError, Note
from milkyway_formats.deployment import Deployment
from milkyway_formats.desired import Desired
from milkyway_formats.errors import MilkyWayError, RefusedError
from milkyway_formats.report import DeploymentState


class Progress(NamedTuple):
    """How far a deployment is, and why not further."""

    deployment: Deployment
    state: DeploymentState
    reason: str = ""


class StartRule(Protocol):
    """Whether services that don't start fail their effect, and with it the transition (``services.ServicePlane``)."""

    must_start: bool


class DeploymentSet:
    """All deployments. ``desired`` is the document that they were last brought to, ``progress`` how far each is, by its id.

    *refusals*: where what the verifier refused is added.
    """

    def __init__(
        self, executor: Executor, layers: LayerInstaller, start_rule: StartRule, refusals: deque[str], note: Note
    ) -> None:
        self.desired: Desired | None = None
        self.progress: dict[str, Progress] = {}
        self._executor = executor
        self._layers = layers
        self._start_rule = start_rule
        self._refusals = refusals
        self._note = note
        self._groups: dict[str, tuple[DeploymentEffect, ...]] = {}

    @property
    def groups(self) -> Mapping[str, Sequence[DeploymentEffect]]:
        """The effects that each deployment wants, by its id."""
        return self._groups

    def go_on(self, groups: Mapping[str, Sequence[DeploymentEffect]], present: Iterable[DeploymentEffect]) -> None:
        """Take over the *groups* of an agent before this one, and the effects that it left *present*."""
        self._groups = {identifier: tuple(group) for identifier, group in groups.items()}
        self._executor.present = tuple(present)
        for effect in self._executor.present:
            if isinstance(effect, effects.RunServices):
                self.progress[effect.deployment.id] = Progress(effect.deployment, "active")

    def reasons(self) -> list[str]:
        """Return why deployments are not as they should be, a line for each that is not."""
        return [f"{progress.deployment.name}: {progress.reason}" for progress in self.progress.values() if progress.reason]

    async def converge(self, desired: Desired) -> bool:
        """Bring each deployment of *desired* up, and all others down. Return False when trying again may help."""
        self.desired = desired
        complete = True
        wanted = {deployment.id for deployment in desired.deployments}
        for identifier in [identifier for identifier in self._groups if identifier not in wanted]:
            complete &= await self._remove(identifier)
        self.progress = {identifier: progress for identifier, progress in self.progress.items() if identifier in wanted}
        for deployment in desired.deployments:
            complete &= await self._bring_up(deployment)
        keep = {pin.sha256 for deployment in desired.deployments for pin in deployment.stack}
        keep |= {effect.sha256 for effect in self._executor.present if isinstance(effect, effects.OpenLayer)}
        self._layers.sweep(keep)
        return complete

    async def take_down(self) -> None:
        """Stop and unmount all deployments, newest first. What is installed stays."""
        await self._executor.converge(())

    async def _remove(self, identifier: str) -> bool:
        group = self._groups.pop(identifier)
        try:
            self._start_rule.must_start = False
            await self._executor.converge(wanted_effects(self._groups.values()))
        except (MilkyWayError, OSError) as error:
            self._groups[identifier] = group
            self._note("deployment_not_removed", deployment=identifier, why=str(error))
            return False
        self._note("deployment_removed", deployment=identifier)
        return True

    async def _bring_up(self, deployment: Deployment) -> bool:
        """Bring one deployment to its newest version, or leave what is there. Return False when trying again may help."""
        before = self._groups.get(deployment.id)
        try:
            check_apart([*self._groups, deployment.id])
            self._move(deployment, "verifying")
            manifests = [
                await self._layers.install(pin, on_fetch=lambda: self._move(deployment, "staging")) for pin in deployment.stack
            ]
            self._move(deployment, "activating")
            self._groups[deployment.id] = effects.effects_of(deployment, manifests)
            # An upgrade that doesn't start goes back to what ran; a first version that doesn't start shows why.
            self._start_rule.must_start = before is not None
            await self._executor.converge(wanted_effects(self._groups.values()))
        except (MilkyWayError, OSError) as error:
            if before is None:
                self._groups.pop(deployment.id, None)
            else:
                self._groups[deployment.id] = before
            self._move(deployment, "failed", str(error))
            self._note("deployment_failed", deployment=deployment.name, why=str(error))
            if isinstance(error, NotAdmittedError):
                self._refusals.append(str(error))
            if isinstance(error, LayerDamagedError):  # the next try fetches it again
                self._layers.remove(error.sha256)
            return isinstance(error, RefusedError)
        self._move(deployment, "active")
        return True

    def _move(self, deployment: Deployment, state: DeploymentState, reason: str = "") -> None:
        self.progress[deployment.id] = Progress(deployment, state, reason)

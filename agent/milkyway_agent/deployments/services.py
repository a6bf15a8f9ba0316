"""The services' planes: a deployment's control group, and its services, which the supervisor runs.

Here is said which services a deployment has, under which names, users and domains. How they are started and
watched is left to ``supervisor``.
"""

from functools import partial

import trio

from milkyway_agent.core.contexts import process_context
from milkyway_agent.core.dependencies import needs_of
from milkyway_agent.core.effects import MakeGroup, RunServices
from milkyway_agent.core.granted import check_listeners
from milkyway_agent.core.service_state import satisfies
from milkyway_agent.core.uid_range import RANGE, first_uid
from milkyway_agent.launching.container import CGROUPS, CRUN, ContainerStarter
from milkyway_agent.launching.control_groups import clear_group
from milkyway_agent.launching.oci_config import Host, domain_of
from milkyway_agent.launching.program import make_group
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.supervisor.definition import Definition
from milkyway_agent.supervisor.supervisor import Supervisor
from milkyway_formats.errors import UnavailableError

DEPLOYMENTS_GROUP = "/sys/fs/cgroup/deployments"
SETTLE_SECONDS = 90.0
SETTLE_TRIES = 3


class GroupPlane:
    """Makes the control group under which a deployment's services have theirs."""

    async def do(self, effect: MakeGroup) -> None:
        """Make the group."""
        make_group(f"{DEPLOYMENTS_GROUP}/{effect.deployment}")

    async def undo(self, effect: MakeGroup) -> None:
        """Remove the group, with whatever is still in it."""
        await clear_group(f"{DEPLOYMENTS_GROUP}/{effect.deployment}")


class ServicePlane:
    """Has the supervisor run a deployment's services.

    ``do`` returns when each service has started or failed, or was tried SETTLE_TRIES times; after SETTLE_SECONDS at the
    latest. With ``must_start`` a service that has not started fails the effect, so that the transition is taken back.
    Without, the supervisor goes on by the service's restart policy, and its status says why it has not started.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        reaper: Reaper,
        host: Host,
        *,
        crun: str = CRUN,
        cgroups_root: str = CGROUPS,
    ) -> None:
        self._supervisor = supervisor
        self._definitions = partial(service_definitions, host=host, reaper=reaper, crun=crun, cgroups_root=cgroups_root)
        self.must_start = False

    async def do(self, effect: RunServices) -> None:
        """Supervise and start the services."""
        definitions = self._definitions(effect)
        there = self._supervisor.names()
        try:
            for definition in definitions:
                if definition.name not in there:
                    self._supervisor.add(definition)
            for definition in definitions:
                self._supervisor.start(definition.name, by=f"deployment {effect.deployment.name}")
            with trio.move_on_after(SETTLE_SECONDS):
                for definition in definitions:
                    await self._supervisor.wait_settled(definition.name, tries=SETTLE_TRIES)
            for definition in definitions:
                status = self._supervisor.status_of(definition.name)
                if self.must_start and not satisfies(self._supervisor.row(definition.name)):
                    raise UnavailableError(f"cannot start {definition.name}: {status.reason or f'it is {status.state}'}")
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.undo(effect)
            raise

    async def undo(self, effect: RunServices) -> None:
        """Stop the services and forget them."""
        names = [definition.name for definition in self._definitions(effect)]
        await self._supervisor.stop_all(names)
        for name in names:
            if name in self._supervisor.names():
                await self._supervisor.remove(name)


def service_definitions(
    effect: RunServices, host: Host, reaper: Reaper, *, crun: str = CRUN, cgroups_root: str = CGROUPS
) -> list[Definition]:
    """Return the services of the deployment as the supervisor takes them, under their full names.

    Raises RefusedError for a service with a listener that the deployment was not granted.
    """
    deployment, manifest = effect.deployment, effect.manifest
    for service in manifest.services:
        check_listeners(deployment, service)
    first = first_uid(deployment.id)
    return [
        Definition(
            name=f"{deployment.name}/{service.name}",
            service=service,
            starter=ContainerStarter(service, deployment, manifest, host, reaper, crun=crun, cgroups_root=cgroups_root),
            needs=needs_of(service, f"{deployment.name}/"),
            users=range(first, first + RANGE),
            socket_context=process_context(domain_of(deployment, service)) if host.selinux and service.listeners else "",
        )
        for service in manifest.services
    ]

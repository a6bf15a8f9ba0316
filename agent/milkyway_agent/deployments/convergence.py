"""Keeping the machine at its desired state: the parts of this room, put together for PID 1.

News of the verifier (``news``) bring commands (``commands``) and desired states, which are rolled out (``rollout``) one
deployment after the other (``deployment_set``): layers are installed (``layer_install``) and effects carried out by the
planes (``executor``). The outcome is reported (``reports``).
"""

from collections import deque
from collections.abc import Callable
from pathlib import Path

import trio

from milkyway_agent.api.machine import Applied
from milkyway_agent.core import effects
from milkyway_agent.deployments.commands import Commands, OrderEnd
from milkyway_agent.deployments.data import DataPlane
from milkyway_agent.deployments.deployment_set import DeploymentSet, Progress
from milkyway_agent.deployments.executor import Executor
from milkyway_agent.deployments.layer_install import LayerInstaller
from milkyway_agent.deployments.layer_store import LayerStore
from milkyway_agent.deployments.layers import LayerPlane
from milkyway_agent.deployments.news import NewsReader
from milkyway_agent.deployments.policy import PolicyPlane, Programs
from milkyway_agent.deployments.reports import Reports
from milkyway_agent.deployments.rollout import Rollout
from milkyway_agent.deployments.services import GroupPlane, ServicePlane
from milkyway_agent.deployments.snapshot import KeptDeployments
from milkyway_agent.deployments.stacks import StackPlane
from milkyway_agent.deployments.verifier_link import TrustLink
from milkyway_agent.ipc.messages import AdmitLocally, Begun, CommandAdmitted, DesiredAdmitted
from milkyway_agent.launching.oci_config import Host
from milkyway_agent.log.log import Log
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.supervisor.supervisor import Supervisor
from milkyway_agent.system import cgroups, kernel
from milkyway_formats.desired import Desired
from milkyway_formats.errors import UnavailableError
from milkyway_formats.report import Status

REFUSALS_KEPT = 20


class Convergence:
    """Keeps the machine at its desired state. *order_end* begins a reboot or a power-off.

    ``refusals`` are the newest things that the verifier refused, oldest first.
    """

    def __init__(
        self,
        link: TrustLink,
        store: LayerStore,
        supervisor: Supervisor,
        reaper: Reaper,
        programs: Programs,
        log: Log,
        *,
        order_end: OrderEnd,
        status: Callable[[], Status],
        chance: Callable[[], float],
    ) -> None:
        host = Host(frozenset(cgroups.controllers("/sys/fs/cgroup")), selinux=True)
        services = ServicePlane(supervisor, reaper, host)
        layers = LayerInstaller(link, store, log.note)
        self.refusals: deque[str] = deque(maxlen=REFUSALS_KEPT)
        self._link = link
        self._policy = PolicyPlane(link, programs, store.path)
        self._executor = Executor(
            {
                effects.OpenLayer: LayerPlane(store.path, selinux=True),
                effects.LoadInstance: self._policy,
                effects.HoldData: DataPlane(Path("/data"), selinux=True),
                effects.MountStack: StackPlane(selinux=True),
                effects.MakeGroup: GroupPlane(),
                effects.RunServices: services,
            },
            log,
        )
        self._reports = Reports(link, status, lambda: kernel.realtime_ms() // 1000, log.note)
        self._deployments = DeploymentSet(self._executor, layers, services, self.refusals, log.note)
        self._rollout = Rollout(self._deployments, self._reports.tell_acted, chance, log.note)
        self._commands = Commands(supervisor, order_end, self._reports.tell_acted, log.note)
        self._news = NewsReader(
            self.refusals,
            log.note,
            on_begun=layers.forget_verified,
            on_desired=self._rollout.want,
            on_command=self._commands.carry_out,
            on_refusal=self._reports.make_due,
        )

    @property
    def begun(self) -> Begun | None:
        """What the verifier said when it began; None before."""
        return self._news.begun

    @property
    def connected(self) -> bool | None:
        """Whether the control server answers; None as long as the uplink has not said."""
        return self._news.connected

    @property
    def desired(self) -> Desired | None:
        """The desired state that is carried out."""
        return self._deployments.desired

    @property
    def progress(self) -> dict[str, Progress]:
        """How far each deployment is, by its id."""
        return self._deployments.progress

    @property
    def at_rest(self) -> bool:
        """Whether no deployment is being fetched, brought up or taken down."""
        return self._rollout.at_rest

    async def wait_at_rest(self) -> None:
        """Return when that is so."""
        await self._rollout.wait_at_rest()

    def keep(self) -> KeptDeployments:
        """Return what holds now, for ``go_on`` of the agent that replaces this one."""
        return KeptDeployments(
            groups={identifier: list(group) for identifier, group in self._deployments.groups.items()},
            present=list(self._executor.present),
            instances=self._policy.keep(),
        )

    def go_on(self, kept: KeptDeployments) -> None:
        """Take over what an agent before this one has done. Its services are in the supervisor already."""
        self._deployments.go_on(kept.groups, kept.present)
        self._policy.go_on(kept.instances)

    async def run(self) -> None:
        """Take news, converge and report, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._news.run, self._link.news)
            nursery.start_soon(self._rollout.run)
            nursery.start_soon(self._reports.run)

    async def apply(self, envelope_fd: int, now: int, *, change: bool) -> Applied:
        """Have the verifier admit an envelope that was handed in on the machine, and act on it.

        *change*: the peer may do without operators' signatures, if the verifier's own root says so too.
        """
        if self._rollout.closed:
            raise UnavailableError("cannot apply: the machine is shutting down")
        question = AdmitLocally(request=self._link.number(), now=now, change=change)
        answer = await self._link.ask_any(question, [envelope_fd])
        match answer:
            case DesiredAdmitted():
                self._rollout.want(answer)
                return Applied(kind="desired", id=answer.id, version=answer.desired.version)
            case CommandAdmitted():
                await self._commands.carry_out(answer)
                return Applied(kind="command", id=answer.id)
            case _:
                raise UnavailableError(f"cannot apply: the verifier answered with a {type(answer).__name__}")

    def close(self) -> None:
        """Take no more changes: the machine goes down."""
        self._rollout.close()

    async def take_down(self) -> None:
        """Stop and unmount all deployments, newest first. What is installed stays."""
        await self._rollout.take_down()

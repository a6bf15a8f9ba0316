"""Carrying out a plan: each effect by the plane that knows how, and back again where one fails.

Every plane has a ``do`` and an ``undo``, which can be repeated: doing what holds and undoing what
does not hold change nothing. Planes here: layers (loop, verity, mount), stacks (overlay), groups,
services. The policy's is the shell's own, as it needs verifier and compiler.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio

from milkyway_agent.core import stack, transition
from milkyway_agent.core.contexts import object_context, process_context
from milkyway_agent.core.dependencies import needs_of
from milkyway_agent.core.effects import DeploymentEffect, MakeGroup, MountStack, OpenLayer, RunServices
from milkyway_agent.core.granted import check_listeners
from milkyway_agent.core.service_state import satisfies
from milkyway_agent.core.transition import Plan, Step
from milkyway_agent.core.uid_range import RANGE, first_uid
from milkyway_agent.launching.container import CGROUPS, CRUN, Container
from milkyway_agent.launching.control_groups import clear_group
from milkyway_agent.launching.oci_config import Machine, domain_of
from milkyway_agent.launching.program import make_group
from milkyway_agent.log.log import Log
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.supervisor.definition import Definition
from milkyway_agent.supervisor.supervisor import Supervisor
from milkyway_agent.system import loop, mounts, verity
from milkyway_formats.errors import MilkyWayError, UnavailableError
from milkyway_formats.manifest import BLOCK_SIZE

DEPLOYMENTS_GROUP = "/sys/fs/cgroup/deployments"
TAKE_BACK_SECONDS = 60.0
SETTLE_SECONDS = 90.0
SETTLE_TRIES = 3
_SECTORS_PER_BLOCK = BLOCK_SIZE // 512


class LayerDamagedError(UnavailableError):
    """An installed layer file was changed on the disk; fetched anew, it will be whole."""

    def __init__(self, message: str, *, sha256: str) -> None:
        super().__init__(message)
        self.sha256 = sha256


class Plane(Protocol):
    """Does and undoes the effects of one kind."""

    async def do(self, effect: Any) -> None:
        """Make *effect* hold. Raises MilkyWayError or OSError, with nothing of it left."""

    async def undo(self, effect: Any) -> None:
        """Make *effect* hold no more. Raises MilkyWayError or OSError where it still does."""


class Executor:
    """Carries out plans, one at a time, and knows what holds."""

    def __init__(self, planes: Mapping[type, Plane], log: Log) -> None:
        self.present: tuple[DeploymentEffect, ...] = ()
        self._planes = planes
        self._log = log

    async def converge(self, wanted: Sequence[DeploymentEffect]) -> None:
        """Make exactly *wanted* hold.

        Raises what the first failing step raised, after taking back what was done before it. What could
        not be cleared away afterwards is noted, still counted as present, and tried again the next time.
        """
        await self.carry_out(transition.plan(self.present, wanted))

    async def carry_out(self, plan: Plan[DeploymentEffect]) -> None:
        """Carry out *plan*; see ``converge``."""
        done: list[Step[DeploymentEffect]] = []
        try:
            for step in plan.steps:
                await self._take(step)
                done.append(step)
        except BaseException as error:
            self._log.note("transition_failed", step=step.describe(), error=str(error) or repr(error))
            with trio.move_on_after(TAKE_BACK_SECONDS, shield=True):
                for back in transition.take_back(done):
                    await self._try(back)
            raise
        for step in plan.clearing:
            await self._try(step)

    async def _take(self, step: Step[DeploymentEffect]) -> None:
        plane = self._planes[type(step.effect)]
        await (plane.do if step.forward else plane.undo)(step.effect)
        self.present = transition.after(self.present, [step])
        self._log.note("step_taken", step=step.describe())

    async def _try(self, step: Step[DeploymentEffect]) -> None:
        try:
            await self._take(step)
        except (MilkyWayError, OSError) as error:
            self._log.note("step_failed", step=step.describe(), error=str(error))


class LayerPlane:
    """Opens layers: loop device, verity device by the root hash of the verified manifest, read-only mount."""

    def __init__(self, path_of: Callable[[str], Path], *, selinux: bool = False) -> None:
        self._path_of = path_of
        # All layers have one label; which deployment a file belongs to is said by the stack that shows it.
        self._options = f'context="{object_context("layer_image_t")}"' if selinux else ""

    async def do(self, effect: OpenLayer) -> None:
        """Open the layer's file and mount its image."""
        target, name = stack.layer_mount(effect.sha256), stack.layer_device(effect.sha256)
        if mounts.is_mounted(target):
            return
        device = open_verity(name, str(self._path_of(effect.sha256)), effect)
        try:
            Path(target).mkdir(mode=0o755, parents=True, exist_ok=True)
            mounts.mount(device, target, "erofs", mounts.MS_RDONLY | mounts.MS_NODEV | mounts.MS_NOSUID, self._options)
        except OSError as error:
            verity.remove(name)
            # A damaged superblock is found here, as EIO; a damaged block elsewhere when it is read.
            if error.errno == errno.EIO:
                raise LayerDamagedError(
                    f"cannot {effect.describe()}: a block of its image does not match its root hash", sha256=effect.sha256
                ) from error
            raise

    async def undo(self, effect: OpenLayer) -> None:
        """Unmount the image and close its devices; whoever still reads it keeps them until done."""
        target, name = stack.layer_mount(effect.sha256), stack.layer_device(effect.sha256)
        if mounts.is_mounted(target):
            mounts.umount2(target, mounts.UMOUNT_NOFOLLOW)
        with contextlib.suppress(FileNotFoundError):
            Path(target).rmdir()
        if verity.status(name) is not None:
            verity.remove(name, deferred=True)


class StackPlane:
    """Mounts the layers of a deployment over one another, labelled as its own."""

    def __init__(self, *, selinux: bool) -> None:
        self._selinux = selinux

    async def do(self, effect: MountStack) -> None:
        """Mount the overlay."""
        target = stack.stack_mount(effect.deployment, effect.generation)
        if mounts.is_mounted(target):
            return
        kind = stack.type_name(effect.deployment, effect.generation, "stack")
        context = object_context(kind) if self._selinux else ""
        Path(stack.EMPTY).mkdir(mode=0o755, parents=True, exist_ok=True)
        Path(target).mkdir(mode=0o755, parents=True, exist_ok=True)
        options = stack.overlay_options(effect.lowerdirs, context=context)
        mounts.mount("overlay", target, "overlay", mounts.MS_RDONLY | mounts.MS_NODEV | mounts.MS_NOSUID, options)

    async def undo(self, effect: MountStack) -> None:
        """Unmount the overlay."""
        target = stack.stack_mount(effect.deployment, effect.generation)
        if mounts.is_mounted(target):
            mounts.umount2(target, mounts.UMOUNT_NOFOLLOW)
        with contextlib.suppress(FileNotFoundError):
            Path(target).rmdir()


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

    ``do`` returns when each has started or failed, or was tried a few times, and in bounded time. With
    *must_start* one that is not started fails the effect, and so takes the transition back; without, the
    supervisor goes on as its restart policy says, and its status says why.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        reaper: Reaper,
        machine: Machine,
        *,
        must_start: bool = False,
        crun: str = CRUN,
        cgroups_root: str = CGROUPS,
    ) -> None:
        self._supervisor = supervisor
        self._definitions = partial(service_definitions, machine=machine, reaper=reaper, crun=crun, cgroups_root=cgroups_root)
        self.must_start = must_start

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
    effect: RunServices, machine: Machine, reaper: Reaper, *, crun: str = CRUN, cgroups_root: str = CGROUPS
) -> list[Definition]:
    """Return the services of the deployment as the supervisor takes them, under their full names.

    Raises RefusedError when one is to be handed a listener that the deployment was not granted.
    """
    deployment, manifest = effect.deployment, effect.manifest
    for service in manifest.services:
        check_listeners(deployment, service)
    first = first_uid(deployment.id)
    return [
        Definition(
            name=f"{deployment.name}/{service.name}",
            service=service,
            starter=Container(service, deployment, manifest, machine, reaper, crun=crun, cgroups_root=cgroups_root),
            needs=needs_of(service, f"{deployment.name}/"),
            users=range(first, first + RANGE),
            socket_context=process_context(domain_of(deployment, service)) if machine.selinux and service.listeners else "",
        )
        for service in manifest.services
    ]


def open_verity(name: str, path: str, effect: OpenLayer) -> str:
    """Make the verity device *name* over the layer file *path*; return its path. Undo: ``verity.remove``."""
    image = effect.image
    there = verity.status(name)
    if there is not None:  # an earlier attempt was cut short after this; its table is by the same root hash
        return there.path
    flags = loop.LO_FLAGS_READ_ONLY | loop.LO_FLAGS_AUTOCLEAR | loop.LO_FLAGS_DIRECT_IO
    device, opened = attach_loop(path, flags)
    try:
        verity.create(name)
        try:
            parameters = verity.table(device, data_blocks=image.data_blocks, root_hash=image.root_hash, salt=image.salt)
            verity.load(name, image.data_blocks * _SECTORS_PER_BLOCK, parameters)
            return verity.resume(name)
        except OSError:
            verity.remove(name)
            raise
    finally:
        os.close(opened)  # the verity device has it open by now, or nobody needs it


def attach_loop(path: str, flags: int) -> tuple[str, int]:
    """Put *path* behind a free loop device; another process may be quicker with one that was free, so try several."""
    for _ in range(10):
        try:
            return loop.configure(loop.get_free(), path, flags)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
    raise UnavailableError(f"cannot open {path}: no loop device stays free")

"""The stacks' plane: the layers of a deployment, mounted over one another as one overlay."""

import contextlib
from pathlib import Path

from milkyway_agent.core import stack
from milkyway_agent.core.contexts import object_context
from milkyway_agent.core.effects import MountStack
from milkyway_agent.system import mounts


class StackPlane:
    """Mounts the layers of a deployment over one another, under the deployment's own label."""

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

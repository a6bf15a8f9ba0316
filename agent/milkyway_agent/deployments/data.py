"""The data plane: a data source has its directory, labelled with the source's own type, before a container mounts it.

PID 1 makes and labels the directory and can't open a file in it (policy.md, invariant 3). There is no
undo: removing a deployment keeps its data, and removing data is an operation of its own.
"""

import os
from pathlib import Path

from milkyway_agent.core.contexts import object_context
from milkyway_agent.core.effects import HoldData
from milkyway_agent.system import selinux
from milkyway_formats.errors import RefusedError
from milkyway_formats.manifest import DataClass
from milkyway_formats.policy_shared import data_type

MODES: dict[DataClass, int] = {
    "secure": 0o700,
    # Several deployments with several users: the policy says which may, and no user removes another's files.
    "common": 0o1777,
    "group": 0o1777,
}


class DataPlane:
    """Makes directories below *root*: ``<root>/<class>/<source>``."""

    def __init__(self, root: Path, *, selinux: bool) -> None:
        self._root = root
        self._selinux = selinux

    async def do(self, effect: HoldData) -> None:
        """Make the source's directory, or check that the one that is there is its own."""
        binding = effect.binding
        path = self._root / binding.data_class / binding.source
        context = object_context(data_type(binding.source))
        if not path.exists():
            self._make(path, context)
        elif self._selinux and selinux.getfilecon(str(path)) != context:
            raise RefusedError(f"cannot use data {binding.source}: its directory is labelled {selinux.getfilecon(str(path))}")
        if binding.data_class == "secure":
            os.chown(path, effect.user, effect.user)
        path.chmod(MODES[binding.data_class])

    async def undo(self, effect: HoldData) -> None:
        """Do nothing: data outlives deployments."""

    def _make(self, path: Path, context: str) -> None:
        """Make a directory that has its label from the moment that it exists."""
        if self._selinux:
            selinux.setfscreatecon(context)
        try:
            path.mkdir(mode=0o700)
        finally:
            if self._selinux:
                selinux.setfscreatecon("")

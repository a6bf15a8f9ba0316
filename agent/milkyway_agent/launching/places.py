"""What all starts of one supervisor share: directories, dynamic users, the default filter of system calls."""

import platform
from pathlib import Path

from milkyway_agent.launching.accounts import DynamicUsers
from milkyway_agent.launching.seccomp_filter import default_filter
from milkyway_agent.system import cgroups
from milkyway_formats.errors import RefusedError


class Places:
    """What starts share. *groups*: the directory of the control groups ("": there are none); *runtime*: for files in memory."""

    def __init__(self, groups: str, runtime: Path) -> None:
        self.groups = groups
        self.runtime = runtime
        self.controllers = frozenset(cgroups.controllers(groups)) if groups else frozenset[str]()
        self.users = DynamicUsers()

    def seccomp(self) -> str:
        """Return the path of the default filter, which is made on first use. Raises RefusedError on other machines."""
        path = self.runtime / "seccomp-default.bpf"
        if not path.exists():
            try:
                text = default_filter(platform.machine())
            except KeyError:
                raise RefusedError(f"cannot filter system calls: no profile is known for {platform.machine()}") from None
            path.write_bytes(text)
        return str(path)

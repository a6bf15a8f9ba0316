"""Where a supervisor keeps what starts need."""

import platform
from pathlib import Path

from milkyway_agent.launching.accounts import DynamicUsers
from milkyway_agent.launching.seccomp_filter import default_filter
from milkyway_agent.system import cgroups
from milkyway_formats.errors import RefusedError


class Places:
    """Where a supervisor keeps what starts need: the directory of its groups ("" for none) and of its files in memory."""

    def __init__(self, groups: str, runtime: Path) -> None:
        self.groups = groups
        self.runtime = runtime
        self.controllers = frozenset(cgroups.controllers(groups)) if groups else frozenset[str]()
        self.users = DynamicUsers()

    def seccomp(self) -> str:
        """Return the file with the default filter, made when first asked for. Raises RefusedError where there is none."""
        path = self.runtime / "seccomp-default.bpf"
        if not path.exists():
            try:
                text = default_filter(platform.machine())
            except KeyError:
                raise RefusedError(f"cannot filter system calls: no profile is known for {platform.machine()}") from None
            path.write_bytes(text)
        return str(path)

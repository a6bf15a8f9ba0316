"""Programs of the tools tree (``build/tools``: Debian trixie), run on any host through the tree's own loader.

The same mkfs.erofs and veritysetup give the same bytes on every host; nothing here
needs root or a chroot.
"""

import subprocess
from pathlib import Path

from milkyway_formats.errors import UnavailableError

DEFAULT_TREE = Path("build/tools")
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib")


class ToolError(UnavailableError):
    """A tool is missing, or failed."""


class Tools:
    """Runs the programs of one tools tree."""

    def __init__(self, tree: Path = DEFAULT_TREE) -> None:
        self._tree = tree.absolute()

    def run(self, program: str, *arguments: str | Path) -> str:
        """Run *program* (a name in the tree's PATH) and return what it printed. Raises ToolError."""
        where = next((path for part in ("bin", "sbin") if (path := self._tree / "usr" / part / program).exists()), None)
        if where is None:
            raise ToolError(f"cannot run {program}: {self._tree} does not have it", hint="run: make setup")
        loader = self._tree / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
        libraries = ":".join(str(self._tree / part) for part in _LIBRARIES)
        command = [str(loader), "--library-path", libraries, str(where), *map(str, arguments)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env={"LC_ALL": "C", "PATH": "/usr/bin"}
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()[-3:]
            raise ToolError(f"cannot run {program}: it ended with {done.returncode}", hint=" / ".join(said))
        return done.stdout

"""Programs of the tools tree (``build/tools``, Debian trixie), run on any host without entering it.

A program of the tree is started through the tree's own dynamic linker, so it needs neither
root nor a chroot, sees the host's files and is a plain child of its caller. Only the C compiler,
which finds its own parts by absolute path, gets a mount namespace (``chrooted``).
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from milkyway_formats.errors import UnavailableError

PROJECT = Path(__file__).resolve().parents[2]
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib", "usr/lib/x86_64-linux-gnu/systemd")


class ToolError(UnavailableError):
    """A program that the build needs is missing or failed; *output* is the end of what it printed."""

    def __init__(self, message: str, *, output: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint or output)
        self.output = output


class Tree:
    """A directory with a Debian root whose programs can be run from outside."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def command(self, program: str, *arguments: str | Path) -> list[str]:
        """Return the command line that runs *program* (a path below the root, or a name in its PATH)."""
        linker = self.root / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
        libraries = ":".join(str(self.root / part) for part in LIBRARIES)
        return [str(linker), "--library-path", libraries, str(self.find(program)), *map(str, arguments)]

    def find(self, program: str) -> Path:
        """Return the path of *program*. Raises ToolError when the tree does not have it."""
        places = [program] if "/" in program else [f"usr/bin/{program}", f"usr/sbin/{program}"]
        for place in places:
            if (self.root / place).exists():
                return self.root / place
        raise ToolError(f"cannot run {program}: {self.root} does not have it", hint="run: python3 setup/prepare.py tools")


def tools_tree() -> Tree:
    """Return the project's tools tree. Raises ToolError when it has not been made yet."""
    root = PROJECT / "build/tools"
    if not (PROJECT / "build/tools.stamp").exists():
        raise ToolError("cannot use the tools tree: it has not been made", hint="run: python3 setup/prepare.py tools")
    return Tree(root)


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None, text: str = "") -> str:
    """Run *command* with *text* as its input and return its output. Raises ToolError with the end of its error output."""
    name = _name(command)
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, env=None if env is None else dict(env))
    except FileNotFoundError as error:
        raise ToolError(f"cannot run {name}: it is not installed", hint="run: python3 setup/prepare.py all") from error
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        tail = "\n".join(said.splitlines()[-8:])
        raise ToolError(f"cannot run {name}: it ended with {done.returncode}", output=tail)
    return done.stdout.decode(errors="replace")


def namespaced() -> list[str]:
    """Return the prefix that gives a command a mount namespace of its own (unless we are root, in a user namespace)."""
    if os.geteuid() == 0:
        return ["unshare", "--mount"]
    return ["unshare", "--map-root-user", "--map-auto", "--mount"]


def chrooted(tree: Tree, work: Path, command: Sequence[str]) -> list[str]:
    """Return the command line that runs *command* inside *tree* with *work* at ``/mnt``, which is also where it starts."""
    script = 'mount --bind "$2" "$1/mnt" && mount -t tmpfs tmpfs "$1/tmp" && root=$1 && shift 2 && exec chroot "$root" "$@"'
    inside = ["/usr/bin/env", "-i", "--chdir=/mnt", "PATH=/usr/bin:/usr/sbin", "LC_ALL=C", *command]
    return [*namespaced(), "--", "sh", "-c", script, "chrooted", str(tree.root), str(work), *inside]


def _name(command: Sequence[str]) -> str:
    """Return the name of the program that *command* runs, also behind the tree's dynamic linker."""
    if "--library-path" in command:
        return Path(command[command.index("--library-path") + 2]).name
    return Path(command[0]).name

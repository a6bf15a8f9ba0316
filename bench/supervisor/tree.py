"""Where the peers come from: a Debian trixie tree, supervisord's virtual environment, the compiled service.

All of it is kept in ``build/`` with a stamp of its inputs, as in ``setup/prepare.py``: a second run uses it again.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build"
TREE = BUILD / "bench-tree"
SUPERVISORD = BUILD / "bench-supervisord"
TRIVIAL = BUILD / "bench-trivial"
FLOOR = BUILD / "bench-floor"
TOOLS = BUILD / "tools"
NATIVE = Path(__file__).parent / "native"

# Added to an essential tree: without apt, whose timers would give systemd work that no other peer has.
PACKAGES = ("systemd", "s6", "runit")
SUPERVISORD_PACKAGES = ("supervisor==4.3.0", "setuptools==80.9.0")
MACHINE_ID = 32 * "b"  # any id: without one it would be systemd's first boot
COMPILER = ("-O2", "-Wall", "-Wextra", "-Werror", "-static")


class PreparationError(Exception):
    """Something that the benchmarks need can't be made; the message says what, and where its log is."""


def prepare_all(say: Callable[[str], None]) -> None:
    """Make what is missing; *say* is called with a line before anything that takes long."""
    BUILD.mkdir(exist_ok=True)
    for program in (TRIVIAL, FLOOR):
        source = NATIVE / f"{program.name.removeprefix('bench-')}.c"
        _once(program.name, source.read_text() + " ".join(COMPILER), partial(_compile, source, program))
    if not _fits("bench-tree", _tree_inputs()):
        say("making a Debian trixie tree with the peers (once; about half a minute)")
    _once("bench-tree", _tree_inputs(), _tree)
    if not _fits("bench-supervisord", _supervisord_inputs()):
        say("making a virtual environment for supervisord (once)")
    _once("bench-supervisord", _supervisord_inputs(), _supervisord)


def package_version(package: str) -> str:
    """Return the version of *package* in the tree; "" when it isn't there."""
    query = ["dpkg-query", f"--admindir={TREE}/var/lib/dpkg", "-W", "-f", "${Version}", package]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip()


def _tree_inputs() -> str:
    return " ".join(PACKAGES) + MACHINE_ID


def _supervisord_inputs() -> str:
    return " ".join(SUPERVISORD_PACKAGES) + sys.version


def _compile(source: Path, program: Path) -> None:
    # The machine's compiler, or else that of the tools tree, which `make setup` makes.
    if shutil.which("cc"):
        _run(["cc", *COMPILER, "-o", str(program), str(source)], program.name)
        return
    inside = TOOLS / "tmp" / source.name
    shutil.copyfile(source, inside)
    _run(["chroot", str(TOOLS), "gcc", *COMPILER, "-o", f"/tmp/{program.name}", f"/tmp/{source.name}"], program.name)
    shutil.move(TOOLS / "tmp" / program.name, program)
    inside.unlink()


def _tree() -> None:
    if TREE.exists():
        shutil.rmtree(TREE)
    command = [
        "mmdebstrap", "--variant=essential", "--mode=root", f"--include={','.join(PACKAGES)}",
        '--aptopt=APT::Install-Recommends "0"', "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*", "trixie", str(TREE),
    ]  # fmt: skip
    if mirror := os.environ.get("MILKYWAY_MIRROR"):
        command.append(mirror)
    _run(command, "bench-tree")
    (TREE / "etc/machine-id").write_text(MACHINE_ID + "\n")


def _supervisord() -> None:
    shutil.rmtree(SUPERVISORD, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(SUPERVISORD)], "bench-supervisord")
    _run([str(SUPERVISORD / "bin/pip"), "install", "--quiet", *SUPERVISORD_PACKAGES], "bench-supervisord")


def _fits(name: str, inputs: str) -> bool:
    stamp = BUILD / f"{name}.stamp"
    return stamp.is_file() and stamp.read_text() == hashlib.sha256(inputs.encode()).hexdigest()


def _once(name: str, inputs: str, make: Callable[[], None]) -> None:
    if _fits(name, inputs):
        return
    stamp = BUILD / f"{name}.stamp"
    stamp.unlink(missing_ok=True)
    make()
    stamp.write_text(hashlib.sha256(inputs.encode()).hexdigest())


def _run(command: list[str], log: str) -> None:
    path = BUILD / f"{log}.log"
    with path.open("wb") as out:
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT).returncode
    if code:
        raise PreparationError(f"cannot make {log}: {command[0]} ended with {code}; see {path.relative_to(ROOT)}")

"""Set up what ``make`` needs, from nothing: system packages, virtual environment, tools tree.

Standard library only, Python 3.11 or newer. Every step leaves a stamp that holds a hash
of its inputs; a step whose stamp still matches is skipped. Steps: ``system`` (Debian 12/13 or
Ubuntu 24.04 packages, needs root or sudo), ``venv`` (hash-pinned), ``tools`` (a Debian
trixie tree in ``build/tools``: the same erofs-utils, QEMU, secilc and ukify on any host),
``programs`` (``milkyway-agent`` and ``mwctl`` in the virtual environment).
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
VENV = ROOT / ".venv"
TOOLS = BUILD / "tools"

SYSTEM_PACKAGES = {
    "mmdebstrap": "mmdebstrap",
    "python3-venv": "",
    "debian-archive-keyring": "",
    "uidmap": "newuidmap",
    "fakeroot": "fakeroot",
    "crun": "crun",
}
TOOLS_PACKAGES = (
    "btrfs-progs", "cpio", "cryptsetup-bin", "dosfstools", "erofs-utils", "fdisk", "kmod", "libc6-dev", "gcc",
    "mmdebstrap", "musl-tools", "python3", "qemu-system-x86", "secilc", "systemd-ukify", "xz-utils", "zstd",
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run the steps named in *arguments* (``all``: every one). Return the exit code."""
    steps: dict[str, Callable[[], None]] = {"system": system_packages, "venv": virtual_environment, "tools": tools_tree}
    steps["programs"] = supervisor_programs
    wanted = list(steps) if arguments in ([], ["all"]) else arguments
    BUILD.mkdir(exist_ok=True)
    for name in wanted:
        if name not in steps:
            print(f"cannot prepare {name}: there is no such step; steps are {', '.join(steps)}", file=sys.stderr)
            return 2
        try:
            steps[name]()
        except subprocess.CalledProcessError as error:
            log = f"; see {error.output}" if error.output else ""
            print(f"cannot prepare {name}: {error.cmd[0]} ended with {error.returncode}{log}", file=sys.stderr)
            return 4
    return 0


def _run(command: list[str], log: str, *, env: dict[str, str] | None = None) -> None:
    """Run *command* with its output in ``build/LOG.log``."""
    path = BUILD / f"{log}.log"
    with path.open("wb") as out:
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env).returncode
    if code:
        sys.stderr.write("".join(path.read_text(errors="replace").splitlines(keepends=True)[-15:]))
        raise subprocess.CalledProcessError(code, command, output=str(path.relative_to(ROOT)))


def _fresh(stamp: Path, inputs: bytes) -> bool:
    """Tell whether *stamp* was made from *inputs*."""
    return stamp.is_file() and stamp.read_text() == hashlib.sha256(inputs).hexdigest()


def _mark(stamp: Path, inputs: bytes) -> None:
    stamp.write_text(hashlib.sha256(inputs).hexdigest())


def _step(name: str) -> Callable[[], None]:
    """Print that *name* begins; return a function that prints how long it took."""
    start = time.monotonic()
    print(f"· {name} …", flush=True)
    return lambda: print(f"✓ {name} ({time.monotonic() - start:.0f} s)", flush=True)


def _installed(package: str, command: str) -> bool:
    if command and shutil.which(command):
        return True
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, text=True).stdout == "installed"


def system_packages() -> None:
    """Install those of SYSTEM_PACKAGES that the host lacks."""
    missing = [package for package, command in SYSTEM_PACKAGES.items() if not _installed(package, command)]
    if not missing:
        return
    done = _step(f"system packages: {', '.join(missing)}")
    prefix = [] if os.geteuid() == 0 else ["sudo"]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    _run([*prefix, "apt-get", "update", "-q"], "apt-update", env=env)
    _run([*prefix, "apt-get", "install", "-y", "-q", "--no-install-recommends", *missing], "apt-install", env=env)
    done()


def virtual_environment() -> None:
    """Make ``.venv`` with exactly the locked packages and the project itself, editable."""
    lock = (ROOT / "setup/requirements.lock").read_bytes()
    inputs = lock + (ROOT / "pyproject.toml").read_bytes() + sys.version.encode()
    stamp = VENV / "stamp"
    if _fresh(stamp, inputs):
        return
    done = _step("virtual environment")
    shutil.rmtree(VENV, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(VENV)], "venv")
    pip = [str(VENV / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--require-hashes", "-r", str(ROOT / "setup/requirements.lock")], "pip")
    _run([*pip, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], "pip-project")
    _mark(stamp, inputs)
    done()


def tools_tree() -> None:
    """Make ``build/tools``, a trixie tree with the image tools, unless its stamp still matches."""
    inputs = " ".join(TOOLS_PACKAGES).encode()
    stamp = BUILD / "tools.stamp"
    if _fresh(stamp, inputs):
        return
    done = _step("tools tree (Debian trixie)")
    stamp.unlink(missing_ok=True)
    _remove_tree(TOOLS)
    command = [
        "mmdebstrap", "--variant=apt", f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
        f"--include={','.join(TOOLS_PACKAGES)}", '--aptopt=APT::Install-Recommends "0"',
        "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*", "trixie", str(TOOLS),
    ]  # fmt: skip
    if mirror := os.environ.get("MILKYWAY_MIRROR"):
        command.append(mirror)
    _run(command, "tools")
    _mark(stamp, inputs)
    done()


def supervisor_programs() -> None:
    """Put ``milkyway-agent`` and ``mwctl``, as fast as on a server, and the static launcher into the virtual environment."""
    source = ROOT / "agent/launch/launch.c"
    inputs = source.read_bytes() + (VENV / "stamp").read_bytes() + Path(__file__).read_bytes()
    stamp = VENV / "lib/milkyway/stamp"
    if _fresh(stamp, inputs):
        return
    (VENV / "lib/milkyway").mkdir(exist_ok=True)
    code = "import sys; from pathlib import Path; from milkyway_coreos.image.programs import compile_program"
    code += "; compile_program(Path(sys.argv[1]), Path(sys.argv[2]))"
    _run([str(VENV / "bin/python"), "-c", code, str(source), str(VENV / "lib/milkyway")], "launch")
    site = next((VENV / "lib").glob("python3*/site-packages"))
    paths = [str(ROOT / "agent"), str(ROOT / "formats"), str(site)]
    for name, module in {"milkyway-agent": "milkyway_agent.__main__", "mwctl": "milkyway_agent.mwctl.command"}.items():
        # -I -S: nothing of the user's, and no module site, which takes longer than everything before the first service.
        # The paths come after the standard library, as with site: else its modules would be looked for in all of them.
        text = f"#!{VENV / 'bin/python'} -IS\nimport sys\nsys.path += {paths!r}\n"
        program = VENV / "bin" / name
        program.write_text(f"{text}from {module} import main\nsys.exit(main())\n")
        program.chmod(0o755)
    _mark(stamp, inputs)


def _remove_tree(path: Path) -> None:
    """Remove a tree that mmdebstrap made, even if its files belong to sub-uids."""
    if not path.exists():
        return
    if os.geteuid() == 0:
        shutil.rmtree(path)
    else:
        subprocess.run(["unshare", "--map-auto", "--map-root-user", "rm", "-rf", str(path)], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

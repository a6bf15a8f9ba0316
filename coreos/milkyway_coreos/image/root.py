"""The tree that becomes CoreOS' root: packages, Python, modules, the agent and its entry scripts.

Each part is kept as a tree of its own, and the root is put together from them with hard links:
a change of the agent costs its own files and one run of mkfs. A part is never written to afterwards.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from milkyway_coreos import tools
from milkyway_coreos.image import config
from milkyway_coreos.image.kernel import Modules, loading_order

MILKYWAY = "usr/lib/milkyway"
PYTHON = f"{MILKYWAY}/python"
ENTRY = """#!/usr/bin/python3 -IS
import sys
sys.path.append("/usr/lib/milkyway/python")
from {module} import main
sys.exit(main())
"""
# Parts of the wheels that only the developers of those packages need.
UNUSED_OF_WHEELS = ("pycparser/", "trio/_tests/", "anyio/pytest_plugin", "sortedcontainers/tests")
UNUSED_ENDINGS = ("/", ".pyi", ".c", ".h", ".md", ".txt", "py.typed")


def entry_scripts() -> dict[str, str]:
    """Return the entry scripts by their path. That of PID 1 runs the package itself (``__main__``)."""
    scripts = {f"{MILKYWAY}/{name}": ENTRY.format(module=module) for name, module in config.ENTRIES.items()}
    scripts["usr/bin/mwctl"] = ENTRY.format(module="milkyway_agent.mwctl.command")
    return scripts


def skeleton(into: Path) -> None:
    """Make the directories, links and small files of the root that come from no package."""
    for name in config.DIRECTORIES:
        (into / name).mkdir(parents=True, exist_ok=True)
    for name, target in config.LINKS.items():
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        (into / name).unlink(missing_ok=True)
        (into / name).symlink_to(target)
    for name, text in config.TEXTS.items():
        write(into / name, text)
    for applet in config.APPLETS:
        if not (into / "usr/bin" / applet).exists() and not (into / "usr/sbin" / applet).exists():
            (into / "usr/bin" / applet).symlink_to("busybox")


def write(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Write a file of the root."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)


def add_modules(modules: Modules, into: Path) -> None:
    """Write the modules that the agent loads to *into*, and ``usr/lib/milkyway/modules``, which names them in loading order."""
    loaded = loading_order(config.BOOT_MODULES, modules.needs)
    order = loading_order(config.ROOT_MODULES, modules.needs, loaded)
    for name in order:
        write(into / f"usr/lib/modules/{name}.ko", modules.content(name))
    write(into / MILKYWAY / "modules", "".join(f"/usr/lib/modules/{name}.ko\n" for name in order))


def download_wheels(lock: Path, into: Path) -> None:
    """Unpack the packages of *lock* for the root's Python to ``into/root``, each checked against its hash, and list them."""
    wheels = into / "wheels"
    platforms = [f"--platform=manylinux{tag}_x86_64" for tag in ("_2_28", "_2_34", "_2_17", "2014")]
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps",
        "--only-binary=:all:", "--python-version=3.13", "--implementation=cp", *platforms,
        f"--dest={wheels}", f"--requirement={lock}",
    ]  # fmt: skip
    tools.run(command)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as packed:
            for name in packed.namelist():
                if _is_used(name):
                    write(into / "root" / PYTHON / name, packed.read(name), 0o755 if name.endswith(".so") else 0o644)
    names = sorted(wheel.name for wheel in wheels.iterdir())
    (into / "wheels.txt").write_text("".join(f"{name}\n" for name in names))
    shutil.rmtree(wheels)


def _is_used(name: str) -> bool:
    top, _, inside = name.partition("/")
    if not inside:
        return top.endswith((".py", ".so"))
    return not (top.endswith(".dist-info") or name.startswith(UNUSED_OF_WHEELS) or name.endswith(UNUSED_ENDINGS))


def add_sources(package: Path, into: Path) -> None:
    """Copy the import package *package* of this project to the root's Python below *into*."""
    for source in package.rglob("*.py"):
        write(into / PYTHON / source.relative_to(package.parent), source.read_bytes())


def compile_python(base: Path, tree: Path, part: str) -> None:
    """Compile all Python below ``tree/part`` with the interpreter in *base*.

    The compiled files name their source by its hash and are never checked against it: the times of files
    in an image mean nothing, and dm-verity protects both.
    """
    interpreter = tools.Tree(base)
    whole = str(tree)
    arguments = ["-S", "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash", "-s", whole, "-p", "/", str(tree / part)]
    environment = {"PYTHONHOME": str(base / "usr"), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"}
    tools.run(interpreter.command("usr/bin/python3.13", *arguments), env=environment)


def join(parts: Iterable[Path], into: Path) -> None:
    """Put the trees *parts* together in *into*, by hard links; a later part's file wins."""
    into.mkdir(parents=True)
    for part in parts:
        subprocess.run(["cp", "-al", "--force", "--remove-destination", f"{part}/.", str(into)], check=True)


def listing(root: Path) -> Iterator[str]:
    """Yield a line ``sha256  mode  path`` for every file of *root*, sorted by path; for a link, its target is hashed."""
    for path in sorted(_walk(root)):
        if path.is_symlink():
            yield f"{hashlib.sha256(os.readlink(path).encode()).hexdigest()}  120777  /{path.relative_to(root)}"
        elif path.is_dir():
            yield f"{'-' * 64}  040755  /{path.relative_to(root)}"
        else:
            yield f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.stat().st_mode:06o}  /{path.relative_to(root)}"


def _walk(root: Path) -> Iterator[Path]:
    for directory, names, files in os.walk(root):
        yield from (Path(directory, name) for name in (*names, *files))

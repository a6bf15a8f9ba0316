"""Build CoreOS: from packages, policy and sources to ``root.img``, ``vmlinuz`` and ``initramfs.img``.

Every step's result is kept under the hash of what it was made from (``steps``); the images take their
places in the output directory only when all of them are made. The same inputs give the same bytes: the
packages of the same day, this project's sources, the versions of the tools tree.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from milkyway_coreos import tools
from milkyway_coreos.image import config, initramfs, kernel, packages, policy, programs, root, verity_image
from milkyway_coreos.image.kernel import Modules
from milkyway_coreos.image.steps import Say, StepCache, hash_files, locked, remove_tree, to_terminal

HERE = Path(__file__).resolve().parent
PROJECT = tools.PROJECT
OUTPUT = PROJECT / "build/coreos"
VENDOR_ROOT = PROJECT / "build/keys/vendor-root.json"


class Parts(NamedTuple):
    """The directories in the cache that the images are made from."""

    base: Path  # root/, packages, status, kernel.deb
    kernel: Path  # root/ with the agent's modules, vmlinuz, vmlinux, modules/
    python: Path  # root/ with the wheels, compiled
    programs: Path  # init, launch
    policy: Path  # base.policy, *.cil, file_contexts


def build(output: Path = OUTPUT, *, vendor_root: Path | None = None, say: Say = to_terminal) -> dict[str, Any]:
    """Build CoreOS into *output* and return the contents of ``coreos.json``.

    *vendor_root* is the vendor's signed root document; an image without it accepts no vendor's signatures.
    Raises ToolError when a program that the build needs is missing or fails.
    """
    output.mkdir(parents=True, exist_ok=True)
    with locked(output / "cache"):
        steps = StepCache(output / "cache", say)
        parts = _parts(steps)
        agent = {f"{root.MILKYWAY}/vendor-root.json": vendor_root.read_bytes()} if vendor_root else {}
        inputs = "\n".join([
            *(part.name for part in parts), hash_files(HERE, PROJECT / "coreos/root", *_packages_of_the_agent()),
            hashlib.sha256(repr(sorted(agent.items())).encode()).hexdigest(),
        ])  # fmt: skip
        made = steps.made("image", inputs, lambda into: _make_images(parts, agent, into, say))
        for file in made.iterdir():
            _publish(file, output / file.name)
        description: dict[str, Any] = json.loads((output / "coreos.json").read_text())
        return description


def _parts(steps: StepCache) -> Parts:
    """Return the parts that the images are put together from, from the cache or made now."""
    wanted = (config.PACKAGES, config.KERNEL, config.SUITE, packages.COLLECT, os.environ.get("MILKYWAY_MIRROR"))
    fetched = steps.made("packages", repr(wanted), packages.fetch)
    rules = fetched.name + hash_files(*(HERE / f"{name}.py" for name in ("config", "packages", "root", "trim")))

    def make_base(into: Path) -> None:
        packages.unpack(fetched / "base.tar", into)
        root.skeleton(into / "root")
        root.compile_python(into / "root", into / "root", "usr/lib/python3.13")

    base = steps.made("base", rules, make_base)

    def make_kernel(into: Path) -> None:
        kernel.unpack(base / "kernel.deb", into)
        root.add_modules(Modules(into / "modules"), into / "root")

    unpacked = steps.made("kernel", base.name + hash_files(HERE / "kernel.py"), make_kernel)
    lock = PROJECT / "coreos/requirements.lock"

    def make_python(into: Path) -> None:
        root.download_wheels(lock, into)
        root.compile_python(base / "root", into / "root", root.PYTHON)

    python = steps.made("python", base.name + hash_files(lock, HERE / "root.py"), make_python)
    sources = [PROJECT / "coreos/initramfs/init.c", PROJECT / "agent/launch/launch.c"]

    def make_programs(into: Path) -> None:
        for source in sources:
            programs.compile_program(source, into)

    compiled = steps.made("programs", hash_files(HERE / "programs.py", *sources), make_programs)

    def make_policy(into: Path) -> None:
        policy.compile_base(into, tools=tools.tools_tree().root)
        for source in policy.base_sources():
            (into / source.name).write_bytes(source.read_bytes())

    rules = hash_files(HERE / "policy.py", PROJECT / "coreos/selinux")
    return Parts(base, unpacked, python, compiled, steps.made("policy", rules, make_policy))


def _packages_of_the_agent() -> list[Path]:
    return [PROJECT / "formats/milkyway_formats", PROJECT / "agent/milkyway_agent"]


def _make_images(parts: Parts, extra: dict[str, bytes], into: Path, say: Say) -> None:
    """Write every file of the output to *into*."""
    steps = StepCache(into, say)
    modules = Modules(parts.kernel / "modules")
    tree, overlay = into / "tree", into / "overlay"
    for source in (PROJECT / "coreos/root").rglob("*"):
        if source.is_file():
            root.write(overlay / source.relative_to(PROJECT / "coreos/root"), source.read_bytes(), 0o755)
    for path, script in root.entry_scripts().items():
        root.write(overlay / path, script, 0o755)
    for package in _packages_of_the_agent():
        root.add_sources(package, overlay)
    root.write(overlay / root.MILKYWAY / "launch", (parts.programs / "launch").read_bytes(), 0o755)
    for file in [*sorted(parts.policy.glob("*.cil")), parts.policy / "base.policy"]:
        root.write(overlay / root.MILKYWAY / "policy" / file.name, file.read_bytes())
    root.write(overlay / root.MILKYWAY / "coreos.json", _json({"version": config.VERSION, "interface": config.INTERFACE}))
    for path, content in extra.items():
        root.write(overlay / path, content)
    with steps.timed("agent"):
        root.compile_python(parts.base / "root", overlay, root.PYTHON)
    root.join([*(part / "root" for part in (parts.base, parts.kernel, parts.python)), overlay], tree)
    with steps.timed("root image"):
        verity_image.make_erofs(tree, into / "root.img", parts.policy / "file_contexts")
    verity = verity_image.append_hash_tree(into / "root.img")
    (into / "files.txt").write_text("".join(f"{line}\n" for line in root.listing(tree)))
    (into / "packages-status").write_bytes((parts.base / "status").read_bytes())
    remove_tree(tree)
    remove_tree(overlay)
    (into / "vmlinuz").write_bytes((parts.kernel / "vmlinuz").read_bytes())
    (into / "vmlinux").hardlink_to(parts.kernel / "vmlinux")
    program = (parts.programs / "init").read_bytes()
    (into / "initramfs.img").write_bytes(initramfs.archive(initramfs.entries(program, modules, config.BOOT_MODULES)))
    (into / "coreos.json").write_text(_json(_description(parts, verity, into)))


def _description(parts: Parts, verity: verity_image.Verity, made: Path) -> dict[str, Any]:
    """Return what ``coreos.json`` says about the images in *made*."""
    images = ("root.img", "vmlinuz", "initramfs.img")
    return {
        "version": config.VERSION,
        "interface": config.INTERFACE,
        "root_hash": verity.root_hash,
        "salt": verity.salt,
        "data_blocks": verity.blocks,
        "policy_sha256": _sha256(parts.policy / "base.policy"),
        "kernel_release": (parts.kernel / "version").read_text(),
        "bytes": {name: (made / name).stat().st_size for name in images},
        "sha256": {name: _sha256(made / name) for name in images},
        "packages": [package._asdict() for package in packages.read_packages((parts.base / "packages").read_text())],
        "wheels": (parts.python / "wheels.txt").read_text().splitlines(),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _json(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def _publish(file: Path, place: Path) -> None:
    """Replace *place* by *file*, atomically; a program that has the old file open keeps it."""
    beside = place.with_name(f".{place.name}.new")
    beside.unlink(missing_ok=True)
    beside.hardlink_to(file)
    beside.rename(place)

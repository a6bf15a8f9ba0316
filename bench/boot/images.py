"""The two roots that are booted: CoreOS' own with a first service that prints when it began, and the same with systemd.

Both are made from ``build/coreos/root.img``, which is built first if it is out of date; kernel and initramfs are the same
files. Systemd comes from Debian's package with its dependencies and nothing recommended, its files added to those
of our root: our file wins where both have one, so both roots have the same libc. The initramfs executes
/usr/lib/milkyway/init in either; in the second root that is systemd.

SELinux: both roots are labelled and enforce. Our policy has no rules for systemd, so in the second root every domain
may do everything: systemd goes through the same hooks, transitions and labels, and is never refused.
"""

import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

from bench.supervisor.tree import BUILD
from milkyway_agent.pid1.boot_steps import SYSCTLS
from milkyway_agent.pid1.early_boot import FIRST_MODULES
from milkyway_coreos import tools
from milkyway_coreos.image import build as building
from milkyway_coreos.image import config, policy, programs, verity_image
from milkyway_coreos.image.packages import unpack_member
from milkyway_coreos.image.steps import Say, StepCache, hash_files

HERE = Path(__file__).parent
COREOS = BUILD / "coreos"
WORK = BUILD / "bench-boot"
HOUSE = "usr/lib/milkyway"
UNITS = "etc/systemd/system"
SYSTEMD = "usr/lib/systemd/systemd"
UNUSED = re.compile(r"(?:usr/share/(?:doc|man|locale|info|lintian|bash-completion|zsh|bug)|var|dev|proc|sys|run|tmp)/")
MACHINE_ID = 32 * "b"  # any id: without one it would be systemd's first boot
SELINUX_CONFIG = "SELINUX=enforcing\nSELINUXTYPE=milkyway\n"
WANTED = (
    "bench-more-modules.service", "bench-nothing.service", "bench-dhcp.service", "bench-ordinary.service",
    "bench-report.service",
)  # fmt: skip
# The parts of systemd's stock boot that wait for devices that only udev names, or fail on a root that can't be written and
# has no kmod: without them its boot is quicker, and nothing fails.
MASKED = (
    "getty.target", "ldconfig.service", "modprobe@.service", "systemd-modules-load.service", "systemd-random-seed.service",
)  # fmt: skip
MARK = "(allow dhcp_t console_device_t (chr_file (open)))\n"
SYSTEM_CONF = "[Manager]\nShowStatus=no\n"  # the serial console is slow under emulation: its status lines would cost it time


def prepare(say: Say) -> dict[str, Path]:
    """Make both roots unless they are made already; return the directory of the images for each PID 1, by its name."""
    building.build(COREOS, vendor_root=building.VENDOR_ROOT if building.VENDOR_ROOT.exists() else None, say=say)
    steps = StepCache(WORK, say)
    sources = [Path(__file__), HERE / "native", HERE / "systemd"]
    inputs = hash_files(*sources, COREOS / "coreos.json", COREOS / "root.img", policy.SOURCES)
    packages = steps.made("packages", f"systemd {config.SUITE} {os.environ.get('MILKYWAY_MIRROR')}", _fetch)

    def with_systemd(tree: Path) -> list[Path]:
        return _theirs(tree, packages / "systemd.tar")

    return {
        "milkyway": steps.made("milkyway", inputs, lambda into: _make(into, _ours)),
        "systemd": steps.made("systemd", inputs, lambda into: _make(into, with_systemd)),
    }


def kernel_release() -> str:
    """Return the release of the kernel that both boot."""
    return str(json.loads((COREOS / "coreos.json").read_text())["kernel_release"])


def _fetch(into: Path) -> None:
    command = ["mmdebstrap", "--variant=extract", "--mode=root", "--include=systemd", '--aptopt=APT::Install-Recommends "0"']
    command += [config.SUITE, str(into / "systemd.tar")]
    if mirror := os.environ.get("MILKYWAY_MIRROR"):
        command.append(mirror)
    tools.run(command)


def _make(into: Path, change: Callable[[Path], list[Path]]) -> None:
    """Write root.img, coreos.json, kernel and initramfs to *into*; *change* alters the tree, returning the policy's sources."""
    tree = into / "tree"
    tools.run(tools.tools_tree().command("fsck.erofs", f"--extract={tree}", "--no-xattrs", COREOS / "root.img"))
    programs.compile_program(HERE / "native/boot.c", into)
    shutil.copy2(into / "boot", tree / HOUSE / "boot")
    (tree / HOUSE / "dhcp").rename(tree / HOUSE / "dhcp-client")
    shutil.copy2(into / "boot", tree / HOUSE / "dhcp")
    made = into / "policy"
    made.mkdir()
    compiled = policy.compile_policy(
        change(tree), made / "base.policy", made / "file_contexts", secilc=policy.secilc_of(tools.tools_tree().root)
    )
    shutil.copy(compiled.policy, tree / HOUSE / "policy/base.policy")
    if (tree / "etc/selinux").exists():
        (tree / "etc/selinux/milkyway/contexts/files").mkdir(parents=True)
        shutil.copy(compiled.file_contexts, tree / "etc/selinux/milkyway/contexts/files/file_contexts")
    verity_image.make_erofs(tree, into / "root.img", compiled.file_contexts)
    verity = verity_image.append_hash_tree(into / "root.img")
    description = {"root_hash": verity.root_hash, "salt": verity.salt, "data_blocks": verity.blocks}
    (into / "coreos.json").write_text(json.dumps(description))
    shutil.rmtree(tree)
    for name in ("vmlinux", "vmlinuz", "initramfs.img"):
        (into / name).hardlink_to(COREOS / name)


def _ours(tree: Path) -> list[Path]:
    """Return the sources of our policy, with a rule that lets the first service print when it began."""
    mark = tree.parent / "mark.cil"
    mark.write_text(MARK)
    return [*policy.base_sources(), mark]


def _theirs(tree: Path, packages: Path) -> list[Path]:
    """Add systemd, its units and its configuration to *tree*; return the sources of a policy that refuses nothing."""
    with tarfile.open(packages) as tar:
        for member in tar:
            path = member.name.removeprefix("./")
            place = tree / path
            is_wanted = (member.isfile() or member.islnk() or member.issym()) and not UNUSED.match(path)
            if is_wanted and not (place.exists() or place.is_symlink()):
                unpack_member(tar, member, place)
    (tree / HOUSE / "init").unlink()
    shutil.copy2(tree / SYSTEMD, tree / HOUSE / "init")  # a file, not a link: its label decides the domain
    units = tree / UNITS
    units.mkdir(parents=True, exist_ok=True)
    for unit in (HERE / "systemd").glob("*.service"):
        shutil.copy(unit, units / unit.name)
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    for name in WANTED:
        (wants / name).symlink_to(f"../{name}")
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    (units / "default.target").unlink(missing_ok=True)
    (units / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    shutil.copy(HERE / "systemd/bench-report", tree / HOUSE / "bench-report")
    (tree / HOUSE / "first-modules").write_text("".join(f"/usr/lib/modules/{name}.ko\n" for name in FIRST_MODULES))
    (tree / "etc/machine-id").write_text(MACHINE_ID + "\n")
    (tree / "etc/systemd/system.conf").write_text(SYSTEM_CONF)
    (tree / "etc/sysctl.d").mkdir(exist_ok=True)
    (tree / "etc/sysctl.d/50-milkyway.conf").write_text(_sysctls())
    (tree / "etc/selinux").mkdir(exist_ok=True)
    (tree / "etc/selinux/config").write_text(SELINUX_CONFIG)
    return _unconfined_policy(tree.parent / "cil")


def _unconfined_policy(into: Path) -> list[Path]:
    into.mkdir()
    sources = [source for source in policy.base_sources() if source.name != "invariants.cil"]
    for source in sources:
        # Systemd checks classes of its own, which are not in our list of the kernel's.
        (into / source.name).write_text(source.read_text().replace("(handleunknown deny)", "(handleunknown allow)"))
    (into / "everything.cil").write_text(unconfined([source.read_text() for source in sources]))
    return sorted(into.iterdir())


def _sysctls() -> str:
    return "".join(f"-{name} = {value}\n" for name, value in SYSCTLS)


def unconfined(sources: list[str]) -> str:
    """Return CIL that lets every type do everything to every type, for each class that *sources* declare."""
    classes = sorted({name for source in sources for name in re.findall(r"^\(class (\w+)", source, re.MULTILINE)})
    lines = ["(typeattribute bench_every_a)", "(typeattributeset bench_every_a (all))"]
    return "\n".join([*lines, *(f"(allow bench_every_a bench_every_a ({name} (all)))" for name in classes)]) + "\n"

"""The two roots that are booted: the one that ``milkyway coreos build`` made, and a copy of it whose PID 1 is systemd.

In both, the DHCP client, which is CoreOS' first service, is replaced by a program that says when it began. The copy has
systemd from the peers' tree (``bench.supervisor.tree``) with the libraries that it needs, one unit for that program that waits
for nothing, and a policy in which every domain is permissive: ours says nothing of systemd. Kernel, initramfs, dm-verity
and the loading of a policy are the same.
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.supervisor.tree import BUILD, ROOT, TREE, PreparationError
from milkyway_coreos import build, image, policy, programs, tools
from milkyway_coreos.steps import hash_files

HERE = Path(__file__).parent
COREOS = BUILD / "coreos"
IMAGES = BUILD / "bench-boot"
FIRST, PID1 = "usr/lib/milkyway/dhcp", "usr/lib/milkyway/init"
OURS, THEIRS = "milkyway", "systemd"
UNIT = """[Unit]
Description=The first service
DefaultDependencies=no

[Service]
ExecStart=/usr/lib/milkyway/dhcp eth0
"""
TARGET = "[Unit]\nRequires=first.service\nDefaultDependencies=no\n"
# The program that says when it began opens the console, which the DHCP client may not.
SPEAKING = "(allow dhcp_t console_device_t (chr_file (open write)))\n(allow dhcp_t device_t (chr_file (open write)))\n"
_SAME = ("vmlinuz", "vmlinux", "initramfs.img")


def prepare(say: Callable[[str], None]) -> dict[str, Path]:
    """Return the directories of both images by name, made where they are not there or older than what they are made of."""
    say("building CoreOS, where something of it has changed")
    build.build(COREOS, vendor_root=build.VENDOR_ROOT if build.VENDOR_ROOT.exists() else None)
    inputs = (COREOS / "coreos.json").read_text() + hash_files(HERE) + hash_files(*policy.base_sources())
    stamp = IMAGES / "stamp"
    if not stamp.exists() or stamp.read_text() != inputs:
        say("making the two roots (once for each CoreOS; about a minute)")
        shutil.rmtree(IMAGES, ignore_errors=True)
        IMAGES.mkdir(parents=True)
        _make_both()
        stamp.write_text(inputs)
    return {name: IMAGES / name for name in (OURS, THEIRS)}


def _make_both() -> None:
    tree, compiled = IMAGES / "tree", IMAGES / "programs"
    compiled.mkdir()
    for source in (HERE / "native").glob("*.c"):
        programs.compile_program(source, compiled)
    _run(tools.tools_tree().command("fsck.erofs", f"--extract={tree}", "--no-preserve", COREOS / "root.img"))
    shutil.copy(compiled / "first", tree / FIRST)
    speaking = IMAGES / "speaking.cil"
    speaking.write_text(SPEAKING)
    _make(OURS, tree, [*policy.base_sources(), speaking])
    _add_systemd(tree, compiled)
    permissive = IMAGES / "permissive.cil"
    permissive.write_text("".join(f"(typepermissive {name})\n" for name in _domains()))
    _make(THEIRS, tree, [*policy.base_sources(), permissive])
    shutil.rmtree(tree)


def _domains() -> list[str]:
    """Return every domain of the base policy: what its attribute of all domains of CoreOS is made of."""
    text = (policy.SOURCES / "invariants.cil").read_text()
    listed = text.partition("(typeattributeset but_coreos_a (not (")[2].partition(")))")[0]
    return listed.split()


def _add_systemd(tree: Path, compiled: Path) -> None:
    """Add systemd, its libraries and its units' programs to *tree*, and make it PID 1."""
    for path in ("usr/lib/systemd", "usr/lib/tmpfiles.d", "usr/lib/sysusers.d", "etc/systemd"):
        shutil.copytree(TREE / path, tree / path, symlinks=True, dirs_exist_ok=True)
    for library in (TREE / "usr/lib/x86_64-linux-gnu").glob("*.so*"):
        if not (tree / "usr/lib/x86_64-linux-gnu" / library.name).exists():
            shutil.copy(library, tree / "usr/lib/x86_64-linux-gnu" / library.name, follow_symlinks=False)
    shutil.copytree(TREE / "usr/lib/x86_64-linux-gnu/systemd", tree / "usr/lib/x86_64-linux-gnu/systemd", dirs_exist_ok=True)
    for program in ("systemctl", "journalctl", "systemd-tmpfiles", "systemd-sysusers", "mount", "umount"):
        (tree / "usr/bin" / program).unlink(missing_ok=True)
        shutil.copy(TREE / "usr/bin" / program, tree / "usr/bin" / program)
    shutil.copy(TREE / "etc/machine-id", tree / "etc/machine-id")
    units = tree / "etc/systemd/system"
    (units / "first.service").write_text(UNIT)
    (units / "first.target").write_text(TARGET)
    (units / "default.target").unlink(missing_ok=True)
    (units / "default.target").symlink_to("first.target")
    shutil.copy(compiled / "shim", tree / PID1)


def _make(name: str, tree: Path, sources: list[Path]) -> None:
    """Make the image *name* of *tree* with the policy of *sources*, as the build does it."""
    into = IMAGES / name
    into.mkdir()
    secilc = policy.secilc_of(tools.tools_tree().root)
    made = policy.compile_policy(sources, into / "base.policy", into / "file_contexts", secilc=secilc)
    shutil.copy(made.policy, tree / "usr/lib/milkyway/policy/base.policy")
    image.make_erofs(tree, into / "root.img", made.file_contexts)
    verity = image.append_hash_tree(into / "root.img")
    for file in _SAME:
        shutil.copy(COREOS / file, into / file)
    description = {"root_hash": verity.root_hash, "salt": verity.salt, "data_blocks": verity.blocks}
    (into / "coreos.json").write_text(json.dumps(description))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise PreparationError(f"cannot make the roots: {Path(command[0]).name}: {(done.stdout + done.stderr)[-300:]}")

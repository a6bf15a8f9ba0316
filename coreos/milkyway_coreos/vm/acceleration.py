"""Does KVM work here? Only a boot proves it: a ``/dev/kvm`` that exists may hang with an ordinary kernel.

The proof is a boot of the built kernel without a disk: within the deadline the initramfs must get as
far as refusing its command line. The answer is kept for this kernel on this machine.
"""

import hashlib
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from milkyway_coreos import tools

DEADLINE_S = 20
KEPT = tools.PROJECT / "build/vm/kvm.json"
PROOF = b"milkyway: initramfs"


def kvm_works(coreos: Path, kept: Path = KEPT) -> bool:
    """Tell whether the kernel in *coreos* boots under KVM on this machine."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    key = _key(coreos)
    answers: dict[str, bool] = json.loads(kept.read_text()) if kept.exists() else {}
    if key not in answers:
        answers = {key: _boots(coreos)}
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(answers))
    return answers[key]


def _key(coreos: Path) -> str:
    processor = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    machine = f"{os.uname().release} {os.uname().version} {processor}".encode()
    kernel = hashlib.sha256((coreos / "vmlinuz").read_bytes()).digest()
    return hashlib.sha256(kernel + machine).hexdigest()


def _boots(coreos: Path) -> bool:
    with tempfile.TemporaryFile() as console:
        arguments = [
            "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-accel", "kvm", "-cpu", "host",
            "-smp", "2", "-m", "256", "-serial", "stdio", "-no-reboot", "-append", "console=ttyS0 panic=0",
            "-kernel", str(coreos / "vmlinuz"), "-initrd", str(coreos / "initramfs.img"),
        ]  # fmt: skip
        share = tools.tools_tree().root / "usr/share"
        command = tools.tools_tree().command("qemu-system-x86_64", "-L", share / "qemu", "-L", share / "seabios", *arguments)
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT) as child:
            until = time.monotonic() + DEADLINE_S
            try:
                child.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
        console.seek(0)
        return PROOF in console.read()

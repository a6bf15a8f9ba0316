"""Compile CoreOS' base SELinux policy with the tools tree's ``secilc``.

Promises: the same sources give the same bytes; every neverallow rule was checked; the policy is of the
version that the kernel on the server accepts. Leaves loading to the initramfs and the agent, and labelling
the root image, by the file contexts written beside the policy, to ``verity_image``.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from milkyway_coreos.tools import PROJECT
from milkyway_formats.errors import RefusedError, UnavailableError

# Linux 6.12 refuses policy version 34, which secilc 3.8 writes unless told otherwise.
POLICY_VERSION = 33
SOURCES = PROJECT / "coreos/selinux"


class CompiledPolicy(NamedTuple):
    """The files of a compiled policy and its file contexts."""

    policy: Path
    file_contexts: Path


def secilc_of(tools: Path) -> tuple[str, ...]:
    """Return the command that runs ``secilc`` of the tree *tools* with that tree's libraries, not the host's.

    Raises UnavailableError when the tree has none.
    """
    loader, program = tools / "usr/lib64/ld-linux-x86-64.so.2", tools / "usr/bin/secilc"
    if not loader.exists() or not program.exists():
        raise UnavailableError(f"cannot compile the policy: {tools} has no secilc", hint="run `python3 setup/prepare.py tools`")
    return (str(loader), "--library-path", str(tools / "usr/lib/x86_64-linux-gnu"), str(program))


def base_sources(directory: Path = SOURCES) -> list[Path]:
    """Return the base policy's CIL files, sorted. Raises UnavailableError when there are none."""
    sources = sorted(directory.glob("*.cil"))
    if not sources:
        raise UnavailableError(f"cannot compile the policy: no .cil files in {directory}")
    return sources


def compile_policy(sources: Sequence[Path], policy: Path, file_contexts: Path, *, secilc: Sequence[str]) -> CompiledPolicy:
    """Compile *sources* into *policy* and *file_contexts*. Raises RefusedError with secilc's own first lines.

    A broken neverallow rule is such a refusal. After a refusal neither file exists.
    """
    command = [*secilc, "-c", str(POLICY_VERSION), "-o", str(policy), "-f", str(file_contexts), *map(str, sources)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        policy.unlink(missing_ok=True)
        file_contexts.unlink(missing_ok=True)
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise RefusedError(f"cannot compile the policy: {'; '.join(said[:6]) or f'secilc ended with {done.returncode}'}")
    return CompiledPolicy(policy, file_contexts)


def compile_base(out: Path, *, tools: Path, sources: Path = SOURCES) -> CompiledPolicy:
    """Compile the base policy in *sources* into ``out/base.policy`` and ``out/file_contexts``."""
    out.mkdir(parents=True, exist_ok=True)
    return compile_policy(base_sources(sources), out / "base.policy", out / "file_contexts", secilc=secilc_of(tools))

"""The policy compiler: the base policy and the verifier's CIL for the deployments go in, a binary policy comes out.

PID 1 starts this process in a domain of its own for one compilation: fd 3 is read to its end and holds the CIL of all
instances, with the declarations that they share; fd 4 takes the binary policy, which is written only when it is complete.
The process has no network and needs no writable path: intermediate results are in memory files. secilc checks the base's
neverallow rules against every instance, and they are never switched off. Exit 0: the policy is complete. Otherwise one line
on stderr says why, in secilc's words: exit 3 when the policy is refused, 4 when something needed is missing.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from milkyway_agent.ipc.sealed_memory import MFD_NOEXEC_SEAL
from milkyway_formats.errors import MilkyWayError, RefusedError, UnavailableError

INSTANCES_FD, POLICY_FD = 3, 4
BASE = Path("/usr/lib/milkyway/policy")
SECILC = Path("/usr/bin/secilc")
# Linux 6.12 refuses version 34, which secilc 3.8 writes unless told otherwise.
POLICY_VERSION = 33
MAX_INSTANCES_BYTES = 8 * 1024 * 1024
MAX_POLICY_BYTES = 64 * 1024 * 1024
TIMEOUT_SECONDS = 300
SHOWN_LINES = 6


def compile_policy(instances: bytes, *, base: Path = BASE, secilc: Sequence[str] = (str(SECILC),)) -> bytes:
    """Return the binary policy of *base*'s CIL files and *instances*. Raises RefusedError with secilc's own first lines."""
    sources = sorted(base.glob("*.cil"))
    if not sources:
        raise UnavailableError(f"cannot compile the policy: no .cil files in {base}")
    source, result = _memory("instances"), _memory("policy")
    try:
        _write_all(source, instances)
        command = [
            *secilc,
            *("-c", str(POLICY_VERSION), "-o", f"/proc/self/fd/{result}", "-f", "/dev/null"),
            *map(str, sources),
            f"/proc/self/fd/{source}",
        ]
        _run(command, (source, result))
        policy = os.pread(result, MAX_POLICY_BYTES + 1, 0)
    finally:
        os.close(source)
        os.close(result)
    if not 0 < len(policy) <= MAX_POLICY_BYTES:
        raise RefusedError(f"cannot compile the policy: secilc wrote {len(policy)} bytes, 1 to {MAX_POLICY_BYTES} are allowed")
    return policy


def _run(command: list[str], descriptors: tuple[int, ...]) -> None:
    """Run secilc to its end. Raises RefusedError with its first lines unless it ends with 0."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=descriptors,
            env={},
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RefusedError(f"cannot compile the policy: secilc was not done within {TIMEOUT_SECONDS} s") from error
    except OSError as error:
        raise UnavailableError(f"cannot compile the policy: {command[0]}: {error.strerror}") from error
    if done.returncode:
        said = [line.strip() for line in (done.stdout + done.stderr).decode(errors="replace").splitlines() if line.strip()]
        why = "; ".join(said[:SHOWN_LINES]) or f"secilc ended with {done.returncode}"
        raise RefusedError(f"cannot compile the policy: {why}")


def _memory(name: str) -> int:
    """Return an empty memory file that cannot be executed."""
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | MFD_NOEXEC_SEAL)
    except OSError:  # EINVAL before Linux 6.3; any other error occurs again below
        return os.memfd_create(name, os.MFD_CLOEXEC)


def _read_all(descriptor: int) -> bytes:
    """Return everything up to the end of a file or pipe. Raises RefusedError beyond MAX_INSTANCES_BYTES."""
    pieces: list[bytes] = []
    while piece := os.read(descriptor, 1 << 20):
        pieces.append(piece)
        if sum(map(len, pieces)) > MAX_INSTANCES_BYTES:
            raise RefusedError(f"cannot compile the policy: more than {MAX_INSTANCES_BYTES} bytes of instances")
    return b"".join(pieces)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def main() -> None:
    """Compile once and exit. The arguments, if any, are the directory of the base and the command that runs secilc."""
    base, *secilc = sys.argv[1:] or (str(BASE),)
    try:
        policy = compile_policy(_read_all(INSTANCES_FD), base=Path(base), secilc=secilc or (str(SECILC),))
        _write_all(POLICY_FD, policy)
    except MilkyWayError as error:
        print(error, file=sys.stderr)
        raise SystemExit(int(error.exit_code)) from None
    except OSError as error:
        print(f"cannot compile the policy: {error}", file=sys.stderr)
        raise SystemExit(int(UnavailableError.exit_code)) from None

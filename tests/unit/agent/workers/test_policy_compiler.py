"""What secilc is given and what becomes of its answers. With the real secilc: tests/privileged/workers."""

import os
import sys
from pathlib import Path

import pytest

from milkyway_agent.workers.policy_compiler import compile_policy
from milkyway_formats.errors import RefusedError, UnavailableError

# A stand-in for secilc that writes its arguments, and the content of its last one, into its output.
ECHO = (sys.executable, "-c", "import sys; a = sys.argv[1:]; open(a[3], 'w').write(' '.join(a[:3]) + open(a[-1]).read())")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "b.cil").write_text("(b)")
    (tmp_path / "a.cil").write_text("(a)")
    (tmp_path / "base.policy").write_bytes(b"not a source")
    return tmp_path


def program(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_secilc_reads_the_instances_and_writes_the_policy_through_memory(base: Path) -> None:
    assert compile_policy(b"(instances)", base=base, secilc=ECHO) == b"-c 33 -o(instances)"


def test_the_base_comes_first_and_in_order(base: Path) -> None:
    command = program("import sys; open(sys.argv[4], 'w').write('\\n'.join(sys.argv[5:-1]))")
    written = compile_policy(b"", base=base, secilc=command).decode()
    assert written.split("\n") == ["-f", "/dev/null", str(base / "a.cil"), str(base / "b.cil")]


def test_secilc_says_why(base: Path) -> None:
    said = program("import sys; print('neverallow check failed at a.cil:3'); sys.exit('Failed to build policydb')")
    with pytest.raises(RefusedError) as refused:
        compile_policy(b"", base=base, secilc=said)
    assert str(refused.value) == "cannot compile the policy: neverallow check failed at a.cil:3; Failed to build policydb"


def test_a_silent_failure_is_reported_too(base: Path) -> None:
    with pytest.raises(RefusedError, match="cannot compile the policy: secilc ended with -9"):
        compile_policy(b"", base=base, secilc=program("import os; os.kill(os.getpid(), 9)"))


def test_an_empty_policy_is_refused(base: Path) -> None:
    with pytest.raises(RefusedError, match="secilc wrote 0 bytes"):
        compile_policy(b"", base=base, secilc=program(""))


def test_what_is_missing_is_unavailable_not_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="No such file"):
        compile_policy(b"", base=base, secilc=("/nowhere/secilc",))
    with pytest.raises(UnavailableError, match=r"no \.cil files"):
        compile_policy(b"", base=tmp_path / "nowhere")


def test_no_descriptor_stays_open(base: Path) -> None:
    before = os.listdir("/proc/self/fd")
    compile_policy(b"", base=base, secilc=ECHO)
    assert os.listdir("/proc/self/fd") == before

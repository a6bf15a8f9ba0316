"""Base policy and instances through the real secilc, run the way PID 1 runs the compiler: descriptors in, policy out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from milkyway_agent.verifier.policy_check import make_instance
from milkyway_agent.workers.policy_compiler import compile_policy
from milkyway_coreos.image.policy import SOURCES, secilc_of
from milkyway_formats.errors import RefusedError
from milkyway_formats.policy_shared import Placed, shared
from tests.fakes.layer_files import POLICY, make_layer
from tests.fakes.verifier_site import deployment

pytestmark = pytest.mark.privileged

ROOT = Path(__file__).parents[3]
SELINUX_MAGIC = (0xF97CFF8C).to_bytes(4, "little")
NGINX = make_layer()


@pytest.fixture(scope="module")
def secilc() -> tuple[str, ...]:
    return secilc_of(ROOT / "build/tools")


def instances() -> bytes:
    made = make_instance(POLICY, NGINX.manifest, deployment(NGINX))
    return shared([Placed("web_1", 1, tuple(made.domains.values()))]) + made.cil


def test_what_the_verifier_wrote_compiles_with_the_base(secilc: tuple[str, ...]) -> None:
    alone = compile_policy(b"", base=SOURCES, secilc=secilc)
    policy = compile_policy(instances(), base=SOURCES, secilc=secilc)
    assert policy.startswith(SELINUX_MAGIC)
    assert b"web_1.v1.process" in policy
    assert b"web_1.v1.process" not in alone
    assert compile_policy(instances(), base=SOURCES, secilc=secilc) == policy, "same input, same policy"


def test_what_the_base_forbids_is_refused_even_if_the_checker_let_it_through(secilc: tuple[str, ...]) -> None:
    """The second, independent defence: a rule that no overlay can contain is put straight into the instances."""
    evil = instances() + b"(allow web_1.v1.process security_t (security (load_policy)))\n"
    with pytest.raises(RefusedError, match="neverallow check failed"):
        compile_policy(evil, base=SOURCES, secilc=secilc)


def test_nonsense_is_refused_in_one_line(secilc: tuple[str, ...]) -> None:
    with pytest.raises(RefusedError, match=r"^cannot compile the policy: .*"):
        compile_policy(b"(allow", base=SOURCES, secilc=secilc)


def test_as_a_process_it_reads_a_pipe_and_writes_memory(secilc: tuple[str, ...], tmp_path: Path) -> None:
    """With fd 3 and fd 4 as PID 1 passes them; exit 0 and a complete policy, or exit 3, one line and nothing written."""
    script = "from milkyway_agent.workers.policy_compiler import main; main()"
    for source, code in ((instances(), 0), (b"(nonsense)", 3)):
        output = os.memfd_create("policy")
        given = tmp_path / "instances.cil"
        given.write_bytes(source)
        shell = f'exec 3<{given} 4>/proc/{os.getpid()}/fd/{output}; exec "$@"'
        done = subprocess.run(
            ["/bin/sh", "-c", shell, "sh", sys.executable, "-c", script, str(SOURCES), *secilc],
            capture_output=True, text=True, check=False, pass_fds=(output,),
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert (os.fstat(output).st_size > 10_000) == (code == 0)
        assert done.stderr.startswith("cannot compile the policy: ") == bool(code)
        assert done.stderr.count("\n") == (1 if code else 0)
        os.close(output)

"""What PID 1 hands on is read as it was written, and what can't be read is refused before anything happens."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from milkyway_agent.core.effects import effects_of
from milkyway_agent.core.transition import plan, wanted_effects
from milkyway_agent.deployments.snapshot import KeptDeployments, KeptInstance
from milkyway_agent.pid1.snapshot import KeptAgent, adopt, descriptors
from milkyway_agent.runtime.reexecution import read_state, write_state
from milkyway_agent.supervisor.snapshot import KeptService, KeptStream
from milkyway_formats.codec import decode, encode
from milkyway_formats.deployment import DataBinding, Deployment
from milkyway_formats.errors import RefusedError
from milkyway_formats.policy_shared import Placed
from milkyway_formats.service import Service
from tests.fakes.manifests import manifest_of, pin_of

ROOT = Path(__file__).parents[4]
BINDING = DataBinding(name="data", source="pages", data_class="secure")
DEPLOYMENT = Deployment(
    id="web_k3v9",
    name="web",
    generation=2,
    stack=[pin_of("test/web")],
    data=[BINDING],
)
MANIFEST = manifest_of("test/web", services=[Service(name="web", command=["/w"])])
GROUP = effects_of(DEPLOYMENT, [MANIFEST])
STATE = KeptAgent(
    format="milkyway.agent/1",
    services=[KeptService(name="web/web", row="started", pid=7, pidfd=8, streams=[KeptStream(descriptor=9, rest=b"\xff")])],
    deployments=KeptDeployments(
        groups={DEPLOYMENT.id: list(GROUP)},
        present=list(GROUP),
        instances={"policy": KeptInstance(placed=Placed("web_k3v9", 2, ("d.process",), (BINDING,)), cil=b"(block d)\x00")},
    ),
    done=["data"],
    finished_ms={"pid1": 3},
    watchdog=5,
)


def test_a_state_is_read_as_it_was_written() -> None:
    descriptor = write_state(STATE)
    try:
        assert read_state(descriptor, KeptAgent) == STATE
    finally:
        os.close(descriptor)


def test_it_is_written_to_the_letter_as_programs_of_before_write_it_and_read_it() -> None:
    """The file was written by the last program before the rooms; whoever changes the state gives it another format."""
    written = (Path(__file__).parent / "agent-state-1.json").read_bytes()
    state = replace(STATE, services=[replace(STATE.services[0], cause="held")])
    assert encode(state) == written
    assert decode(written, KeptAgent, what="the state") == state


def test_with_the_kept_effects_nothing_is_left_to_be_done() -> None:
    descriptor = write_state(STATE)
    kept = read_state(descriptor, KeptAgent).deployments
    os.close(descriptor)
    assert plan(tuple(kept.present), wanted_effects([GROUP])).steps == ()


def test_every_descriptor_that_it_names_is_kept_open() -> None:
    assert descriptors(STATE) == [8, 9, 5]


@pytest.fixture(
    params=["{}", "no JSON", encode(STATE).decode().replace("agent/1", "agent/2"), '{"format":"milkyway.supervisor/1"}']
)
def bad(request: pytest.FixtureRequest) -> Iterator[int]:
    descriptor = os.memfd_create("state")
    os.write(descriptor, request.param.encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    yield descriptor
    os.close(descriptor)


def test_what_is_no_state_of_pid_1_is_refused(bad: int) -> None:
    with pytest.raises(RefusedError):
        adopt(os.dup(bad))


def _ask_program(descriptor: int) -> subprocess.CompletedProcess[str]:
    """Have PID 1's program say whether it could go on with the state."""
    words = [sys.executable, "-m", "milkyway_agent", "--check-state", str(descriptor)]
    return subprocess.run(words, pass_fds=[descriptor], capture_output=True, text=True, cwd=ROOT)


def test_the_program_says_whether_it_can_take_over() -> None:
    good, bad = write_state(STATE), os.memfd_create("state")
    try:
        assert _ask_program(good).returncode == 0
        refused = _ask_program(bad)
        assert refused.returncode == 3
        assert "cannot" in refused.stderr and "Traceback" not in refused.stderr
    finally:
        os.close(good)
        os.close(bad)

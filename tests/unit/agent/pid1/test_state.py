"""What outlives an agent that fails, and what the next one does again."""

import socket
from typing import Any

import pytest

from milkyway_agent.deployments.snapshot import KeptDeployments
from milkyway_agent.log.log import Log
from milkyway_agent.pid1.early_boot import Early
from milkyway_agent.pid1.snapshot import KeptAgent
from milkyway_agent.pid1.state import LASTING, ServerState


@pytest.fixture
def state() -> ServerState:
    state = ServerState(Log(lambda: 0), 3)
    state.begin_life()
    return state


def kept(*done: str, api: int = -1, **finished_ms: int) -> KeptAgent:
    deployments = KeptDeployments(groups={"web_k3v9": []})
    return KeptAgent("milkyway.agent/1", [], deployments, list(done), {"pid1": 2, "ready": 9, **finished_ms}, api=api)


def test_what_lasts_is_not_done_again_and_what_ended_with_the_agent_is(state: ServerState) -> None:
    state.boot.note_done("selinux", 5, ["a device has no label"])
    state.boot.note_done("verifier", 6)
    state.boot.note_failed("network", 7, "there is no driver")
    state.boot.finished_ms["ready"] = 8
    state.begin_life()
    assert state.boot.outcomes == {"selinux": "done"}
    assert state.boot.finished_ms == {"pid1": 3, "selinux": 5}
    assert state.boot.failures() == ["a device has no label"]


def test_an_end_that_was_asked_for_stays_so_and_the_first_word_counts(state: ServerState) -> None:
    state.end("reboot")
    state.begin_life()
    state.end("poweroff")
    assert state.end_asked.is_set()
    assert (state.ending, state.ended) == ("reboot", None)


def test_phases_of_another_program_that_are_none_of_ours_or_that_do_not_last_are_ignored(state: ServerState) -> None:
    """A program of before knew a phase "uplink"; one to come may know others."""
    state.take_over(kept("selinux", "uplink", "verifier", "to-come", uplink=7))
    assert state.boot.outcomes == {"selinux": "done"}
    assert state.lasting() == ["selinux"]
    assert state.boot.finished_ms == {"pid1": 2, "ready": 9, "uplink": 7}, "the boot was that program's"
    assert not any("uplink" in line for line in state.boot.failures())


def test_what_was_done_for_deployments_is_handed_from_agent_to_agent(state: ServerState) -> None:
    state.take_over(kept())
    assert list(state.keep_deployments().groups) == ["web_k3v9"]
    convergence: Any = type("Convergence", (), {"keep": lambda _: KeptDeployments(groups={"shop_1": []})})()
    state.convergence = convergence
    state.begin_life()
    assert state.convergence is None
    assert list(state.keep_deployments().groups) == ["shop_1"]


def test_a_descriptor_is_taken_over_once_though_that_is_tried_again(state: ServerState) -> None:
    """Or the first socket would close it once nobody has that one any more."""
    descriptor = socket.socket(socket.AF_UNIX).detach()
    state.take_over(kept(api=descriptor))
    taken = state.api
    assert taken is not None
    with taken:
        state.take_over(kept(api=descriptor))
        assert state.api is taken
        assert taken.fileno() == descriptor


def test_of_the_first_steps_counts_what_lasts(state: ServerState) -> None:
    early = Early()
    early.done = {"filesystems": (4, []), "selinux": (5, ["a device has no label"])}
    state.take_early(early)
    assert state.boot.outcomes == {"selinux": "done"}
    assert state.boot.failures() == ["a device has no label"]


def test_what_lasts_are_phases_of_the_boot(state: ServerState) -> None:
    assert set(LASTING) <= {phase.name for phase in state.boot.phases}

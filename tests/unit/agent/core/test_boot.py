"""The boot as data: a failed phase takes with it the phases that need it, and nothing else."""

import pytest

from milkyway_agent.core.boot import BOOT, Outcome, Phase, lost, ready, report


def run(failing: set[str]) -> dict[str, Outcome]:
    """Simulate the boot: all phases that can run do, and *failing* fail."""
    outcomes: dict[str, Outcome] = {}
    while now := ready(BOOT, outcomes):
        outcomes |= {phase.name: "failed" if phase.name in failing else "done" for phase in now}
    return outcomes


def test_the_phases_are_in_an_order_that_works() -> None:
    for number, phase in enumerate(BOOT):
        assert set(phase.needs) <= {other.name for other in BOOT[:number]}, phase.name
    assert len({phase.name for phase in BOOT}) == len(BOOT)
    assert set(run(set()).values()) == {"done"}
    assert len(run(set())) == len(BOOT)


@pytest.mark.parametrize("phase", BOOT, ids=lambda phase: phase.name)
def test_a_failed_phase_loses_only_what_needs_it(phase: Phase) -> None:
    outcomes = run({phase.name})
    missing = {other.name for other in BOOT} - set(outcomes)
    assert missing == set(lost(BOOT, outcomes))
    for name in missing:
        assert lost(BOOT, outcomes)[name] == phase.name


def test_without_network_or_watchdog_everything_else_comes_up() -> None:
    assert lost(BOOT, run({"network", "watchdog", "local-api", "console"})) == {}


def test_without_data_no_layer_runs_and_mwctl_still_answers() -> None:
    outcomes = run({"data"})
    assert "deployments" not in outcomes
    assert outcomes["local-api"] == "done"


def test_the_report_says_what_failed_what_that_means_and_what_was_lost() -> None:
    phases = (Phase("disk", (), "nothing is kept"), Phase("store", ("disk",), "no layers"))
    assert report(phases, {"disk": "failed"}, {"disk": "it is gone"}) == [
        "disk failed: it is gone; nothing is kept",
        "store was not tried, as disk failed; no layers",
    ]
    assert report(phases, {"disk": "done", "store": "done"}, {}) == []

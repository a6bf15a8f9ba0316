"""Limits on a real machine: memory, processes, and time to end."""

import re
from typing import Any

import pytest

from demo import run as demo
from milkyway_coreos.vm.machine import VirtualMachine
from tests.vm.deployed import deploy, deployment, remove_all, service

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def limits(chain: demo.Chain) -> dict[str, Any]:
    """The deployment of tests/vm/limits, up."""
    deploy(demo.ROOT / "tests/vm/limits/image.yaml", "limits", "limits")
    demo.wait_until("the deployment", lambda: deployment("limits")["services"], 180)
    return deployment("limits")


def _service(name: str) -> dict[str, Any]:
    return service(f"limits/{name}")


def _said(name: str) -> str:
    return demo.in_machine("mwctl", "logs", f"limits/{name}")


def test_a_service_that_takes_more_memory_than_its_limit_is_killed_alone_and_restarted_until_it_is_given_up(
    limits: dict[str, Any],
) -> None:
    demo.wait_until("its being given up", lambda: _service("hog")["state"] == "failed", 120)
    assert "was killed by SIGKILL; given up after 3 starts" in _service("hog")["reason"]
    assert _said("hog").count("eating") == 3
    assert _service("deaf")["state"] == "started"
    assert demo.status()["selinux"] == "enforcing"


def test_a_fork_bomb_has_no_more_processes_than_its_limit(limits: dict[str, Any]) -> None:
    group = f"/sys/fs/cgroup/deployments/{limits['id']}/bomb"
    demo.wait_until("its bound", lambda: "fork" in _said("bomb") or "bounded" in _said("bomb"), 120)
    peak = demo.in_machine("sh", "-c", f"cat {group}/pids.max {group}/pids.current 2>/dev/null || true").split()
    assert not peak or (peak[0] == "8" and int(peak[1]) <= 8)


def test_a_service_has_the_rights_limits_and_processors_that_its_layer_names(limits: dict[str, Any]) -> None:
    demo.wait_until("its output", lambda: "Cpus_allowed_list" in _said("held"), 120)
    said = _said("held")
    assert "nice 5, umask 0077, files 128 of 128, oom 100" in said
    assert re.search(r"in /srv/limits on Cpus_allowed_list:\s+1$", said, re.MULTILINE)
    group = f"/sys/fs/cgroup/deployments/{limits['id']}/held"
    files = ("memory.max", "memory.high", "cpu.weight", "cpu.max", "cpuset.cpus", "pids.max")
    found = demo.in_machine("cat", *(f"{group}/{file}" for file in files)).splitlines()
    assert found == ["67108864", "33554432", "50", "50000 100000", "1", "8"]
    assert "default 50" in demo.in_machine("cat", f"{group}/io.weight")


def test_a_bundle_is_up_when_its_services_are(limits: dict[str, Any]) -> None:
    demo.wait_until("the bundle", lambda: _service("all")["state"] == "started", 60)


def test_a_service_deaf_to_its_stop_signal_delays_the_shutdown_by_its_timeout_and_is_named(
    chain: demo.Chain, limits: dict[str, Any]
) -> None:
    demo.wait_until("its output", lambda: "deaf" in _said("deaf"), 60)
    demo.in_machine("mwctl", "reboot")
    machine = VirtualMachine(demo.MACHINE)
    console = machine.wait_for_console("shutdown finished", 60)
    assert "limits/deaf: service killed" in console
    assert "shutdown phase late" not in console, "it ended within its own timeout, so no phase was late"
    demo.wait_until("the next boot", lambda: _is_up(), 180)
    remove_all()


def _is_up() -> bool:
    try:
        return "ready" in demo.status()["boot_ms"]
    except demo.DemoFailedError:
        return False

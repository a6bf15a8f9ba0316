"""What starts a service of a deployment on a real machine (its first client, its timer), and the warnings of pressure."""

import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from demo import run as demo
from tests.vm.deployed import deploy, deployment, reboot, remove_all, service

pytestmark = pytest.mark.vm

HOUR = 3600


@pytest.fixture(scope="module")
def port(chain: demo.Chain) -> Iterator[int]:
    """The deployment of tests/vm/triggers, active; the port at which its clients reach it."""
    deploy(demo.ROOT / "tests/vm/triggers/image.yaml", "triggers", "triggers")
    demo.wait_until("the deployment", lambda: deployment("triggers")["state"] == "active", 180)
    yield chain.web_port
    _set_clock(time.time())
    remove_all()


def _service(name: str) -> dict[str, Any]:
    return service(f"triggers/{name}")


def _said(name: str) -> str:
    return demo.in_machine("mwctl", "logs", name)


def _answer(port: int) -> bytes:
    """Connect as a client and return the answer; wait for it up to a minute."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        return client.recv(64)


def _set_clock(seconds: float) -> None:
    demo.in_machine("date", "-s", f"@{seconds:.0f}")


def _clock() -> int:
    return int(demo.in_machine("date", "+%s"))


def _times(name: str) -> int:
    return _said(f"triggers/{name}").count(f"{name}\n")


def test_the_first_client_starts_the_service_and_is_answered(port: int) -> None:
    assert (_service("served")["state"], _service("served")["pid"]) == ("armed", 0)
    assert _answer(port) == b"served\n"
    served = _service("served")
    assert served["state"] == "started"
    assert served["context"].endswith(".process:s0")
    assert demo.status()["selinux"] == "enforcing"


def test_a_client_that_comes_while_it_restarts_waits_and_is_answered(port: int) -> None:
    assert _answer(port) == b"served\n"
    pid = _service("served")["pid"]
    demo.in_machine("kill", "-9", str(pid))
    assert _answer(port) == b"served\n"  # it restarts only after two seconds
    assert _service("served")["pid"] not in (0, pid)
    assert _said("triggers/served").count("begun\n") == 2


def test_its_listener_is_kept_while_pid_1_becomes_another_program(port: int) -> None:
    demo.in_machine("mwctl", "stop", "triggers/served")
    demo.in_machine("mwctl", "start", "triggers/served")
    demo.wait_until("its waiting", lambda: _service("served")["state"] in ("armed", "started"), 60)
    demo.in_machine("mwctl", "reexec")
    assert _answer(port) == b"served\n"
    demo.wait_until("the agent", lambda: _service("served")["state"] == "started", 120)


def test_a_clock_that_jumps_over_times_starts_once_and_back_starts_nothing(port: int) -> None:
    assert _times("hourly") == 0
    hour = _clock() // HOUR * HOUR
    _set_clock(hour + 3 * HOUR + 1800)  # over three of its times
    demo.wait_until("its one start", lambda: _times("hourly") == 1, 60)
    assert "clock was set" in _said("agent")
    _set_clock(hour + 2 * HOUR + 1795)  # the coming hour has started it already
    _set_clock(hour + 3 * HOUR - 1)
    demo.wait_until("that hour", lambda: _clock() > hour + 3 * HOUR + 2, 60)
    assert _times("hourly") == 1
    _set_clock(hour + 4 * HOUR - 1)
    demo.wait_until("the next start, by the clock that goes on", lambda: _times("hourly") == 2, 60)
    assert _times("delayed") == 0, "its hour counts by the boot-time clock, which was not set"


def test_a_probe_and_a_command_run_beside_a_service_in_its_own_domain(port: int) -> None:
    demo.wait_until("its readiness", lambda: _service("asked")["state"] == "started", 60)
    context = _service("asked")["context"]
    assert context.endswith(".process:s0")
    demo.wait_until("the probe's word", lambda: f"asked as {context}" in _said("triggers/asked"), 60)
    demo.in_machine("mwctl", "reload", "triggers/asked")
    demo.wait_until("the command's word", lambda: "read again" in _said("triggers/asked"), 60)


def test_a_service_that_waits_for_a_processor_is_warned_about(port: int) -> None:
    demo.wait_until("the warning", lambda: "service under pressure: resource=cpu threshold=20" in _said("triggers/short"), 120)


def test_a_service_that_reads_more_than_its_memory_holds_is_warned_about_and_goes_on(port: int) -> None:
    warnings = {f"service under pressure: resource={resource} threshold=1" for resource in ("memory", "io")}

    def has_been_warned() -> bool:  # what doesn't fit is read from the disk again and again
        said = _said("triggers/cramped")
        return all(warning in said for warning in warnings)

    demo.wait_until("both warnings", has_been_warned, 120)
    assert _service("cramped")["state"] == "started"


def test_a_time_that_was_missed_while_the_machine_was_off_is_made_up_for_once(port: int) -> None:
    this_month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    two_before = (this_month - timedelta(days=40)).replace(day=1)  # not so far back that the clock would count as wrong
    so_far = _times("monthly")  # earlier tests have set the clock, near the end of a month into the next
    _set_clock(two_before.timestamp() - 1)
    demo.wait_until("its start two months before", lambda: _times("monthly") == so_far + 1, 60)
    reboot()  # back to the hardware's time: the first of this month has passed meanwhile
    demo.wait_until("the start that it has missed", lambda: _times("monthly") == so_far + 2, 120)
    before = _said("agent").count("agent re executed")
    demo.in_machine("mwctl", "reexec")
    demo.wait_until("the agent", lambda: _said("agent").count("agent re executed") > before, 120)
    assert _times("monthly") == so_far + 2

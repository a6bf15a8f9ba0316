"""Kills at random over many services while their supervisor re-executes itself, and what must hold in the end."""

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from milkyway_agent.system import processes
from tests.privileged.standalone.supervising import Supervising, supervising

SERVICES = 100
SLEEPER = "sleep"
RESTART = {"delay_ms": 0, "start_limit": 1000, "start_interval_ms": 1000}
GROWTH = 1.1  # of its memory, from after the first re-execution to the end


class Standing(NamedTuple):
    """What a supervisor holds when all is quiet. ``pss_bytes``: of itself."""

    descriptors: int
    groups: int
    mounts: int
    pss_bytes: int


@contextmanager
def storm_struck() -> Iterator[Supervising]:
    """Give a supervisor with its services up."""
    with supervising() as one:
        for number in range(SERVICES):
            one.define(f"service-{number}", [f"/bin/{SLEEPER}", "100000"], restart=RESTART)
        one.start()
        settle(one)
        one.reexecute()  # the first one imports what the local API takes: what is counted from here on is growth
        settle(one)
        yield one


def settle(one: Supervising) -> None:
    """Return when every service is up, by a process that is there, and the API's front has gone."""

    def is_settled() -> bool:
        found = one.services()
        up = [service for service in found.values() if service["state"] == "started" and service["pid"]]
        return len(up) == SERVICES and len(sleepers(one)) == SERVICES

    one.wait_until(is_settled, "all services up")


def storm(one: Supervising, kills: int, re_executions: int, chance: random.Random) -> None:
    """Kill services at random, *re_executions* times interrupted by one that is waited for."""
    pause = kills // re_executions
    for number in range(1, kills + 1):
        victims = sleepers(one)
        if victims:
            with suppress(ProcessLookupError):  # reaped meanwhile
                os.kill(chance.choice(victims), signal.SIGKILL)
        if number % pause == 0:
            one.reexecute()
    settle(one)


def standing(one: Supervising) -> Standing:
    """Return what *one* holds now."""
    cgroup = Path(f"/proc/{one.pid}/cgroup").read_text().split("0::")[1].strip().removesuffix(f"/supervisor-{one.pid}")
    mount = next(mount for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified") if Path(mount, "cgroup.procs").exists())
    groups = Path(f"{mount}{cgroup}/services-{one.pid}")
    front = [process.pid for process in children(one) if process.name.startswith("python")]
    one.wait_until(lambda: all(not Path(f"/proc/{pid}").exists() for pid in front), "its front's end")
    return Standing(
        descriptors=len(os.listdir(f"/proc/{one.pid}/fd")),
        groups=sum(1 for path in groups.iterdir() if path.is_dir()),
        mounts=Path(f"/proc/{one.pid}/mountinfo").read_text().count("\n"),
        pss_bytes=processes.pss_bytes(one.pid),
    )


def check(before: Standing, after: Standing, one: Supervising) -> None:
    """Assert that nothing was lost or left: every service up, no zombie, no descriptor, group or mount more, memory flat."""
    assert [process for process in children(one) if process.state == "Z"] == []
    assert after.descriptors <= before.descriptors
    assert after.groups == before.groups == SERVICES
    assert after.mounts == before.mounts
    assert after.pss_bytes <= before.pss_bytes * GROWTH, f"{before.pss_bytes} → {after.pss_bytes}"


def sleepers(one: Supervising) -> list[int]:
    """Return the services' processes."""
    return [process.pid for process in children(one) if process.name == SLEEPER and process.state != "Z"]


def children(one: Supervising) -> list[processes.Stat]:
    """Return the children of the supervisor."""
    found = []
    for pid in Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text().split():
        try:
            found.append(processes.parse_stat(Path(f"/proc/{pid}/stat").read_text()))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found

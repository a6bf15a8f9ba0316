"""Random kills of many services while their supervisor re-executes itself, and what must hold in the end."""

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
    """What a supervisor has when nothing happens. ``pss_bytes``: its own."""

    descriptors: int
    groups: int
    mounts: int
    pss_bytes: int


@contextmanager
def storm_struck() -> Iterator[Supervising]:
    """Yield a supervisor with its services up."""
    with supervising() as supervisor:
        for number in range(SERVICES):
            supervisor.define(f"service-{number}", [f"/bin/{SLEEPER}", "100000"], restart=RESTART)
        supervisor.start()
        settle(supervisor)
        supervisor.reexecute()  # the first re-execution imports what the local API needs: growth is counted from here on
        settle(supervisor)
        yield supervisor


def settle(supervisor: Supervising) -> None:
    """Return when every service is up with a process that exists, and the API's front has ended."""

    def is_settled() -> bool:
        found = supervisor.services()
        up = [service for service in found.values() if service["state"] == "started" and service["pid"]]
        return len(up) == SERVICES and len(sleepers(supervisor)) == SERVICES

    supervisor.wait_until(is_settled, "all services up")


def storm(supervisor: Supervising, kills: int, re_executions: int, chance: random.Random) -> None:
    """Kill services at random, interrupted by *re_executions* re-executions."""
    pause = kills // re_executions
    for number in range(1, kills + 1):
        victims = sleepers(supervisor)
        if victims:
            with suppress(ProcessLookupError):  # reaped meanwhile
                os.kill(chance.choice(victims), signal.SIGKILL)
        if number % pause == 0:
            supervisor.reexecute()
    settle(supervisor)


def standing(supervisor: Supervising) -> Standing:
    """Return what *supervisor* has now."""
    cgroup = (
        Path(f"/proc/{supervisor.pid}/cgroup").read_text().split("0::")[1].strip().removesuffix(f"/supervisor-{supervisor.pid}")
    )
    mount = next(mount for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified") if Path(mount, "cgroup.procs").exists())
    groups = Path(f"{mount}{cgroup}/services-{supervisor.pid}")
    front = [process.pid for process in children(supervisor) if process.name.startswith("python")]
    supervisor.wait_until(lambda: all(not Path(f"/proc/{pid}").exists() for pid in front), "its front's end")
    return Standing(
        descriptors=len(os.listdir(f"/proc/{supervisor.pid}/fd")),
        groups=sum(1 for path in groups.iterdir() if path.is_dir()),
        mounts=Path(f"/proc/{supervisor.pid}/mountinfo").read_text().count("\n"),
        pss_bytes=processes.pss_bytes(supervisor.pid),
    )


def check(before: Standing, after: Standing, supervisor: Supervising) -> None:
    """Assert that nothing was lost or left: all services up, no zombies, no more descriptors, groups or mounts, memory flat."""
    assert [process for process in children(supervisor) if process.state == "Z"] == []
    assert after.descriptors <= before.descriptors
    assert after.groups == before.groups == SERVICES
    assert after.mounts == before.mounts
    assert after.pss_bytes <= before.pss_bytes * GROWTH, f"{before.pss_bytes} → {after.pss_bytes}"


def sleepers(supervisor: Supervising) -> list[int]:
    """Return the services' processes."""
    return [process.pid for process in children(supervisor) if process.name == SLEEPER and process.state != "Z"]


def children(supervisor: Supervising) -> list[processes.Stat]:
    """Return the children of the supervisor."""
    found = []
    for pid in Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text().split():
        try:
            found.append(processes.parse_stat(Path(f"/proc/{pid}/stat").read_text()))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found

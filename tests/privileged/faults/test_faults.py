"""Whatever the kernel refuses, PID 1 and its services go on: each function fails in every plausible way."""

import errno
from collections.abc import Iterator

import pytest
import trio

from tests.privileged.faults.fault_cases import run_function
from tests.privileged.faults.fault_table import FAULTS, NEVER, used
from tests.privileged.faults.faulty import Factory, Faulty

pytestmark = pytest.mark.privileged

AT_ONCE = 6
MODULES = sorted({function.partition(".")[0] for function in FAULTS})


@pytest.fixture(scope="module")
def factory() -> Iterator[Factory]:
    made = Factory()
    yield made
    made.close()


def test_every_function_that_pid_1_uses_is_in_the_table() -> None:
    assert used() == set(FAULTS) | set(NEVER)
    assert not set(FAULTS) & set(NEVER)


@pytest.mark.parametrize("module", MODULES)
async def test_pid_1_and_its_services_outlive_whatever_fails_in(module: str, factory: Factory) -> None:
    wrong: list[str] = []
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def fail(function: str) -> None:
        wrong.extend(await run_function(factory, function, limiter))

    async with trio.open_nursery() as nursery:
        for function in FAULTS:
            if function.startswith(f"{module}."):
                nursery.start_soon(fail, function)
    assert not wrong, "\n".join(wrong)


async def test_a_machine_that_can_neither_be_switched_off_nor_reboot_stays_and_says_so(factory: Factory) -> None:
    refused = [("power.power_off", errno.EPERM, "always"), ("power.restart", errno.EINVAL, "always")]
    async with factory.agent(*refused) as agent:
        await agent.order("booted")
        await agent.order("end", ending="poweroff")
        await agent.shown('end failed: ending=poweroff error="[Errno 1]')
        await agent.shown('end failed: ending=poweroff error="[Errno 22]')
        assert agent.lives()


async def test_services_outlive_the_failure_of_any_task_of_pid_1_and_go_on_being_supervised(factory: Factory) -> None:
    async with factory.agent() as agent:
        await agent.order("booted")
        witness = await agent.order("start", name="witness")
        tasks = (await agent.order("kept"))["tasks"]
        assert {"supervisor", "reaper", "signals", "log", "watchdog", "verifier", "local-api", "convergence"} <= set(tasks)
        for task in tasks:
            await agent.order("spoil", task=task)
            await agent.noted(f"task failed: task={task}")
            assert (await agent.order("service", name="witness"))["pid"] == witness["pid"], f"{task} ended a service"
        await _is_well(agent, witness["pid"])


async def test_services_outlive_the_failure_of_the_whole_agent_and_the_next_supervises_them(factory: Factory) -> None:
    async with factory.agent() as agent:
        await agent.order("booted")
        witness = await agent.order("start", name="witness")
        dhcp = await agent.order("service", name="dhcp")
        for _ in range(2):
            await agent.order("spoil", task="live")
            await agent.noted("agent failed")
            boot = await agent.order("booted")
            assert set(boot["outcomes"].values()) == {"done"}, boot
        assert await agent.order("service", name="dhcp") == dhcp, "it was started twice, or lost"
        await _is_well(agent, witness["pid"])


@pytest.mark.parametrize("state", ["no JSON", '{"format":"milkyway.supervisor/1"}'])
async def test_with_a_state_that_cannot_be_read_the_agent_begins_as_after_a_boot(state: str, factory: Factory) -> None:
    async with factory.agent(state=state) as agent:
        boot = await agent.order("booted")
        assert set(boot["outcomes"].values()) == {"done"}, boot
        await agent.noted("state not adopted")
        assert not (await agent.order("inherited"))["open"]
        assert (await agent.order("service", name="dhcp"))["state"] == "started"
        witness = await agent.order("start", name="witness")
        await _is_well(agent, witness["pid"])


async def _is_well(agent: Faulty, pid: int) -> None:
    """Assert that the witness *pid* runs, is started again when it is killed, and that PID 1 does all that it should."""
    witness = await agent.order("service", name="witness")
    assert (witness["state"], witness["pid"], witness["alive"]) == ("started", pid, True)
    again = await agent.order("kill", name="witness")
    assert again["state"] == "started"
    assert again["pid"] != pid
    assert (await agent.order("start", name="fresh"))["state"] == "started"
    assert not (await agent.order("remove", name="fresh"))["left"]
    assert (await agent.order("api"))["answer"] == "HTTP/1.1 200 "
    assert (await agent.order("zombies"))["names"] == []

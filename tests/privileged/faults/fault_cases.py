"""A fault, and what must hold after it, for the tests and the long run.

After a fault PID 1 runs and answers; services that ran before have the same processes; a new service can be started, and
stops without anything left; and the fault is in the log. Each function returns what of this does not hold.
"""

import os
import signal
from collections.abc import Awaitable, Callable, Sequence

import trio

from tests.privileged.faults.fault_table import FAULTS, WORDS, Failing
from tests.privileged.faults.faulty import STAND_INS, Factory, Faulty, OrderFailedError

WITNESS = "witness"  # a service that runs before the fault


async def run_function(
    factory: Factory,
    function: str,
    limiter: trio.CapacityLimiter,
    modes: Sequence[str] = ("always",),
    *,
    at_boot: bool = False,
) -> list[str]:
    """Try all errors of *function* in each of *modes*; *at_boot*: also while the machine boots, if it is called then.

    *limiter*: how many PID 1s may run at a time.
    """
    failing = FAULTS[function]
    wrong: list[str] = []

    async def go_through(case: Callable[..., Awaitable[list[str]]], *arguments: object) -> None:
        async with limiter:
            wrong.extend(await case(factory, function, failing, *arguments))

    async with trio.open_nursery() as nursery:
        cases = [(number, mode) for number in failing.numbers() for mode in modes]
        if failing.when == "life":
            for some in [[case] for case in cases] if failing.once else [cases]:
                nursery.start_soon(go_through, _living, some)
        if failing.when != "life" or at_boot:
            for number, mode in cases:
                nursery.start_soon(go_through, _ending if failing.when == "end" else _booting, number, mode)
    return wrong


async def _living(factory: Factory, function: str, failing: Failing, cases: Sequence[tuple[int, str]]) -> list[str]:
    """Make the function fail while services run: one PID 1 goes through all of *cases*, an error and a mode each."""
    wrong: list[str] = []
    case = function
    async with factory.agent(stand_ins=(*STAND_INS, *failing.stand_ins)) as agent:
        try:
            await agent.order("booted")
            witness = await agent.order("start", name=WITNESS)
            for number, mode in cases:
                case = describe(function, number, mode)
                since = (await agent.order("inject", function=function, fault=number, mode=mode))["records"]
                await agent.order("exercise", what=failing.exercise)
                told = await agent.order("lift", function=function)
                wrong += [f"{case}: {what}" for what in await _after(agent, failing, number, mode, since, told, witness)]
            if zombies := (await agent.order("zombies"))["names"]:
                wrong.append(f"{function}: nobody reaps {zombies}")
        except OrderFailedError as error:
            wrong.append(f"{case}: {error}")
    return wrong


async def _booting(factory: Factory, function: str, failing: Failing, number: int, mode: str) -> list[str]:
    """Make the function fail from the first moment on, until the boot is over."""
    case = describe(function, number, mode)
    async with factory.agent((function, number, mode), stand_ins=(*STAND_INS, *failing.stand_ins)) as agent:
        try:
            await agent.order("booted")
            if failing.when == "boot" and failing.exercise == "nothing":
                await agent.order("exercise", what="nothing")
            told = await agent.order("lift", function=function)
            if not told["failures"] and (failing.when == "life" or mode == "third"):
                return []  # it is not called, or not as often, while the machine boots
            unhealed = [
                line for line in (await agent.order("healed"))["failures"] if " failed: " in line or "not tried" in line
            ]
            if unhealed:
                return [f"{case}: the fault is over, and still: {line}" for line in unhealed]
            witness = await agent.order("start", name=WITNESS)
            return [f"{case}: {what}" for what in await _after(agent, failing, number, mode, 0, told, witness)]
        except OrderFailedError as error:
            return [f"{case}: {error}"]


async def _ending(factory: Factory, function: str, failing: Failing, number: int, mode: str) -> list[str]:
    """Make the function fail during the shutdown, which ends nevertheless."""
    case = describe(function, number, mode)
    ending = "reboot" if function == "power.restart" else "poweroff"
    async with factory.agent(stand_ins=(*STAND_INS, *failing.stand_ins)) as agent:
        try:
            await agent.order("booted")
            await agent.order("start", name=WITNESS)
            await agent.order("inject", function=function, fault=number, mode=mode)
            await agent.order("end", ending=ending)
            status = await agent.end()
        except (OrderFailedError, trio.TooSlowError) as error:
            return [f"{case}: {error!r}\n{agent.console()}"]
        wrong = []
        # The kernel ends the init of a pid namespace that calls reboot(2) by a signal (pid_namespaces(7)).
        if os.WTERMSIG(status) not in (signal.SIGINT, signal.SIGHUP):
            wrong.append(f"{case}: it ended with {status}\n{agent.console()}")
        if mode == "always" and not _is_told(agent.console(), number):
            wrong.append(f"{case}: nothing was noted of it\n{agent.console()}")
        return wrong


async def _after(
    agent: Faulty, failing: Failing, number: int, mode: str, since: int, told: dict[str, int], witness: dict[str, object]
) -> list[str]:
    """Return what is wrong after the fault is over."""
    wrong = []
    if not told["calls"]:
        return ["it was never called, so nothing was tried"]
    lines = (await agent.order("records", since=since))["lines"]
    is_answer = failing.is_answer(number)
    # A fault that is gone at the second try need not be logged.
    must_be_told = mode == "always" and bool(told["failures"]) and not failing.silent and not is_answer
    if must_be_told and not _is_told("\n".join(lines), number):
        wrong.append("nothing was noted of it:\n  " + "\n  ".join(lines))
    if any(line.startswith("agent failed") for line in lines):
        wrong.append("the agent failed as a whole:\n  " + "\n  ".join(line for line in lines if "agent failed" in line))
    if witness["state"] != "started":
        wrong.append(f"no service could be started after the boot: {witness}\n  " + "\n  ".join(lines))
        return wrong
    now = await agent.order("service", name=WITNESS)
    if (now["state"], now["pid"], now["alive"]) != ("started", witness["pid"], True):
        wrong.append(f"what ran before was {witness}, and is {now}")
    await agent.order("clear")
    fresh = await agent.order("start", name="fresh")
    if fresh["state"] != "started":
        wrong.append(f"a new service could not be started: {fresh}")
    if (await agent.order("remove", name="fresh"))["left"]:
        wrong.append("a new service left its group behind")
    if (left := (await agent.order("left"))["left"]) and not is_answer:
        wrong.append(f"processes are left of what was stopped: {left}")
    if failing.exercise == "api":
        answer = (await agent.order("api"))["answer"]
        if answer != "HTTP/1.1 200 ":
            wrong.append(f"the local API answers {answer!r}")
    return wrong


def describe(function: str, number: int, mode: str) -> str:
    """Return the case as a sentence."""
    return f"{function} raises {os.strerror(number)!r} ({mode})"


def _is_told(text: str, number: int) -> bool:
    return any(words in text for words in (os.strerror(number), f"[Errno {number}]", WORDS.get(number, os.strerror(number))))

"""Every function that PID 1 calls, every plausible error, always, once and from the third call on, at boot and at run time."""

import trio

from tests.privileged.faults.fault_cases import run_function
from tests.privileged.faults.fault_table import FAULTS, used
from tests.privileged.faults.faulty import Factory
from tests.soak.report import Report

AT_ONCE = 4
MODES = ("always", "once", "third")


async def test_pid_1_outlives_every_fault_in_every_mode_at_boot_and_at_run_time() -> None:
    """Goes through the functions one by one, so that it can be interrupted."""
    report = Report("faults")
    factory = Factory()
    try:
        limiter = trio.CapacityLimiter(AT_ONCE)
        for number, function in enumerate(sorted(FAULTS)):
            if number < report.counts["functions"]:
                continue
            wrong = await run_function(factory, function, limiter, MODES, at_boot=True)
            assert not wrong, "\n".join(wrong)
            errors = len(FAULTS[function].numbers())
            report.add(functions=1, errors=errors, cases=errors * len(MODES) * (2 if FAULTS[function].when == "life" else 1))
    finally:
        factory.close()
    report.finish(modes=list(MODES), functions_in_table=len(FAULTS), functions_in_use=len(used()))

"""Programs that don't take signals as they should (``misbehaviour/signals.c``)."""

import os
import signal

import pytest

from milkyway_formats.service import Stop
from tests.privileged.misbehaviour.programs import AT_ONCE, ONCE, SHORTLY, STOPPED, UP, begin
from tests.privileged.supervisor.supervised import Supervised, supervised

pytestmark = pytest.mark.privileged


async def stopped_by_force(harness: Supervised, name: str) -> None:
    """Stop *name* and assert that it took SIGKILL."""
    await harness.supervisor.stop(name)
    assert harness.path(name) == [*UP, *STOPPED]
    assert harness.log.ring.events(name).count("service_killed") == 1


@pytest.mark.parametrize("behaviour", ["ignores_sigterm", "ignores_all_signals", "blocks_all_signals"])
async def test_a_service_that_is_deaf_to_signals_is_killed_after_its_timeout(behaviour: str) -> None:
    async with supervised() as harness:
        name = begin(harness, f"signals/{behaviour}", stop=SHORTLY)
        await harness.up(name, "deaf")
        await stopped_by_force(harness, name)


async def test_a_service_that_laughs_at_sigterm_was_asked_once_and_then_killed() -> None:
    async with supervised() as harness:
        name = begin(harness, "signals/laughs_at_sigterm", stop=SHORTLY)
        await harness.up(name, "alive")
        await stopped_by_force(harness, name)
        await harness.told("laughs")
        assert [told.word for told in harness.heard] == ["alive", "laughs"]


async def test_a_service_that_ignores_sigterm_but_not_its_own_stop_signal_is_not_killed() -> None:
    async with supervised() as harness:
        name = begin(harness, "signals/ignores_sigterm", stop=Stop(signal="INT"))
        await harness.up(name, "deaf")
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]
        assert "service_killed" not in harness.log.ring.events(name)


async def test_a_service_that_has_stopped_itself_is_still_ended() -> None:
    async with supervised() as harness:
        name = begin(harness, "signals/stops_itself", stop=SHORTLY)
        await harness.in_state(await harness.up(name, "stopping itself"), "T")
        await stopped_by_force(harness, name)


async def test_a_service_that_was_stopped_from_outside_is_up_and_still_ended() -> None:
    async with supervised() as harness:
        name = begin(harness, "signals/laughs_at_sigterm", stop=SHORTLY)
        os.kill(await harness.up(name, "alive"), signal.SIGSTOP)
        assert harness.path(name) == UP, "a stopped process has not ended"
        await stopped_by_force(harness, name)
        assert [told.word for told in harness.heard] == ["alive"]


async def test_a_child_that_is_made_on_the_way_out_goes_too() -> None:
    async with supervised() as harness:
        name = begin(harness, "signals/leaves_a_child_when_asked")
        first = await harness.up(name, "alive")
        await harness.supervisor.stop(name)
        assert await harness.told("child") != first
        assert harness.path(name) == [*UP, *STOPPED]


async def test_a_service_that_multiplies_when_asked_to_stop_is_killed_with_all_of_them() -> None:
    async with supervised() as harness:
        name = begin(harness, "signals/multiplies_when_asked", stop=Stop(timeout_ms=300))
        await harness.up(name, "alive")
        await stopped_by_force(harness, name)


async def test_a_service_that_is_traced_by_its_child_is_killed_with_it() -> None:
    async with supervised() as harness:
        name = begin(harness, "signals/is_traced_by_its_child", stop=SHORTLY)
        await harness.up(name, "traced")
        await stopped_by_force(harness, name)


async def test_a_service_that_has_the_supervisor_trace_it_is_still_ended() -> None:
    """Wait calls that ask only for ends return the stops of a traced child, too (ptrace(2))."""
    async with supervised() as harness:
        name = begin(harness, "signals/has_the_supervisor_trace_it", stop=SHORTLY)
        await harness.up(name, "traced")
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]


async def test_a_service_that_has_the_supervisor_trace_it_hides_no_orphan_from_it() -> None:
    async with supervised() as harness:
        name = begin(harness, "signals/has_the_supervisor_trace_it_and_forks", stop=SHORTLY)
        os.kill(await harness.up(name, "orphan"), signal.SIGUSR1)
        await harness.event("orphan_reaped")
        assert harness.path(name) == UP


async def test_a_service_that_floods_us_with_sigchld_holds_up_no_other() -> None:
    async with supervised() as harness:
        name = begin(harness, "signals/floods_its_parent_with_sigchld")
        await harness.up(name, "flooding")
        other = begin(harness, "ends/ends_badly", restart=AT_ONCE)
        await harness.supervisor.wait_state(other, "failed")
        assert harness.path(other) == [*UP, *UP, *UP, "failed"]
        await harness.supervisor.stop(name)
        assert harness.path(name) == [*UP, *STOPPED]


async def test_a_service_that_is_killed_while_it_stands_still_has_failed() -> None:
    async with supervised() as harness:
        name = begin(harness, "signals/stops_itself", restart=ONCE)
        os.kill(await harness.up(name, "stopping itself"), signal.SIGKILL)
        await harness.supervisor.wait_state(name, "failed")
        assert harness.path(name) == [*UP, "failed"]

"""What the engine does with what is asked and what happens: one service or two, step by step, in the tests' world."""

from typing import Any

import pytest

from milkyway_agent.core.explanation import Origin
from milkyway_agent.core.service_state import Event, Row
from milkyway_agent.launching.child import Child
from milkyway_agent.runtime.alarms import Alarm
from milkyway_agent.supervisor.engine import LEAST_DELAY_MS
from milkyway_agent.supervisor.service_record import MainProcess, ServiceRecord
from milkyway_formats.errors import UnavailableError
from milkyway_formats.listener import Listener, Tcp
from milkyway_formats.service import ReadyByExit, ReadyByNotify, Restart, Service, Stop
from milkyway_formats.timer import Timer
from tests.fakes.service_world import Fault, Process, World, WorldOrgans

HTTP = Listener(name="http", address=Tcp(port=80))
ACCEPTING = Listener(name="echo", address=Tcp(port=7), accept=True)


def world(*services: Service, organs: type[WorldOrgans] = WorldOrgans) -> World:
    return World({service.name: service for service in services}, lambda: 0.5, organs)


def daemon(name: str = "web", **fields: Any) -> Service:
    fields.setdefault("stop", Stop(timeout_ms=300))
    return Service(name=name, command=["/bin/web"], **fields)


def record(here: World, name: str = "web") -> ServiceRecord:
    return here.services[name].record


def causes(here: World, name: str = "web") -> list[Event]:
    return [event for _, whose, _, event, _ in here.history if whose == name]


def facts(here: World, note: str) -> list[dict[str, object]]:
    return [found for event, found in here.notes if event == note]


def rings(alarm: Alarm) -> bool:
    """Tell whether an alarm will ring."""
    return alarm.callback is not None


def counted(here: World, name: str = "web") -> Row:
    """Return the row of a service as it counts for others."""
    return here.engine.rows[name]


# --- what is asked ----------------------------------------------------------------------------------------------------------


def test_what_a_service_requires_and_wants_starts_before_it() -> None:
    here = world(daemon("disk"), daemon("log"), daemon(requires=["disk"], wants=["log"]))
    here.start("web")
    assert [here.row(name) for name in ("disk", "log", "web")] == [Row.STARTED] * 3
    order = [name for _, name, _, _, row in here.history if row is Row.STARTING]
    assert order[-1] == "web"


def test_a_restart_is_another_process_at_once_whatever_there_was() -> None:
    here = world(daemon(restart=Restart(delay_ms=60_000, delay_limit_ms=60_000)))
    here.start("web")
    first = record(here).process
    here.restart("web")
    assert here.row("web") is Row.STARTED
    assert record(here).process is not first
    here.end("web", 1)
    assert here.row("web") is Row.WAITING
    here.restart("web")
    assert here.row("web") is Row.STARTED, "it does not wait for its backoff to pass"
    assert len(record(here).starts.at) == 1, "and its start limit counts from now"


def test_a_restart_waits_for_no_trigger_but_the_next_start_does() -> None:
    here = world(daemon(listeners=[HTTP]))
    here.start("web")
    assert here.row("web") is Row.ARMED
    here.stop("web")
    here.restart("web")
    assert here.row("web") is Row.STARTED
    here.end("web", 0)
    assert here.row("web") is Row.ARMED


def test_one_that_was_restarted_waits_for_its_trigger_when_it_has_to_start_again() -> None:
    here = world(daemon("disk"), daemon(requires=["disk"], listeners=[HTTP]))
    here.start("web")
    here.restart("web")
    assert here.row("web") is Row.STARTED
    here.end("disk", 1)
    here.pass_time(1000)
    assert (here.row("disk"), here.row("web")) == (Row.STARTED, Row.ARMED)


def test_a_restart_that_is_taken_back_does_not_make_the_next_start_wait_for_no_trigger() -> None:
    here = world(daemon("disk", readiness=ReadyByNotify(), ready_timeout_ms=0), daemon(requires=["disk"], listeners=[HTTP]))
    here.services["disk"].nature = "mute"
    here.restart("web")
    assert here.row("web") is Row.WAITING
    here.stop("web")
    here.start("web")
    here.get_ready("disk")
    assert here.row("web") is Row.ARMED


def test_what_conflicts_is_stopped_by_a_start_and_by_a_restart_and_it_is_said_by_whom() -> None:
    here = world(daemon("a", conflicts=["b"]), daemon("b"))
    here.start("b")
    here.start("a")
    assert (here.row("a"), here.row("b")) == (Row.STARTED, Row.IDLE)
    assert record(here, "b").origin == Origin("displaced", "a")
    here.restart("b")
    here.pass_time(1)
    assert (here.row("a"), here.row("b")) == (Row.IDLE, Row.STARTED)
    assert record(here, "a").origin == Origin("displaced", "b")


def test_what_does_not_run_is_not_said_to_be_displaced() -> None:
    here = world(daemon("a", conflicts=["b"]), daemon("b"))
    record(here, "b").origin = Origin("stopped", "alice")
    here.start("a")
    assert record(here, "b").origin == Origin("stopped", "alice")


def test_one_that_is_held_back_twice_starts_when_it_is_let_go_twice() -> None:
    here = world(daemon())
    for _ in range(2):
        here.engine.hold_back([record(here)])
    here.start("web")
    assert here.row("web") is Row.WAITING
    assert here.engine.held_back(record(here)) == ["is being changed, or stopped with what it requires"]
    assert counted(here) is Row.STOPPING
    here.engine.let_go([record(here)])
    here.settle()
    assert here.row("web") is Row.WAITING
    here.engine.let_go([record(here)])
    here.settle()
    assert here.row("web") is Row.STARTED


def test_of_a_service_that_was_removed_nobody_hears() -> None:
    here = world(daemon("disk", readiness=ReadyByNotify(), ready_timeout_ms=0), daemon(requires=["disk"]))
    here.services["disk"].nature = "mute"
    here.start("web")
    removed = record(here)
    here.engine.forget(removed)
    heard = len(here.history)
    here.engine.post(removed, Event.UNWANTED)
    here.get_ready("disk")  # for which it has waited
    assert [name for _, name, *_ in here.history[heard:]] == ["disk"]


# --- events and when they are heard ------------------------------------------------------------------------------------------


def test_what_happens_while_nobody_handles_it_waits_in_order() -> None:
    here = world(daemon())
    here.engine.close()
    here.start("web")
    here.stop("web")
    assert (here.row("web"), here.changes) == (Row.IDLE, 0)
    here.engine.open()
    assert causes(here)[:2] == [Event.WANTED, Event.UNWANTED]
    assert here.changes == 1, "whoever waits for a change is told once, when all is handled"


def test_what_is_said_of_a_process_or_alarm_that_is_history_counts_for_nothing() -> None:
    here = world(daemon(readiness=ReadyByNotify(), ready_timeout_ms=200))
    here.services["web"].nature = "mute"
    here.start("web")
    here.pass_time(0)
    alarm, process = record(here).alarm, record(here).process
    here.get_ready("web")
    here.engine.post(record(here), Event.START_TIMEOUT, alarm)
    assert here.row("web") is Row.STARTED
    here.end("web", 0)
    here.engine.post(record(here), Event.UNHEALTHY, process, "too late")
    here.settle()
    assert Event.UNHEALTHY not in causes(here)


def test_what_has_a_meaning_in_one_row_alone_comes_too_late_in_any_other() -> None:
    here = world(daemon(readiness=ReadyByNotify()))
    here.services["web"].nature = "mute"
    here.start("web")
    here.engine.post(record(here), Event.UNHEALTHY, None, "unwell")
    here.settle()
    assert (here.row("web"), record(here).reason) == (Row.STARTING, "")
    assert facts(here, "event_without_meaning") == []


def test_an_event_without_meaning_is_noted_and_changes_nothing() -> None:
    here = world(daemon())
    here.engine.post(record(here), Event.READY)
    assert facts(here, "event_without_meaning") == [
        {"service": "web", "error": "'ready' has no meaning for a service that is idle"}
    ]
    assert (here.row("web"), here.history, facts(here, "service_failed")) == (Row.IDLE, [], [])


def test_no_message_comes_between_two_effects_of_a_step_that_took_its_time() -> None:
    """It has failed while its process runs: what is posted while that is killed is heard once it is cleaned up."""
    here = world(daemon())
    fake = here.services["web"]
    fake.starting_ms = 5
    here.start("web")
    fake.breaks_after, fake.breaks_late = 0, True  # its attendance
    here.stop("web")
    here.pass_time(5)
    assert causes(here)[-2:] == [Event.INTERNAL_ERROR, Event.UNWANTED]
    assert (here.row("web"), here.alive) == (Row.IDLE, set())


def test_others_that_wait_for_one_start_when_it_is_cleaned_up_after() -> None:
    here = world(daemon("a", conflicts=["b"]), daemon("b"))
    here.services["a"].cleaning_ms = 50
    here.start("a")
    here.start("b")
    here.pass_time(49)
    assert (here.row("a"), here.row("b")) == (Row.IDLE, Row.WAITING), "something of it may be left"
    here.pass_time(1)
    assert here.row("b") is Row.STARTED


def test_a_change_is_logged_with_its_cause_and_kept_with_its_time() -> None:
    here = world(daemon())
    here.pass_time(7)
    here.start("web")
    assert facts(here, "service_state_changed") == [
        {"service": "web", "was": "idle", "now": "waiting", "cause": "wanted"},
        {"service": "web", "was": "waiting", "now": "starting", "cause": "permitted"},
        {"service": "web", "was": "starting", "now": "started", "cause": "ready"},
    ]
    assert (record(here).since_ms, record(here).cause) == (7, Event.READY)
    assert (record(here).times.wanted_ms, record(here).times.started_ms) == (7, 7)


# --- why it is where it is ---------------------------------------------------------------------------------------------------


def test_one_that_is_late_says_what_was_waited_for() -> None:
    here = world(daemon(readiness=ReadyByNotify(), ready_timeout_ms=200, restart=Restart(when="never")))
    here.services["web"].nature = "mute"
    here.start("web")
    process = record(here).process
    assert process is not None
    here.pass_time(200)
    assert record(here).reason == "not ready within 0.2 s"
    here.start("web")
    here.pass_time(0)
    process = record(here).process
    assert process is not None
    process.unready = "nobody listens on port 80"
    here.pass_time(200)
    assert record(here).reason == "not ready within 0.2 s: nobody listens on port 80"


def test_a_reason_is_gone_when_it_is_wanted_again_or_no_more_and_stays_while_it_goes_on() -> None:
    here = world(daemon(restart=Restart(start_limit=1)))
    here.start("web")
    here.engine.report_status(record(here), "serving")
    here.start("web")
    assert record(here).reason == "serving"
    here.end("web", 1)
    assert (here.row("web"), record(here).reason) == (Row.FAILED, "ended with status 1; given up after 1 starts within 60 s")
    here.start("web")
    assert record(here).reason == ""
    here.engine.report_status(record(here), "serving")
    here.stop("web")
    assert record(here).reason == ""


def test_one_that_is_stopped_for_being_unwell_says_so_also_when_somebody_stops_it() -> None:
    here = world(daemon())
    here.services["web"].obeys = None
    here.start("web")
    here.fail_check("web", Event.UNHEALTHY)
    assert (here.row("web"), record(here).reason) == (Row.FALTERING, "as it happens")
    assert facts(here, "service_state_changed")[-1]["reason"] == "as it happens"
    here.stop("web")
    assert (here.row("web"), record(here).reason) == (Row.STOPPING, "as it happens")


def test_one_that_was_unwell_and_is_given_up_says_both() -> None:
    here = world(daemon(restart=Restart(start_limit=1)))
    here.start("web")
    here.fail_check("web", Event.UNHEALTHY)
    assert here.row("web") is Row.FAILED
    assert record(here).reason == "as it happens; given up after 1 starts within 60 s"


def test_a_longrun_that_ends_well_after_all_has_failed_and_a_oneshot_is_done() -> None:
    never = Restart(when="on-failure", delay_ms=50)
    oneshot = daemon("job", type="oneshot", readiness=ReadyByExit(), ready_timeout_ms=200, restart=never)
    here = world(daemon(restart=never), oneshot)
    here.start("web")
    here.fail_check("web", Event.UNHEALTHY)
    assert here.row("web") is Row.WAITING
    here.services["job"].nature = "mute"
    here.start("job")
    here.pass_time(200)
    assert here.row("job") is Row.COMPLETED


def test_success_needs_no_reason() -> None:
    here = world(daemon("job", type="oneshot", readiness=ReadyByExit()))
    here.start("job")
    here.engine.report_status(record(here, "job"), "half-way")
    here.end("job", 0)
    assert (here.row("job"), record(here, "job").reason) == (Row.COMPLETED, "")


def test_a_bug_in_a_task_is_said_and_its_service_failed() -> None:
    here = world(daemon())
    here.start("web")
    here.engine.fail(record(here), UnavailableError("no memory"))
    assert record(here).reason == "no memory"
    assert here.row("web") is Row.FAILED
    assert "UnavailableError" in str(facts(here, "service_task_failed")[0]["traceback"])
    here.broken.clear()  # the world takes that for a bug of the engine's
    here.start("web")
    here.engine.fail(record(here), ZeroDivisionError("oh"))
    assert record(here).reason == "the supervisor failed: ZeroDivisionError('oh')"
    assert facts(here, "service_failed")[-1] == {"service": "web", "why": record(here).reason}


def test_one_that_waits_for_its_next_time_after_a_failure_says_of_which() -> None:
    here = world(daemon(timers=[Timer(after_end_ms=1)], restart=Restart(when="never")))
    here.start("web")
    here.trigger("web")
    here.end("web", 1)
    assert (here.row("web"), record(here).reason) == (Row.ARMED, "ended with status 1")
    here.trigger("web")
    here.end("web", 0)
    assert (here.row("web"), record(here).reason) == (Row.ARMED, "")


class Stubborn(WorldOrgans):
    """Organs that fail when something is to be undone."""

    def kill(self, record: ServiceRecord) -> None:
        raise Fault("kill")

    def forget(self, record: ServiceRecord) -> None:
        raise Fault("forget")


def test_what_undoes_is_tried_each_by_itself_where_the_one_before_it_fails() -> None:
    here = world(daemon(), organs=Stubborn)
    here.start("web")
    here.fail_task("web")
    assert (here.row("web"), here.alive) == (Row.FAILED, set()), "it was cleaned up after nevertheless"
    said = [failure["error"] for failure in facts(here, "service_task_failed")]
    assert said == ["Fault('a task')", "Fault('forget')", "Fault('kill')"]


def test_one_that_cannot_even_be_said_to_have_failed_is_cleaned_up_after() -> None:
    here = world(daemon(), organs=Stubborn)
    here.start("web")
    here.services["web"].breaks_after = 0
    here.reload("web")
    assert (here.row("web"), here.alive) == (Row.FAILED, set())
    said = [failure["error"] for failure in facts(here, "service_task_failed")]
    assert said == ["Fault('reload')", "Fault('forget')", "Fault('kill')"]


def test_an_effect_that_fails_after_another_took_its_time_makes_it_failed() -> None:
    here = world(daemon(listeners=[HTTP]))
    here.services["web"].cleaning_ms = 50
    here.start("web")
    here.trigger("web")
    here.end("web", 0)
    here.services["web"].breaks_after = 0  # arming it again, once it is cleaned up after
    here.pass_time(50)
    assert (here.row("web"), record(here).reason) == (Row.FAILED, "the supervisor failed: Fault('arm')")


def test_what_is_to_be_undone_after_an_error_waits_for_connections_to_end() -> None:
    here = world(daemon(listeners=[ACCEPTING]))
    here.services["web"].obeys = 50
    here.start("web")
    here.trigger("web")
    here.services["web"].breaks_after = 0  # disarming it
    here.stop("web")
    assert (here.row("web"), facts(here, "service_killed")) == (Row.FAILED, [])
    here.pass_time(50)
    assert facts(here, "service_killed") == [{"service": "web"}]


def test_what_is_to_be_undone_after_connections_have_ended_is_undone_then() -> None:
    here = world(daemon(listeners=[ACCEPTING]))
    here.services["web"].obeys = 50
    here.start("web")
    here.trigger("web")
    here.fail_task("web")
    assert (here.row("web"), facts(here, "service_killed")) == (Row.FAILED, [])
    here.pass_time(50)
    assert facts(here, "service_killed") == [{"service": "web"}]


# --- starts that come to nothing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_start_that_comes_to_nothing_is_tried_again_with_the_reason_and_its_last_words(when: str) -> None:
    here = world(daemon(restart=Restart(delay_ms=0, start_limit=2)))
    here.services["web"].start_fails = when
    here.start("web")
    assert here.row("web") is Row.WAITING
    assert record(here).delay_ms == LEAST_DELAY_MS, "starts without end must let others have their turn"
    why = {"at once": "cannot start it (web has tried)", "later": "it is not there (web has tried)"}[when]
    assert facts(here, "service_not_started")[0] == {"service": "web", "reason": why}
    assert record(here).reason == why
    here.pass_time(10)
    assert here.row("web") is Row.FAILED
    assert record(here).reason == f"{why}; given up after 2 starts within 60 s"
    assert record(here).restarts == 1


def test_a_bug_in_a_start_makes_it_failed() -> None:
    here = world(daemon())
    here.services["web"].breaks_after = 1  # its start, after its conditions
    here.start("web")
    assert (here.row("web"), record(here).reason) == (Row.FAILED, "the supervisor failed: Fault('start')")
    here.start("web")
    assert here.row("web") is Row.STARTED


def test_one_whose_process_cannot_be_attended_to_is_killed() -> None:
    here = world(daemon())
    here.services["web"].breaks_after = 2
    here.start("web")
    assert (here.row("web"), here.alive) == (Row.FAILED, set())
    assert record(here).reason == "the supervisor failed: Fault('attend')"


def test_a_condition_that_does_not_hold_is_said_and_nothing_starts() -> None:
    here = world(daemon())
    here.services["web"].conditions_hold = False
    here.start("web")
    assert (here.row("web"), record(here).reason) == (Row.IDLE, "a condition does not hold")
    assert causes(here)[-1] is Event.SKIPPED


def test_a_listener_that_cannot_be_opened_is_a_start_that_failed_and_tried_again() -> None:
    here = world(daemon(listeners=[HTTP], restart=Restart(delay_ms=50)))
    here.services["web"].can_listen = False
    here.start("web")
    assert (here.row("web"), record(here).reason) == (Row.WAITING, "cannot listen (web has tried)")
    here.services["web"].can_listen = True
    here.pass_time(50)
    assert here.row("web") is Row.STARTED, "whoever is tried again after a failure does not wait for a client"


def test_one_that_nothing_could_trigger_has_failed_and_says_why() -> None:
    here = world(daemon(listeners=[HTTP], restart=Restart(when="never")))
    here.services["web"].can_listen = False
    here.restart("web")
    assert (here.row("web"), record(here).reason) == (Row.FAILED, "cannot listen")
    assert facts(here, "service_task_failed") == [], "that is nobody's bug"


# --- rows and their effects -----------------------------------------------------------------------------------------------


def test_one_that_accepts_waits_for_connections_and_ends_them_when_it_is_stopped() -> None:
    here = world(daemon(listeners=[ACCEPTING]))
    here.services["web"].obeys = 50
    here.engine.report_status(record(here), "an old word")
    here.start("web")
    assert (here.row("web"), record(here).reason, record(here).starts.at) == (Row.ARMED, "", ())
    here.trigger("web")
    here.stop("web")
    assert counted(here) is Row.STOPPING, "as its connections are being ended"
    here.pass_time(50)
    assert counted(here) is Row.IDLE
    assert here.services["web"].serving == 0


def test_one_that_accepts_is_tried_again_where_its_port_is_taken_and_its_starts_are_not_counted() -> None:
    here = world(daemon(listeners=[ACCEPTING], restart=Restart(delay_ms=50)))
    here.services["web"].can_listen = False
    here.restart("web")
    assert here.row("web") is Row.WAITING
    here.services["web"].can_listen = True
    here.engine.report_status(record(here), "its port is taken")
    here.pass_time(50)
    assert (here.row("web"), record(here).reason, record(here).starts.at) == (Row.ARMED, "", ())


def test_what_was_kept_for_the_next_process_is_closed_at_rest_and_all_of_it_when_it_is_stopped() -> None:
    here = world(daemon(listeners=[HTTP]))
    calls = here.services["web"].calls
    here.start("web")
    assert calls == ["rest"], "it is armed"
    here.trigger("web")
    assert calls == ["rest", "start counted"]
    here.end("web", 0)
    assert calls == ["rest", "start counted", "end counted", "rest"]
    calls.clear()
    here.stop("web")
    assert calls == ["rest", "forget"]


def test_its_timers_count_every_start_and_every_end() -> None:
    here = world(daemon(restart=Restart(delay_ms=0)), Service(name="all", type="bundle", wants=["web"]))
    calls = here.services["web"].calls
    here.start("all")
    here.end("web", 1)
    assert calls == ["start counted", "end counted", "start counted"]
    calls.clear()
    here.stop("web")
    assert calls == ["end counted", "rest", "forget"], "also an end that was asked for"
    here.services["web"].start_fails = "later"
    calls.clear()
    here.start("web")
    assert calls[:2] == ["start counted", "end counted"], "and a start that came to nothing"
    assert "start counted" not in here.services["all"].calls


def test_an_alarm_that_is_not_needed_any_more_wakes_nobody() -> None:
    here = world(daemon(readiness=ReadyByNotify(), ready_timeout_ms=200))
    here.services["web"].nature = "mute"
    here.start("web")
    alarm = record(here).alarm
    assert alarm is not None
    assert rings(alarm)
    here.get_ready("web")
    assert not rings(alarm)
    assert record(here).alarm is None


def test_one_that_starts_waits_for_no_permission_any_more() -> None:
    here = world(daemon("disk", readiness=ReadyByNotify(), ready_timeout_ms=0), daemon(requires=["disk"]))
    here.services["disk"].nature = "mute"
    here.start("web")
    assert record(here).awaits_permission
    here.get_ready("disk")
    assert not record(here).awaits_permission


def test_one_whose_start_is_under_way_counts_as_starting_for_others() -> None:
    here = world(daemon(), daemon("mail"))
    here.services["web"].starting_ms = 5
    here.start("web")
    assert dict(here.engine.rows) == {"web": Row.STARTING, "mail": Row.IDLE}
    assert len(here.engine.rows) == 2


def test_a_backoff_of_nothing_is_no_wait() -> None:
    here = world(daemon(restart=Restart(delay_ms=0)))
    here.start("web")
    here.end("web", 1)
    assert (here.now, here.row("web"), record(here).restarts) == (0, Row.STARTED, 1)


def test_a_backoff_is_waited_for_and_a_stop_ends_it() -> None:
    here = world(daemon(restart=Restart(delay_ms=50, jitter=0)))
    here.start("web")
    here.end("web", 1)
    here.pass_time(49)
    assert here.row("web") is Row.WAITING
    here.stop("web")
    here.pass_time(1000)
    assert here.row("web") is Row.IDLE


def test_without_a_ready_timeout_it_may_take_for_ever() -> None:
    here = world(daemon(readiness=ReadyByNotify(), ready_timeout_ms=0))
    here.services["web"].nature = "mute"
    here.start("web")
    here.pass_time(10_000_000)
    assert here.row("web") is Row.STARTING


def test_one_that_ignores_its_signal_is_killed_and_it_is_said_after_how_long() -> None:
    here = world(daemon())
    here.services["web"].obeys = None
    here.start("web")
    here.stop("web")
    here.pass_time(300)
    assert here.row("web") is Row.IDLE
    assert facts(here, "service_killed") == [{"service": "web", "after_ms": 300}]


def test_a_reload_is_passed_on_to_one_that_is_started_alone() -> None:
    here = world(daemon())
    here.reload("web")
    assert causes(here) == []
    here.start("web")
    here.services["web"].breaks_after = 0
    here.reload("web")
    assert record(here).reason == "the supervisor failed: Fault('reload')", "so it has come to the organ"


def test_a_failure_isolates_where_that_is_asked_for() -> None:
    here = world(daemon(restart=Restart(when="never", on_failure="isolate"), requires=["disk"]), daemon("disk"), daemon("mail"))
    for name in ("web", "mail"):
        here.start(name)
    here.end("web", 1)
    assert [here.row(name) for name in ("web", "disk", "mail")] == [Row.FAILED, Row.STARTED, Row.IDLE]
    assert record(here, "mail").origin == Origin("isolated", "web")
    assert facts(here, "service_isolated") == [{"service": "web"}]


def test_a_failure_asks_for_a_reboot_where_that_is_asked_for() -> None:
    here = world(daemon(restart=Restart(when="never", on_failure="reboot")))
    here.start("web")
    here.end("web", 1)
    assert (here.reboots, facts(here, "service_asks_for_reboot")) == (["web"], [{"service": "web"}])


def test_what_merely_comes_after_one_that_waits_in_vain_is_let_go() -> None:
    here = world(daemon("disk", restart=Restart(when="never")), daemon("middle", requires=["disk"]), daemon(after=["middle"]))
    here.services["disk"].start_fails = "later"
    here.start("middle")
    here.start("web")
    here.pass_time(0)
    assert [here.row(name) for name in ("disk", "middle", "web")] == [Row.FAILED, Row.WAITING, Row.STARTED]


def test_whoever_requires_it_loses_it_and_a_bundle_loses_a_part() -> None:
    here = world(daemon("disk"), daemon(requires=["disk"]), Service(name="all", type="bundle", wants=["disk"]))
    for name in ("web", "all"):
        here.start(name)
    assert here.row("all") is Row.COMPLETED
    here.end("disk", 1)
    assert Event.DEPENDENCY_LOST in causes(here, "web")
    assert Event.PART_LOST in causes(here, "all")
    assert Event.PART_LOST not in causes(here, "web")
    here.come_to_rest()
    assert [here.row(name) for name in ("disk", "web", "all")] == [Row.STARTED, Row.STARTED, Row.COMPLETED]


# --- going on with what runs already ------------------------------------------------------------------------------------------


def test_a_process_that_was_started_before_is_its_own() -> None:
    here = world(daemon(readiness=ReadyByNotify(), ready_timeout_ms=200))
    fake = here.services["web"]
    fake.nature, fake.wish = "mute", True
    process = fake.process = Process(fake)
    here.alive.add(process)
    here.engine.adopt(record(here), MainProcess(Child(7, -1)))
    assert (here.row("web"), len(record(here).starts.at)) == (Row.STARTING, 1)
    assert causes(here) == [Event.WANTED, Event.PERMITTED], "as it would have started here"
    assert facts(here, "service_process_started") == [{"service": "web", "pid": 7}]
    here.pass_time(200)
    assert Event.START_TIMEOUT in causes(here)


def kept(here: World, row: Row, *, with_process: bool = True) -> ServiceRecord:
    """Have the service be in *row*, as a program before this one has left it."""
    fake = here.services["web"]
    found = fake.record
    found.row, fake.wish = row, row.wanted
    if with_process:
        process = fake.process = Process(fake)
        here.alive.add(process)
        found.process = MainProcess(Child(7, -1))
    return found


def test_a_started_one_goes_on_with_its_health_checks() -> None:
    here = world(daemon())
    here.engine.go_on(kept(here, Row.STARTED), None)
    here.settle()
    assert here.services["web"].checked
    here.end("web", 1)
    assert here.row("web") is Row.WAITING


def test_a_starting_one_goes_on_with_what_was_left_of_its_time() -> None:
    here = world(daemon(readiness=ReadyByNotify()))
    here.engine.go_on(kept(here, Row.STARTING), 70)
    assert here.row("web") is Row.STARTED, "it had said so meanwhile"
    there = world(daemon(readiness=ReadyByExit(), type="oneshot"))
    there.engine.go_on(kept(there, Row.STARTING), 70)
    there.pass_time(69)
    assert there.row("web") is Row.STARTING
    there.pass_time(1)
    assert Event.START_TIMEOUT in causes(there)


def test_an_armed_one_goes_on_waiting_for_its_trigger() -> None:
    here = world(daemon(timers=[Timer(after_end_ms=1)]))
    here.engine.go_on(kept(here, Row.ARMED, with_process=False), 70)
    assert (here.services["web"].armed, record(here).alarm) == (True, None), "no alarm belongs there"
    here.trigger("web")
    assert here.row("web") is Row.STARTED


def test_one_that_waited_for_others_is_let_go_when_all_have_gone_on() -> None:
    here = world(daemon())
    found = kept(here, Row.WAITING, with_process=False)
    found.awaits_permission = True
    here.engine.go_on(found, None)
    assert here.row("web") is Row.WAITING
    here.engine.permit_all()
    here.settle()
    assert here.row("web") is Row.STARTED

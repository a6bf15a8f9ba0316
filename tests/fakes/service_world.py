"""A machine with a few services under the production engine: its organs, its clock and the laws that hold there.

The organs keep the promises of ``supervisor.organs``: what takes time is answered later, what is about a process is told with
it. Everything that they see must never happen (SIGKILL without SIGTERM before it, a start that nobody wants or beside another
process), and all that the engine itself takes for a bug, is a broken law; ``check`` holds what must be true whenever nothing is
on its way, and raises AssertionError. ``tests.fakes.service_lives`` draws whole lives.
"""

import heapq
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from milkyway_agent.core.dependencies import Graph, needs_of
from milkyway_agent.core.restart import is_on_demand, is_triggered
from milkyway_agent.core.service_state import Event, Row, has_process, satisfies
from milkyway_agent.launching.child import Child, StartCallback
from milkyway_agent.runtime.alarms import Alarm
from milkyway_agent.supervisor.definition import Definition, accepts
from milkyway_agent.supervisor.dependents import loss_of
from milkyway_agent.supervisor.engine import Engine
from milkyway_agent.supervisor.organs import Reports
from milkyway_agent.supervisor.service_record import MainProcess, Question, ServiceRecord
from milkyway_formats.errors import UnavailableError
from milkyway_formats.service import ReadyAtOnce, ReadyByExit, Service
from tests.fakes.no_starter import NoStarter

PATIENCE = 10_000
_STOPPING = frozenset({Row.STOPPING, Row.RESTARTING, Row.FALTERING})
_TIMED = frozenset({Row.WAITING, Row.STARTING, *_STOPPING})
_UNWISHING = frozenset({Event.UNWANTED, Event.FINISHED, Event.SKIPPED})
P = ParamSpec("P")
R = TypeVar("R")


class Fault(Exception):  # noqa: N818 (no error of anybody)
    """An organ that fails because the test has it fail: no bug of anybody's."""


class Process:
    """One process. *obeys*: after how many milliseconds it follows SIGTERM; None: it ignores it."""

    def __init__(self, inhabitant: "Inhabitant") -> None:
        self.inhabitant = inhabitant
        self.main: MainProcess | None = None  # once the engine attends to it
        self.code: int | None = None  # while it lives
        self.asked = False


class Inhabitant:
    """One service as its organs know it, how it behaves, and what becomes of its processes."""

    def __init__(self, record: ServiceRecord) -> None:
        self.record = record
        self.name = record.definition.name
        self.service = record.definition.service
        self.wish = False  # what people, its policy and its conditions have last said
        self.process: Process | None = None
        self.armed = False
        self.listening = False
        self.checked = False
        self.clients = 0  # who wait on its listener until somebody takes them
        self.serving = 0  # connections, where it accepts
        # How it behaves from here on.
        self.nature = "well"  # or "crashes" as soon as it was started, or "mute": never ready
        self.obeys: int | None = 0
        self.starting_ms = 0
        self.cleaning_ms = 0
        self.conditions_hold = True
        self.can_listen = True
        self.start_fails = ""  # "at once", or "later"
        self.breaks_after: int | None = None  # calls of organs: the next one fails,
        self.breaks_late = False  # when it has done what it was to, or before

    def behave_well(self) -> None:
        """Let nothing go wrong with it any more but what its nature is, and nobody wait for it."""
        self.conditions_hold, self.can_listen, self.start_fails, self.breaks_after = True, True, "", None
        # A client that nobody ever takes has its service started again for ever, as often as its start limit allows.
        self.starting_ms = self.clients = 0

    def is_due_to_break(self) -> bool:
        """Count one call of an organ; tell whether it is the one that fails."""
        if self.breaks_after is None:
            return False
        breaks = self.breaks_after == 0
        self.breaks_after = None if breaks else self.breaks_after - 1
        return breaks


def may_break(
    method: Callable[Concatenate["WorldOrgans", ServiceRecord, P], R],
) -> Callable[Concatenate["WorldOrgans", ServiceRecord, P], R]:
    """Have an organ fail when it is due to: before it has done anything, or (where it answers nothing later) after."""
    answers_later = "done" in method.__annotations__

    @wraps(method)
    def call(self: "WorldOrgans", record: ServiceRecord, /, *args: P.args, **kwargs: P.kwargs) -> R:
        inhabitant = self.of(record)
        breaks = inhabitant.is_due_to_break()
        if breaks and (answers_later or not inhabitant.breaks_late):
            raise Fault(method.__name__)
        result = method(self, record, *args, **kwargs)
        if breaks:
            raise Fault(method.__name__)
        return result

    return call


class WorldEngine(Engine):
    """The production engine. The world is told each event that it heeds, also where that changes no row."""

    world: "World"

    def enter(self, record: ServiceRecord, row: Row, cause: Event) -> None:
        """Tell the world."""
        self.world.heeded(record, row, cause)
        super().enter(record, row, cause)


class World:
    """All of it, at time ``now`` in milliseconds. *chance* is what a restart's jitter is drawn from."""

    def __init__(self, definitions: Mapping[str, Service], chance: Callable[[], float]) -> None:
        self.now = 0
        self.is_quiet = False
        self.alive: set[Process] = set()
        self.history: list[tuple[int, str, Row, Event, Row]] = []
        self.broken: list[str] = []  # laws
        self.inhabitants: dict[str, Inhabitant] = {}
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0
        self.organs = WorldOrgans(self)
        self.engine = WorldEngine(self.organs, self, chance, note=self._note)
        self.engine.world = self
        for name, service in definitions.items():
            record = self.engine.new_record(Definition(name, service, NoStarter(), needs_of(service)))
            self.engine.services[name] = record
            self.inhabitants[name] = Inhabitant(record)
        self.engine.graph = self.graph = Graph({name: needs_of(service) for name, service in definitions.items()})
        self.graph.check()
        self.engine.open()

    def now_ms(self) -> int:
        """Return the time (``engine.Clock``)."""
        return self.now

    def boottime_ms(self) -> int:
        """Return the time (``engine.Clock``)."""
        return self.now

    def row(self, name: str) -> Row:
        """Return where a service is."""
        return self.inhabitants[name].record.row

    # --- what people ask, and what the world does ---------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Want a service with all that it needs; what conflicts with these is stopped."""
        self.engine.want(name)
        self.settle()

    def restart(self, name: str) -> None:
        """Ask for a fresh start that waits for no trigger."""
        self.engine.restart(self.inhabitants[name].record)
        self.settle()

    def stop(self, name: str) -> None:
        """Want a service no more; those that can't run without it lose it first."""
        for other in reversed(self.graph.dependents(name)):
            record = self.inhabitants[other].record
            self.engine.post(record, loss_of(record))
        self.engine.post(self.inhabitants[name].record, Event.UNWANTED)
        self.settle()

    def hold_back(self, name: str, milliseconds: int) -> None:
        """Keep a service from starting for so long, and what can't run without it from running."""
        concerned = [self.inhabitants[other].record for other in (name, *self.graph.dependents(name))]
        self.engine.hold_back(concerned)
        for record in reversed(concerned):
            self.engine.post(record, loss_of(record))
        self.later(milliseconds, lambda: self.engine.let_go(concerned))
        self.settle()

    def reload(self, name: str) -> None:
        """Ask for a reload."""
        self.engine.post(self.inhabitants[name].record, Event.RELOAD_ASKED)
        self.settle()

    def fail_check(self, name: str, event: Event) -> None:
        """Have its probe find it UNHEALTHY, or its watchdog expire."""
        inhabitant = self.inhabitants[name]
        if inhabitant.checked and inhabitant.process is not None:
            self.engine.post(inhabitant.record, event, inhabitant.process.main, "as it happens")
        self.settle()

    def fail_task(self, name: str) -> None:
        """Have a task for it fail that nobody waits for."""
        self.engine.fail(self.inhabitants[name].record, Fault("a task"))
        self.settle()

    def come(self, name: str) -> None:
        """Come as a client of its listener, or be its time."""
        inhabitant = self.inhabitants[name]
        if accepts(inhabitant.service):
            inhabitant.serving += inhabitant.armed
        elif is_triggered(inhabitant.service):
            inhabitant.clients += is_on_demand(inhabitant.service)  # a client waits until somebody takes it; a time only passes
            if inhabitant.armed:
                self.engine.post(inhabitant.record, Event.TRIGGERED)
        self.settle()

    def end(self, name: str, code: int) -> None:
        """Have its process end by itself."""
        process = self.inhabitants[name].process
        if process is not None:
            self.die(process, code)
        self.settle()

    def get_ready(self, name: str) -> None:
        """Have its process say that it is ready."""
        process = self.inhabitants[name].process
        if process is not None:
            self.say_ready(process)
        self.settle()

    def pass_time(self, milliseconds: int) -> None:
        """Let time pass, and happen what it brings."""
        until = self.now + milliseconds
        while self._heap and self._heap[0][0] <= until:
            self.now, _, happen = heapq.heappop(self._heap)
            happen()
            self.settle()
        self.now = until

    def fall_quiet(self) -> None:
        """Let nobody ask for anything any more, and go on until nothing happens. Raises AssertionError if it never ends."""
        self.is_quiet = True
        self.engine.open()
        for inhabitant in self.inhabitants.values():
            inhabitant.behave_well()
            if inhabitant.process is not None:
                self.behave(inhabitant.process)
        self.settle()
        for _ in range(PATIENCE):
            if not self._heap:
                break
            self.now, _, happen = heapq.heappop(self._heap)
            happen()
            self.settle()
        assert not self._heap, "it never comes to rest"
        self._check_fixed_point()

    # --- what must be true ----------------------------------------------------------------------------------------------

    def law(self, holds: bool, what: str) -> None:
        """Remember *what* as broken unless it *holds*: an error here would be the engine's to deal with."""
        if not holds:
            self.broken.append(what)

    def heeded(self, record: ServiceRecord, row: Row, event: Event) -> None:
        """Take note of an event that takes a service to *row*, before it is there."""
        inhabitant = self.inhabitants[record.definition.name]
        self.history.append((self.now, inhabitant.name, record.row, event, row))
        if event in _UNWISHING:
            inhabitant.wish = False
        elif event in (Event.WANTED, Event.RESTART_ASKED):
            inhabitant.wish = True

    def check(self) -> None:
        """Raise AssertionError unless every law was kept, every process is owned, and every row has what belongs to it."""
        assert not self.broken, self.broken[0]
        owned = {
            inhabitant.process
            for inhabitant in self.inhabitants.values()
            if inhabitant.process is not None and inhabitant.process.code is None
        }
        assert owned == self.alive, "a process is lost"
        for inhabitant in self.inhabitants.values():
            if not inhabitant.record.busy:
                self._check(inhabitant)

    def _check(self, inhabitant: Inhabitant) -> None:
        name, record, process, row = inhabitant.name, inhabitant.record, inhabitant.process, inhabitant.record.row
        assert (record.process is None) == (process is None), f"{name} has another process than the engine knows, in {row}"
        assert (process is not None) == has_process(row), f"{name} has a process in {row}: {process is not None}"
        assert inhabitant.armed == (row is Row.ARMED), f"{name} is armed: {inhabitant.armed} in {row}"
        assert inhabitant.checked == (row is Row.STARTED), f"{name} is checked: {inhabitant.checked} in {row}"
        assert not inhabitant.serving or row is Row.ARMED, f"{name} serves connections in {row}"
        ticks = record.alarm is not None and record.alarm.callback is not None
        assert not ticks or row in _TIMED, f"{name} has a timer in {row}"
        assert row not in _STOPPING or ticks or process not in self.alive, f"{name} may stop for ever"
        assert row.wanted == inhabitant.wish or row is Row.FAILED, f"{name} is wanted: {inhabitant.wish} in {row}"
        assert record.queue is None, f"{name} has heard less than was said, in {row}"
        if row in (Row.STARTING, Row.STARTED):
            for other in inhabitant.service.requires:
                found = self.row(other)
                assert satisfies(found) or found is Row.STARTING, f"{name} runs while {other} is {found}"
        if process is not None:
            for other in self.graph.conflicting(name):
                assert self.inhabitants[other].process is None, f"{name} runs beside {other}"

    def _check_fixed_point(self) -> None:
        for inhabitant in self.inhabitants.values():
            name, record = inhabitant.name, inhabitant.record
            assert record.row is not Row.STARTING and record.row not in _STOPPING, f"{name} stays {record.row}"
            assert not record.busy, f"{name} waits for an organ"
            if record.row is Row.WAITING:
                assert record.awaits_permission, f"{name} waits for nothing"
                assert self.engine.held_back(record), f"nothing holds {name} back"

    def _note(self, event: str, **facts: object) -> None:
        """Take what the engine logs: what it takes for a bug breaks a law."""
        if event == "event_without_meaning" or (event == "service_task_failed" and "Fault(" not in str(facts["error"])):
            self.broken.append(f"{event}: {facts}")

    # --- time and processes ---------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let happen what is due now, and check."""
        while self._heap and self._heap[0][0] <= self.now:
            heapq.heappop(self._heap)[2]()
        if self.engine.is_open:
            self.check()

    def later(self, milliseconds: int, happen: Callable[[], None]) -> None:
        """Have *happen* called in so many *milliseconds*: never at once."""
        self._number += 1
        heapq.heappush(self._heap, (self.now + milliseconds, self._number, happen))

    def behave(self, process: Process) -> None:
        """Do by itself what a process of its nature does."""
        inhabitant = process.inhabitant
        if inhabitant.nature == "crashes":
            self.die(process, 1)
        elif inhabitant.nature == "well":
            if isinstance(inhabitant.service.readiness, ReadyByExit):
                self.die(process, 0)
            else:
                self.say_ready(process)

    def say_ready(self, process: Process) -> None:
        """Have a process say that it is ready, if that is how it gets ready."""
        inhabitant = process.inhabitant
        if process.code is None and process.main and not isinstance(inhabitant.service.readiness, ReadyByExit):
            self.engine.post(inhabitant.record, Event.READY, process.main)

    def die(self, process: Process, code: int) -> None:
        """Have a process end; nothing where it has."""
        if process.code is not None:
            return
        process.code = code
        self.alive.discard(process)
        if process.main is not None:  # else the engine attends to it when it has ended already
            self.engine.post(process.inhabitant.record, Question.END, process.main)

    def kill(self, inhabitant: Inhabitant) -> None:
        """Kill what there is of a service. Whoever was not asked before must be one that the engine can't go on with."""
        process = inhabitant.process
        if process is not None and process.code is None:
            is_given_up = inhabitant.record.row is Row.FAILED
            self.law(process.asked or is_given_up, f"{inhabitant.name} is killed without being asked")
            self.die(process, -9)


class WorldOrgans:
    """The organs of the world: implements ``supervisor.organs.Organs``."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._reports: Reports | None = None

    def of(self, record: ServiceRecord) -> Inhabitant:
        """Return the inhabitant whose record it is."""
        return self._world.inhabitants[record.definition.name]

    def report_to(self, reports: Reports) -> None:
        """Report to the engine."""
        assert self._reports is None, "once"
        self._reports = reports

    @may_break
    def unmet_condition(self, record: ServiceRecord) -> str:
        """Say whether its conditions hold."""
        return "" if self.of(record).conditions_hold else "a condition does not hold"

    def open_listeners(self, record: ServiceRecord) -> None:
        """Open its listeners, if they can be."""
        inhabitant = self.of(record)
        if inhabitant.service.listeners and not inhabitant.can_listen and not inhabitant.listening:
            raise UnavailableError("cannot listen")
        inhabitant.listening = True

    @may_break
    def start(self, record: ServiceRecord, done: StartCallback) -> None:
        """Start a process, in its time."""
        inhabitant, world = self.of(record), self._world
        world.law(inhabitant.wish, f"nobody wants {inhabitant.name}")
        world.law(inhabitant.process is None, f"{inhabitant.name} is started beside its last process")
        world.law(not accepts(inhabitant.service) and inhabitant.service.type != "bundle", f"{inhabitant.name} has no process")
        self.open_listeners(record)
        if inhabitant.start_fails == "at once":
            raise UnavailableError("cannot start it")
        fails = bool(inhabitant.start_fails)

        def answer() -> None:
            if fails:
                done(OSError("it is not there"))
                return
            process = inhabitant.process = Process(inhabitant)
            world.alive.add(process)
            done(Child(len(world.history), -1))

        world.later(inhabitant.starting_ms, answer)

    def last_words(self, record: ServiceRecord) -> str:
        """Say what it wrote."""
        return f"{self.of(record).name} has tried"

    @may_break
    def attend(self, record: ServiceRecord, process: MainProcess) -> None:
        """Watch its process."""
        inhabitant, world = self.of(record), self._world
        its = inhabitant.process
        assert its is not None and its.main is None, "there is one, and it is new"
        its.main = process
        if inhabitant.nature == "well":
            inhabitant.clients = 0
        if its.code is not None:
            world.engine.post(record, Question.END, process)
        elif isinstance(inhabitant.service.readiness, ReadyAtOnce):
            world.say_ready(its)
        if world.is_quiet:
            world.behave(its)

    def attend_again(self, record: ServiceRecord, process: MainProcess, *, is_ready: bool) -> None:
        """Refuse: in this world no program becomes another."""
        raise AssertionError("nothing is adopted here")

    def reap(self, record: ServiceRecord, process: MainProcess) -> int:
        """Reap its process."""
        inhabitant = self.of(record)
        its = inhabitant.process
        assert its is not None and its.main is process and its.code is not None, "it is reaped once, when it has ended"
        inhabitant.process = None
        return its.code

    @may_break
    def terminate(self, record: ServiceRecord) -> None:
        """Ask its process to end."""
        inhabitant, world = self.of(record), self._world
        process = inhabitant.process
        if process is not None and process.code is None:
            process.asked = True
            if inhabitant.obeys is not None:
                world.later(inhabitant.obeys, lambda: world.die(process, 0))

    def kill(self, record: ServiceRecord) -> None:
        """Kill it."""
        self._world.kill(self.of(record))

    @may_break
    def clean_up(self, record: ServiceRecord, done: Callable[[], None]) -> bool:
        """Kill and forget what is left of it, in its time."""
        inhabitant = self.of(record)
        self._world.kill(inhabitant)
        if not inhabitant.cleaning_ms:
            inhabitant.process = None
            return True

        def cleaned() -> None:
            inhabitant.process = None
            done()

        self._world.later(inhabitant.cleaning_ms, cleaned)
        return False

    def rest(self, record: ServiceRecord) -> None:
        """Keep nothing."""

    def forget(self, record: ServiceRecord) -> None:
        """Close its listener, and send its clients away."""
        self.of(record).listening, self.of(record).clients = False, 0

    @may_break
    def arm(self, record: ServiceRecord) -> None:
        """Watch its listener: who waits there comes."""
        inhabitant, world = self.of(record), self._world
        self.open_listeners(record)
        world.law(not inhabitant.armed, f"{inhabitant.name} is armed twice")
        inhabitant.armed = True
        if inhabitant.clients:
            world.later(0, lambda: world.engine.post(record, Event.TRIGGERED) if inhabitant.armed else None)

    @may_break
    def disarm(self, record: ServiceRecord, done: Callable[[], None]) -> bool:
        """Watch it no more, and end its connections, in its time."""
        inhabitant = self.of(record)
        inhabitant.armed = False
        if not inhabitant.serving:
            return True

        def ended() -> None:
            inhabitant.serving = 0
            done()

        self._world.later(inhabitant.obeys or 0, ended)
        return False

    def count_start(self, record: ServiceRecord) -> None:
        """Count nothing: times come when the test says so."""

    def count_end(self, record: ServiceRecord) -> None:
        """Count nothing."""

    @may_break
    def start_health_checks(self, record: ServiceRecord) -> None:
        """Begin to check it."""
        inhabitant = self.of(record)
        self._world.law(not inhabitant.checked, f"{inhabitant.name} is checked twice")
        inhabitant.checked = True

    def stop_health_checks(self, record: ServiceRecord) -> None:
        """Check it no more."""
        self.of(record).checked = False

    @may_break
    def reload(self, record: ServiceRecord) -> None:
        """Have it reload: there must be somebody to do so."""
        self._world.law(self.of(record).process is not None, f"{self.of(record).name} is reloaded while it does not run")

    def set_alarm(self, milliseconds: int, callback: Callable[[], None]) -> Alarm:
        """Call *callback* when it is time, unless the alarm is cancelled."""
        alarm = Alarm((self._world.now + milliseconds) / 1000, callback)

        def ring() -> None:
            callback, alarm.callback = alarm.callback, None
            if callback is not None:
                callback()

        self._world.later(milliseconds, ring)
        return alarm

    def cancel_alarm(self, alarm: Alarm | None) -> None:
        """Let it never ring."""
        if alarm is not None:
            alarm.callback = None

    def ask_for_reboot(self, name: str) -> None:
        """Refuse: no service of this world asks for that."""
        raise AssertionError(f"{name} asks for a reboot")

"""A simulated machine with a few services under the production engine: its organs, its clock and the laws that hold there.

The organs keep the promises of ``supervisor.organs``: what takes time is answered later, and messages about a process name it.
A law is broken if they see what must never happen (SIGKILL before SIGTERM, a start that is not wanted or beside another
process), or if the engine logs a bug. ``check`` raises AssertionError then, or if what must be true between two events is not.
``tests.fakes.service_lives`` draws whole lives.
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


class Fault(Exception):  # noqa: N818 (it is no error of the program)
    """The failure of an organ that the test asked for: not a bug."""


class Process:
    """A process of a fake service."""

    def __init__(self, fake: "FakeService") -> None:
        self.fake = fake
        self.main: MainProcess | None = None  # once the engine attends to it
        self.code: int | None = None  # None while it runs
        self.asked = False


class FakeService:
    """A service as its organs know it, and how it and its processes behave.

    ``obeys``: after how many milliseconds its process follows SIGTERM; None: it ignores it.
    """

    def __init__(self, record: ServiceRecord) -> None:
        self.record = record
        self.name = record.definition.name
        self.service = record.definition.service
        self.wish = False  # whether requests, its policy and its conditions want it to run
        self.process: Process | None = None
        self.armed = False
        self.listening = False
        self.checked = False
        self.clients = 0  # who wait on its listener until somebody takes them
        self.serving = 0  # connections, where it accepts
        self.calls: list[str] = []  # of organs that have nothing to do in this world
        # How it behaves from here on.
        self.nature = "well"  # or "crashes" as soon as it was started, or "mute": never ready
        self.obeys: int | None = 0
        self.starting_ms = 0
        self.cleaning_ms = 0
        self.conditions_hold = True
        self.can_listen = True
        self.start_fails = ""  # "at once", or "later"
        self.breaks_after: int | None = None  # so many calls of organs; the next fails,
        self.breaks_late = False  # after it has done its work, or before

    def behave_well(self) -> None:
        """Let nothing go wrong any more, except for its nature, and no client wait."""
        self.conditions_hold, self.can_listen, self.start_fails, self.breaks_after = True, True, "", None
        # A client that is never served would start its service again for ever, as often as the start limit allows.
        self.starting_ms = self.clients = 0

    def is_due_to_break(self) -> bool:
        """Count a call of an organ; tell whether it must fail."""
        if self.breaks_after is None:
            return False
        breaks = self.breaks_after == 0
        self.breaks_after = None if breaks else self.breaks_after - 1
        return breaks


def may_break(
    method: Callable[Concatenate["WorldOrgans", ServiceRecord, P], R],
) -> Callable[Concatenate["WorldOrgans", ServiceRecord, P], R]:
    """Make an organ fail when it must: before it has done anything, or (if it does not answer later) after that."""
    answers_later = "done" in method.__annotations__

    @wraps(method)
    def call(self: "WorldOrgans", record: ServiceRecord, /, *args: P.args, **kwargs: P.kwargs) -> R:
        fake = self.of(record)
        breaks = fake.is_due_to_break()
        if breaks and (answers_later or not fake.breaks_late):
            raise Fault(method.__name__)
        result = method(self, record, *args, **kwargs)
        if breaks:
            raise Fault(method.__name__)
        return result

    return call


class WorldEngine(Engine):
    """The production engine. It reports each event to the world, even if that changes no row."""

    world: "World"

    def enter(self, record: ServiceRecord, row: Row, cause: Event) -> None:
        """Report it to the world."""
        self.world.observe(record, row, cause)
        super().enter(record, row, cause)


class World:
    """All of it, at time ``now`` in milliseconds. *chance*: what a restart's jitter is drawn from; *organs*: of which kind."""

    def __init__(
        self,
        definitions: Mapping[str, Service],
        chance: Callable[[], float],
        organs: "type[WorldOrgans] | None" = None,
    ) -> None:
        self.now = 0
        self.is_quiet = False
        self.alive: set[Process] = set()
        self.history: list[tuple[int, str, Row, Event, Row]] = []
        self.broken: list[str] = []  # laws
        self.notes: list[tuple[str, dict[str, object]]] = []  # what the engine has logged
        self.changes = 0  # how often it said that something has happened
        self.reboots: list[str] = []  # who asked for one
        self.services: dict[str, FakeService] = {}
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0
        self.organs = (organs or WorldOrgans)(self)
        self.engine = WorldEngine(self.organs, self, chance, note=self._note, on_change=self._count_change)
        self.engine.world = self
        assert self.engine.graph.waves() == [], "as long as there is no service"
        for name, service in definitions.items():
            record = self.engine.new_record(Definition(name, service, NoStarter(), needs_of(service)))
            self.engine.services[name] = record
            self.services[name] = FakeService(record)
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
        """Return the row of a service."""
        return self.services[name].record.row

    # --- requests, and what happens by itself ------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start a service with all that it needs; stop what conflicts with these."""
        self.engine.want(name)
        self.settle()

    def restart(self, name: str) -> None:
        """Restart a service without waiting for its trigger."""
        self.engine.restart(self.services[name].record)
        self.settle()

    def stop(self, name: str) -> None:
        """Stop a service; those that require it lose it first."""
        for other in reversed(self.graph.dependents(name)):
            record = self.services[other].record
            self.engine.post(record, loss_of(record))
        self.engine.post(self.services[name].record, Event.UNWANTED)
        self.settle()

    def hold_back(self, name: str, milliseconds: int) -> None:
        """Keep a service, and those that require it, from running for so many *milliseconds*."""
        concerned = [self.services[other].record for other in (name, *self.graph.dependents(name))]
        self.engine.hold_back(concerned)
        for record in reversed(concerned):
            self.engine.post(record, loss_of(record))
        self.later(milliseconds, lambda: self.engine.let_go(concerned))
        self.settle()

    def reload(self, name: str) -> None:
        """Ask for a reload."""
        self.engine.post(self.services[name].record, Event.RELOAD_ASKED)
        self.settle()

    def fail_check(self, name: str, event: Event) -> None:
        """Let its probe find it UNHEALTHY, or its watchdog expire."""
        fake = self.services[name]
        if fake.checked and fake.process is not None:
            self.engine.post(fake.record, event, fake.process.main, "as it happens")
        self.settle()

    def fail_task(self, name: str) -> None:
        """Let a task for it fail whose outcome is not waited for."""
        self.engine.fail(self.services[name].record, Fault("a task"))
        self.settle()

    def trigger(self, name: str) -> None:
        """Connect a client to its listener, or let its time come."""
        fake = self.services[name]
        if accepts(fake.service):
            fake.serving += fake.armed
        elif is_triggered(fake.service):
            fake.clients += is_on_demand(fake.service)  # a client waits until it is served; a time only passes
            if fake.armed:
                self.engine.post(fake.record, Event.TRIGGERED)
        self.settle()

    def end(self, name: str, code: int) -> None:
        """Let its process end by itself."""
        process = self.services[name].process
        if process is not None:
            self.die(process, code)
        self.settle()

    def get_ready(self, name: str) -> None:
        """Let its process report that it is ready."""
        process = self.services[name].process
        if process is not None:
            self.say_ready(process)
        self.settle()

    def pass_time(self, milliseconds: int) -> None:
        """Let time pass, with all that is due meanwhile."""
        until = self.now + milliseconds
        while self._heap and self._heap[0][0] <= until:
            self.now, _, happen = heapq.heappop(self._heap)
            happen()
            self.settle()
        self.now = until

    def come_to_rest(self) -> None:
        """Go on without further requests until nothing happens any more. Raises AssertionError if that never comes."""
        self.is_quiet = True
        self.engine.open()
        for fake in self.services.values():
            fake.behave_well()
            if fake.process is not None:
                self.behave(fake.process)
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
        """Remember *what* as broken unless it *holds*: the engine would catch an exception here."""
        if not holds:
            self.broken.append(what)

    def observe(self, record: ServiceRecord, row: Row, event: Event) -> None:
        """Record an event that takes a service to *row*, before it is there."""
        fake = self.services[record.definition.name]
        self.history.append((self.now, fake.name, record.row, event, row))
        if event in _UNWISHING:
            fake.wish = False
        elif event in (Event.WANTED, Event.RESTART_ASKED):
            fake.wish = True

    def check(self) -> None:
        """Raise AssertionError unless all laws were kept, every process has its service, and every row what belongs to it."""
        assert not self.broken, self.broken[0]
        owned = {fake.process for fake in self.services.values() if fake.process is not None and fake.process.code is None}
        assert owned == self.alive, "a process is lost"
        for fake in self.services.values():
            if not fake.record.busy:
                self._check(fake)

    def _check(self, fake: FakeService) -> None:
        name, record, process, row = fake.name, fake.record, fake.process, fake.record.row
        assert (record.process is None) == (process is None), f"{name} has another process than the engine knows, in {row}"
        assert (process is not None) == has_process(row), f"{name} has a process in {row}: {process is not None}"
        assert fake.armed == (row is Row.ARMED), f"{name} is armed: {fake.armed} in {row}"
        assert fake.checked == (row is Row.STARTED), f"{name} is checked: {fake.checked} in {row}"
        assert not fake.serving or row is Row.ARMED, f"{name} serves connections in {row}"
        ticks = record.alarm is not None and record.alarm.callback is not None
        assert not ticks or row in _TIMED, f"{name} has a timer in {row}"
        assert row not in _STOPPING or ticks or process not in self.alive, f"{name} may stop for ever"
        assert row.wanted == fake.wish or row is Row.FAILED, f"{name} is wanted: {fake.wish} in {row}"
        assert record.queue is None, f"{name} has messages that were not handled, in {row}"
        if row in (Row.STARTING, Row.STARTED):
            for other in fake.service.requires:
                found = self.row(other)
                assert satisfies(found) or found is Row.STARTING, f"{name} runs while {other} is {found}"
        if process is not None:
            for other in self.graph.conflicting(name):
                assert self.services[other].process is None, f"{name} runs beside {other}"

    def _check_fixed_point(self) -> None:
        for fake in self.services.values():
            name, record = fake.name, fake.record
            assert record.row is not Row.STARTING and record.row not in _STOPPING, f"{name} stays {record.row}"
            assert not record.busy, f"{name} waits for an organ"
            if record.row is Row.WAITING:
                assert record.awaits_permission, f"{name} waits for nothing"
                assert self.engine.held_back(record), f"nothing holds {name} back"

    def _note(self, event: str, **facts: object) -> None:
        """Take what the engine logs: what it takes for a bug breaks a law."""
        self.notes.append((event, facts))
        if event == "event_without_meaning" or (event == "service_task_failed" and "Fault(" not in str(facts["error"])):
            self.broken.append(f"{event}: {facts}")

    def _count_change(self) -> None:
        self.changes += 1

    # --- time and processes ---------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let happen what is due now, and check the laws."""
        while self._heap and self._heap[0][0] <= self.now:
            heapq.heappop(self._heap)[2]()
        if self.engine.is_open:
            self.check()

    def later(self, milliseconds: int, happen: Callable[[], None]) -> None:
        """Call *happen* in *milliseconds*, and never at once."""
        self._number += 1
        heapq.heappush(self._heap, (self.now + milliseconds, self._number, happen))

    def behave(self, process: Process) -> None:
        """Let a process do what is in its nature."""
        fake = process.fake
        if fake.nature == "crashes":
            self.die(process, 1)
        elif fake.nature == "well":
            if isinstance(fake.service.readiness, ReadyByExit):
                self.die(process, 0)
            else:
                self.say_ready(process)

    def say_ready(self, process: Process) -> None:
        """Have a process say that it is ready, if that is how it gets ready."""
        fake = process.fake
        if process.code is None and process.main and not isinstance(fake.service.readiness, ReadyByExit):
            self.organs.reports.post(fake.record, Event.READY, process.main)

    def die(self, process: Process, code: int) -> None:
        """Let a process end, unless it has."""
        if process.code is not None:
            return
        process.code = code
        self.alive.discard(process)
        if process.main is not None:  # else the engine attends to it when it has ended already
            self.organs.reports.post(process.fake.record, Question.END, process.main)

    def kill(self, fake: FakeService) -> None:
        """Kill the process of a service. It must have been asked to end before, unless there was an internal error."""
        process = fake.process
        if process is not None and process.code is None:
            is_given_up = fake.record.row is Row.FAILED
            self.law(process.asked or is_given_up, f"{fake.name} is killed without being asked")
            self.die(process, -9)


class WorldOrgans:
    """The organs of the world: implements ``supervisor.organs.Organs``."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._reports: Reports | None = None

    @property
    def reports(self) -> Reports:
        """Whom to report to."""
        assert self._reports is not None, "the engine says so when it is made"
        return self._reports

    def of(self, record: ServiceRecord) -> FakeService:
        """Return the fake service whose record it is."""
        return self._world.services[record.definition.name]

    def report_to(self, reports: Reports) -> None:
        """Report to the engine."""
        assert self._reports is None, "it is called once"
        self._reports = reports

    @may_break
    def unmet_condition(self, record: ServiceRecord) -> str:
        """Return whether its conditions hold."""
        return "" if self.of(record).conditions_hold else "a condition does not hold"

    def open_listeners(self, record: ServiceRecord) -> None:
        """Open its listeners, if that is possible."""
        fake = self.of(record)
        if fake.service.listeners and not fake.can_listen and not fake.listening:
            raise UnavailableError("cannot listen")
        fake.listening = True

    @may_break
    def start(self, record: ServiceRecord, done: StartCallback) -> None:
        """Start a process, after some time."""
        fake, world = self.of(record), self._world
        world.law(fake.wish, f"nobody wants {fake.name}")
        world.law(fake.process is None, f"{fake.name} is started beside its last process")
        world.law(not accepts(fake.service) and fake.service.type != "bundle", f"{fake.name} has no process")
        self.open_listeners(record)
        if fake.start_fails == "at once":
            raise UnavailableError("cannot start it")
        fails = bool(fake.start_fails)

        def answer() -> None:
            if fails:
                done(OSError("it is not there"))
                return
            process = fake.process = Process(fake)
            world.alive.add(process)
            done(Child(len(world.history), -1))

        world.later(fake.starting_ms, answer)

    def last_words(self, record: ServiceRecord) -> str:
        """Return what it wrote."""
        return f"{self.of(record).name} has tried"

    @may_break
    def attend(self, record: ServiceRecord, process: MainProcess) -> None:
        """Watch its process."""
        fake, world = self.of(record), self._world
        its = fake.process
        assert its is not None and its.main is None, "there is a new process"
        its.main = process
        if fake.nature == "well":
            fake.clients = 0
        if its.code is not None:
            self.reports.post(record, Question.END, process)
        elif isinstance(fake.service.readiness, ReadyAtOnce):
            world.say_ready(its)
        if world.is_quiet:
            world.behave(its)

    def attend_again(self, record: ServiceRecord, process: MainProcess, *, is_ready: bool) -> None:
        """Watch a process that a program before this one has started."""
        fake = self.of(record)
        assert fake.process is not None, "the test has put it there"
        fake.process.main = process
        if not is_ready:
            self._world.say_ready(fake.process)

    def reap(self, record: ServiceRecord, process: MainProcess) -> int:
        """Reap its process."""
        fake = self.of(record)
        its = fake.process
        assert its is not None and its.main is process and its.code is not None, "it is reaped once, when it has ended"
        fake.process = None
        return its.code

    @may_break
    def terminate(self, record: ServiceRecord) -> None:
        """Ask its process to end."""
        fake, world = self.of(record), self._world
        process = fake.process
        if process is not None and process.code is None:
            process.asked = True
            if fake.obeys is not None:
                world.later(fake.obeys, lambda: world.die(process, 0))

    def kill(self, record: ServiceRecord) -> None:
        """Kill it."""
        self._world.kill(self.of(record))

    @may_break
    def clean_up(self, record: ServiceRecord, done: Callable[[], None]) -> bool:
        """Kill and forget what is left of it, after some time."""
        fake = self.of(record)
        self._world.kill(fake)
        if not fake.cleaning_ms:
            fake.process = None
            return True

        def cleaned() -> None:
            fake.process = None
            done()

        self._world.later(fake.cleaning_ms, cleaned)
        return False

    def rest(self, record: ServiceRecord) -> None:
        """Keep nothing."""
        self.of(record).calls.append("rest")

    def forget(self, record: ServiceRecord) -> None:
        """Close its listener; its clients are lost."""
        self.of(record).listening, self.of(record).clients = False, 0
        self.of(record).calls.append("forget")

    @may_break
    def arm(self, record: ServiceRecord) -> None:
        """Watch its listener: clients that wait there trigger it."""
        fake, world = self.of(record), self._world
        self.open_listeners(record)
        world.law(not fake.armed, f"{fake.name} is armed twice")
        fake.armed = True
        if fake.clients:
            world.later(0, lambda: self.reports.post(record, Event.TRIGGERED) if fake.armed else None)

    @may_break
    def disarm(self, record: ServiceRecord, done: Callable[[], None]) -> bool:
        """Stop watching it, and end its connections, after some time."""
        fake = self.of(record)
        fake.armed = False
        if not fake.serving:
            return True

        def ended() -> None:
            fake.serving = 0
            done()

        self._world.later(fake.obeys or 0, ended)
        return False

    def count_start(self, record: ServiceRecord) -> None:
        """Count nothing: times come when the test says so."""
        self.of(record).calls.append("start counted")

    def count_end(self, record: ServiceRecord) -> None:
        """Count nothing."""
        self.of(record).calls.append("end counted")

    @may_break
    def start_health_checks(self, record: ServiceRecord) -> None:
        """Start its checks."""
        fake = self.of(record)
        self._world.law(not fake.checked, f"{fake.name} is checked twice")
        fake.checked = True

    def stop_health_checks(self, record: ServiceRecord) -> None:
        """Stop its checks."""
        self.of(record).checked = False

    @may_break
    def reload(self, record: ServiceRecord) -> None:
        """Make it reload: it must have a process."""
        self._world.law(self.of(record).process is not None, f"{self.of(record).name} is reloaded while it does not run")

    def set_alarm(self, milliseconds: int, callback: Callable[[], None]) -> Alarm:
        """Call *callback* in *milliseconds*, unless the alarm is cancelled."""
        alarm = Alarm((self._world.now + milliseconds) / 1000, callback)

        def ring() -> None:
            callback, alarm.callback = alarm.callback, None
            if callback is not None:
                callback()

        self._world.later(milliseconds, ring)
        return alarm

    def cancel_alarm(self, alarm: Alarm | None) -> None:
        """Keep it from ringing."""
        if alarm is not None:
            alarm.callback = None

    def ask_for_reboot(self, name: str) -> None:
        """Remember who asked."""
        self._world.reboots.append(name)

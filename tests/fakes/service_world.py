"""A machine with a few services, its processes, timers and clock: the table of ``service_state`` is all that drives it.

It carries out effects as the supervisor does: one queue of messages, cleaning up that takes its time, messages
about processes and timers that are history dropped. It refuses what must never happen (an illegal event, SIGKILL
without SIGTERM before it, a start that nobody wants or that leaves another process behind) with an AssertionError,
and ``check`` holds what must be true whenever it is at rest.

``live`` reads definitions and a whole life from bytes, as a fuzzer does: bytes that are missing are zeros, and mean
the plainest.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec

from milkyway_agent.core.dependencies import Graph, Needs
from milkyway_agent.core.restart import Starts, is_on_demand, is_triggered, judge, permission, started
from milkyway_agent.core.service_state import (
    TABLE,
    Effect,
    Event,
    Row,
    has_process,
    is_lost,
    judges_end,
    satisfies,
    step,
)
from milkyway_formats.errors import RefusedError
from milkyway_formats.listener import Listener, Tcp
from milkyway_formats.service import ReadyAtOnce, ReadyByExit, ReadyByNotify, Restart, Service, Stop
from milkyway_formats.timer import Timer as Clock

PATIENCE = 10_000
_STOPPING = frozenset({Row.STOPPING, Row.RESTARTING, Row.FALTERING})
# In which rows a timer may run, by what it says in the end.
_TIMED = {Event.BACKOFF_OVER: {Row.WAITING}, Event.START_TIMEOUT: {Row.STARTING}, Event.STOP_TIMEOUT: _STOPPING}
_UNWISHING = frozenset({Event.UNWANTED, Event.FINISHED, Event.SKIPPED})


class Process:
    """One process. *obeys*: after how many milliseconds it follows SIGTERM; None: it ignores it."""

    def __init__(self, one: "Inhabitant", obeys: int | None) -> None:
        self.one = one
        self.obeys = obeys
        self.code: int | None = None  # while it lives
        self.asked = False


class Timer:
    """One timer of a service: it counts only as long as its service remembers it."""

    def __init__(self, event: Event) -> None:
        self.event = event


class Inhabitant:
    """One service with all that the supervisor would know of it, and what becomes of its processes."""

    def __init__(self, name: str, service: Service) -> None:
        self.name = name
        self.service = service
        self.row = Row.IDLE
        self.wish = False  # what people, its policy and its conditions have last said
        self.process: Process | None = None
        self.timer: Timer | None = None
        self.starts = Starts()
        self.delay_ms = 0
        self.awaits_permission = False
        self.armed = False
        self.checked = False
        self.rest: Iterator[Effect] | None = None  # what is to be done once it is cleaned up
        self.pending: deque[Callable[[], None]] = deque()
        # How it behaves from here on.
        self.nature = "well"  # or "crashes" as soon as it was started, or "mute": never ready
        self.obeys: int | None = 0
        self.cleaning_ms = 0
        self.clients = 0
        self.conditions_hold = True
        self.fails_to_start = False
        self.breaks_after: int | None = None  # effects: at the next one it breaks,
        self.breaks_late = False  # when it was carried out, or before

    def seen_row(self) -> Row:
        """Return its row as others see it: who is still being cleaned up after is not gone yet."""
        if self.rest is None or satisfies(self.row):
            return self.row
        return Row.RESTARTING if self.row is Row.WAITING else Row.STOPPING


class World:
    """All of it, at time ``now`` in milliseconds. *chance* is what a restart's jitter is drawn from."""

    def __init__(self, definitions: Mapping[str, Service], chance: Callable[[], float]) -> None:
        self.now = 0
        self.is_quiet = False
        self.inhabitants = {name: Inhabitant(name, service) for name, service in definitions.items()}
        self.graph = Graph({name: needs_of(service) for name, service in definitions.items()})
        self.graph.check()
        self.alive: set[Process] = set()
        self.history: list[tuple[int, str, Row, Event, Row]] = []
        self._chance = chance
        self._queue: deque[tuple[Inhabitant, Callable[[], None]]] = deque()
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0

    # --- what people ask, and what the world does ---------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Want a service with all that it needs; what conflicts with these is stopped."""
        for other in self.graph.pulled_in(name):
            self._want(other, Event.WANTED)
        self._settle()

    def restart(self, name: str) -> None:
        """Ask for a fresh start."""
        self._want(name, Event.RESTART_ASKED)
        self._settle()

    def stop(self, name: str) -> None:
        """Want a service no more; those that can't run without it are held first."""
        for other in reversed(self.graph.dependents(name)):
            self._post(other, Event.DEPENDENCY_LOST)
        self._post(name, Event.UNWANTED)
        self._settle()

    def reload(self, name: str) -> None:
        """Ask for a reload, which is refused where it has no meaning."""
        self._post_if(name, lambda one: (one.row, Event.RELOAD_ASKED) in TABLE, Event.RELOAD_ASKED)
        self._settle()

    def fail_check(self, name: str, event: Event) -> None:
        """Have its probe find it UNHEALTHY, or its watchdog expire."""
        self._post_if(name, lambda one: one.checked, event)
        self._settle()

    def come(self, name: str) -> None:
        """Come as a client of its listener, or be its time."""
        one = self.inhabitants[name]
        if is_triggered(one.service):
            one.clients += is_on_demand(one.service)  # who waits until somebody takes it; a time only passes
            self._post_if(name, lambda one: one.armed, Event.TRIGGERED)
        self._settle()

    def end(self, name: str, code: int) -> None:
        """Have its process end by itself."""
        process = self.inhabitants[name].process
        if process is not None:
            self._die(process, code)
        self._settle()

    def get_ready(self, name: str) -> None:
        """Have its process say that it is ready."""
        process = self.inhabitants[name].process
        if process is not None:
            self._say_ready(process)
        self._settle()

    def pass_time(self, milliseconds: int) -> None:
        """Let time pass, and happen what it brings."""
        until = self.now + milliseconds
        while self._heap and self._heap[0][0] <= until:
            self.now, _, happen = heapq.heappop(self._heap)
            happen()
            self._settle()
        self.now = until

    def fall_quiet(self) -> None:
        """Let nobody ask for anything any more, and go on until nothing happens. Raises AssertionError if it never ends."""
        self.is_quiet = True
        for one in self.inhabitants.values():
            one.conditions_hold, one.fails_to_start, one.breaks_after = True, False, None
            if one.process is not None:
                self._behave(one.process)
        self._settle()
        for _ in range(PATIENCE):
            if not self._heap:
                break
            self.now, _, happen = heapq.heappop(self._heap)
            happen()
            self._settle()
        assert not self._heap, "it never comes to rest"
        self._check_fixed_point()

    # --- what must be true ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError unless every process is owned, and every row has exactly what belongs to it."""
        owned = {one.process for one in self.inhabitants.values() if one.process is not None and one.process.code is None}
        assert owned == self.alive, "a process is lost"
        for one in self.inhabitants.values():
            row, is_clean = one.row, one.rest is None
            assert one.process is None or has_process(row), f"{one.name} has a process in {row}"
            assert one.process is not None or not has_process(row), f"{one.name} has no process in {row}"
            assert one.armed == (row is Row.ARMED and is_clean), f"{one.name} is armed: {one.armed} in {row}"
            assert one.checked == (row is Row.STARTED), f"{one.name} is checked: {one.checked} in {row}"
            assert one.timer is None or row in _TIMED[one.timer.event], f"{one.name} has a timer in {row}"
            assert row not in _STOPPING or one.timer or one.process not in self.alive, f"{one.name} may stop for ever"
            assert row.wanted == one.wish or row is Row.FAILED, f"{one.name} is wanted: {one.wish} in {row}"
            if row in (Row.STARTING, Row.STARTED):
                for other in one.service.requires:
                    found = self.inhabitants[other].row
                    assert satisfies(found) or found is Row.STARTING, f"{one.name} runs while {other} is {found}"
            if one.process is not None:
                for other in self.graph.conflicting(one.name):
                    assert self.inhabitants[other].process is None, f"{one.name} runs beside {other}"

    def _check_fixed_point(self) -> None:
        for one in self.inhabitants.values():
            assert one.row is not Row.STARTING and one.row not in _STOPPING, f"{one.name} stays {one.row}"
            if one.row is Row.WAITING:
                assert one.awaits_permission, f"{one.name} waits for nothing"
                assert self._holding_back(one), f"nothing holds {one.name} back"
            assert one.rest is None
            assert not one.pending

    # --- the supervisor -------------------------------------------------------------------------------------------------

    def _want(self, name: str, event: Event) -> None:
        for other in self.graph.conflicting(name):
            self._post(other, Event.UNWANTED)
        self._post(name, event)

    def _post(self, name: str, event: Event) -> None:
        self._post_if(name, lambda one: True, event)

    def _post_if(self, name: str, is_meant: Callable[[Inhabitant], bool], event: Event) -> None:
        one = self.inhabitants[name]
        self._queue.append((one, lambda: self._happen(one, event) if is_meant(one) else None))

    def _settle(self) -> None:
        while self._queue:
            one, handle = self._queue.popleft()
            if one.rest is not None:
                one.pending.append(handle)
            else:
                handle()
        self.check()

    def _happen(self, one: Inhabitant, event: Event) -> None:
        following = step(one.row, event)
        self._enter(one, following.row, event)
        self._go_on(one, iter(following.effects), is_breaking=event is Event.INTERNAL_ERROR)

    def _enter(self, one: Inhabitant, row: Row, event: Event) -> None:
        was, one.row = one.row, row
        self.history.append((self.now, one.name, was, event, row))
        if event in _UNWISHING:
            one.wish = False
        elif event in (Event.WANTED, Event.RESTART_ASKED):
            one.wish = True
        if was is row:
            return
        if row is not Row.WAITING:
            one.awaits_permission = False
        if is_lost(was, row):
            for other in self.graph.required_by(one.name):
                self._lose(self.inhabitants[other])
            for other in self.graph.wanted_by(one.name):
                if self.inhabitants[other].service.type == "bundle":
                    self._lose(self.inhabitants[other])
        if event is Event.GAVE_UP and one.service.restart.on_failure == "isolate":
            for other in self.graph.isolated(one.name):
                self._post(other, Event.UNWANTED)
        self._let_look(one)

    def _lose(self, other: Inhabitant) -> None:
        """Tell *other* that what it requires, or a part of it, was lost; what that means is decided when it hears it."""

        def hear() -> None:
            self._happen(other, Event.PART_LOST if other.service.type == "bundle" else Event.DEPENDENCY_LOST)

        self._queue.append((other, hear))

    def _let_look(self, one: Inhabitant) -> None:
        """Have those who may wait for *one* look whether they still have to."""
        everybody = one.row in (
            Row.IDLE,
            Row.FAILED,
            Row.WAITING,
        )  # as ``supervisor.engine`` does: somebody may wait in vain now
        for name in self.inhabitants if everybody else self.graph.concerned(one.name):
            other = self.inhabitants[name]
            if other.awaits_permission:
                self._queue.append((other, partial(self._permit, other)))

    def _permit(self, one: Inhabitant) -> None:
        if one.awaits_permission and not self._holding_back(one):
            self._happen(one, permission(one.service, one.starts, one.conditions_hold))

    def _holding_back(self, one: Inhabitant) -> list[str]:
        return self.graph.holding_back(one.name, {name: other.seen_row() for name, other in self.inhabitants.items()})

    def _go_on(self, one: Inhabitant, effects: Iterator[Effect], *, is_breaking: bool = False) -> None:
        """Carry out *effects*; after CLEAN_UP only once that is done."""
        for effect in effects:
            breaks = False
            if one.breaks_after is not None and not is_breaking:
                breaks = one.breaks_after == 0
                one.breaks_after = None if breaks else one.breaks_after - 1
            event = None if breaks and not one.breaks_late else self._carry_out(one, effect, is_breaking=is_breaking)
            if breaks:
                self._happen(one, Event.INTERNAL_ERROR)
                return
            if event is not None:
                assert next(effects, None) is None, f"{effect} answers before the last"
                self._happen(one, event)
                return
            if effect is Effect.CLEAN_UP and one.cleaning_ms:
                one.rest = effects
                self._later(one.cleaning_ms, lambda: self._be_clean(one))
                return

    def _be_clean(self, one: Inhabitant) -> None:
        assert one.rest is not None
        rest, one.rest = one.rest, None
        pending, one.pending = one.pending, deque()
        self._queue.extendleft((one, handle) for handle in reversed(pending))
        self._go_on(one, rest)
        self._let_look(one)

    def _carry_out(self, one: Inhabitant, effect: Effect, *, is_breaking: bool) -> Event | None:
        match effect:
            case Effect.AWAIT_PERMISSION:
                one.awaits_permission = True
                self._queue.append((one, partial(self._permit, one)))
            case Effect.START_BACKOFF_TIMER:
                self._start_timer(one, one.delay_ms, Event.BACKOFF_OVER)
            case Effect.START_READY_TIMER:
                self._start_timer(one, one.service.ready_timeout_ms, Event.START_TIMEOUT)
            case Effect.START_STOP_TIMER:
                self._start_timer(one, one.service.stop.timeout_ms, Event.STOP_TIMEOUT)
            case Effect.CANCEL_TIMER:
                one.timer = None
            case Effect.ARM:
                assert not one.armed
                one.armed = True
                return Event.TRIGGERED if one.clients else None
            case Effect.DISARM:
                one.armed = False
            case Effect.START:
                return self._start(one)
            case Effect.TERMINATE:
                if one.process is not None and one.process.code is None:
                    process = one.process
                    process.asked = True
                    if process.obeys is not None:
                        self._later(process.obeys, lambda: self._die(process, 0))
            case Effect.KILL:
                self._kill(one, is_breaking=is_breaking)
            case Effect.CLEAN_UP:
                self._kill(one, is_breaking=is_breaking)
                one.process = None
            case Effect.FORGET_STARTS:
                one.starts = Starts()
            case Effect.START_HEALTH_CHECKS:
                assert not one.checked
                one.checked = True
            case Effect.STOP_HEALTH_CHECKS:
                one.checked = False
            case Effect.RELOAD:
                assert one.process is not None
        return None

    def _start(self, one: Inhabitant) -> Event | None:
        assert one.wish, f"nobody wants {one.name}"
        assert one.process is None, f"{one.name} is started beside its last process"
        one.starts = started(one.starts, self.now, one.service.restart)
        if one.service.type == "bundle":
            return Event.COMPLETED
        if one.fails_to_start:
            return self._judged(one, None)
        process = one.process = Process(one, one.obeys)
        self.alive.add(process)
        if one.nature == "well":
            one.clients = 0
        if isinstance(one.service.readiness, ReadyAtOnce):
            self._say_ready(process)
        if self.is_quiet:
            self._behave(process)
        return None

    def _judged(self, one: Inhabitant, code: int | None) -> Event:
        verdict = judge(one.service, code, one.starts, self.now, self._chance(), is_triggered(one.service))
        one.starts, one.delay_ms = verdict.starts, verdict.delay_ms
        return verdict.event

    def _start_timer(self, one: Inhabitant, milliseconds: int, event: Event) -> None:
        assert one.timer is None, f"{one.name} has two timers"
        timer = one.timer = Timer(event)

        def ring() -> None:
            if one.timer is timer:
                one.timer = None
                self._happen(one, event)

        self._later(milliseconds, lambda: self._queue.append((one, ring)))

    # --- processes --------------------------------------------------------------------------------------------------------

    def _behave(self, process: Process) -> None:
        """Do by itself what a process of its nature does."""
        if process.one.nature == "crashes":
            self._die(process, 1)
        elif process.one.nature == "well":
            if isinstance(process.one.service.readiness, ReadyByExit):
                self._die(process, 0)
            else:
                self._say_ready(process)

    def _say_ready(self, process: Process) -> None:
        one = process.one

        def hear() -> None:
            if one.process is process and process.code is None and not isinstance(one.service.readiness, ReadyByExit):
                self._happen(one, Event.READY)

        self._queue.append((one, hear))

    def _die(self, process: Process, code: int) -> None:
        if process.code is not None:
            return
        process.code = code
        self.alive.discard(process)
        one = process.one

        def hear() -> None:
            if one.process is process:
                is_own = one.row is not Row.FALTERING
                self._happen(one, self._judged(one, code if is_own else None) if judges_end(one.row) else Event.ENDED)

        self._queue.append((one, hear))

    def _kill(self, one: Inhabitant, *, is_breaking: bool) -> None:
        process = one.process
        if process is not None and process.code is None:
            assert process.asked or is_breaking, f"{one.name} is killed without being asked"
            self._die(process, -9)

    def _later(self, milliseconds: int, happen: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._heap, (self.now + milliseconds, self._number, happen))


def needs_of(service: Service) -> Needs:
    """Return what *service* needs of others."""
    return Needs(
        tuple(service.requires), tuple(service.wants), tuple(service.after), tuple(service.before), tuple(service.conflicts)
    )


class Choices:
    """Choices that were made beforehand, one byte each; when they are used up, always the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def below(self, limit: int) -> int:
        """Return a number from 0, less than *limit*."""
        self._place += 1
        return self._data[self._place - 1] % limit if self._place <= len(self._data) else 0

    def among(self, first: Any, *others: Any) -> Any:
        """Return one of the arguments."""
        return (first, *others)[self.below(1 + len(others))]

    @property
    def are_left(self) -> bool:
        """Whether there are any."""
        return self._place < len(self._data)


def definitions_from(choices: Choices) -> dict[str, Service]:
    """Return one to five services, each of which may need, want, follow or conflict with those before it."""
    found: dict[str, Service] = {}
    for number in range(1 + choices.below(5)):
        relations: dict[str, list[str]] = {"requires": [], "wants": [], "after": [], "conflicts": []}
        for other in found:
            relation = choices.among("", "", "", "requires", "requires", "wants", "after", "conflicts")
            if relation:
                relations[relation].append(other)
        name = f"s{number}"
        kind = choices.among("longrun", "longrun", "longrun", "oneshot", "bundle")
        restart = Restart(
            when=choices.among("always", "on-failure", "never"),
            delay_ms=choices.among(10, 0, 50),
            delay_limit_ms=100,
            jitter=choices.among(0, 50, 100),
            start_limit=choices.among(2, 1, 4),
            start_interval_ms=10_000,
            on_failure=choices.among("nothing", "nothing", "nothing", "isolate"),
        )
        trigger = choices.among("", "", "", "listener", "timer", "both") if kind != "bundle" else ""
        alone = Service(
            name=name,
            type=kind,
            readiness=choices.among(ReadyAtOnce(), ReadyByNotify(), ReadyByExit() if kind == "oneshot" else ReadyByNotify()),
            ready_timeout_ms=200,
            restart=restart,
            stop=Stop(timeout_ms=300),
            listeners=[Listener(name="a", address=Tcp(port=80))] if trigger in ("listener", "both") else [],
            timers=[Clock(after_end_ms=1)] if trigger in ("timer", "both") else [],
        )
        service = found[name] = msgspec.structs.replace(alone, **relations)
        try:
            Graph({each: needs_of(one) for each, one in found.items()}).check()
        except RefusedError:
            found[name] = msgspec.structs.replace(service, conflicts=[])
    return found


def live(data: bytes) -> World:
    """Return a world that has lived what *data* says, and then fell quiet. Raises AssertionError where a law was broken."""
    choices = Choices(data)
    world = World(definitions_from(choices), lambda: choices.below(101) / 100)
    names = list(world.inhabitants)
    for name in names:
        world.start(name)
    while choices.are_left:
        _live_on(world, choices.among(*names), choices)
    world.fall_quiet()
    return world


def _live_on(world: World, name: str, choices: Choices) -> None:
    one = world.inhabitants[name]
    match choices.below(20):
        case 0 | 1 | 2:
            world.pass_time(choices.among(1, 5, 20, 100, 250, 400, 12_000))
        case 3 | 4:
            world.start(name)
        case 5:
            world.stop(name)
        case 6:
            world.restart(name)
        case 7 | 8:
            world.end(name, choices.among(0, 1, -9))
        case 9 | 10:
            world.get_ready(name)
        case 11 | 12:
            world.come(name)
        case 13:
            world.fail_check(name, choices.among(Event.UNHEALTHY, Event.WATCHDOG_TIMEOUT))
        case 14:
            world.reload(name)
        case 15:
            one.nature = choices.among("well", "crashes", "mute")
        case 16:
            one.obeys = choices.among(0, None, 150, 300)
        case 17:
            one.cleaning_ms = choices.among(0, 3, 50)
        case 18:
            one.conditions_hold, one.fails_to_start = choices.among((True, False), (False, False), (True, True))
        case _:
            one.breaks_after, one.breaks_late = choices.below(4), choices.among(False, True)

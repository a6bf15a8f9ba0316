"""Whole lives of services: ``live`` reads definitions and all that happens from bytes, as a fuzzer does.

Missing bytes count as zeros, which stand for the simplest choices.
"""

from typing import Any

import msgspec

from milkyway_agent.core.dependencies import Graph, needs_of
from milkyway_agent.core.service_state import Event
from milkyway_formats.errors import RefusedError
from milkyway_formats.listener import Listener, Tcp
from milkyway_formats.service import ReadyAtOnce, ReadyByExit, ReadyByNotify, Restart, Service, Stop
from milkyway_formats.timer import Timer
from tests.fakes.service_world import World


class Choices:
    """Choices that were made beforehand, one byte each; when they are used up, always the first option."""

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
        """Whether any are left."""
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
        alone = _service(name, choices)
        service = found[name] = msgspec.structs.replace(alone, **relations)
        try:
            Graph({other: needs_of(needing) for other, needing in found.items()}).check()
        except RefusedError:
            found[name] = msgspec.structs.replace(service, conflicts=[])
    return found


def _service(name: str, choices: Choices) -> Service:
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
    trigger = choices.among("", "", "", "listener", "timer", "both", "accept") if kind != "bundle" else ""
    listener = Listener(name="a", address=Tcp(port=80), accept=trigger == "accept")
    return Service(
        name=name,
        type=kind,
        readiness=choices.among(ReadyAtOnce(), ReadyByNotify(), ReadyByExit() if kind == "oneshot" else ReadyByNotify()),
        ready_timeout_ms=200,
        restart=restart,
        stop=Stop(timeout_ms=300),
        listeners=[listener] if trigger in ("listener", "both", "accept") else [],
        timers=[Timer(after_end_ms=1)] if trigger in ("timer", "both") else [],
    )


def live(data: bytes) -> World:
    """Return a world in which all of *data* has happened, at rest. Raises AssertionError if a law was broken."""
    choices = Choices(data)
    world = World(definitions_from(choices), lambda: choices.below(101) / 100)
    names = list(world.services)
    for name in names:
        world.start(name)
    while choices.are_left:
        _live_on(world, choices.among(*names), choices)
    world.come_to_rest()
    return world


def _live_on(world: World, name: str, choices: Choices) -> None:
    fake = world.services[name]
    match choices.below(24):
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
            world.trigger(name)
        case 13:
            world.fail_check(name, choices.among(Event.UNHEALTHY, Event.WATCHDOG_TIMEOUT))
        case 14:
            world.reload(name)
        case 15:
            fake.nature = choices.among("well", "crashes", "mute")
        case 16:
            fake.obeys = choices.among(0, None, 150, 300)
        case 17:
            fake.cleaning_ms = choices.among(0, 3, 50)
        case 18:
            fake.conditions_hold, fake.start_fails = choices.among((True, ""), (False, ""), (True, "at once"))
        case 19:
            fake.can_listen, fake.start_fails = choices.among((True, ""), (False, ""), (True, "later"))
        case 20:
            fake.starting_ms = choices.among(0, 2, 220)
        case 21:
            world.hold_back(name, choices.among(0, 5, 100))
        case 22:
            # The agent fails: the next one handles what happens meanwhile.
            if world.engine.is_open:
                world.engine.close()
            else:
                world.engine.open()
                world.settle()
        case _:
            if choices.below(4):
                fake.breaks_after, fake.breaks_late = choices.below(4), choices.among(False, True)
            else:
                world.fail_task(name)

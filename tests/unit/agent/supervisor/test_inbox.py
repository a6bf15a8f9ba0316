"""One queue for each service: what waits, what comes when, and who is told that something has happened."""

from collections.abc import Callable

from milkyway_agent.core.service_state import Event
from milkyway_agent.supervisor.definition import Definition
from milkyway_agent.supervisor.inbox import Inbox
from milkyway_agent.supervisor.service_record import Message, ServiceRecord
from milkyway_formats.service import Service
from tests.fakes.no_starter import NoStarter


class Handled:
    """Takes messages, and does what the test says with each."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Event]] = []
        self.changes = 0
        self.then: Callable[[ServiceRecord, Message], None] = lambda _, __: None
        self.inbox = Inbox(self.handle, self.change)

    def handle(self, record: ServiceRecord, message: Message) -> None:
        assert isinstance(message.what, Event)
        self.heard.append((record.definition.name, message.what))
        self.then(record, message)

    def change(self) -> None:
        self.changes += 1


def record(name: str) -> ServiceRecord:
    return ServiceRecord(Definition(name, Service(name=name, command=["/bin/x"]), NoStarter()), 0)


WANTED, UNWANTED = Message(Event.WANTED), Message(Event.UNWANTED)


def test_before_it_is_opened_and_after_it_is_closed_messages_wait() -> None:
    handled, web = Handled(), record("web")
    handled.inbox.put(web, WANTED)
    assert (handled.heard, handled.changes) == ([], 0)
    handled.inbox.open()
    assert (handled.heard, handled.changes) == ([("web", Event.WANTED)], 1)
    handled.inbox.close()
    handled.inbox.put(web, UNWANTED)
    assert len(handled.heard) == 1
    handled.inbox.open()
    assert (handled.heard[1:], handled.changes, web.queue) == ([("web", Event.UNWANTED)], 2, None)


def test_opening_it_when_nothing_waits_is_no_change() -> None:
    handled = Handled()
    handled.inbox.open()
    handled.inbox.put(record("web"), WANTED)
    handled.inbox.open()
    assert handled.changes == 1


def test_what_one_message_brings_about_comes_after_it_and_all_of_it_is_one_change() -> None:
    handled, web, disk = Handled(), record("web"), record("disk")
    handled.inbox.open()

    def then(found: ServiceRecord, message: Message) -> None:
        if (found, message) == (web, WANTED):
            handled.inbox.put(disk, WANTED)
            handled.inbox.put(web, UNWANTED)
            assert handled.heard == [("web", Event.WANTED)], "not before this is done"

    handled.then = then
    handled.inbox.put(web, WANTED)
    assert sorted(handled.heard[1:], key=str) == [("disk", Event.WANTED), ("web", Event.UNWANTED)]
    assert handled.changes == 1


def test_one_that_is_busy_waits_alone_and_goes_on_when_it_is_resumed() -> None:
    handled, web, disk = Handled(), record("web"), record("disk")
    handled.inbox.open()
    web.busy = True
    handled.inbox.put(web, WANTED)
    handled.inbox.put(disk, WANTED)
    assert handled.heard == [("disk", Event.WANTED)]

    def deed() -> None:
        web.busy = False
        handled.inbox.put(web, UNWANTED)
        assert len(handled.heard) == 1, "a message must not come between two effects"

    handled.inbox.resume(web, deed)
    assert handled.heard[1:] == [("web", Event.WANTED), ("web", Event.UNWANTED)]


def test_going_on_is_a_change_also_where_nothing_waits() -> None:
    handled, web = Handled(), record("web")
    handled.inbox.open()
    handled.inbox.resume(web, lambda: None)
    assert (handled.heard, handled.changes) == ([], 1)


def test_a_deed_that_fails_leaves_the_inbox_as_it_was() -> None:
    handled, web = Handled(), record("web")
    handled.inbox.open()
    try:
        handled.inbox.resume(web, lambda: [][0])
    except IndexError:
        handled.inbox.put(web, WANTED)
    assert handled.heard == [("web", Event.WANTED)]

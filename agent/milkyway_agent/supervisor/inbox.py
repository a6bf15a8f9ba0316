"""Messages to services: each has a queue, handled one message at a time, as soon as they arise and without a task."""

from collections import deque
from collections.abc import Callable

from milkyway_agent.supervisor.service_record import Message, ServiceRecord


class Inbox:
    """The queues of all services. *handle*, which must not raise, handles a message; *on_change* is called after some."""

    def __init__(self, handle: Callable[[ServiceRecord, Message], None], on_change: Callable[[], None]) -> None:
        self._handle = handle
        self._on_change = on_change
        self._ready: deque[ServiceRecord] = deque()
        self.is_open = False
        self._is_handling = False
        self._has_news = False

    def open(self) -> None:
        """Handle messages from now on, beginning with those that wait. Undo: ``close``."""
        self.is_open = True
        self._run()

    def close(self) -> None:
        """Let messages wait. Idempotent."""
        self.is_open = False

    def put(self, record: ServiceRecord, message: Message) -> None:
        """Pass *message* to a service: now, or when those before it are handled and the service is not ``busy``."""
        if record.queue is None:
            record.queue = deque()
        record.queue.append(message)
        self._make_ready(record)
        if not self._is_handling:
            self._run()

    def resume(self, record: ServiceRecord, deed: Callable[[], None]) -> None:
        """Call *deed* for a service that was ``busy``; then handle the messages that wait for it, and those of *deed*.

        They are not handled before: between two effects of one step, a service is between two rows.
        """
        was_handling, self._is_handling = self._is_handling, True
        try:
            deed()
        finally:
            self._is_handling = was_handling
        self._has_news = True
        if record.queue:
            self._make_ready(record)
        if not self._is_handling:
            self._run()

    def _make_ready(self, record: ServiceRecord) -> None:
        if not record.queued:
            record.queued = True
            self._ready.append(record)

    def _run(self) -> None:
        """Handle all messages that can be handled now."""
        if not self.is_open:
            return
        self._is_handling = True
        try:
            while self._ready:
                record = self._ready.popleft()
                record.queued = False
                while record.queue and not record.busy:
                    self._handle(record, record.queue.popleft())
                    self._has_news = True
                if not record.queue:
                    record.queue = None
        finally:
            self._is_handling = False
        if self._has_news:
            self._has_news = False
            self._on_change()

"""Messages to services: one queue for each, handled one at a time, at once where they arise: there is no task for a service."""

from collections import deque
from collections.abc import Callable

from milkyway_agent.supervisor.service_record import Message, ServiceRecord


class Inbox:
    """The queues of all services. *handle*, which must not raise, takes one message; *on_change* is called after some were."""

    def __init__(self, handle: Callable[[ServiceRecord, Message], None], on_change: Callable[[], None]) -> None:
        self._handle = handle
        self._on_change = on_change
        self._ready: deque[ServiceRecord] = deque()
        self.is_open = False
        self._is_handling = False
        self._has_news = False

    def open(self) -> None:
        """Handle messages from now on, those that wait first. Undo: ``close``."""
        self.is_open = True
        self._run()

    def close(self) -> None:
        """Let messages wait. Idempotent."""
        self.is_open = False

    def put(self, record: ServiceRecord, message: Message) -> None:
        """Let a service have *message*: now, or when those before it are handled and it is not ``busy``."""
        if record.queue is None:
            record.queue = deque()
        record.queue.append(message)
        self._make_ready(record)
        if not self._is_handling:
            self._run()

    def resume(self, record: ServiceRecord, deed: Callable[[], None]) -> None:
        """Do *deed* for a service that was ``busy``; then handle what has waited for it, and what *deed* has brought about.

        Not before: a message that came between two effects of one step would find a service that is nowhere.
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
        """Handle all that waits to be handled and can be."""
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

"""Clients that start services: listeners are watched while their service is armed; if they accept, so do we.

Listeners are opened when their service is first armed or started, and stay open until it is stopped or has failed, so
that no client is lost while it restarts.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from milkyway_agent.core.restart import is_on_demand
from milkyway_agent.core.service_state import Row
from milkyway_agent.launching import listeners
from milkyway_agent.runtime.alarms import Alarms
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.definition import accepts
from milkyway_agent.supervisor.service_record import ServiceRecord
from milkyway_formats.errors import UnavailableError
from milkyway_formats.listener import Listener

BUSY_SECONDS = 1.0  # until the next try, after a connection could not be accepted
CONNECTIONS_AT_ONCE = 16
_NONE: Sequence[int] = ()


class Servers(Protocol):
    """What serves the connections of listeners that accept."""

    def has_room(self, record: ServiceRecord, listener: Listener) -> bool:
        """Tell whether *listener* may accept one more connection."""

    def serve(self, record: ServiceRecord, listener: Listener, connection: listeners.Connection) -> None:
        """Start a process for *connection*, and close its descriptor."""


class SocketTriggers:
    """The listeners of all services. *trigger*: called with a service that must start now, and why."""

    def __init__(
        self, watch: Watch, alarms: Alarms, note: Callable[..., None], trigger: Callable[[ServiceRecord, str], None]
    ) -> None:
        self.servers: Servers | None = None
        self._watch = watch
        self._alarms = alarms
        self._note = note
        self._trigger = trigger
        self._opened: dict[ServiceRecord, tuple[int, ...]] = {}

    def descriptors(self, record: ServiceRecord) -> Sequence[int]:
        """Return the service's open listeners, in the order of its definition."""
        return self._opened.get(record, _NONE)

    def restore(self, record: ServiceRecord, descriptors: Sequence[int]) -> None:
        """Go on with listeners that an earlier program has opened."""
        if descriptors:
            self._opened[record] = tuple(descriptors)

    def open(self, record: ServiceRecord) -> None:
        """Open its listeners, unless they are open. Raises RefusedError or UnavailableError; then none is open."""
        if record in self._opened or not record.definition.service.listeners:
            return
        opened: list[int] = []
        try:
            for listener in record.definition.service.listeners:
                opened.append(listeners.open_listener(listener, record.definition.socket_context))
        except BaseException:
            for listener, descriptor in zip(record.definition.service.listeners, opened, strict=False):
                listeners.close_listener(descriptor, listener)
            raise
        self._opened[record] = tuple(opened)

    def handed_over(self, record: ServiceRecord) -> list[tuple[str, int]]:
        """Return the name and descriptor of each listener that is handed over to the service, and open them if necessary.

        Raises like ``open``.
        """
        self.open(record)
        return [(listener.name, descriptor) for listener, descriptor in self._of(record) if not listener.accept]

    def close(self, record: ServiceRecord) -> None:
        """Close its listeners. Idempotent."""
        for listener, descriptor in zip(record.definition.service.listeners, self._opened.pop(record, ()), strict=False):
            self._watch.remove(descriptor)
            listeners.close_listener(descriptor, listener)

    def watch(self, record: ServiceRecord) -> None:
        """Wait for clients of its listeners, if clients start it. Undo: ``unwatch``. Raises like ``open``."""
        service = record.definition.service
        if not is_on_demand(service) and not accepts(service):
            return  # its timers start it, even if a port can't be opened now
        self.open(record)
        for listener, descriptor in self._of(record):
            if listener.accept or listener.start == "on-demand":
                self._wait_for_client(record, listener, descriptor)

    def unwatch(self, record: ServiceRecord) -> None:
        """Stop waiting; listeners stay open. Idempotent."""
        for descriptor in self.descriptors(record):
            self._watch.remove(descriptor)

    def on_room(self, record: ServiceRecord) -> None:
        """Accept connections again, after there was no room for them."""
        if record.row is not Row.ARMED or record.busy:
            return  # ``watch`` does that when it is armed again
        for listener, descriptor in self._of(record):
            if listener.accept and self._servers().has_room(record, listener):
                self._wait_for_client(record, listener, descriptor)

    def _of(self, record: ServiceRecord) -> list[tuple[Listener, int]]:
        return list(zip(record.definition.service.listeners, self.descriptors(record), strict=False))

    def _servers(self) -> Servers:
        assert self.servers is not None, "it is set before anything is watched"
        return self.servers

    def _wait_for_client(self, record: ServiceRecord, listener: Listener, descriptor: int) -> None:
        self._watch.remove(descriptor)  # if it is watched already
        self._watch.add(descriptor, partial(self._on_client, record, listener, descriptor))

    def _on_client(self, record: ServiceRecord, listener: Listener, descriptor: int, _events: int) -> None:
        if not listener.accept:
            self._trigger(record, f"a client came to {listeners.describe_address(listener.address)}")
            return
        try:
            for _ in range(CONNECTIONS_AT_ONCE):
                if not self._servers().has_room(record, listener):
                    self._watch.remove(descriptor)  # until ``on_room``: clients wait in the backlog meanwhile
                    return
                connection = listeners.accept_connection(descriptor)
                if connection is None:
                    return
                self._servers().serve(record, listener, connection)
        except UnavailableError as error:
            self._note("connection_not_accepted", service=record.definition.name, why=str(error))
            self._watch.remove(descriptor)
            self._alarms.set(BUSY_SECONDS, partial(self.on_room, record))

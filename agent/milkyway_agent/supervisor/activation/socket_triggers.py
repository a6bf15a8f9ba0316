"""Clients that start services: listeners are watched while their service is armed, and accepted from where it accepts.

Listeners are opened when their service is first armed or started and stay open until it is stopped or given up, so that
no client is lost while it restarts.
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

BUSY_SECONDS = 1.0  # how long a listener is left alone that can't be served now
CONNECTIONS_AT_ONCE = 16
_NONE: Sequence[int] = ()


class Servers(Protocol):
    """Who serves the connections of listeners that accept."""

    def has_room(self, record: ServiceRecord, listener: Listener) -> bool:
        """Tell whether one connection more may come to *listener*."""

    def serve(self, record: ServiceRecord, listener: Listener, connection: listeners.Connection) -> None:
        """Start a process for *connection*, whose descriptor is closed by that."""


class SocketTriggers:
    """The listeners of all services. *trigger* is called with a service and why it is to start now."""

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
        """Go on with listeners that the program before this one has opened."""
        if descriptors:
            self._opened[record] = tuple(descriptors)

    def open(self, record: ServiceRecord) -> None:
        """Open its listeners, if they are not. Raises RefusedError or UnavailableError when one can't be; then none is."""
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
        """Return the name and descriptor of each listener that is handed to the service, opening those that are not open.

        Raises RefusedError or UnavailableError when one can't be opened; then none is.
        """
        self.open(record)
        return [(listener.name, descriptor) for listener, descriptor in self._of(record) if not listener.accept]

    def close(self, record: ServiceRecord) -> None:
        """Close its listeners. Idempotent."""
        for listener, descriptor in zip(record.definition.service.listeners, self._opened.pop(record, ()), strict=False):
            self._watch.remove(descriptor)
            listeners.close_listener(descriptor, listener)

    def watch(self, record: ServiceRecord) -> None:
        """Wait for clients of its listeners; what no client starts is not opened for that. Undo: ``unwatch``.

        Raises as ``open``.
        """
        service = record.definition.service
        if not is_on_demand(service) and not accepts(service):
            return  # its time comes, whether there is a port to be had now or not
        self.open(record)
        for listener, descriptor in self._of(record):
            if listener.accept or listener.start == "on-demand":
                self._wait_for_client(record, listener, descriptor)

    def unwatch(self, record: ServiceRecord) -> None:
        """Wait no more; listeners stay open. Idempotent."""
        for descriptor in self.descriptors(record):
            self._watch.remove(descriptor)

    def room_came(self, record: ServiceRecord) -> None:
        """Go on to accept connections, where that was put off."""
        if record.row is not Row.ARMED or record.busy:
            return  # ``watch`` will see to it, if ever it is armed
        for listener, descriptor in self._of(record):
            if listener.accept and self._servers().has_room(record, listener):
                self._wait_for_client(record, listener, descriptor)

    def _of(self, record: ServiceRecord) -> list[tuple[Listener, int]]:
        return list(zip(record.definition.service.listeners, self.descriptors(record), strict=False))

    def _servers(self) -> Servers:
        assert self.servers is not None, "they are put together before anything is watched"
        return self.servers

    def _wait_for_client(self, record: ServiceRecord, listener: Listener, descriptor: int) -> None:
        self._watch.remove(descriptor)  # where it is watched already
        self._watch.add(descriptor, partial(self._client_came, record, listener, descriptor))

    def _client_came(self, record: ServiceRecord, listener: Listener, descriptor: int, _events: int) -> None:
        if not listener.accept:
            self._trigger(record, f"a client came to {listeners.describe_address(listener.address)}")
            return
        try:
            for _ in range(CONNECTIONS_AT_ONCE):
                if not self._servers().has_room(record, listener):
                    self._watch.remove(descriptor)  # until ``room_came``: clients that come meanwhile wait in the backlog
                    return
                connection = listeners.accept_connection(descriptor)
                if connection is None:
                    return
                self._servers().serve(record, listener, connection)
        except UnavailableError as error:
            self._note("connection_not_accepted", service=record.definition.name, why=str(error))
            self._watch.remove(descriptor)
            self._alarms.set(BUSY_SECONDS, partial(self.room_came, record))

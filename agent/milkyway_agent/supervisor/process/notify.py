"""Messages of services by sd_notify(3): readiness, status, signs of life, and descriptors that they store with us.

A few messages are handled at a time, so that a service that sends endlessly holds up no other. The kernel tells which
process sent a message: only those of the service's own processes are heeded.
"""

import contextlib
import os
import select
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from milkyway_agent.core.service_state import Event
from milkyway_agent.launching.child import Child
from milkyway_agent.launching.starter import notify_path
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.fd_store import FdStore, Stored
from milkyway_agent.supervisor.organs import Reports
from milkyway_agent.supervisor.process.output_pipes import has_more
from milkyway_agent.supervisor.service_record import MainProcess, ServiceRecord
from milkyway_agent.system import cgroups, sockets
from milkyway_formats.service import ReadyByNotify, Service

MESSAGES_AT_ONCE = 16
LAST_MESSAGES = 64  # rounds of these at the end of a process; the kernel queues fewer (net.unix.max_dgram_qlen)
MOST_HANDED_OVER = 250  # the launcher takes a few more: the outputs and the descriptor for readiness
STATUS_LETTERS = 256
_NOTHING_STORED: Sequence[Stored] = ()


class NotifySockets:
    """The notify sockets and stored descriptors of all services. *on_sign_of_life*: called at each WATCHDOG=1."""

    def __init__(
        self,
        watch: Watch,
        note: Callable[..., None],
        directory: str,
        on_sign_of_life: Callable[[ServiceRecord], None],
    ) -> None:
        self._watch = watch
        self._note = note
        self._directory = directory
        self._on_sign_of_life = on_sign_of_life
        self._stores: dict[ServiceRecord, FdStore] = {}
        self.reports: Reports | None = None

    # --- sockets -------------------------------------------------------------------------------------------------------

    def open(self, record: ServiceRecord) -> tuple[socket.socket, str]:
        """Make the socket of a service; return it and its path. Undo: ``close``."""
        path = notify_path(self._directory, record.definition.name)
        opened = sockets.datagram(path, 0o666)
        opened.setblocking(False)
        return opened, path

    def close(self, record: ServiceRecord, opened: socket.socket) -> None:
        """Close a socket that no process uses yet, and remove its file."""
        opened.close()
        self._unlink(record)

    def listen(self, record: ServiceRecord, process: MainProcess) -> None:
        """Watch the socket of *process*."""
        self._watch.add(process.notify, partial(self._receive, record, process))

    def drain(self, record: ServiceRecord, process: MainProcess) -> None:
        """Read the last messages of a process that has ended."""
        for _ in range(LAST_MESSAGES):
            if process.notify < 0 or not has_more(process.notify):
                return
            self._receive(record, process, 0)

    def close_of(self, record: ServiceRecord, process: MainProcess) -> None:
        """Close the socket of a process that has ended, and remove its file. Idempotent."""
        if process.notify >= 0:
            self._watch.remove(process.notify)
            os.close(process.notify)
            process.notify = -1
            self._unlink(record)

    def _unlink(self, record: ServiceRecord) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(notify_path(self._directory, record.definition.name))

    def _receive(self, record: ServiceRecord, process: MainProcess, _events: int) -> None:
        belongs = belongs_to(process.child, record.definition.starter.cgroup)
        with sockets.borrowed(process.notify) as opened:
            for _ in range(MESSAGES_AT_ONCE):
                message = sockets.receive_notify(opened)
                if message is None:
                    return
                if message.refused:
                    self._note("notification_refused", service=record.definition.name, why=message.refused)
                elif belongs(message.pid):
                    self._take(record, process, message.fields, message.descriptors)
                else:
                    for descriptor in message.descriptors:
                        os.close(descriptor)

    def _take(self, record: ServiceRecord, process: MainProcess, fields: Mapping[str, str], descriptors: Sequence[int]) -> None:
        """Act on one message."""
        assert self.reports is not None, "report_to is called first"
        self._store(record, fields, descriptors)
        if fields.get("READY") == "1" and isinstance(record.definition.service.readiness, ReadyByNotify):
            self.reports.post(record, Event.READY, process)
        if "STATUS" in fields:
            self.reports.report_status(record, fields["STATUS"][:STATUS_LETTERS])
        if fields.get("WATCHDOG") == "1":
            self._on_sign_of_life(record)
        elif fields.get("WATCHDOG") == "trigger":
            self.reports.post(record, Event.WATCHDOG_TIMEOUT, process, "it reported that it hangs")

    # --- stored descriptors --------------------------------------------------------------------------------------------

    def stored(self, record: ServiceRecord) -> Sequence[Stored]:
        """Return what a service has stored, in the order in which it is handed back."""
        store = self._stores.get(record)
        return store.stored if store else _NOTHING_STORED

    def restore(self, record: ServiceRecord, stored: Sequence[Stored]) -> None:
        """Go on with what an earlier program stored for a service."""
        self._stores[record] = FdStore(record.definition.service.stored_descriptors, stored)
        for entry in stored:
            if entry.polled:
                self._watch_stored(record, entry.descriptor)

    def forget_stored(self, record: ServiceRecord) -> None:
        """Close what a service has stored. Idempotent."""
        store = self._stores.pop(record, None)
        for descriptor in store.clear() if store else ():
            self._watch.remove(descriptor)
            os.close(descriptor)

    def _store(self, record: ServiceRecord, fields: Mapping[str, str], descriptors: Sequence[int]) -> None:
        service = record.definition.service
        store = self._stores.get(record)
        if store is None and service.stored_descriptors:
            room = MOST_HANDED_OVER - len(service.listeners)
            store = self._stores[record] = FdStore(min(service.stored_descriptors, room))
        taken = (store or FdStore(0)).take(fields, descriptors)
        for descriptor in taken.close:
            self._watch.remove(descriptor)
            os.close(descriptor)
        for descriptor in taken.watch:
            self._watch_stored(record, descriptor)
        if taken.refused:
            self._note("stored_descriptor_refused", service=record.definition.name, why=taken.refused)

    def _watch_stored(self, record: ServiceRecord, descriptor: int) -> None:
        with contextlib.suppress(PermissionError):  # a file (a memfd, say), which never hangs up
            self._watch.add(descriptor, partial(self._hung_up, record, descriptor), select.EPOLLHUP | select.EPOLLERR)

    def _hung_up(self, record: ServiceRecord, descriptor: int, _events: int) -> None:
        self._watch.remove(descriptor)
        store = self._stores.get(record)
        for gone in store.hung_up(descriptor) if store else ():
            os.close(gone)


def has_notify(service: Service) -> bool:
    """Tell whether *service* may send messages by sd_notify(3)."""
    return bool(isinstance(service.readiness, ReadyByNotify) or service.watchdog_ms or service.stored_descriptors)


def belongs_to(child: Child, cgroup: str) -> Callable[[int], bool]:
    """Return a function that tells whether a process belongs to the service: its main process, or one in its control group.

    Without a group (""): one in the session that its main process leads.
    """

    def belongs(pid: int) -> bool:
        if pid == child.pid:
            return True
        try:
            if not cgroup:
                return os.getsid(pid) == child.pid
            own = cgroups.of_process(pid)
        except OSError:
            return False  # it has ended: unknown
        return bool(own) and own != "/" and f"{cgroup}/".endswith(f"{own}/")

    return belongs

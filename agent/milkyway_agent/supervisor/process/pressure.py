"""Warnings about services that lack something and wait for it: memory, a processor, the disk.

The kernel measures this (pressure stall information, psi.rst) and wakes us at most once in ten seconds for each threshold
in a definition; otherwise this costs nothing. There are warnings only while a service is started.

A thread waits for them; it exists only if a definition asks for warnings. The watch can't wait for them: polling a trigger
consumes its event (kernel/sched/psi.c, psi_trigger_poll), and with an epoll inside an epoll, the outer one polls first.
"""

import contextlib
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.service_record import ServiceRecord
from milkyway_agent.system import cgroups
from milkyway_formats.service import Pressure

WINDOW_US = 10_000_000  # the longest that the kernel takes, and the time that `mwctl top` shows
RESOURCES = ("memory", "cpu", "io")


class _Threshold(NamedTuple):
    """What the descriptor of a trigger stands for."""

    record: ServiceRecord
    resource: str
    percent: int


class PressureWarnings:
    """The thresholds of all services; each has a descriptor."""

    def __init__(self, watch: Watch, note: Callable[..., None]) -> None:
        self._watch = watch
        self._note = note
        self._thresholds: dict[int, _Threshold] = {}
        self._waiter: _Waiter | None = None

    def start(self, record: ServiceRecord) -> None:
        """Warn about a service from now on, if its definition asks for that. Undo: ``stop``."""
        asked = record.definition.service.pressure
        if asked == Pressure():
            return
        self.stop(record)
        for resource in RESOURCES:
            percent = getattr(asked, f"{resource}_percent")
            if percent:
                self._open(_Threshold(record, resource, percent))

    def stop(self, record: ServiceRecord) -> None:
        """Stop warning about a service. Idempotent."""
        for descriptor in [number for number, threshold in self._thresholds.items() if threshold.record is record]:
            del self._thresholds[descriptor]
            if self._waiter is not None:
                self._waiter.remove(descriptor)
            os.close(descriptor)

    def close(self) -> None:
        """Stop all warnings, and the thread. Idempotent."""
        for record in {threshold.record for threshold in self._thresholds.values()}:
            self.stop(record)
        if self._waiter is not None:
            self._watch.remove(self._waiter.came)
            self._waiter.end()
            self._waiter = None

    def _open(self, threshold: _Threshold) -> None:
        name, group = threshold.record.definition.name, threshold.record.definition.starter.cgroup
        if not group:
            self._note("pressure_not_watched", service=name, resource=threshold.resource, why="it has no control group")
            return
        try:
            waiter = self._waiting()
            descriptor = cgroups.pressure_trigger(group, threshold.resource, threshold.percent * WINDOW_US // 100, WINDOW_US)
            with contextlib.ExitStack() as undo:
                undo.callback(os.close, descriptor)
                waiter.add(descriptor)
                undo.pop_all()
        except (OSError, RuntimeError) as error:  # a kernel without it, or no thread; the service does not suffer from that
            self._note("pressure_not_watched", service=name, resource=threshold.resource, why=str(error))
            return
        self._thresholds[descriptor] = threshold

    def _waiting(self) -> "_Waiter":
        """Return the thread that waits, and start it if necessary. Raises OSError, or RuntimeError if there can be none."""
        if self._waiter is None:
            waiter = _Waiter()
            with contextlib.ExitStack() as undo:
                undo.callback(waiter.end)
                self._watch.add(waiter.came, self._tell)
                undo.pop_all()
            self._waiter = waiter
        return self._waiter

    def _tell(self, _events: int) -> None:
        assert self._waiter is not None, "it is watched while it exists"
        for descriptor in self._waiter.take():
            threshold = self._thresholds.get(descriptor)
            if threshold is not None:
                record, resource, percent = threshold
                now = cgroups.pressure(record.definition.starter.cgroup, resource)
                self._note(
                    "service_under_pressure", service=record.definition.name, resource=resource, threshold=percent, percent=now
                )


class _Waiter:
    """The thread that waits for triggers. ``came``: readable when an event has come."""

    def __init__(self) -> None:
        self._descriptors: deque[int] = deque()
        self._thread = threading.Thread(target=self._wait, name="pressure", daemon=True)
        with contextlib.ExitStack() as undo:
            self._epoll = undo.enter_context(select.epoll())
            self.came = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            undo.callback(os.close, self.came)
            self._ending = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            undo.callback(os.close, self._ending)
            self._epoll.register(self._ending, select.EPOLLIN)
            self._thread.start()
            undo.pop_all()

    def add(self, descriptor: int) -> None:
        """Wait for a trigger."""
        self._epoll.register(descriptor, select.EPOLLPRI)

    def remove(self, descriptor: int) -> None:
        """Stop waiting for a trigger; no error if it was removed already."""
        with contextlib.suppress(OSError):
            self._epoll.unregister(descriptor)

    def take(self) -> list[int]:
        """Return the triggers whose events have come since the last call."""
        os.eventfd_read(self.came)
        found = list(self._descriptors)
        self._descriptors.clear()
        return found

    def end(self) -> None:
        """End the thread and close its descriptors."""
        os.eventfd_write(self._ending, 1)
        self._thread.join()
        self._epoll.close()
        os.close(self.came)
        os.close(self._ending)

    def _wait(self) -> None:
        while True:
            for descriptor, events in self._epoll.poll():
                if descriptor == self._ending:
                    return
                if events & select.EPOLLERR:  # its group is gone; it would be ready all the time
                    self.remove(descriptor)
                    continue
                self._descriptors.append(descriptor)
                os.eventfd_write(self.came, 1)

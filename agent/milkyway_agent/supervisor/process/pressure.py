"""Warnings of services that wait for what they lack: memory, a processor, the disk.

The kernel watches (pressure stall information, psi.rst) and wakes us at most once in ten seconds for each threshold that
a definition names; at rest nothing is asked. A service is warned of while it is started.

A thread waits for it, and there is one only where somebody asks to be warned. The watch can't: to ask a trigger whether
its event has come takes the event away (kernel/sched/psi.c, psi_trigger_poll), and of an epoll within an epoll
the outer one asks first.
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
    """What the descriptor of one trigger stands for."""

    record: ServiceRecord
    resource: str
    percent: int


class PressureWarnings:
    """The thresholds of all services, each a descriptor."""

    def __init__(self, watch: Watch, note: Callable[..., None]) -> None:
        self._watch = watch
        self._note = note
        self._thresholds: dict[int, _Threshold] = {}
        self._waiter: _Waiter | None = None

    def start(self, record: ServiceRecord) -> None:
        """Warn of a service from now on, as far as it asks for it. Undo: ``stop``."""
        asked = record.definition.service.pressure
        if asked == Pressure():
            return
        self.stop(record)
        for resource in RESOURCES:
            percent = getattr(asked, f"{resource}_percent")
            if percent:
                self._open(_Threshold(record, resource, percent))

    def stop(self, record: ServiceRecord) -> None:
        """Warn of a service no more. Idempotent."""
        for descriptor in [number for number, threshold in self._thresholds.items() if threshold.record is record]:
            del self._thresholds[descriptor]
            if self._waiter is not None:
                self._waiter.remove(descriptor)
            os.close(descriptor)

    def close(self) -> None:
        """Warn of nothing any more. Idempotent."""
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
        except (OSError, RuntimeError) as error:  # a kernel without it, no room for a thread; the service is no worse for it
            self._note("pressure_not_watched", service=name, resource=threshold.resource, why=str(error))
            return
        self._thresholds[descriptor] = threshold

    def _waiting(self) -> "_Waiter":
        """Return the thread that waits, begun with the first threshold. Raises OSError, or RuntimeError (no thread)."""
        if self._waiter is None:
            waiter = _Waiter()
            with contextlib.ExitStack() as undo:
                undo.callback(waiter.end)
                self._watch.add(waiter.came, self._tell)
                undo.pop_all()
            self._waiter = waiter
        return self._waiter

    def _tell(self, _events: int) -> None:
        assert self._waiter is not None, "it is watched while it is there"
        for descriptor in self._waiter.take():
            threshold = self._thresholds.get(descriptor)
            if threshold is not None:
                record, resource, percent = threshold
                now = cgroups.pressure(record.definition.starter.cgroup, resource)
                self._note(
                    "service_under_pressure", service=record.definition.name, resource=resource, threshold=percent, percent=now
                )


class _Waiter:
    """The thread that waits for triggers. ``came``: readable when one has had its event."""

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
        """Wait for a trigger too."""
        self._epoll.register(descriptor, select.EPOLLPRI)

    def remove(self, descriptor: int) -> None:
        """Wait for it no more; it may have been given up already."""
        with contextlib.suppress(OSError):
            self._epoll.unregister(descriptor)

    def take(self) -> list[int]:
        """Return the triggers that have had their events since this was last asked."""
        os.eventfd_read(self.came)
        found = list(self._descriptors)
        self._descriptors.clear()
        return found

    def end(self) -> None:
        """End the thread and close what is open."""
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
                if events & select.EPOLLERR:  # its group is gone, and would say so without end
                    self.remove(descriptor)
                    continue
                self._descriptors.append(descriptor)
                os.eventfd_write(self.came, 1)

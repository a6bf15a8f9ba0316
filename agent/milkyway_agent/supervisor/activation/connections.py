"""Services whose listeners accept: a process for each connection, which has it as its descriptor 3 and nothing else of ours.

These processes are the service's: in its group, with its output. It is ``armed`` while they live, has no
main process, and nobody judges how one of them ends. They are ended, asked first and killed then, when it is no
longer armed: stopped, held back, restarted. Of each listener there are ``connections`` at most; who comes then waits in
the listener's backlog.
"""

import os
import signal
from collections.abc import Callable
from functools import partial

import trio

from milkyway_agent.launching.child import Running, kill_process_group, let_go
from milkyway_agent.launching.listeners import Connection
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.service_record import Attended, Start, is_direct
from milkyway_agent.system import processes
from milkyway_formats.errors import MilkyWayError
from milkyway_formats.listener import Listener

CONNECTION = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
BURY_SECONDS = 10.0


class Served:
    """One connection's process. ``running``: None while its start is under way."""

    __slots__ = ("listener", "running")

    def __init__(self, listener: str) -> None:
        self.listener = listener
        self.running: Running | None = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it, if it is there."""
        if self.running is not None and not processes.has_ended(self.running.pidfd):
            processes.pidfd_send_signal(self.running.pidfd, number)


class Connections:
    """The connections of all services. *room_came* is told of a service for one of whose listeners there is room again."""

    def __init__(
        self,
        watch: Watch,
        reaper: Reaper,
        note: Callable[..., None],
        open_output: Callable[[Attended], int],
        room_came: Callable[[Attended], None],
    ) -> None:
        self._watch = watch
        self._reaper = reaper
        self._note = note
        self._open_output = open_output
        self._room_came = room_came
        self._served: dict[Attended, list[Served]] = {}
        self._ending: dict[Attended, trio.Event] = {}
        self._answered = trio.Event()

    def has_room(self, one: Attended, listener: Listener) -> bool:
        """Tell whether one connection more may come to *listener*."""
        return sum(served.listener == listener.name for served in self._served.get(one, ())) < listener.connections

    def serving(self, one: Attended) -> list[Served]:
        """Return the service's connections, as they are now."""
        return list(self._served.get(one, ()))

    def serve(self, one: Attended, listener: Listener, connection: Connection) -> None:
        """Start a process for *connection*, whose descriptor is closed here, also where that fails: then it is noted."""
        starter = one.definition.starter
        served = Served(listener.name)
        try:
            assert is_direct(starter), "Supervisor.add saw to it"
            output = self._open_output(one)
            try:
                given = Start(output, None, {CONNECTION: connection.descriptor}, connection.environment(listener))
                starter.serve(given, partial(self._started, one, served))
            finally:
                os.close(output)
        except (MilkyWayError, OSError) as error:
            self._note("connection_not_served", service=one.definition.name, why=str(error))
        else:
            self._served.setdefault(one, []).append(served)
        finally:
            os.close(connection.descriptor)

    async def wait_answered(self) -> None:
        """Return when no connection's start is under way."""
        while any(served.running is None for all_of_one in self._served.values() for served in all_of_one):
            self._answered = trio.Event()
            await self._answered.wait()

    def adopt(self, one: Attended, listener: str, running: Running) -> None:
        """Take over a process that an agent before us started for a connection to *listener*."""
        served = Served(listener)
        self._served.setdefault(one, []).append(served)
        self._reaper.claim(running.pid)
        self._hold(one, served, running)

    async def end(self, one: Attended) -> None:
        """End all of the service's connections: ask, wait as long as it may take to stop, kill; clear away what is left."""
        stop = one.definition.service.stop
        empty = self._ending[one] = trio.Event()
        try:
            for served in self.serving(one):
                served.signal(signal.Signals[f"SIG{stop.signal}"])
            with trio.move_on_after(stop.timeout_ms / 1000):
                await self._wait_empty(one, empty)
            if one in self._served:
                self._note("service_killed", service=one.definition.name)
                with trio.move_on_after(BURY_SECONDS):
                    one.definition.starter.kill()
                    for served in self.serving(one):
                        served.signal(signal.SIGKILL)
                    await self._wait_empty(one, empty)
            self.let_go(one)  # what does not die: when it does, it is an orphan like any other
            await one.definition.starter.clean_up()
        except (MilkyWayError, OSError) as error:
            self._note("cleaning_up_failed", service=one.definition.name, error=str(error))
        finally:
            del self._ending[one]

    def let_go(self, one: Attended) -> None:
        """Close every descriptor of the service's connections; their processes go on without us."""
        for served in self._served.pop(one, ()):
            if served.running is not None:
                self._watch.remove(served.running.pidfd)
                os.close(served.running.pidfd)
                self._reaper.release(served.running.pid)

    async def _wait_empty(self, one: Attended, empty: trio.Event) -> None:
        if one in self._served:
            await empty.wait()

    def _started(self, one: Attended, served: Served, outcome: Running | Exception) -> None:
        if served not in self._served.get(one, ()):
            if isinstance(outcome, Running):  # it was let go of meanwhile
                os.close(outcome.pidfd)
                self._reaper.release(outcome.pid)
        elif isinstance(outcome, Running):
            self._hold(one, served, outcome)
            if one in self._ending:
                served.signal(signal.Signals[f"SIG{one.definition.service.stop.signal}"])
        else:
            self._note("connection_not_served", service=one.definition.name, why=str(outcome))
            self._remove(one, served)
        self._answered.set()

    def _hold(self, one: Attended, served: Served, running: Running) -> None:
        served.running = running
        self._note("connection_process_started", service=one.definition.name, pid=running.pid)
        try:
            self._watch.add(running.pidfd, lambda _: self._ended(one, served, running))
        except OSError as error:  # what can't be watched must not run
            self._note("connection_not_served", service=one.definition.name, why=str(error))
            served.signal(signal.SIGKILL)
            os.close(running.pidfd)
            self._reaper.release(running.pid)
            self._remove(one, served)

    def _ended(self, one: Attended, served: Served, running: Running) -> None:
        self._watch.remove(running.pidfd)
        if not one.definition.starter.cgroup:
            kill_process_group(running.pid)  # what it leaves; once it is reaped, its number may be another's
        code = let_go(running, self._reaper)
        self._note("connection_process_ended", service=one.definition.name, pid=running.pid, code=code)
        self._remove(one, served)

    def _remove(self, one: Attended, served: Served) -> None:
        left = [other for other in self._served[one] if other is not served]
        if left:
            self._served[one] = left
        else:
            del self._served[one]
            if one in self._ending:
                self._ending[one].set()
        self._room_came(one)

"""What is open for one run of a service: its output pipe, notify socket, ready pipe; and what it says by them.

``start`` makes all of it and hands it to the starter; ``close`` takes it back when the process has ended.
The output's reading end lives on until its last writer is gone. Where a service has a control group, so that nothing of a
run can be left unseen, its pipe is kept for the next run: we hold a writing end ourselves. Reading is bounded: a chunk of
output or a few messages at a time, so that a service that talks without end keeps nobody waiting.
"""

import contextlib
import fcntl
import os
import select
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import trio

from milkyway_agent.core.service_state import Event, Row
from milkyway_agent.launching import listeners as launching_listeners
from milkyway_agent.launching.child import Running, Starter, notify_path
from milkyway_agent.log.log import OUTPUT, Log
from milkyway_agent.log.service_output import AT_ONCE, ENDED, Stream
from milkyway_agent.runtime.alarms import Alarms
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.supervisor.fd_store import FdStore
from milkyway_agent.supervisor.process.notify import belongs_to
from milkyway_agent.supervisor.process.probes import LEAST_INTERVAL, is_listening
from milkyway_agent.supervisor.service_record import Attended, Done, Run, Start, environment_of, is_direct
from milkyway_agent.system import sockets
from milkyway_formats.errors import UnavailableError
from milkyway_formats.service import (
    ReadyAtOnce,
    ReadyByDescriptor,
    ReadyByExit,
    ReadyByNotify,
    ReadyByProbe,
    ReadyByTcp,
    Service,
)

START_SECONDS = 60.0
FIRST_LISTENER = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
MESSAGES_AT_ONCE = 16
LAST_MESSAGES = 64  # rounds of them that one which ends may leave unread; the kernel queues fewer (net.unix.max_dgram_qlen)
CHUNKS_AT_END = 16
MOST_HANDED_OVER = 250  # of what the launcher takes, less both outputs and the descriptor for readiness
LINE_BYTES = 200
_NOTHING: Mapping[int, int] = {}
_NOTHING_SAID: Mapping[str, str] = {}

Post = Callable[[Attended, Event | None, object | None], None]
Listeners = Sequence[tuple[str, int]]


class ServiceRuns:
    """Opens, watches and closes what runs of services need."""

    def __init__(
        self,
        watch: Watch,
        alarms: Alarms,
        log: Log,
        post: Post,
        spawn: Callable[..., None],
        notify_directory: str,
    ) -> None:
        self.on_watchdog: Callable[[Attended], None] = lambda _: None
        self.on_probe: Callable[[Attended, Run], None] = lambda _, __: None
        self._watch = watch
        self._alarms = alarms
        self._log = log
        self._post = post
        self._spawn = spawn
        self._notify_directory = notify_directory
        self._opened: dict[Attended, tuple[socket.socket | None, int]] = {}  # while its start is under way

    # --- a start -------------------------------------------------------------------------------------------------------

    def start(self, one: Attended, listeners: Listeners, done: Done) -> None:
        """Open what the service needs and have its starter start it. Raises MilkyWayError or OSError, having undone it."""
        service, starter = one.definition.service, one.definition.starter
        if is_direct(starter) and starter.cgroup and one.store is None and not listeners and not _is_heard(service):
            starter.submit(Start(self._kept_output(one), None, _NOTHING, _NOTHING_SAID), done)
            return
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as given:
            notify, path = None, None
            if _has_notify(service):
                path = notify_path(self._notify_directory, one.definition.name)
                notify = sockets.datagram(path, 0o666)
                notify.setblocking(False)
                undo.callback(self._close_opened, one, notify, -1)
            if is_direct(starter) and starter.cgroup:
                output = self._kept_output(one)
            else:
                output = self.open_output(one)
                if is_direct(starter):
                    given.callback(os.close, output)
            descriptors: dict[int, int] = {}
            for _, descriptor in listeners:
                launching_listeners.hand_over(descriptor)
                descriptors[FIRST_LISTENER + len(descriptors)] = descriptor
            if is_direct(starter):
                for kept in one.store.stored if one.store else ():
                    descriptors[FIRST_LISTENER + len(descriptors)] = kept.descriptor
            ready = -1
            if isinstance(service.readiness, ReadyByDescriptor):
                if service.readiness.descriptor in descriptors:
                    raise UnavailableError(f"cannot start it: descriptor {service.readiness.descriptor} is a listener's")
                ready, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                undo.callback(os.close, ready)
                given.callback(os.close, writing)
                descriptors[service.readiness.descriptor] = writing
            start = Start(output, path, descriptors, environment_of(one, path))
            if is_direct(starter):
                starter.submit(start, done)
            else:
                self._spawn(self._start_waiting, one, starter, start, listeners, done)
            self._opened[one] = (notify, ready)
            undo.pop_all()

    async def _start_waiting(self, _one: Attended, starter: Starter, start: Start, listeners: Listeners, done: Done) -> None:
        outcome: Running | Exception
        try:
            with trio.fail_after(START_SECONDS):
                outcome = await starter.start(start.output, start.notify, dict(listeners))
        except trio.TooSlowError:
            outcome = UnavailableError("cannot start it: it takes too long")
        except Exception as error:  # noqa: BLE001 (told to the service that waits for it, which it makes failed)
            outcome = error
        os.close(start.output)  # not when it was cut off: it is begun again then (``Lives.run``)
        done(outcome)

    def watch_readiness(self, one: Attended, run: Run) -> None:
        """Watch the run that has started: for what it says, and for when it is ready."""
        notify, run.ready_pipe = self._opened.pop(one, (None, -1))
        if notify is not None:
            run.notify = notify.detach()
            self._watch.add(run.notify, partial(self._notified, one, run))
        match one.definition.service.readiness:
            case ReadyAtOnce():
                self._post(one, Event.READY, run)
            case ReadyByTcp(port=port, interval_ms=interval):
                self._look_for_port(one, run, port, max(interval / 1000, LEAST_INTERVAL))
            case ReadyByDescriptor():
                self._watch.add(run.ready_pipe, partial(self._ready_pipe_said, one, run))
            case ReadyByProbe():
                self.on_probe(one, run)
            case ReadyByNotify() | ReadyByExit():
                pass

    def hear_out(self, one: Attended, run: Run) -> None:
        """Take what a process that has ended said before: that it is ready, or what it leaves with us."""
        if run.ready_pipe >= 0:
            self._ready_pipe_said(one, run, 0)
        for _ in range(LAST_MESSAGES):
            if run.notify < 0 or not _has_more(run.notify):
                return
            self._notified(one, run, 0)

    def watch_again(self, one: Attended, run: Run, *, is_ready: bool) -> None:
        """Go on watching a run that was started by the program before this one."""
        if run.notify >= 0:
            self._watch.add(run.notify, partial(self._notified, one, run))
        if is_ready:
            return
        match one.definition.service.readiness:
            case ReadyByTcp(port=port, interval_ms=interval):
                self._look_for_port(one, run, port, max(interval / 1000, LEAST_INTERVAL))
            case ReadyByDescriptor() if run.ready_pipe >= 0:
                self._watch.add(run.ready_pipe, partial(self._ready_pipe_said, one, run))
            case ReadyByProbe():
                self.on_probe(one, run)
            case ReadyAtOnce():
                self._post(one, Event.READY, run)
            case _:
                pass

    def watch_stored(self, one: Attended) -> None:
        """Go on watching the stored descriptors of a service for a hang-up."""
        for stored in one.store.stored if one.store else ():
            if stored.polled:
                self._watch_stored(one, stored.descriptor)

    def _watch_stored(self, one: Attended, descriptor: int) -> None:
        with contextlib.suppress(PermissionError):  # a file, as a memfd is one: it never hangs up
            self._watch.add(descriptor, partial(self._hung_up, one, descriptor), select.EPOLLHUP | select.EPOLLERR)

    def close(self, one: Attended, run: Run) -> None:
        """Close what was open for a run that has ended."""
        self._alarms.cancel(run.probing)
        for descriptor in (run.notify, run.ready_pipe):
            if descriptor >= 0:
                self._watch.remove(descriptor)
                os.close(descriptor)
        if run.notify >= 0:
            self._unlink_notify(one)
        run.notify = run.ready_pipe = -1

    def let_go(self, one: Attended) -> None:
        """Close every descriptor of the service; its process, if there is one, goes on without us."""
        self.forget(one)
        self.give_up_output(one)
        for stream in one.streams:
            self._watch.remove(stream.descriptor)
            self._end_output(one, stream)
        if one.run is not None:
            self.close(one, one.run)
            self._watch.remove(one.run.running.pidfd)
            os.close(one.run.running.pidfd)
            one.run = None

    def forget(self, one: Attended) -> None:
        """Close what a start that came to nothing left open, and give up what the service has stored."""
        self._close_opened(one, *self._opened.pop(one, (None, -1)))
        if one.store is not None:
            for descriptor in one.store.clear():
                self._watch.remove(descriptor)
                os.close(descriptor)
            one.store = None

    def _close_opened(self, one: Attended, notify: socket.socket | None, ready: int) -> None:
        if notify is not None:
            notify.close()
            self._unlink_notify(one)
        if ready >= 0:
            os.close(ready)

    def _unlink_notify(self, one: Attended) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(notify_path(self._notify_directory, one.definition.name))

    # --- what it says --------------------------------------------------------------------------------------------------

    def open_output(self, one: Attended) -> int:
        """Open a pipe for its output and watch it; return the end that is the service's."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reading, False)
        self.read_output(one, Stream(reading, one.definition.name, self._log))
        return writing

    def _kept_output(self, one: Attended) -> int:
        """Return the writing end of a pipe that stays ours over the next run: of the one that the last run had, if it is free.

        It is when nobody has called ``give_up_output`` since: then nothing is left of the last run that could write.
        """
        if one.output >= 0 and one.streams[-1].begin_anew(trio.current_time()):
            # All of its flags: what a program makes of its standard output is so for all who share the description.
            fcntl.fcntl(one.output, fcntl.F_SETFL, 0)
            return one.output
        self.give_up_output(one)
        one.output = self.open_output(one)
        return one.output

    def give_up_output(self, one: Attended) -> None:
        """Let the pipe end when its last writer goes: there is no next run, or something of the last is left. Twice is once."""
        if one.output >= 0:
            os.close(one.output)
            one.output = -1

    def read_output(self, one: Attended, stream: Stream) -> None:
        """Carry what comes through *stream* until its writers are gone; then its descriptor is closed."""
        one.streams = (*one.streams, stream)
        self._watch.add(stream.descriptor, partial(self._output_came, one, stream))

    def _output_came(self, one: Attended, stream: Stream, _events: int) -> None:
        again = stream.ready(trio.current_time())
        if again == AT_ONCE:
            return
        self._watch.remove(stream.descriptor)
        if again == ENDED:
            self._end_output(one, stream)
        else:
            resume = partial(self._watch_again, one, stream)
            self._alarms.set(again - trio.current_time(), resume)

    def _watch_again(self, one: Attended, stream: Stream) -> None:
        if stream in one.streams:
            self._watch.add(stream.descriptor, partial(self._output_came, one, stream))

    def _end_output(self, one: Attended, stream: Stream) -> None:
        if stream is one.streams[-1]:
            self.give_up_output(one)
        one.streams = tuple(other for other in one.streams if other is not stream)
        os.close(stream.descriptor)

    def drain(self, one: Attended) -> None:
        """Read what a start that failed has written, as far as it is there already, and remember the last line."""
        for stream in one.streams[-1:]:  # those before it are of other runs
            for _ in range(CHUNKS_AT_END):
                if not _has_more(stream.descriptor):
                    break
                if stream.ready(trio.current_time()) == ENDED:
                    self._watch.remove(stream.descriptor)
                    self._end_output(one, stream)
                    break
        self._close_opened(one, *self._opened.pop(one, (None, -1)))
        for record in reversed(self._log.ring.records):
            if record.service == one.definition.name:
                one.last_line = str(record.facts.get("line", ""))[:LINE_BYTES] if record.event == OUTPUT else ""
                return

    def _look_for_port(self, one: Attended, run: Run, port: int, interval: float) -> None:
        """See whether one of the service's users listens on *port* yet; if not, look again in *interval*."""
        if one.run is not run:
            return
        if is_listening(one, run, port):
            self._post(one, Event.READY, run)
        else:
            run.unready = f"nobody listens on port {port}"
            run.probing = self._alarms.set(interval, partial(self._look_for_port, one, run, port, interval))

    def _ready_pipe_said(self, one: Attended, run: Run, _events: int) -> None:
        try:
            said = os.read(run.ready_pipe, 4096)
        except BlockingIOError:
            return
        if b"\n" in said:
            self._post(one, Event.READY, run)
        if not said or b"\n" in said:  # its end without a line says nothing; the ready timer will
            self._watch.remove(run.ready_pipe)
            os.close(run.ready_pipe)
            run.ready_pipe = -1

    def _notified(self, one: Attended, run: Run, _events: int) -> None:
        belongs = belongs_to(run.running, one.definition.starter.cgroup)
        with sockets.borrowed(run.notify) as opened:
            for _ in range(MESSAGES_AT_ONCE):
                message = sockets.receive_notify(opened)
                if message is None:
                    return
                if message.refused:
                    self._log.note("notification_refused", service=one.definition.name, why=message.refused)
                elif belongs(message.pid):
                    self._take(one, run, message.words, message.descriptors)
                else:
                    for descriptor in message.descriptors:
                        os.close(descriptor)

    def _take(self, one: Attended, run: Run, words: Mapping[str, str], descriptors: Sequence[int]) -> None:
        """Heed one message of sd_notify(3)."""
        if one.store is None and one.definition.service.stored_descriptors:
            room = MOST_HANDED_OVER - len(one.definition.service.listeners)
            one.store = FdStore(min(one.definition.service.stored_descriptors, room))
        taken = (one.store or FdStore(0)).take(words, descriptors)
        for descriptor in taken.close:
            self._watch.remove(descriptor)
            os.close(descriptor)
        for descriptor in taken.watch:
            self._watch_stored(one, descriptor)
        if taken.refused:
            self._log.note("stored_descriptor_refused", service=one.definition.name, why=taken.refused)
        if words.get("READY") == "1" and isinstance(one.definition.service.readiness, ReadyByNotify):
            self._post(one, Event.READY, run)
        if "STATUS" in words:
            one.reason = words["STATUS"][:256]
        if words.get("WATCHDOG") == "1":
            self.on_watchdog(one)
        elif words.get("WATCHDOG") == "trigger" and one.row is Row.STARTED:
            one.reason = "it says itself that it hangs"
            self._post(one, Event.WATCHDOG_TIMEOUT, run)

    def _hung_up(self, one: Attended, descriptor: int, _events: int) -> None:
        self._watch.remove(descriptor)
        for gone in one.store.hung_up(descriptor) if one.store else ():
            os.close(gone)


def _has_notify(service: Service) -> bool:
    return bool(isinstance(service.readiness, ReadyByNotify) or service.watchdog_ms or service.stored_descriptors)


def _is_heard(service: Service) -> bool:
    """Tell whether something must be opened for a run by which the service tells of itself, beside its output."""
    return isinstance(service.readiness, ReadyByDescriptor) or _has_notify(service)


def _has_more(descriptor: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))

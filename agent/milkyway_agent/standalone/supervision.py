"""The life of ``--supervise`` once the first services run: take them over, start the rest, serve the API, end in order."""

import contextlib
import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import trio

from milkyway_agent.api.draining import Drain
from milkyway_agent.core.dependencies import needs_of
from milkyway_agent.early import carried_code, start
from milkyway_agent.early.start import Early
from milkyway_agent.launching.accounts import DynamicUsers
from milkyway_agent.launching.child import Child
from milkyway_agent.launching.control_groups import clear_group
from milkyway_agent.launching.direct import DirectStarter
from milkyway_agent.launching.launcher_link import LauncherLink
from milkyway_agent.launching.places import Places
from milkyway_agent.launching.starter import Starter
from milkyway_agent.log.files import FileSink
from milkyway_agent.log.log import Log
from milkyway_agent.runtime.alarms import Alarms
from milkyway_agent.runtime.reaper import Reaper
from milkyway_agent.runtime.reexecution import Handover, OldProgram, Renewal, close_on_exec, newest_program, read_state
from milkyway_agent.runtime.signal_receiver import arriving
from milkyway_agent.runtime.tasks import keep_running
from milkyway_agent.runtime.watch import Watch
from milkyway_agent.standalone.console import Printed
from milkyway_agent.standalone.options import Options
from milkyway_agent.supervisor.activation.timer_stamps import TimerStamps
from milkyway_agent.supervisor.definition import Definition
from milkyway_agent.supervisor.snapshot import KeptState, descriptors_of
from milkyway_agent.supervisor.supervisor import Supervisor
from milkyway_agent.system import cgroups, kernel, processes, reaper, signals, sockets
from milkyway_agent.system.state_file import PathDirectory
from milkyway_formats.errors import ExitCode, MilkyWayError, RefusedError, UnavailableError
from milkyway_formats.service import Service

ORDERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # end, end, read the definitions again
STOP_SECONDS = 90.0
TIDY_SECONDS = 1.0


def run(options: Options, begun: Early) -> int:
    """Live until an end is asked for; return the exit code. An internal failure ends in a re-execution, not in an end."""
    signals.block(ORDERS)  # a signal that comes while a program replaces another waits for the next
    log = Log(kernel.realtime_ms, Printed(verbose=options.verbose, outputs=not options.logs))
    supervision: Supervision | None = None
    try:
        supervision = Supervision(options, begun, log)
        return trio.run(supervision.live)
    except MilkyWayError as error:
        if options.adopt:  # the state can't be used here, and services run: the program before this one can use it
            raise
        _give_up(begun)
        print(error, file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except BaseException as error:  # services outlive a bug of the supervisor
        if supervision is None or not supervision.lives:
            raise
        log.note("supervisor_failed", error=repr(error), traceback=traceback.format_exc())
        time.sleep(1)  # a failure that comes back at once must not make it spin
        supervision.execute_newest()
        raise


def _give_up(begun: Early) -> None:
    """Undo what was begun early: end what was started, remove its groups."""
    for answer, *_ in begun.started.values():
        with contextlib.suppress(ProcessLookupError):
            processes.pidfd_send_signal(answer.pidfd, signal.SIGKILL)
        processes.reap(answer.pidfd)
    begun.launcher.close()
    with contextlib.suppress(OSError, UnavailableError):  # what can't be killed stays, and so does its group
        for group in cgroups.children(begun.groups) if begun.groups else ():
            trio.run(clear_group, group)
        if begun.groups:
            cgroups.remove(begun.groups)


class Supervision:
    """One supervisor, from the first services on."""

    def __init__(self, options: Options, begun: Early, log: Log) -> None:
        self.lives = False
        self._clock_offset = 0.0  # of trio's clock against CLOCK_MONOTONIC
        self.log = log
        self.options = options
        self._begun = begun
        self._directory = Path(options.supervise)
        self._runtime = Path(options.runtime)
        self._end, self._hangup = trio.Event(), trio.Event()
        self._api: socket.socket | None = None
        self._drain = Drain()
        self.reaper = Reaper(log)
        self._renewal = Renewal(self, self.reaper, newest_program(), OldProgram())
        alarms = Alarms(log.note)
        watch = Watch(log.note, alarms)
        self.supervisor = Supervisor(
            log,
            self.reaper,
            alarms=alarms,
            watch=watch,
            notify_directory=str(self._runtime / "notify"),
            on_reboot=lambda name: log.note("reboot_not_done", service=name, why="this supervisor is not the machine's"),
        )
        state = PathDirectory(self._state_directory())
        self.supervisor.keep_stamps(TimerStamps(state))
        self.supervisor.keeps_at_end = True
        self._places = Places(begun.groups, self._runtime)
        self._link = LauncherLink(begun.launcher, watch, alarms, self.reaper)

    async def live(self) -> int:
        """Take over what runs, start the rest, and live until an end is asked for."""
        kept = self._adopted()
        services = kept.definitions if kept else self._read_first()
        if os.getpid() != 1:
            reaper.set_child_subreaper(True)
        try:
            self._open_log()
        except OSError as error:
            if not kept:
                raise UnavailableError(f"cannot keep logs in {self.options.logs}: {error.strerror}") from error
            self.log.note("log_files_failed", why=str(error))  # services go on, and so do their logs in memory
        definitions = [self.definition(service) for service in services]
        self.supervisor.add(*definitions)
        self.supervisor.forget_stale_stamps()
        self._clock_offset = trio.current_time() - time.monotonic()
        async with trio.open_nursery() as nursery:
            await nursery.start(self.supervisor.run)
            nursery.start_soon(self.reaper.run)
            nursery.start_soon(keep_running, "log", self.log.keep_files, self.log.note)
            nursery.start_soon(keep_running, "signals", self._handle_signals, self.log.note)
            nursery.start_soon(keep_running, "definitions", self._read_at_hangup, self.log.note)
            nursery.start_soon(keep_running, "renewal", self._renewal.run, self.log.note)
            nursery.start_soon(keep_running, "local-api", self._serve_api, self.log.note)
            self.lives = True
            if kept:
                self._places.users = DynamicUsers(kept.users)
                self._go_on(kept)
            else:
                self._take_over({one.name: one.starter for one in definitions})
                self.supervisor.start(*self._wanted(services), by="the boot")
            nursery.start_soon(tidy_up)
            await self._end.wait()
            with trio.move_on_after(STOP_SECONDS) as stopping:
                await self.supervisor.stop_all()
            if stopping.cancelled_caught:
                left = [service.name for service in self.supervisor.status() if service.state not in ("stopped", "failed")]
                self.log.note("stopped_late", left=", ".join(left))
            self.lives = False
            nursery.cancel_scope.cancel()
        self._clear_up()
        return ExitCode.OK

    def _go_on(self, kept: KeptState) -> None:
        """Go on where the program before this one left off. What it was about to start when it failed is started anew."""
        self.supervisor.restore(kept.services)
        lost = {service.name for service in kept.definitions} - {service.name for service in kept.services}
        for name in lost:
            self.supervisor.kill(name)
        self.supervisor.start(*lost, by="a supervisor that has failed")
        self.log.note("supervisor_re_executed", services=len(kept.definitions))

    def definition(self, service: Service) -> Definition:
        """Return *service* as this supervisor runs it."""
        return Definition(
            service.name, service, DirectStarter(service.name, service, self._link, self._places), needs_of(service)
        )

    def end(self) -> None:
        """Begin the orderly end."""
        self._end.set()

    def execute_newest(self) -> None:
        """Execute this program with all that is known. Raises OSError, or does not return.

        The launchers end with their sockets, which are closed on execution; the new program starts others.
        """
        self._renewal.execute_newest()

    # --- what goes on in another program (``reexecution.Reexecutable``) ------------------------------------------------

    async def wait_at_rest(self) -> None:
        """Return when no start and no clearing away is under way."""
        await self.supervisor.wait_at_rest()

    def drained(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Return a context in which no request is taken; those taken before it are answered first."""
        return self._drain.drained()

    def keep(self) -> Handover:
        """Return all that is known now."""
        state = KeptState(
            format="milkyway.supervisor/1",
            definitions=self.supervisor.definitions(),
            # Not trio.current_time(): after a failure trio does not run any more.
            services=self.supervisor.keep(time.monotonic() + self._clock_offset),
            users=dict(self._places.users.held),
            open_files=self._begun.open_files,
            api=self._api.fileno() if self._api is not None else -1,
        )
        return Handover(state, [*descriptors_of(state.services), *([state.api] if state.api >= 0 else [])])

    def leave(self) -> None:
        """Close the log's files, which the new program opens."""
        self.log.close_files()

    def stay(self) -> None:
        """Open them again."""
        self._open_log()

    def _open_log(self) -> None:
        if self.options.logs:
            self.log.open_files(FileSink(self.options.logs))

    # --- the beginning -------------------------------------------------------------------------------------------------

    def _adopted(self) -> KeptState | None:
        if not self.options.adopt:
            return None
        state = read_state(int(self.options.adopt), KeptState)
        os.close(int(self.options.adopt))
        close_on_exec([*descriptors_of(state.services), *([state.api] if state.api >= 0 else [])])
        self._api = socket.socket(fileno=state.api) if state.api >= 0 else None
        OldProgram.close(self.options.old)
        self._begun.open_files = state.open_files
        self._begun.launcher.limit_open_files(state.open_files)
        return state

    def _state_directory(self) -> str:
        """Return where timers keep their last starts: as the options say, by the definitions, or in the runtime directory."""
        chosen = [Path(self.options.state)] if self.options.state else []
        for path in chosen or (self._directory / ".state", self._runtime / ".state"):
            with contextlib.suppress(OSError):
                path.mkdir(mode=0o700, parents=bool(chosen), exist_ok=True)
                return str(path)
        if self.options.adopt:  # its services run: without last starts, as the log says
            return self.options.state
        raise UnavailableError(f"cannot keep the times of timers in {self.options.state or self._runtime}: it can't be written")

    def _read(self) -> list[Service]:
        """Return the services that the directory defines, by its plan. Where that is out of date a child makes it anew."""
        file = start.plan_file(str(self._directory), str(self._runtime))
        if self._begun.plan is None:
            words = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
            code, said = _run([sys.executable, *words[1:], "--check", str(self._directory), "--runtime", str(self._runtime)])
            self._begun.plan = start.read_plan(str(self._directory), file)
            if code or self._begun.plan is None:
                why, _, hint = said.partition("\n")
                if code not in (ExitCode.REFUSED, ExitCode.UNAVAILABLE):
                    print(said, file=sys.stderr, flush=True)
                    why, hint = f"cannot supervise {self._directory}: its definitions can't be used", ""
                kind = UnavailableError if code == ExitCode.UNAVAILABLE else RefusedError
                raise kind(why, hint=hint.strip().removeprefix("hint: "))
        plan: dict[str, object] = self._begun.plan
        self._begun.plan = None  # half a megabyte that is not needed any more
        text = plan["services"]
        assert isinstance(text, bytes), "as plan_of has written it"
        return msgspec.json.decode(text, type=list[Service])

    def _read_first(self) -> list[Service]:
        """Return the services as ``_read`` does. Raises RefusedError if a service is to be started that is not among them."""
        services = self._read()
        if unknown := sorted(set(self.options.start) - {service.name for service in services}):
            raise RefusedError(f"cannot start {', '.join(unknown)}: {self._directory} defines no such service")
        return services

    def _take_over(self, starters: Mapping[str, Starter]) -> None:
        """Take what was started early under supervision; *starters*: of all services, by name."""
        for name, (answer, reading, writing, words) in self._begun.started.items():
            self.reaper.claim(answer.pid)
            starter = starters[name]
            assert isinstance(starter, DirectStarter), "as ``definition`` has it"
            starter.repeat(words)
            self.supervisor.adopt(name, Child(answer.pid, answer.pidfd), reading, writing)
        for name, why in self._begun.failed.items():
            self.log.note("service_not_started", service=name, reason=why)
        self._begun.started.clear()

    def _wanted(self, services: Sequence[Service]) -> list[str]:
        names = [service.name for service in services]
        return self.options.start or ([start.DEFAULT] if start.DEFAULT in names else names)

    # --- life ----------------------------------------------------------------------------------------------------------

    async def _handle_signals(self) -> None:
        with arriving(*ORDERS) as orders:
            async for number in orders:
                if number == signal.SIGHUP:
                    self._hangup.set()
                else:
                    self.log.note("end_asked", signal=signal.Signals(number).name)
                    self.end()

    async def _read_at_hangup(self) -> None:
        """Read the definitions again at each SIGHUP. An end that is asked for meanwhile does not wait for it."""
        while not self._end.is_set():
            await self._hangup.wait()
            self._hangup = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_end, nursery.cancel_scope)
                await self._read_again()
                nursery.cancel_scope.cancel()

    async def _until_end(self, scope: trio.CancelScope) -> None:
        await self._end.wait()
        scope.cancel()

    async def _read_again(self) -> None:
        """Use the definitions as they are now: only what changed restarts. If they can't be used, nothing changes."""
        try:
            services = await trio.to_thread.run_sync(self._read)
            changes = await self.supervisor.replace({service.name: self.definition(service) for service in services})
            self.supervisor.forget_stale_stamps()
            wanted = self._wanted(services)
            self.supervisor.start(*(name for name in wanted if name in changes.added), by="a changed directory")
        except MilkyWayError as error:
            self.log.note("definitions_refused", why=str(error))

    async def _serve_api(self) -> None:
        """Serve the local API. What that takes is imported when the first client comes: most supervisors never have any.

        Its socket outlives a re-execution: clients that come meanwhile wait.
        """
        if self._api is None:
            self._api = sockets.listen(self._api_path(), 0o666)
        await trio.lowlevel.wait_readable(self._api.fileno())
        from milkyway_agent.api import server
        from milkyway_agent.api.requests import Answers
        from milkyway_agent.standalone.front_process import start_front
        from milkyway_agent.standalone.machine_api import SupervisedMachine

        machine = SupervisedMachine(self.supervisor, self.log, end=self.end, reexecute=self._renewal.ask)
        answers = Answers(machine, self.log.note, group=None, local=lambda: "read")
        await server.serve(
            self._api, answers, lambda end: start_front(end, self.reaper), self.log.note, self._drain, owner=os.geteuid()
        )

    def _api_path(self) -> str:
        return str(self._runtime / "mwctl.sock")

    def _clear_up(self) -> None:
        self.supervisor.release()
        if self._api is not None:
            self._api.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._api_path())
        self._begun.launcher.close()
        self.log.close_files()
        if self._places.groups:
            with contextlib.suppress(OSError):
                cgroups.remove(self._places.groups)


async def tidy_up() -> None:
    """Begin to collect garbage, once there is time for it; not among what was imported, which stays for good."""
    await trio.sleep(TIDY_SECONDS)
    carried_code.forget()
    gc.collect()
    gc.freeze()
    gc.enable()


def _run(words: list[str]) -> tuple[int, str]:
    """Run *words* to their end; return the exit code, and what was written to standard error. Nothing else is waited for."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with open(reading, errors="replace") as pipe:  # noqa: PTH123 (a descriptor)
        try:
            pid = os.posix_spawn(words[0], words, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, writing, 2)])
        finally:
            os.close(writing)
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.strip()

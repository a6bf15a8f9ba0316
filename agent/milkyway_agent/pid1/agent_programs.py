"""The agent's own programs, which are started outside the supervisor (``pid1.program_table``: what each is).

Services that live by themselves (DHCP, the development consoles) are the supervisor's. The programs here
are given descriptors that PID 1 makes anew for each run (verifier, uplink, the API's front), or
do one piece of work and end (disk, compiler).
"""

import os
from collections.abc import Callable

import trio

from milkyway_agent.core.restart import describe_end
from milkyway_agent.launching.child import Child, abandon, kill_child, reap
from milkyway_agent.launching.run_to_end import run_to_end
from milkyway_agent.launching.spawned import SpawnedStarter
from milkyway_agent.log.log import Log
from milkyway_agent.log.service_output import log_lines
from milkyway_agent.pid1.program_table import GROUPS, PROGRAMS
from milkyway_agent.runtime.reaper import Reaper, wait_ended
from milkyway_agent.system import kernel
from milkyway_formats.errors import MilkyWayError, UnavailableError
from milkyway_formats.report import ServiceStatus


class ProgramRun:
    """One run of a program: ended and cleaned up exactly once."""

    def __init__(self, name: str, starter: SpawnedStarter, child: Child, reaper: Reaper, note: Callable[..., None]) -> None:
        self._note = note
        self._abandoned = False
        self.name = name
        self.pid = child.pid
        self.started_ms = kernel.boottime_ms()
        self._starter = starter
        self._child = child
        self._reaper = reaper
        self._waiting = trio.Lock()
        self._ended = ""

    def kill(self) -> None:
        """Send SIGKILL to all of its processes; no error if it is gone."""
        if not self._ended and not self._abandoned:
            kill_child(self._child)  # a program that was started just now is not in its group yet
        self._starter.kill()

    async def wait(self) -> str:
        """Return how it ended, once it was reaped and its group is gone."""
        async with self._waiting:
            if not self._ended:
                await wait_ended(self._child.pidfd)
                self._ended = describe_end(reap(self._child, self._reaper))
                with trio.CancelScope(shield=True):
                    try:
                        await self._starter.clean_up()
                    except (MilkyWayError, OSError) as error:  # the next start uses the group as it is
                        self._note("cleaning_up_failed", service=self.name, error=str(error))
        return self._ended

    def abandon(self) -> None:
        """Kill it and leave it to the reaper, as an orphan. Idempotent; does nothing once it was reaped."""
        if self._abandoned or self._ended:
            return
        self._abandoned = True
        abandon(self._child, self._reaper)


class Programs:
    """Starts the agent's own programs, passes their output to the log, and knows which of them run."""

    def __init__(self, log: Log, reaper: Reaper, nursery: trio.Nursery) -> None:
        self._log = log
        self._reaper = reaper
        self._nursery = nursery
        self._runs: dict[str, ProgramRun] = {}
        self._starts: dict[str, int] = {}
        self._closed = False

    async def start(self, name: str, descriptors: dict[int, int]) -> ProgramRun:
        """Start the program *name*; it has copies of *descriptors* under their numbers."""
        if self._closed:
            raise UnavailableError(f"cannot start {name}: the machine is shutting down")
        if (before := self._runs.get(name)) is not None:
            await before.wait()  # all its runs share one group, which is cleared when a run ends
        program = PROGRAMS[name]._replace(descriptors=lambda: _copies(descriptors))
        starter = SpawnedStarter(program, f"{GROUPS}/{name}", self._reaper)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reading, False)
        try:
            child = await starter.start(writing, None)
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        run = ProgramRun(name, starter, child, self._reaper, self._log.note)
        self._runs[name] = run
        self._starts[name] = self._starts.get(name, 0) + 1
        self._log.note("program_started", service=name, pid=run.pid)
        self._nursery.start_soon(self._read_output, name, reading)
        self._nursery.start_soon(self._accompany, run)
        return run

    async def run(
        self, name: str, arguments: tuple[str, ...] = (), descriptors: dict[int, int] | None = None
    ) -> tuple[int, str]:
        """Run the program *name* to its end; return its exit status and what it wrote."""
        program = PROGRAMS[name]
        program = program._replace(command=(*program.command, *arguments), descriptors=lambda: _copies(descriptors or {}))
        code, output = await run_to_end(SpawnedStarter(program, f"{GROUPS}/{name}", self._reaper), self._reaper)
        return code, output.decode(errors="replace").strip()

    def statuses(self) -> list[ServiceStatus]:
        """Return the programs that run now, as services."""
        return [
            ServiceStatus(
                name=run.name,
                state="started",
                wanted=True,
                pid=run.pid,
                context=PROGRAMS[run.name].context,
                restarts=self._starts[run.name] - 1,
                since_ms=run.started_ms,
            )
            for run in self._runs.values()
        ]

    def kill_all(self) -> None:
        """Kill every program that runs, and refuse to start any from now on: the machine is shutting down."""
        self._closed = True
        for run in self._runs.values():
            try:
                run.kill()
            except OSError as error:
                self._log.note("killing_failed", service=run.name, error=str(error))

    async def _accompany(self, run: ProgramRun) -> None:
        how = "it was left alone"
        try:
            how = await run.wait()
        except Exception as error:  # noqa: BLE001 (the end of a program must not be the agent's)
            how = f"nobody knows how: {error!r}"
        finally:
            run.abandon()  # the agent ends or begins again, and starts the programs that it needs anew
            if self._runs.get(run.name) is run:
                del self._runs[run.name]
            self._log.note("program_ended", service=run.name, how=how)

    async def _read_output(self, name: str, reading: int) -> None:
        """Make records of what the program writes; it ends when the last process that holds the pipe does."""
        try:
            await log_lines(reading, name, self._log)
        except Exception as error:  # noqa: BLE001 (as above)
            self._log.note("output_failed", service=name, error=repr(error))
        finally:
            os.close(reading)


def _copies(descriptors: dict[int, int]) -> dict[int, int]:
    """Return copies of *descriptors*: a starter closes those that it is given."""
    return {target: os.dup(source) for target, source in descriptors.items()}

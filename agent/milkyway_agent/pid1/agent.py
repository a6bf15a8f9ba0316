"""An agent: one run of trio's loop as PID 1, from its tasks and the boot to the shutdown.

It holds the parts together and decides little: what the phases are is ``core.boot``'s, what each does ``pid1.boot_deeds``',
services are the ``supervisor``'s, documents ``convergence``'s. A task that fails is logged and begun again; where the agent
itself fails the next one begins all tasks again (``pid1.entry``). The services live through both.
"""

import signal
from collections.abc import Awaitable, Callable, Sequence

import trio

from milkyway_agent.api.draining import Drain
from milkyway_agent.pid1 import snapshot
from milkyway_agent.pid1.agent_programs import Programs
from milkyway_agent.pid1.boot_deeds import BootDeeds
from milkyway_agent.pid1.boot_run import BootRun
from milkyway_agent.pid1.early_boot import ORDERS
from milkyway_agent.pid1.machine_api import LiveMachine
from milkyway_agent.pid1.reexecution import ServerReexecution
from milkyway_agent.pid1.shutdown import shut_down
from milkyway_agent.pid1.state import ServerState
from milkyway_agent.runtime.reexecution import Renewal
from milkyway_agent.runtime.signal_receiver import arriving
from milkyway_agent.runtime.tasks import keep_running
from milkyway_agent.system import kernel, power

AGAIN_SECONDS: Sequence[float] = (10, 20, 40, 80, 160, 320)


class Agent:
    """What lives in PID 1 until it fails or the machine ends. All that outlives it is *state*'s."""

    def __init__(self, state: ServerState) -> None:
        self.state = state
        drain = Drain()
        self._renewal = Renewal(ServerReexecution(state, drain), state.reaper, [snapshot.PROGRAM])
        self.machine = LiveMachine(state, reexecute=self._renewal.ask)
        self.deeds = BootDeeds(state, self.machine, drain, self._keep)
        self._boot_run = BootRun(state.boot, self.deeds.table(), clock_ms=kernel.boottime_ms, note=state.log.note)
        self._nursery: trio.Nursery | None = None
        self._kept: set[str] = set()

    async def live(self) -> None:
        """Boot, live until an end is asked for, shut down in order; the state then says which end it is."""
        state = self.state
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            state.programs = Programs(state.log, state.reaper, nursery)
            self._keep("reaper", state.reaper.run)
            self._keep("signals", self._handle_signals)
            self._keep("log", state.log.keep_files)
            self._keep("renewal", self._renewal.run)
            with trio.CancelScope() as booting:
                nursery.start_soon(self._cancel_at_end, booting)
                await self._boot()
            await state.end_asked.wait()
            with trio.CancelScope(shield=True):
                await shut_down(state)
            state.ended = state.ending
            nursery.cancel_scope.cancel()

    async def _boot(self) -> None:
        """Boot, then try what failed again, less and less often: the cause may pass, and a server is not booted often."""
        record, note = self.state.boot, self.state.log.note
        before = dict(record.finished_ms) if self.state.handed_over else {}
        await self._boot_run.run()
        record.finished_ms["ready"] = kernel.boottime_ms()
        record.finished_ms.update(before)  # the boot was another program's; phases that were repeated do not count
        note("boot_finished", at_ms=record.finished_ms["ready"], failures=len(record.failures()))
        for line in record.failures():
            note("boot_report", line=line)
        for pause in AGAIN_SECONDS:
            if "failed" not in record.outcomes.values():
                return
            await trio.sleep(pause)
            note("boot_tried_again", phases=", ".join(record.forget_failures()))
            await self._boot_run.run()

    def _keep(self, name: str, task: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Run *task* for as long as the agent lives. Idempotent: the phase that starts it may be tried again."""
        assert self._nursery is not None, "tasks run while the agent lives"
        if name in self._kept:
            return
        self._kept.add(name)
        self._nursery.start_soon(self._keep_for_good, name, task, *arguments)

    async def _keep_for_good(self, name: str, task: Callable[..., Awaitable[object]], *arguments: object) -> None:
        await keep_running(name, task, self.state.log.note, *arguments)
        self.state.log.note("task_lost", task=name)  # it ended by itself, which no such task should

    async def _handle_signals(self) -> None:
        with arriving(*ORDERS) as orders:
            try:
                power.set_ctrl_alt_del(reboots=False)
            except OSError as error:  # the other ways to end the machine work nevertheless
                self.state.log.note("ctrl_alt_del_failed", error=str(error))
            async for number in orders:
                self.state.end("reboot" if number == signal.SIGINT else "poweroff")

    async def _cancel_at_end(self, scope: trio.CancelScope) -> None:
        await self.state.end_asked.wait()
        scope.cancel()

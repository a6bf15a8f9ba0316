"""Tasks for services, where something must be awaited: the start of a container, cleaning up, a command, a probe."""

from collections.abc import Awaitable, Callable

import trio

from milkyway_agent.supervisor.service_record import ServiceRecord
from milkyway_formats.errors import UnavailableError

Task = Callable[..., Awaitable[object]]


class ServiceTasks:
    """Runs tasks while ``run`` runs. *fail* is called for a service whose task failed."""

    def __init__(self, fail: Callable[[ServiceRecord, Exception], None]) -> None:
        self._fail = fail
        self._nursery: trio.Nursery | None = None
        self._cut_off: list[tuple[ServiceRecord, Task, tuple[object, ...]]] = []

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run tasks until cancelled.

        When called again, it begins those anew that were cut off; each checks whether it is still needed.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                begun, self._cut_off = self._cut_off, []
                for record, task, arguments in begun:
                    nursery.start_soon(self._guarded, record, task, arguments)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    @property
    def are_run(self) -> bool:
        """Whether tasks are run now."""
        return self._nursery is not None

    def spawn(self, record: ServiceRecord, task: Task, *arguments: object) -> None:
        """Run *task* for a service. Raises UnavailableError if tasks are not run now."""
        if self._nursery is None:
            raise UnavailableError("cannot do this for a service: the supervisor does not run")
        self._nursery.start_soon(self._guarded, record, task, arguments)

    async def _guarded(self, record: ServiceRecord, task: Task, arguments: tuple[object, ...]) -> None:
        try:
            await task(*arguments)
        except trio.Cancelled:
            self._cut_off.append((record, task, arguments))
            raise
        except Exception as error:  # noqa: BLE001 (it makes the service failed)
            self._fail(record, error)

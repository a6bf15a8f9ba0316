"""Keeping a task alive: when it fails, that is logged and it begins again; only its own end and cancellation end it."""

import traceback
from collections.abc import Awaitable, Callable

import trio

AGAIN_SECONDS = 1.0


async def keep_running(
    name: str, task: Callable[..., Awaitable[object]], note: Callable[..., None], *arguments: object
) -> None:
    """Run *task* until it returns; whenever it raises, *note* it and begin again. Raises nothing but cancellation."""
    while True:
        failed = False
        try:
            await task(*arguments)
        # "except*": a nursery that fails while it is cancelled raises both at once, as a group that no
        # "except Exception" catches, and the failure would go up with the cancellation.
        except* Exception as errors:  # noqa: BLE001 (no kept task may take PID 1 down with it)
            failed = True
            note("task_failed", task=name, error=repr(errors), traceback=traceback.format_exc())
        if not failed:
            return
        await trio.sleep(AGAIN_SECONDS)

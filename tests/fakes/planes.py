"""A plane that does nothing but record, for executors whose effects must not touch the machine."""

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from milkyway_formats.errors import UnavailableError


class RecordingPlane:
    """Implements ``executor.Plane``: records each deed in ``done`` ("+…" or "-…") and refuses those that are in ``failing``.

    ``errors``: what a refused deed raises; default: UnavailableError. ``before`` is awaited
    before each deed.
    """

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failing: set[str] = set()
        self.errors: dict[str, Exception] = {}
        self.before: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    async def do(self, effect: Any) -> None:
        await self.before()
        self._take(f"+{effect.describe()}")

    async def undo(self, effect: Any) -> None:
        await self.before()
        self._take(f"-{effect.describe()}")

    def _take(self, deed: str) -> None:
        if deed in self.failing:
            raise self.errors.get(deed, UnavailableError(f"cannot do {deed}: the test says so"))
        self.done.append(deed)

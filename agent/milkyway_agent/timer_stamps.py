"""When persistent timers last started their services, kept so that what was missed while the machine was off is known.

One small file, replaced whole. What can't be read is taken for empty: then nothing counts as missed, and each
timer begins anew. Times are real-time milliseconds since 1970; a timer's key is its owner's to choose.
"""

from typing import Annotated

from msgspec import Meta, field

from milkyway_agent.system.state_file import Directory, replace
from milkyway_formats.codec import Document, MalformedError, decode, encode
from milkyway_formats.errors import UnavailableError

FILE = "timer-stamps"
MAX_STAMPS = 16_384
Key = Annotated[str, Meta(min_length=1, max_length=128)]
Stamp = Annotated[int, Meta(ge=0, le=8_000_000_000_000)]  # until 2223: beyond every calendar


class _Stamps(Document, frozen=True):
    stamps: Annotated[dict[Key, Stamp], Meta(max_length=MAX_STAMPS)] = field(default_factory=dict)


class TimerStamps:
    """The stamps of one directory. ``damage`` says why what was there could not be read; "" when all is well.

    ``set`` and ``keep_only`` wait for the disk: call them from one place at a time, and not where others wait.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._stamps: dict[str, int] = {}
        self.damage = ""
        try:
            data = directory.read(FILE)
            if data is not None:
                self._stamps = dict(decode(data, _Stamps, what="timer stamps").stamps)
        except MalformedError as error:
            self.damage = str(error)
        except OSError as error:
            self.damage = f"cannot read timer stamps: {error.strerror}"

    def get(self, key: str) -> int | None:
        """Return when the timer *key* last started its service; None if that is not known."""
        return self._stamps.get(key)

    def set(self, key: str, at_ms: int) -> None:
        """Keep that the timer *key* started its service at *at_ms*.

        Raises UnavailableError if it could not be written; it is known until the agent ends, nevertheless.
        """
        self._stamps[key] = at_ms
        self._write()

    def keep_only(self, keys: frozenset[str]) -> None:
        """Forget every timer but *keys*: those that definitions still have. Raises UnavailableError as ``set`` does."""
        left = {key: at_ms for key, at_ms in self._stamps.items() if key in keys}
        if left != self._stamps:
            self._stamps = left
            self._write()

    def _write(self) -> None:
        try:
            replace(self._directory, FILE, encode(_Stamps(stamps=self._stamps)))
        except OSError as error:
            raise UnavailableError(f"cannot keep timer stamps: {error.strerror}") from error

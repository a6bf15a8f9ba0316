"""When persistent timers last started their services, kept so that what was missed while the machine was off is known.

One small file, replaced whole. What can't be read is taken for empty: then nothing counts as missed, and each
timer begins anew. Times are real-time milliseconds since 1970; a timer's key is its owner's to choose.
"""

import threading
from typing import Annotated

from msgspec import Meta, field

from milkyway_agent.system import state_file
from milkyway_formats.codec import Document, MalformedError, decode, encode
from milkyway_formats.errors import UnavailableError

FILE = "timer-stamps"
FILE_BYTES = 4 * 1024 * 1024
KEY_LENGTH = 128  # of a deployment's name, its service's, and a number
MOST = 4096
LAST_MS = 8_000_000_000_000  # in 2223, beyond every calendar
Key = Annotated[str, Meta(min_length=1, max_length=KEY_LENGTH)]
Stamp = Annotated[int, Meta(ge=0, le=LAST_MS)]


class _Stamps(Document, frozen=True):
    stamps: dict[Key, Stamp] = field(default_factory=dict)


class TimerStamps:
    """The stamps of one directory. ``note``: why they could not be read, "" where they could or there are none yet.

    ``set`` and ``keep_only`` wait for the disk, and may be called from several threads. Of more than MOST timers those that
    fired last are known.
    """

    def __init__(self, directory: state_file.Directory) -> None:
        self._directory = directory
        self._stamps: dict[str, int] = {}
        self._writing = threading.Lock()
        self.note = ""
        try:
            data = directory.read(FILE)
            if data is not None:
                self._stamps = dict(decode(data, _Stamps, what="timer stamps", limit=FILE_BYTES).stamps)
        except MalformedError as error:
            self.note = str(error)
        except OSError as error:
            self.note = f"cannot read timer stamps: {error.strerror}"

    def get(self, key: str) -> int | None:
        """Return when the timer *key* last started its service; None if that is not known."""
        return self._stamps.get(key)

    def set(self, key: str, at_ms: int) -> None:
        """Keep that the timer *key* started its service at *at_ms*.

        Raises UnavailableError if it could not be written; it is known until the agent ends, nevertheless.
        """
        assert 0 < len(key) <= KEY_LENGTH, f"a file with such a key could not be read again: {key!r}"
        with self._writing:
            self._stamps[key] = min(max(at_ms, 0), LAST_MS)  # a clock can be set to anything
            if len(self._stamps) > MOST:
                oldest = min((other for other in self._stamps if other != key), key=self._stamps.__getitem__)
                del self._stamps[oldest]
            self._write()

    def keep_only(self, keys: frozenset[str]) -> None:
        """Forget every timer but *keys*: those that definitions still have. Raises UnavailableError as ``set`` does."""
        with self._writing:
            left = {key: at_ms for key, at_ms in self._stamps.items() if key in keys}
            if left != self._stamps:
                self._stamps = left
                self._write()

    def _write(self) -> None:
        try:
            state_file.replace(self._directory, FILE, encode(_Stamps(stamps=self._stamps)))
        except OSError as error:
            raise UnavailableError(f"cannot keep timer stamps: {error.strerror}") from error

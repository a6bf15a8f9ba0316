"""When persistent timers last started their services, kept on the disk: so starts missed while the machine was off are known.

One small file, replaced as a whole. If it can't be read it counts as empty: then nothing was missed, and each timer
begins anew. Times are real-time milliseconds since 1970; the owner of a timer chooses its key.
"""

from typing import Annotated

from msgspec import Meta, field

from milkyway_agent.system import state_file
from milkyway_formats.codec import Document, MalformedError, decode, encode
from milkyway_formats.errors import UnavailableError

FILE = "timer-stamps"
FILE_BYTES = 4 * 1024 * 1024
KEY_LENGTH = 128  # for the names of a deployment and its service, and a number
MOST_OF_ONE = 1024
LAST_MS = 8_000_000_000_000  # in 2223, beyond every calendar
Key = Annotated[str, Meta(min_length=1, max_length=KEY_LENGTH)]
Stamp = Annotated[int, Meta(ge=0, le=LAST_MS)]


class _Stamps(Document, frozen=True):
    stamps: dict[Key, Stamp] = field(default_factory=dict)


class TimerStamps:
    """The stamps in one directory. ``note``: why they could not be read; "": they could, or there were none.

    A stamp is proposed before its timer starts the service and confirmed after that; then ``get`` returns it. Only ``write``
    waits for the disk: call it in a thread, one call at a time. If one owner (a deployment, whose name comes before a slash)
    has more than MOST_OF_ONE timers, only those that fired last are kept, so that no owner takes room from another.
    """

    def __init__(self, directory: state_file.Directory) -> None:
        self._directory = directory
        self._stamps: dict[str, int] = {}
        self._proposed: dict[str, int] = {}
        self._asked = self._written = 0  # versions: of what was asked to be written, and of what was written
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

    def propose(self, key: str, at_ms: int) -> int:
        """Propose that the timer *key* started its service at *at_ms*; return the version to pass to ``write``."""
        assert 0 < len(key) <= KEY_LENGTH, f"a file with such a key could not be read again: {key!r}"
        self._proposed[key] = min(max(at_ms, 0), LAST_MS)  # a clock can be set to anything
        self._asked += 1
        return self._asked

    def confirm(self, key: str) -> None:
        """Confirm what was proposed for *key*."""
        if key not in self._proposed:
            return
        self._stamps[key] = self._proposed.pop(key)
        owner = key.rpartition("/")[0]
        its = [other for other in self._stamps if other.rpartition("/")[0] == owner and other != key]
        if len(its) >= MOST_OF_ONE:
            del self._stamps[min(its, key=self._stamps.__getitem__)]

    def withdraw(self, key: str) -> None:
        """Withdraw what was proposed for *key*: nothing was started. The next ``write`` takes it off the disk."""
        self._proposed.pop(key, None)

    def keep_only(self, keys: frozenset[str]) -> None:
        """Forget all timers except *keys*, those that definitions still have. The next ``write`` takes them off the disk."""
        self._stamps = {key: at_ms for key, at_ms in self._stamps.items() if key in keys}

    def write(self, version: int) -> None:
        """Write *version*, with all that was proposed since; does nothing if it is on the disk already.

        Raises UnavailableError if it could not be written.
        """
        if self._written >= version:
            return
        reached, stamps = self._asked, {**self._stamps, **self._proposed}
        try:
            state_file.replace(self._directory, FILE, encode(_Stamps(stamps=stamps)))
        except OSError as error:
            raise UnavailableError(f"cannot keep timer stamps: {error.strerror}") from error
        self._written = reached

"""A disk whose power can fail at any moment: it knows what may be left then.

It implements ``state_file.Directory`` with the guarantees that Linux gives and no more: content is
durable after the write that waits for it (before that, any prefix of it or nothing may be there),
a rename or removal after the next ``sync`` (before that, it may or may not have happened).
"""

from collections.abc import Iterator
from itertools import islice


class PowerCutDisk:
    """``after_a_cut`` yields every disk that a cut during or after one of the deeds so far may leave."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = dict(files or {})
        self._durable = dict(self.files)
        self._pending: list[dict[str, bytes]] = []  # directory states that may be found, oldest first
        self._history: list[dict[str, bytes]] = [dict(self.files)]

    def read(self, name: str) -> bytes | None:
        return self.files.get(name)

    def write(self, name: str, data: bytes) -> None:
        for length in _torn_lengths(len(data)):
            torn = {name: data[:length]}
            self._history.extend({**found, **torn} for found in self._may_be_found())
        self.files[name] = data
        self._durable[name] = data
        self._pending = [{**found, name: data} for found in self._pending]
        self._note()

    def rename(self, old: str, new: str) -> None:
        self.files[new] = self.files.pop(old)
        self._pending.append(dict(self.files))
        self._note()

    def remove(self, name: str) -> None:
        if self.files.pop(name, None) is not None:
            self._pending.append(dict(self.files))
            self._note()

    def names(self) -> list[str]:
        return sorted(self.files)

    def sync(self) -> None:
        self._durable = dict(self.files)
        self._pending = []
        self._note()

    def after_a_cut(self, *, skip: int = 0) -> Iterator["PowerCutDisk"]:
        """Yield a fresh disk for each state a cut may leave, from the deed after the first *skip* noted states."""
        for files in islice(self._history, skip, None):
            yield PowerCutDisk(files)

    @property
    def noted(self) -> int:
        """How many states were noted so far: pass it to ``after_a_cut`` to look at later deeds only."""
        return len(self._history)

    def _may_be_found(self) -> list[dict[str, bytes]]:
        return [self._durable, *self._pending]

    def _note(self) -> None:
        self._history.extend(dict(found) for found in self._may_be_found())


def _torn_lengths(length: int) -> list[int]:
    """Return the lengths of a write that may be found: all of a short one; of a long one, its ends and eight in between."""
    if length <= 512:
        return list(range(length + 1))
    return sorted({0, 1, length - 1, length, *range(0, length, length // 8)})

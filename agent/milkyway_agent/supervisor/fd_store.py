"""Descriptors that a service leaves with us and gets back when it starts again (sd_pid_notify_with_fds(3), FDSTORE=1).

This is bookkeeping only: nothing is opened, closed or polled here. ``take`` returns which of the descriptors that came with
a message to close now, and which to watch for a hang-up; after one, ``hung_up`` returns what to close.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from typing import NamedTuple

DEFAULT_NAME = "stored"  # the name that sd_listen_fds_with_names(3) gives a descriptor without a name
NAME_LENGTH = 255


class Stored(NamedTuple):
    """One descriptor of ours, and the name that the service gave it. ``polled``: it is dropped when its other end hangs up."""

    name: str
    descriptor: int
    polled: bool = True


class Taken(NamedTuple):
    """What to do after a message: descriptors to close, those to watch, and why some were refused ("": none were)."""

    close: tuple[int, ...] = ()
    watch: tuple[int, ...] = ()
    refused: str = ""


class FdStore:
    """The stored descriptors of one service, oldest first; at most *limit*."""

    def __init__(self, limit: int, kept: Sequence[Stored] = ()) -> None:
        self._limit = limit
        self._stored = list(kept)

    @property
    def stored(self) -> tuple[Stored, ...]:
        """What is stored. A re-execution hands it over as *kept*."""
        return tuple(self._stored)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order in which the descriptors are handed over."""
        return tuple(entry.name for entry in self._stored)

    def take(self, fields: Mapping[str, str], descriptors: Sequence[int]) -> Taken:
        """Handle a message with *fields* and *descriptors*, which belong to us now.

        FDSTORE=1 stores them, as FDNAME= if that is a valid name; FDPOLL=0 keeps them after a hang-up. FDSTOREREMOVE=1 drops
        all with the name FDNAME. Descriptors that came for another purpose (with BARRIER=1, say) must be closed.
        """
        name = fields.get("FDNAME", "")
        if fields.get("FDSTOREREMOVE") == "1":
            gone = self._drop([entry for entry in self._stored if entry.name == name])
            return Taken(close=(*descriptors, *gone), refused="" if is_name(name) else "FDSTOREREMOVE=1 without a name")
        if fields.get("FDSTORE") != "1":
            return Taken(close=tuple(descriptors))
        polled = fields.get("FDPOLL") != "0"
        close: list[int] = []
        watch: list[int] = []
        refused = ""
        for descriptor in descriptors:
            if self._holds(descriptor):
                close.append(descriptor)  # a service may store what it was handed again: once is enough
            elif len(self._stored) >= self._limit:
                close.append(descriptor)
                refused = f"more than {self._limit} stored descriptors"
            else:
                self._stored.append(Stored(name if is_name(name) else DEFAULT_NAME, descriptor, polled))
                if polled:
                    watch.append(descriptor)
        return Taken(tuple(close), tuple(watch), refused)

    def hung_up(self, descriptor: int) -> tuple[int, ...]:
        """Forget *descriptor*, whose other end has hung up (POLLHUP or POLLERR); return what to close."""
        return self._drop([entry for entry in self._stored if entry.descriptor == descriptor and entry.polled])

    def clear(self) -> tuple[int, ...]:
        """Forget everything; return what to close."""
        return self._drop(list(self._stored))

    def _drop(self, entries: list[Stored]) -> tuple[int, ...]:
        self._stored = [entry for entry in self._stored if entry not in entries]
        return tuple(entry.descriptor for entry in entries)

    def _holds(self, descriptor: int) -> bool:
        """Tell whether the same socket is stored already. For other files this is unknown: they share inodes."""
        found = os.fstat(descriptor)
        if not stat.S_ISSOCK(found.st_mode):
            return False
        known = (os.fstat(entry.descriptor) for entry in self._stored)
        return any((found.st_dev, found.st_ino) == (other.st_dev, other.st_ino) for other in known)


def is_name(name: str) -> bool:
    """Tell whether *name* may be in LISTEN_FDNAMES: printable ASCII without the colon that separates them."""
    return 0 < len(name) <= NAME_LENGTH and all(" " <= letter <= "~" and letter != ":" for letter in name)

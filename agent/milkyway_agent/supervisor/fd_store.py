"""Descriptors that a service leaves with us and gets back when it starts again (sd_pid_notify_with_fds(3), FDSTORE=1).

Bookkeeping alone: nothing is opened, closed or polled here. ``take`` says which of the descriptors that came with a message
are now to be closed and which to be watched for a hang-up; after one, ``hung_up`` says what is to be closed.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from typing import NamedTuple

DEFAULT_NAME = "stored"  # what sd_listen_fds_with_names(3) calls one that was given no name
NAME_LENGTH = 255


class Stored(NamedTuple):
    """One descriptor of ours, and the name that the service gave it. ``polled``: it is dropped when its other end hangs up."""

    name: str
    descriptor: int
    polled: bool = True


class Taken(NamedTuple):
    """What is to be done after a message: descriptors to close, those to watch, and why some were refused (or "")."""

    close: tuple[int, ...] = ()
    watch: tuple[int, ...] = ()
    refused: str = ""


class FdStore:
    """The stored descriptors of one service, oldest first: at most *limit*, and none when that is 0."""

    def __init__(self, limit: int, kept: Sequence[Stored] = ()) -> None:
        self._limit = limit
        self._stored = list(kept)

    @property
    def stored(self) -> tuple[Stored, ...]:
        """What is stored: also what a re-execution has to keep, and gives back as *kept*."""
        return tuple(self._stored)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order in which the descriptors are handed over."""
        return tuple(entry.name for entry in self._stored)

    def take(self, words: Mapping[str, str], descriptors: Sequence[int]) -> Taken:
        """Take a message's *words* and *descriptors*, which are ours by now.

        FDSTORE=1 stores them, as FDNAME= if that is a name; FDPOLL=0 keeps them after a hang-up. FDSTOREREMOVE=1 gives up
        all that are called FDNAME. Descriptors that came for anything else (as BARRIER=1 brings one) are to be closed.
        """
        name = words.get("FDNAME", "")
        if words.get("FDSTOREREMOVE") == "1":
            gone = self._drop([entry for entry in self._stored if entry.name == name])
            return Taken(close=(*descriptors, *gone), refused="" if is_name(name) else "FDSTOREREMOVE=1 without a name")
        if words.get("FDSTORE") != "1":
            return Taken(close=tuple(descriptors))
        polled = words.get("FDPOLL") != "0"
        close: list[int] = []
        watch: list[int] = []
        refused = ""
        for descriptor in descriptors:
            if self._holds(descriptor):
                close.append(descriptor)  # as it comes from a service that stores what it was handed: once is enough
            elif len(self._stored) >= self._limit:
                close.append(descriptor)
                refused = f"more than {self._limit} stored descriptors"
            else:
                self._stored.append(Stored(name if is_name(name) else DEFAULT_NAME, descriptor, polled))
                if polled:
                    watch.append(descriptor)
        return Taken(tuple(close), tuple(watch), refused)

    def hung_up(self, descriptor: int) -> tuple[int, ...]:
        """Forget *descriptor*, whose other end has hung up (POLLHUP or POLLERR); return what is to be closed."""
        return self._drop([entry for entry in self._stored if entry.descriptor == descriptor and entry.polled])

    def clear(self) -> tuple[int, ...]:
        """Forget everything, because the service is gone for good; return what is to be closed."""
        return self._drop(list(self._stored))

    def _drop(self, entries: list[Stored]) -> tuple[int, ...]:
        self._stored = [entry for entry in self._stored if entry not in entries]
        return tuple(entry.descriptor for entry in entries)

    def _holds(self, descriptor: int) -> bool:
        """Return whether the same socket is stored already. Of other files it can't be told: their inodes are shared."""
        found = os.fstat(descriptor)
        if not stat.S_ISSOCK(found.st_mode):
            return False
        known = (os.fstat(entry.descriptor) for entry in self._stored)
        return any((found.st_dev, found.st_ino) == (other.st_dev, other.st_ino) for other in known)


def is_name(name: str) -> bool:
    """Return whether *name* may be in LISTEN_FDNAMES: printable ASCII without the colon that separates them."""
    return 0 < len(name) <= NAME_LENGTH and all(" " <= letter <= "~" and letter != ":" for letter in name)

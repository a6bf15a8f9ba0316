"""What the bench knows of a supervisor: how to describe services to it, and how to execute it.

That every peer is started, looked at and ended in the same way is ``container``'s; what a peer does by default and
not because it can't do better is said here, in ``notes``, and printed beside its figures.
"""

from pathlib import Path
from typing import NamedTuple, Protocol

HOST = Path("/")


class PeerMissingError(Exception):
    """This peer can't be measured here; the text says why."""


class Place(NamedTuple):
    """A peer's own directory, empty: where the bench writes to it, and where the peer finds it.

    It holds ``trivial`` (the service) and ``slots`` (the file where services note when they began).
    """

    outside: Path
    inside: Path

    def service(self, index: int) -> list[str]:
        """Return the command of service *index*, as the peer shall execute it."""
        return [str(self.inside / "trivial"), str(self.inside / "slots"), str(index)]


class Peer(Protocol):
    """One supervisor. ``tree``: the root it runs in (HOST: the machine's own)."""

    @property
    def name(self) -> str:
        """What it's called in tables; a word."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is its default and not its limit, and what it does that others don't: a sentence each."""

    @property
    def tree(self) -> Path:
        """The root directory that it runs in."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables that it needs beyond those that every peer gets."""

    def version(self) -> str:
        """Return its version. Raises PeerMissingError where it is not there."""

    def prepare(self, place: Place, services: int) -> list[str]:
        """Describe *services* trivial services in *place* and return the command that supervises them."""

    def reexecute(self, place: Place) -> list[str] | None:
        """Return the command that has it execute itself anew, run inside its container; None: it can't."""


def service_name(index: int) -> str:
    """Return the name of service *index* with every peer."""
    return f"s{index:04}"

"""What the bench knows about a supervisor: how to describe services to it, and how to execute it.

``container`` starts, observes and ends every peer in the same way. A peer's ``notes``, printed beside its figures, say
what it does by default and not because it can't do better.
"""

from pathlib import Path
from typing import NamedTuple, Protocol

HOST = Path("/")


class PeerMissingError(Exception):
    """This peer can't be measured here; the message says why."""


class Place(NamedTuple):
    """A peer's own directory: its path for the bench, and its path for the peer.

    It holds ``trivial`` (the service) and ``slots`` (the file where services note when they began).
    """

    outside: Path
    inside: Path

    def service(self, index: int) -> list[str]:
        """Return the command of service *index*, for the peer to execute."""
        return [str(self.inside / "trivial"), str(self.inside / "slots"), str(index)]


class Peer(Protocol):
    """One supervisor. ``tree``: the root it runs in (HOST: the machine's own)."""

    @property
    def name(self) -> str:
        """Its name in tables; a word."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is its default and not its limit, and what it does that others don't; a sentence each."""

    @property
    def tree(self) -> Path:
        """The root directory that it runs in."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables that it needs beyond those that every peer gets."""

    def version(self) -> str:
        """Return its version. Raises PeerMissingError if it is not installed."""

    def prepare(self, place: Place, services: int) -> list[str]:
        """Describe *services* trivial services in *place* and return the command that supervises them."""

    def reexecute(self, place: Place) -> list[str] | None:
        """Return the command, run inside its container, that makes it re-execute itself; None if it can't."""


def service_name(index: int) -> str:
    """Return the name of service *index*, the same for every peer."""
    return f"s{index:04}"

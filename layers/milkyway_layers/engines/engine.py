"""Engines: a distribution's own package manager, behind one interface, one module per family.

An engine installs packages into a temporary root and returns it together with what the
package manager knows about it. ``compose`` decides what goes into a layer.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from milkyway_formats.manifest import Package
from milkyway_layers.tree import Entry, Source


class ExtraRepository(NamedTuple):
    """A repository beside the OS base's own; *key* is its signing key as armoured text."""

    uri: str
    suite: str
    components: tuple[str, ...]
    key: str


class Request(NamedTuple):
    """What to install: *packages* and their dependencies, on top of the *suite*'s essential packages."""

    suite: str
    packages: tuple[str, ...]
    repositories: tuple[ExtraRepository, ...] = ()


class Installed(NamedTuple):
    """A package in the root. ``needs``: its dependencies, each a choice of alternative names."""

    package: Package
    needs: tuple[tuple[str, ...], ...] = ()
    provides: frozenset[str] = frozenset()


class Root(NamedTuple):
    """A root with packages installed.

    ``owners``: the packages that each path belongs to; ``before``: the paths that existed
    before the requested packages were installed, with their identity.
    """

    tree: Mapping[str, Entry]
    sources: Mapping[str, Source]
    times: Mapping[str, int]
    packages: Mapping[str, Installed]
    owners: Mapping[str, frozenset[str]]
    before: Mapping[str, str]


class Engine(Protocol):
    """Drives one family's package manager."""

    def key(self, request: Request) -> str:
        """Return a hash of everything that decides what ``install`` makes, except the state of the archive."""
        ...

    def install(self, request: Request, into: Path, packages: Path) -> None:
        """Make the root for *request* in the empty folder *into*; keep downloads in the folder *packages*."""
        ...

    def read(self, made: Path) -> Root:
        """Return the root that ``install`` made in *made*."""
        ...

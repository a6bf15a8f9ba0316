"""The OS bases: the distributions that layers are made from. An app's spec names one of them.

An OS base names a release, the engine that drives its package manager, the packages
of its own OS base layer (for ``sealed``), and the packages whose files CoreOS guarantees
(for ``coreos``), by interface version. A published interface never changes: a layer
built for it leaves these packages out and relies on every later CoreOS to bring them.
"""

from typing import NamedTuple

from milkyway_formats.errors import RefusedError


class UnknownOsBaseError(RefusedError):
    """No such OS base, or no such interface of CoreOS."""


class OsBase(NamedTuple):
    """A release of a distribution. ``version_package`` is the package whose version the OS base layer takes."""

    name: str
    engine: str
    suite: str
    layer_path: str
    version_package: str
    packages: tuple[str, ...]
    interfaces: dict[int, frozenset[str]]
    deprecated: str = ""


_TRIXIE = OsBase(
    name="debian/trixie",
    engine="apt",
    suite="trixie",
    layer_path="debian/trixie",
    version_package="base-files",
    # libc, a shell and the utilities that start scripts use; no apt, no dpkg, no perl.
    packages=(
        "base-files", "base-passwd", "coreutils", "dash", "findutils", "grep", "hostname", "libc-bin", "libc6",
        "libgcc-s1", "sed",
    ),
    interfaces={
        1: frozenset({
            "base-files", "base-passwd", "bash", "coreutils", "dash", "findutils", "gcc-14-base", "grep", "hostname",
            "libc-bin", "libc6", "libgcc-s1", "sed",
        }),
    },
)  # fmt: skip

OS_BASES = {base.name: base for base in (_TRIXIE,)}


def os_base(name: str) -> OsBase:
    """Return the OS base *name*. Raises UnknownOsBaseError."""
    if name not in OS_BASES:
        raise UnknownOsBaseError(
            f"cannot use OS base {name}: there is none of that name; there are {', '.join(sorted(OS_BASES))}"
        )
    return OS_BASES[name]


def interface(base: OsBase, version: int) -> frozenset[str]:
    """Return the packages whose files CoreOS guarantees in *version* of its interface. Raises UnknownOsBaseError."""
    if version not in base.interfaces:
        known = ", ".join(map(str, sorted(base.interfaces)))
        raise UnknownOsBaseError(f"cannot build for CoreOS interface {version}: {base.name} knows {known}")
    return base.interfaces[version]

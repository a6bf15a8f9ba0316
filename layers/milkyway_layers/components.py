"""OS components: optional parts that a spec asks for by their purpose.

Which packages a component means depends on the host (``HostSettings``), so the same
spec gives each host what it needs. Pure: a table and a function.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from milkyway_formats.errors import RefusedError


class UnknownComponentError(RefusedError):
    """No such component for this OS base."""


class HostSettings(NamedTuple):
    """The settings of a host that decide which packages it needs."""

    locale: str = "C.UTF-8"
    gpu: Literal["none", "mesa"] = "none"


_Packages = Callable[[HostSettings], tuple[str, ...]]

_COMPONENTS: dict[str, dict[str, _Packages]] = {
    "debian/trixie": {
        "fonts": lambda _: ("fonts-dejavu-core",),
        "gl": lambda host: ("libgl1", "libegl1", "libgl1-mesa-dri") if host.gpu == "mesa" else (),
        "locale": lambda host: () if host.locale in ("C", "C.UTF-8") else ("locales-all",),
        "time-zones": lambda _: ("tzdata",),
        "tls-roots": lambda _: ("ca-certificates",),
    }
}


def packages_of(component: str, os_name: str, host: HostSettings) -> tuple[str, ...]:
    """Return the packages that *component* means on *os_name* for *host*. Raises UnknownComponentError."""
    known = _COMPONENTS.get(os_name, {})
    if component not in known:
        raise UnknownComponentError(
            f"cannot use component {component}: {os_name} has {', '.join(sorted(known)) or 'no components'}"
        )
    return known[component](host)

"""The declarations that instances of overlays share: the blocks of their deployments, the types of data sources.

``shared`` must be compiled with the instances. Its caller knows all of them; their CIL is not read.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from milkyway_formats.deployment import DataBinding
from milkyway_formats.errors import RefusedError


class Placed(NamedTuple):
    """What must be known of an instance outside of it. ``domains``: full type names; ``data``: what it is bound to."""

    identifier: str
    generation: int
    domains: tuple[str, ...]
    data: tuple[DataBinding, ...] = ()


def data_type(source: str) -> str:
    """Return the type of a data source's files."""
    return f"data_{source}"


def shared(placed: Iterable[Placed]) -> bytes:
    """Return the CIL that all instances need once.

    Files of a data source can be opened by the domains of the deployments that are bound to it, and by nobody else: not
    by PID 1, not by the launcher. Raises RefusedError when two deployments are bound to one secure data source.
    """
    instances = sorted(placed, key=lambda instance: (instance.identifier, instance.generation))
    lines = [f"(block {identifier})" for identifier in sorted({instance.identifier for instance in instances})]
    users_by_source: dict[str, list[tuple[DataBinding, Placed]]] = {}
    for instance in instances:
        for binding in instance.data:
            users_by_source.setdefault(binding.source, []).append((binding, instance))
    for source, users in sorted(users_by_source.items()):
        lines += _data_source(source, users)
    return "".join(f"{line}\n" for line in lines).encode()


def _data_source(source: str, users: Sequence[tuple[DataBinding, Placed]]) -> list[str]:
    name = data_type(source)
    deployments = sorted({instance.identifier for _, instance in users})
    if len(deployments) > 1 and any(binding.data_class == "secure" for binding, _ in users):
        raise RefusedError(f"cannot share secure data {source}: deployments {', '.join(deployments)} are bound to it")
    owners = sorted({domain for _, instance in users for domain in instance.domains})
    return [
        f"(type {name})",
        f"(typeattributeset layer_data_a {name})",
        f"(typeattribute but_{name}_a)",
        f"(typeattributeset but_{name}_a (not ({' '.join(owners)})))",
        f"(neverallow but_{name}_a {name} (file (open read write append map execute link rename)))",
    ]

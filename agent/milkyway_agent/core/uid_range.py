"""The user ids of a deployment: 65536 of its own, derived from its id alone, so that nothing need be stored."""

from collections.abc import Iterable
from zlib import crc32

from milkyway_formats.errors import RefusedError

RANGE = 65536
# Range 0 is CoreOS's own; the last range holds the ids that mean "nobody" to the kernel.
_RANGES = (1 << 16) - 2


def first_uid(identifier: str) -> int:
    """Return the first of the user ids of the deployment with this *identifier* (the group ids are the same)."""
    return (1 + crc32(identifier.encode()) % _RANGES) * RANGE


def check_apart(identifiers: Iterable[str]) -> None:
    """Raise RefusedError when two of *identifiers* would have the same user ids."""
    owners: dict[int, str] = {}
    for identifier in identifiers:
        other = owners.setdefault(first_uid(identifier), identifier)
        if other != identifier:
            raise RefusedError(
                f"cannot deploy {identifier}: its user ids are those of {other}",
                hint="deploy it again: its next id has others",
            )

"""The head of a compiled SELinux policy: what applies to all of it and comes before any rule.

No neverallow rule prevents a domain from being made permissive. So before a policy with layers' overlays in it is
loaded, its head is compared with that of CoreOS' own policy: no domain is permissive, and version, the handling of
unknown permissions and the policy's capabilities are the base's. The rules, users, roles and object contexts that
follow are not looked at; ``overlay`` limits what can get into those.
"""

import struct
from typing import NamedTuple

from milkyway_formats.errors import RefusedError

# libsepol/include/sepol/policydb/policydb.h: POLICYDB_MAGIC, POLICYDB_STRING
_MAGIC = 0xF97CFF8C
_NAME = b"SE Linux"
_MAX_RANGES = 4096


class PolicyRefusedError(RefusedError):
    """The bytes are not a compiled policy, or it differs from the base where the two must be equal."""


class Head(NamedTuple):
    """``flags``: MLS, and how unknown permissions are handled; the last two are sets of numbers as bit ranges."""

    version: int
    flags: int
    capabilities: tuple[tuple[int, int], ...]
    permissive: tuple[tuple[int, int], ...]


def read_head(policy: bytes) -> Head:
    """Return the head of a compiled policy of version 23 or later. Raises PolicyRefusedError."""
    try:
        magic, length = struct.unpack_from("<II", policy)
        if magic != _MAGIC or policy[8 : 8 + length] != _NAME:
            raise PolicyRefusedError("cannot read compiled policy: it does not begin like one")
        version, flags, _, _ = struct.unpack_from("<IIII", policy, 8 + length)
        capabilities, end = _bitmap(policy, 24 + length)
        permissive, _ = _bitmap(policy, end)
    except struct.error:
        raise PolicyRefusedError("cannot read compiled policy: it ends in its head") from None
    return Head(version, flags, capabilities, permissive)


def check_foundation(policy: bytes, base: bytes) -> None:
    """Raise PolicyRefusedError unless *policy* has the head of *base* and no domain in it is permissive."""
    found, expected = read_head(policy), read_head(base)
    if found.permissive:
        raise PolicyRefusedError("cannot load policy: it makes a domain permissive")
    for name, ours, theirs in zip(Head._fields, expected, found, strict=True):
        if ours != theirs:
            raise PolicyRefusedError(f"cannot load policy: its {name} differ from CoreOS' own policy")


def _bitmap(policy: bytes, offset: int) -> tuple[tuple[tuple[int, int], ...], int]:
    """Return the nonempty ranges (first bit, bits) of an ebitmap and where it ends."""
    _, _, count = struct.unpack_from("<III", policy, offset)
    if count > _MAX_RANGES:
        raise PolicyRefusedError(f"cannot read compiled policy: {count} ranges in a set of its head")
    ranges = tuple(struct.unpack_from("<IQ", policy, offset + 12 + 12 * number) for number in range(count))
    return tuple((first, bits) for first, bits in ranges if bits), offset + 12 + 12 * count

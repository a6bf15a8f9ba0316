"""Accounts: the user and groups that a service runs as, and dynamic users, which exist only as long as their service runs.

Names are looked up here and never in the launcher, so that a definition with an unknown account is refused as a whole.
Which services may run as which users is decided elsewhere; files of dynamic users are left where they are.
"""

import grp
import os
import pwd
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from milkyway_formats.errors import RefusedError, UnavailableError

# systemd's range, which other software leaves alone (https://systemd.io/UIDS-GIDS)
DYNAMIC = range(61184, 65520)
_HIGHEST = (1 << 32) - 2  # -1 means "leave it as it is" to setresuid(2)


class Account(NamedTuple):
    """The user and groups that a process runs as; the main group comes first."""

    user: int
    groups: tuple[int, ...]
    name: str = ""


class UnknownAccountError(RefusedError):
    """There is no such account on this machine."""

    check = "account"


def resolve(account: str) -> Account:
    """Return the account *account*, a name or a number. A number without a name is alone in a group of the same number.

    Raises UnknownAccountError.
    """
    if account.isascii() and account.isdecimal():
        number = int(account)
        if number > _HIGHEST:
            raise UnknownAccountError(f"cannot run as {account}: there are no user ids above {_HIGHEST}")
        try:
            entry = pwd.getpwuid(number)
        except KeyError:
            return Account(number, (number,))
    else:
        try:
            entry = pwd.getpwnam(account)
        except (KeyError, ValueError):  # ValueError: it holds a NUL
            raise UnknownAccountError(f"cannot run as {account!r}: there is no account of that name") from None
    others = [group for group in os.getgrouplist(entry.pw_name, entry.pw_gid) if group != entry.pw_gid]
    return Account(entry.pw_uid, (entry.pw_gid, *others), entry.pw_name)


class DynamicUsers:
    """Users of services, by the service's name, each with a group of its own of the same number.

    A service gets the same user each time, as long as that is free: so files that it left behind seldom become another's.
    """

    def __init__(self, held: Mapping[str, int] | None = None) -> None:
        """*held*: users that an earlier supervisor held."""
        self._held = dict(held or {})

    @property
    def held(self) -> Mapping[str, int]:
        """The users that are held now, for the next supervisor."""
        return dict(self._held)

    def hold(self, service: str, busy: Collection[int]) -> Account:
        """Return the user of *service*, which it keeps until ``release``. Idempotent. *busy*: ids that are not free.

        Raises UnavailableError if all are taken.
        """
        if service not in self._held:
            taken = {*busy, *self._held.values()}
            first = crc32(service.encode())
            choices = (DYNAMIC[(first + step) % len(DYNAMIC)] for step in range(len(DYNAMIC)))
            free = next((user for user in choices if user not in taken), None)
            if free is None:
                raise UnavailableError(f"cannot give {service} a user: all of {DYNAMIC[0]} to {DYNAMIC[-1]} are taken")
            self._held[service] = free
        user = self._held[service]
        return Account(user, (user,))

    def release(self, service: str) -> None:
        """Undo ``hold``, when none of the service's processes is left. Idempotent."""
        self._held.pop(service, None)


def busy_users() -> set[int]:
    """Return the ids of the dynamic range that a process, an account or a group on this machine has.

    It looks at every process: call it once for all services that are started together.
    """
    named = {entry.pw_uid for entry in pwd.getpwall()} | {group.gr_gid for group in grp.getgrall()}
    return {number for number in named | _users_of_processes() if number in DYNAMIC}


def _users_of_processes() -> set[int]:
    users: set[int] = set()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                text = Path("/proc", name, "status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we read
            users |= {int(word) for line in text.splitlines() if line.startswith(("Uid:", "Gid:")) for word in line.split()[1:]}
    return users

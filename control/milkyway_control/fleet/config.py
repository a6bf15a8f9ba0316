"""What the operator's tool keeps on the operator's own machine: where the server is, the roots it trusts, secrets of tokens.

fleet.json               the server, the fleet, key files to sign with unless others are given
client.pem ca.pem        the operator's certificate and the server's authority
vendor-root.json owner-root.json
                         the two roots: they alone decide what the tool believes, whatever the server says
tokens/<id>              a token's secret, and the name and groups of its machine until that is enrolled
seen/<machine>           the newest desired version that was verified here, so that a server can't show an older one
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, field

from milkyway_formats.codec import Document, decode, encode
from milkyway_formats.enrolment import Label, TokenId
from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.names import FleetId, MachineId, Port, ShortText, Text
from milkyway_formats.trust import Trust

CLIENT, CA, VENDOR_ROOT, OWNER_ROOT = "client.pem", "ca.pem", "vendor-root.json", "owner-root.json"


class ConfigRefusedError(RefusedError):
    """The configuration directory is not what it should be."""


class ConfigUnavailableError(UnavailableError):
    """A file of the configuration can't be read or written now."""


class FleetSettings(Document, frozen=True):
    """``fleet.json``. ``keys`` are paths of the key files that sign unless --key names others."""

    format: Literal["milkyway.fleet-settings/1"]
    fleet: FleetId
    host: ShortText
    port: Port
    keys: Annotated[list[Text], Meta(max_length=8)] = field(default_factory=list)


class KeptToken(Document, frozen=True):
    """A token whose machine is not enrolled yet."""

    format: Literal["milkyway.kept-token/1"]
    secret: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    name: Label
    groups: list[Label] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<KeptToken {self.name}>"


class Seen(Document, frozen=True):
    """The newest desired version of a machine that this tool has verified or signed."""

    version: int


@dataclass(frozen=True)
class FleetConfig:
    """An operator's configuration directory."""

    directory: Path
    settings: FleetSettings

    @property
    def client(self) -> Path:
        """The operator's key and certificate."""
        return self.directory / CLIENT

    @property
    def ca(self) -> Path:
        """The authority of the server's operator port."""
        return self.directory / CA

    @cached_property
    def trust(self) -> Trust:
        """Both roots."""
        trust = Trust.from_envelopes(vendor=_read(self.directory / VENDOR_ROOT), owner=_read(self.directory / OWNER_ROOT))
        if trust.fleet != self.settings.fleet:
            raise ConfigRefusedError(
                f"cannot use {self.directory}: its owner root is of fleet {trust.fleet}, its server of {self.settings.fleet}"
            )
        return trust

    def keep_token(self, token: TokenId, kept: KeptToken) -> None:
        """Keep a token's secret."""
        _write(self.directory / "tokens" / token, encode(kept))

    def token(self, token: TokenId) -> KeptToken | None:
        """Return the kept *token*, or None when it was not made here."""
        path = self.directory / "tokens" / token
        return decode(_read(path), KeptToken, what=str(path)) if path.exists() else None

    def forget_token(self, token: TokenId) -> None:
        """Undo ``keep_token``."""
        (self.directory / "tokens" / token).unlink(missing_ok=True)

    def seen(self, machine: MachineId) -> int:
        """Return the newest desired version seen of *machine*; 0 for none."""
        path = self.directory / "seen" / machine
        return decode(_read(path), Seen, what=str(path)).version if path.exists() else 0

    def note_seen(self, machine: MachineId, version: int) -> None:
        """Remember *version* if it is newer than the remembered one."""
        if version > self.seen(machine):
            _write(self.directory / "seen" / machine, encode(Seen(version=version)))


def create(directory: Path, settings: FleetSettings, *, client: Path, ca: Path, vendor: Path, owner: Path) -> FleetConfig:
    """Make a configuration with copies of these files. ``fleet.json`` is written last: without it there is none."""
    target = directory / "fleet.json"
    if target.exists():
        raise ConfigRefusedError(f"cannot connect {directory}: it has a configuration already", hint="choose another directory")
    for name, source in ((CLIENT, client), (CA, ca), (VENDOR_ROOT, vendor), (OWNER_ROOT, owner)):
        _write(directory / name, _read(source))
    config = FleetConfig(directory, settings)
    _ = config.trust
    _write(target, encode(settings))
    return config


def read(directory: Path) -> FleetConfig:
    """Return the configuration in *directory*."""
    path = directory / "fleet.json"
    if not path.exists():
        raise ConfigRefusedError(
            f"cannot use {directory}: it has no configuration", hint="make one: milkyway fleet --config DIR connect …"
        )
    return FleetConfig(directory, decode(_read(path), FleetSettings, what=str(path)))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigUnavailableError(f"cannot read {path}: {error.strerror}") from error


def _write(path: Path, data: bytes) -> None:
    """Put *data* at *path*, atomically, readable only by its owner."""
    staged = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        staged.unlink(missing_ok=True)
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor, not a path)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        staged.replace(path)
    except OSError as error:
        raise ConfigUnavailableError(f"cannot write {path}: {error.strerror}") from error

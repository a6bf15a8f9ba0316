"""Where a passphrase comes from: a file given as an option, one that the environment names, or the person at the terminal.

Never an argument: every process of the machine can see those.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import click

from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_signing.key_file import FileSigner

VARIABLE = "MILKYWAY_PASSPHRASE_FILE"
MAX_PASSPHRASE_BYTES = 4096


class PassphraseRefusedError(RefusedError):
    """The file does not hold a passphrase."""


class PassphraseUnavailableError(UnavailableError):
    """No file holds the passphrase, and there is nobody to ask."""


def read_passphrase(file: Path | None, environment: Mapping[str, str], *, key: str, is_new: bool = False) -> str:
    """Return the passphrase of *key*: the first line of *file*, else of the environment's file, else what is typed.

    A new key's passphrase is asked for twice.
    """
    if file is None and environment.get(VARIABLE):
        file = Path(environment[VARIABLE])
    if file is not None:
        return _first_line(file)
    if not sys.stdin.isatty():
        raise PassphraseUnavailableError(
            f"cannot open key {key}: no passphrase, and no terminal to ask on", hint=f"--passphrase-file FILE or {VARIABLE}"
        )
    return str(click.prompt(f"Passphrase of {key}", hide_input=True, confirmation_prompt=is_new, err=True))


def load_signers(paths: list[Path], passphrase_file: Path | None, environment: Mapping[str, str]) -> list[FileSigner]:
    """Return the signers in the key files *paths*, each with its passphrase."""
    return [FileSigner.load(path, read_passphrase(passphrase_file, environment, key=path.name)) for path in paths]


def _first_line(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_PASSPHRASE_BYTES + 1)
    except OSError as error:
        raise PassphraseUnavailableError(f"cannot read passphrase file {file}: {error.strerror}") from error
    if len(data) > MAX_PASSPHRASE_BYTES:
        raise PassphraseRefusedError(f"cannot use passphrase file {file}: more than {MAX_PASSPHRASE_BYTES} bytes")
    try:
        line = data.decode().split("\n", 1)[0].removesuffix("\r")
    except UnicodeDecodeError as error:
        raise PassphraseRefusedError(f"cannot use passphrase file {file}: it is not UTF-8 text") from error
    if not line:
        raise PassphraseRefusedError(f"cannot use passphrase file {file}: its first line is empty")
    return line

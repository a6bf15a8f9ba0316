"""``milkyway fleet secure-config``: the contents of a new machine's secure-config partition.

These are the owner's root, which the machine pins at its first boot, and its configuration, signed by the owner:
where the control server is, which authority its certificate must come from, and the token.
"""

import os
from pathlib import Path

import click

from milkyway_control.command_line import LABEL_NAME, Name
from milkyway_control.fleet import config as fleet_config
from milkyway_control.fleet.orders import keys_option, passphrase_option
from milkyway_formats.codec import encode
from milkyway_formats.enrolment import MACHINE_TYPE, Label, MachineConfiguration
from milkyway_formats.errors import RefusedError
from milkyway_signing.passphrase import load_signers
from milkyway_signing.signer import sign_envelope

EXISTING = click.Path(dir_okay=False, exists=True, path_type=Path)
LABEL = Name(Label, LABEL_NAME)


@click.command("secure-config")
@click.argument("machine", type=LABEL)
@click.option("--server", required=True, metavar="HOST:PORT", help="The server's agent port, as the machine reaches it.")
@click.option("--ca", type=EXISTING, required=True, help="The authority of the server's agent port (DIRECTORY/ca/ca.pem).")
@click.option("--token", default="", help="The token that `milkyway fleet token` printed.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The directory to fill.")
@keys_option
@passphrase_option
@click.pass_obj
def secure_config(
    directory: Path,
    machine: str,
    server: str,
    ca: Path,
    token: str,
    out: Path,
    key_files: tuple[Path, ...],
    passphrase_file: Path | None,
) -> None:
    """Write the files for MACHINE's secure-config partition, signed with the keys of the owner's root.

    Example: milkyway fleet secure-config web-1 --server control:7443 --ca ca.pem --token ID.SECRET
    --key owner-root.key --out web-1
    """
    config = fleet_config.read(directory)
    host, _, port = server.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise RefusedError(f"cannot write the configuration of {machine}: {server} is not HOST:PORT")
    configuration = MachineConfiguration(
        format="milkyway.machine/1",
        fleet=config.settings.fleet,
        hostname=machine,
        control_host=host,
        control_port=int(port),
        ca=ca.read_text(),
        token=token,
    )
    envelope = sign_envelope(MACHINE_TYPE, encode(configuration), load_signers(list(key_files), passphrase_file, os.environ))
    config.trust.verify_machine(envelope)  # better to find out here than on the machine
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    (out / "owner-root.json").write_bytes((config.directory / fleet_config.OWNER_ROOT).read_bytes())
    (out / "machine.json").write_bytes(envelope)
    click.echo(f"{out}: owner-root.json and machine.json of {machine}")

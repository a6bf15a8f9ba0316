"""A control server on loopback, an operator, and a machine whose uplink is the real process and whose verifier is a fake.

The server, TLS, certificates, signatures and the channel are the production ones. ``Machine`` plays the
verifier as the uplink sees it: it holds the keys, and keeps what it receives without judging it.
"""

import hashlib
import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import structlog
import trio
from click.testing import CliRunner, Result

from milkyway_agent.ipc.channel import Channel, ChannelClosedError, close_all, socket_pair
from milkyway_agent.ipc.messages import (
    Connect,
    Enrolled,
    Envelope,
    Fetch,
    Fetched,
    FromUplink,
    Handled,
    LinkState,
    Post,
    ToUplink,
)
from milkyway_agent.verifier.enrolment import Enrolment, check_reply, make_request
from milkyway_agent.verifier.machine_keys import (
    MachineSecrets,
    connection_key_pem,
    generate,
    identity_key,
    machine_id,
)
from milkyway_control.fleet import config as fleet_config
from milkyway_control.fleet.cli import fleet
from milkyway_control.fleet.client import FleetClient
from milkyway_control.fleet.config import FleetConfig, FleetSettings
from milkyway_control.server import server, site
from milkyway_control.server.server import Conduct, Ports
from milkyway_control.server.site import Site
from milkyway_formats.codec import encode
from milkyway_formats.enrolment import MachineConfiguration
from milkyway_formats.envelope import write_envelope
from milkyway_formats.report import REPORT_TYPE, Report, Status
from milkyway_signing.key_file import FileSigner, write_key_file
from tests.fakes.people import ALICE, BOB, CAROL, FLEET, MALLORY, NOW, TRUST
from tests.fakes.verifier_site import OWNER_ROOT, VENDOR_ROOT

HOST = "127.0.0.1"
PASSPHRASE = "open, sesame"
STATUS = Status(
    slot=None,
    root_hash="a" * 64,
    selinux="enforcing",
    development=True,
    version="0.1.0",
    boot_id="boot",
    booted=NOW,
    uptime_ms=1000,
    desired_version=1,
)


@dataclass
class Events:
    """The names of the events that the server logged, in order."""

    names: list[str] = field(default_factory=list)
    news: trio.Event = field(default_factory=trio.Event)

    def note(self, _logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Record *event*, as a structlog processor. The server logs only from trio's own thread."""
        self.names.append(str(event["event"]))
        self.news.set()
        self.news = trio.Event()
        return event

    async def until(self, name: str) -> None:
        """Wait until the event *name* has been logged."""
        with trio.fail_after(15):
            while name not in self.names:
                await self.news.wait()


@dataclass
class Bench:
    """The control server with its first operator's configuration."""

    site: Site
    ports: Ports
    config: FleetConfig
    events: "Events"
    keys: dict[str, Path]
    passphrase: Path
    stop: trio.CancelScope

    async def fleet(self, *arguments: str, code: int = 0) -> Result:
        """Run ``milkyway fleet`` with these *arguments* in a thread; it must end with *code*."""
        result = await trio.to_thread.run_sync(
            partial(
                CliRunner().invoke,
                fleet,
                ["--config", str(self.config.directory), *arguments],
                env={"MILKYWAY_PASSPHRASE_FILE": str(self.passphrase)},
            )
        )
        assert result.exit_code == code, (result.output, result.exception)
        return result

    def client(self) -> FleetClient:
        """Return a client of the operator."""
        return FleetClient(self.config)

    def key(self, person: str) -> list[str]:
        """Return the arguments that sign with *person*'s key."""
        return ["--key", str(self.keys[person])]


@asynccontextmanager
async def control_bench(directory: Path, conduct: Conduct | None = None) -> AsyncGenerator[Bench, None]:
    """Yield a running control server with an operator's configuration."""
    made = site.create(directory / "control", FLEET, [HOST], datetime.now(UTC))
    events = Events()
    with structlog.testing.capture_logs(processors=[events.note]):
        async with trio.open_nursery() as nursery:
            stop = trio.CancelScope()
            ports = await serve_again(nursery, made, Ports(HOST), conduct, stop)
            (directory / "vendor-root.json").write_bytes(VENDOR_ROOT)
            (directory / "owner-root.json").write_bytes(OWNER_ROOT)
            config = fleet_config.create(
                directory / "fleet",
                FleetSettings(format="milkyway.fleet-settings/1", fleet=FLEET, host=HOST, port=ports.operators),
                client=made.operators.client("operator"),
                ca=made.operators.ca,
                vendor=directory / "vendor-root.json",
                owner=directory / "owner-root.json",
            )
            passphrase = directory / "passphrase"
            passphrase.write_text(PASSPHRASE + "\n")
            keys = {signer.entry.person: _key_file(directory, signer) for signer in (ALICE, BOB, CAROL, MALLORY)}
            yield Bench(made, ports, config, events, keys, passphrase, stop)
            nursery.cancel_scope.cancel()


async def serve_again(
    nursery: trio.Nursery,
    made: Site,
    ports: Ports,
    conduct: Conduct | None = None,
    stop: trio.CancelScope | None = None,
) -> Ports:
    """Start the server of the site *made* in *nursery*, until *stop* is cancelled; return its ports."""

    async def run(*, task_status: trio.TaskStatus[Ports]) -> None:
        with stop or trio.CancelScope():
            await server.serve(made, ports, conduct=conduct or Conduct(hold_s=20), task_status=task_status)

    bound = await nursery.start(run)
    assert isinstance(bound, Ports)
    return bound


@dataclass
class Machine:
    """A machine's verifier as the uplink sees it, with a real uplink process at the other end."""

    channel: Channel[ToUplink, FromUplink]
    secrets: MachineSecrets
    envelopes: list[tuple[str, bytes]] = field(default_factory=list)
    states: list[LinkState] = field(default_factory=list)
    fetched: list[Fetched] = field(default_factory=list)
    enrolments: list[str] = field(default_factory=list)
    news: trio.Event = field(default_factory=trio.Event)

    @property
    def id(self) -> str:
        """The machine's id."""
        return machine_id(self.secrets)

    async def listen(self) -> None:
        """Keep what the uplink sends until it is gone."""
        while True:
            try:
                message, fds = await self.channel.receive()
            except ChannelClosedError:
                return
            match message:
                case Envelope():
                    size = os.fstat(fds[0]).st_size
                    self.envelopes.append((message.kind, os.pread(fds[0], size, 0)))
                    await self.channel.send(Handled(number=message.number))
                case LinkState():
                    self.states.append(message)
                case Fetched():
                    self.fetched.append(message)
                case Enrolled():
                    self.enrolments.append(message.reply)
            close_all(fds)
            self.news.set()
            self.news = trio.Event()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until *condition* holds; it is checked after every message of the uplink."""
        with trio.fail_after(15):
            while not condition():
                await self.news.wait()

    def configuration(self, bench: Bench, token: str) -> MachineConfiguration:
        """Return this machine's secure configuration."""
        return MachineConfiguration(
            format="milkyway.machine/1",
            fleet=FLEET,
            hostname="web-1",
            control_host=HOST,
            control_port=bench.ports.agents,
            ca=bench.site.machines.ca.read_text(),
            token=token,
        )

    async def ask_enrolment(self, bench: Bench, token: str) -> MachineConfiguration:
        """Make the uplink request enrolment with *token*."""
        configuration = self.configuration(bench, token)
        request = make_request(self.secrets, configuration)
        await self.connect(bench, enrolment=encode(request).decode())
        return configuration

    async def connect(self, bench: Bench, *, certificate: str = "", enrolment: str = "", ca: str = "") -> None:
        """Tell the uplink where to connect, and as whom."""
        await self.channel.send(
            Connect(
                host=HOST,
                port=bench.ports.agents,
                ca=ca or bench.site.machines.ca.read_text(),
                private_key=connection_key_pem(self.secrets),
                certificate=certificate,
                enrolment=enrolment,
            )
        )

    async def enrol(self, bench: Bench, name: str = "web-1") -> Enrolment:
        """Go through the whole enrolment, as operator and as machine; return once connected."""
        token = (await bench.fleet("token", name)).stdout.strip()
        configuration = await self.ask_enrolment(bench, token)
        await bench.fleet("enrol", name, "--wait", "10", *bench.key("alice"))
        await self.until(lambda: self.enrolments)
        enrolled = check_reply(self.enrolments[0].encode(), trust=TRUST, secrets=self.secrets, configuration=configuration)
        await self.connect(bench, certificate=enrolled.certificate)
        await self.until(lambda: self.states and self.states[-1].connected)
        return enrolled

    async def fetch(self, sha256: str, size: int, fd: int) -> Fetched:
        """Make the uplink fetch a blob into *fd*."""
        number = len(self.fetched)
        await self.channel.send(Fetch(request=number, sha256=sha256, size=size), [fd])
        await self.until(lambda: len(self.fetched) > number)
        return self.fetched[number]

    async def report(self, sequence: int, *, secrets: MachineSecrets | None = None, status: Status = STATUS) -> None:
        """Make the uplink deliver a report, signed by this machine's identity key or that of *secrets*."""
        report = Report(format="milkyway.report/1", fleet=FLEET, machine=self.id, sequence=sequence, issued=NOW, status=status)
        payload = encode(report)
        signature = identity_key(secrets or self.secrets).sign_payload(REPORT_TYPE, payload)
        await self.channel.send(Post(envelope=write_envelope(REPORT_TYPE, payload, [signature]).decode()))


@asynccontextmanager
async def machine(number: int = 1) -> AsyncGenerator[Machine, None]:
    """Yield a machine with its own keys and a running uplink process."""
    ours, theirs = socket_pair()
    fd = theirs.fileno()
    program = f"import os; os.dup2({fd}, 3); os.close({fd}) if {fd} != 3 else None; "
    program += "from milkyway_agent.uplink.uplink import main; main()"
    channel: Channel[ToUplink, FromUplink] = Channel(ours, FromUplink, peer="uplink")
    async with channel, trio.open_nursery() as nursery:
        run = partial(trio.run_process, [sys.executable, "-c", program], pass_fds=[fd], check=False)
        await nursery.start(run)
        theirs.close()
        made = Machine(channel, generate(_Chance(number)))
        nursery.start_soon(made.listen)
        yield made
        nursery.cancel_scope.cancel()


class _Chance:
    def __init__(self, number: int) -> None:
        self._number = number
        self._calls = 0

    def __call__(self, length: int) -> bytes:
        self._calls += 1
        return hashlib.shake_256(f"{self._number} {self._calls}".encode()).digest(length)


def _key_file(directory: Path, signer: FileSigner) -> Path:
    path = directory / f"{signer.entry.person}.key"
    write_key_file(path, signer, PASSPHRASE, cost=1 << 10)
    return path

"""A machine's verifier with disks that remember, real keys, and no control server."""

import hashlib
from collections.abc import Iterator
from typing import TypeVar

from msgspec.structs import replace

from milkyway_agent.ipc.messages import AdmitLocally, Begin, FetchLayer, VerifyLayer
from milkyway_agent.verifier.answers import ForUplink, Outgoing, ToPid1, Verifier
from milkyway_agent.verifier.machine_keys import public_keys
from milkyway_agent.verifier.trust_state import TrustStore
from milkyway_formats.codec import decode, encode
from milkyway_formats.command import COMMAND_TYPE, Command, RestartService
from milkyway_formats.deployment import Deployment
from milkyway_formats.desired import DESIRED_TYPE, Desired
from milkyway_formats.enrolment import MACHINE_TYPE, MachineConfiguration, MachineKeys
from milkyway_formats.envelope import Envelope
from milkyway_formats.hybrid import HybridPublicKey
from milkyway_formats.root import ROOT_TYPE
from milkyway_signing.key_file import FileSigner
from tests.fakes.layer_files import LISTEN, MadeLayer, MemoryLayer
from tests.fakes.people import ALICE, BOB, FLEET, NOW, OLIVIA, OWNER, VENDOR, VERA, signed
from tests.fakes.power_cut_disk import PowerCutDisk

MessageT = TypeVar("MessageT")

COREOS = "c0" * 32
TOKEN = "0123456789abcdef." + "5e" * 32
VENDOR_ROOT = signed(ROOT_TYPE, VENDOR, VERA)
OWNER_ROOT = signed(ROOT_TYPE, OWNER, OLIVIA)
CONFIGURATION = MachineConfiguration(
    format="milkyway.machine/1",
    fleet=FLEET,
    hostname="web1",
    control_host="control.example",
    control_port=8443,
    ca="the pinned CA",
    token=TOKEN,
)
MACHINE_ENVELOPE = signed(MACHINE_TYPE, CONFIGURATION, OLIVIA)


def counting_random() -> Iterator[bytes]:
    """Yield bytes that look random and are the same at every run."""
    number = 0
    while True:
        number += 1
        yield hashlib.sha512(f"chance {number}".encode()).digest()


class Chance:
    """Randomness that is the same in every run, and never repeats within one."""

    def __init__(self) -> None:
        self._blocks = counting_random()

    def __call__(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            data += next(self._blocks)
        return data[:length]


class Site:
    """The machine: its disks outlive its verifiers. ``begin`` starts a new verifier on them, as after every boot and crash."""

    def __init__(self, trust: PowerCutDisk | None = None) -> None:
        self.trust = trust if trust is not None else PowerCutDisk()
        self.secure = PowerCutDisk({"owner-root.json": OWNER_ROOT, "machine.json": MACHINE_ENVELOPE})
        self.vendor_root = VENDOR_ROOT
        self.chance = Chance()
        self.now = NOW
        self.boottime = 100.0
        self.verifier = Verifier(vendor_root=self.vendor_root, random=self.chance)
        self.requests = 0

    def begin(self) -> list[Outgoing]:
        """Start a new verifier and return its first messages."""
        self.verifier = Verifier(vendor_root=self.vendor_root, random=self.chance)
        self.boottime += 1
        message = Begin(request=self.request(), now=self.now, boot_id="boot", coreos_root_hash=COREOS, development=True)
        return self.verifier.begin(message, self.trust, self.secure, self.boottime)

    def request(self) -> int:
        """Return a new request number."""
        self.requests += 1
        return self.requests

    def apply(self, envelope: bytes) -> list[Outgoing]:
        """Hand the verifier an envelope as ``mwctl apply`` does."""
        return self.verifier.admit_locally(self._locally(change=False), lambda: envelope, self.boottime)

    def apply_as_root(self, envelope: bytes) -> list[Outgoing]:
        """Hand it in as root does if PID 1 knows of ``local: change``."""
        return self.verifier.admit_locally(self._locally(change=True), lambda: envelope, self.boottime)

    def _locally(self, *, change: bool) -> AdmitLocally:
        return AdmitLocally(request=self.request(), now=self.now, change=change)

    def push(self, envelope: bytes) -> list[Outgoing]:
        """Hand the verifier an envelope as the uplink does."""
        return self.verifier.envelope(lambda: envelope, self.boottime)

    def verify(self, layer: bytes, sha256: str, size: int | None = None) -> list[Outgoing]:
        """Ask for an installed layer to be checked."""
        message = VerifyLayer(request=self.request(), sha256=sha256, size=len(layer) if size is None else size)
        return self.verifier.verify_layer(message, MemoryLayer(layer))

    def fetch(self, made: MadeLayer, file: MemoryLayer) -> list[Outgoing]:
        """Ask for a layer to be fetched into *file*."""
        message = FetchLayer(request=self.request(), sha256=made.sha256, size=len(made.data))
        return self.verifier.fetch_layer(message, 7, file)

    @property
    def machine(self) -> str:
        """The machine's id; the verifier has begun."""
        return HybridPublicKey(bytes.fromhex(self.keys().identity)).key_id

    def keys(self) -> MachineKeys:
        """The machine's public keys, from its own disk."""
        return public_keys(TrustStore.open(PowerCutDisk(self.trust.files), self.chance).secrets)

    def desired(self, version: int = 1, *signers: FileSigner, **changes: object) -> bytes:
        """Return a desired state for this machine, signed by alice and bob unless others are named."""
        document = Desired(
            **{  # type: ignore[arg-type]  # the caller's changes are fields
                "format": "milkyway.desired/1",
                "fleet": FLEET,
                "machine": self.machine,
                "version": version,
                "issued": self.now,
                "not_before": self.now,
                "expires": self.now + 3600,
                **changes,
            }
        )
        return signed(DESIRED_TYPE, document, *(signers or (ALICE, BOB)))

    def draft(self, version: int = 1, **changes: object) -> bytes:
        """Return a desired state without signatures."""
        return unsigned(self.desired(version, **changes))

    def command(self, sequence: int = 1, *signers: FileSigner, **changes: object) -> bytes:
        """Return a command to restart a service of this machine, signed by alice unless others are named."""
        command = Command(
            **{  # type: ignore[arg-type]  # as above
                "format": "milkyway.command/1",
                "fleet": FLEET,
                "id": f"{sequence:032x}",
                "stream": "alice",
                "sequence": sequence,
                "issued": self.now,
                "not_before": self.now,
                "expires": self.now + 600,
                "command_class": "restart",
                "machines": [self.machine],
                "action": RestartService(service="web/nginx"),
                **changes,
            }
        )
        return signed(COMMAND_TYPE, command, *(signers or (ALICE,)))


def unsigned(envelope: bytes) -> bytes:
    """Return *envelope* without its signatures."""
    return encode(replace(decode(envelope, Envelope), signatures=[]))


def deployment(*layers: MadeLayer, generation: int = 1, **changes: object) -> Deployment:
    """Return the deployment web of *layers*, topmost first."""
    return Deployment(
        **{  # type: ignore[arg-type]  # as above
            "id": "web_1",
            "name": "web",
            "generation": generation,
            "stack": [layer.pin for layer in layers],
            "grants": [LISTEN],
            **changes,
        }
    )


def to_pid1(outgoing: list[Outgoing], kind: type[MessageT]) -> list[MessageT]:
    """Return the messages of *kind* for PID 1."""
    return [message.message for message in outgoing if isinstance(message, ToPid1) and isinstance(message.message, kind)]


def for_uplink(outgoing: list[Outgoing], kind: type[MessageT]) -> list[MessageT]:
    """Return the messages of *kind* for the uplink."""
    return [message.message for message in outgoing if isinstance(message, ForUplink) and isinstance(message.message, kind)]

"""The verifier as PID 1 starts it: its own process, no environment, no network, two descriptors; and what it costs."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

import milkyway_agent
import milkyway_formats
from milkyway_agent.ipc.channel import Channel, socket_pair
from milkyway_agent.ipc.messages import AdmitLocally, CommandAdmitted, Connect, FromVerifier, RefusalNoted, Refused, ToUplink
from milkyway_formats.codec import encode
from milkyway_formats.command import COMMAND_TYPE, Command, RestartService
from tests.fakes.people import ALICE, FLEET, NOW, signed
from tests.fakes.verifier_peers import Peers
from tests.fakes.verifier_site import VENDOR_ROOT

pytestmark = pytest.mark.privileged

SITE_PACKAGES = str(Path(trio.__file__).parents[1])
HOUSES = [str(Path(package.__file__).parents[1]) for package in (milkyway_agent, milkyway_formats) if package.__file__]
MIB = 1 << 20


class Started:
    """A verifier process and the test's ends of its channels."""

    def __init__(self, root: Path, vendor_root: bytes = VENDOR_ROOT) -> None:
        (root / "vendor-root.json").write_bytes(vendor_root)
        (pid1, theirs), (uplink, up) = socket_pair(), socket_pair()
        entry = (
            f"import sys; sys.path[:0] = {[*HOUSES, SITE_PACKAGES]!r}; from milkyway_agent.verifier.process import main; main()"
        )
        # dup2 in the shell gives fd 3 and 4 their numbers; unshare takes the network away.
        script = f'exec 3<&{theirs.fileno()} 4<&{up.fileno()}; exec unshare --net "$@"'
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", script, "sh", sys.executable, "-IS", "-c", entry, str(root / "vendor-root.json")],
            pass_fds=(theirs.fileno(), up.fileno()),
            stderr=subprocess.PIPE,
            env={},
        )  # fmt: skip
        theirs.close()
        up.close()
        self.peers = Peers(Channel(pid1, FromVerifier, peer="verifier"), Channel(uplink, ToUplink, peer="verifier"), root)

    async def end(self) -> str:
        """Hang up as PID 1; return what it said on its way."""
        self.peers.pid1.close()
        _, said = await trio.to_thread.run_sync(lambda: self.process.communicate(timeout=20))
        self.peers.uplink.close()
        assert self.process.returncode == 0
        return str(said.decode())

    def pss_bytes(self) -> int:
        """Return the memory that the process has, its share of what it shares included."""
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))


@pytest.fixture
async def started(tmp_path: Path) -> AsyncIterator[Started]:
    started = Started(tmp_path)
    yield started
    if started.process.poll() is None:
        assert await started.end() == ""


def command(machine: str | None, sequence: int) -> bytes:
    assert machine is not None
    document = Command(
        format="milkyway.command/1",
        fleet=FLEET,
        id="e" * 32,
        stream="alice",
        sequence=sequence,
        issued=NOW,
        not_before=NOW,
        expires=NOW + 600,
        command_class="restart",
        machines=[machine],
        action=RestartService(service="web/nginx"),
    )
    return signed(COMMAND_TYPE, document, ALICE)


def memory(data: bytes) -> int:
    descriptor = os.memfd_create("test")
    os.write(descriptor, data)
    return descriptor


async def test_it_begins_admits_and_remembers_across_a_kill(started: Started, tmp_path: Path) -> None:
    """SIGKILL right after the answer: the next process knows what was admitted, and refuses it."""
    begun = await started.peers.begin()
    await started.peers.ordered(Connect)
    envelope = command(begun.machine, 1)
    await started.peers.tell(AdmitLocally(request=2, now=NOW), [memory(envelope)])
    assert (await started.peers.answer(CommandAdmitted)).signers == ["alice"]
    started.process.kill()
    await trio.to_thread.run_sync(started.process.wait)
    assert started.process.stderr is not None
    started.process.stderr.close()
    started.peers.pid1.close()
    started.peers.uplink.close()

    again = Started(tmp_path)
    assert (await again.peers.begin()).machine == begun.machine
    await again.peers.tell(AdmitLocally(request=2, now=NOW), [memory(envelope)])
    assert (await again.peers.answer(Refused)).check == "replay"
    assert await again.end() == ""


async def test_it_has_no_network_no_environment_and_little_memory(started: Started) -> None:
    await started.peers.begin()
    process = Path(f"/proc/{started.process.pid}")
    assert process.joinpath("net/dev").read_text().count(":") == 1, "nothing but an unused loopback"
    environment = process.joinpath("environ").read_bytes().split(b"\0")
    assert {name.split(b"=")[0] for name in environment if name} <= {b"PWD", b"SHLVL", b"_"}, "the test's shell sets these"
    maps = process.joinpath("maps").read_text()
    assert "sqlalchemy" not in maps
    pss = started.pss_bytes()
    print(f"verifier_pss_bytes {pss}")
    assert pss < 64 * MIB
    limits = process.joinpath("limits").read_text()
    assert "Max core file size        0 " in limits, "it holds private keys"


async def test_without_a_vendor_root_it_serves_and_says_so(tmp_path: Path) -> None:
    started = Started(tmp_path, b"")
    begun = await started.peers.begin()
    assert begun.quarantined.startswith("there are no roots of trust that hold")
    assert isinstance(await started.peers.answer(RefusalNoted), RefusalNoted)
    assert await started.end() == ""
    assert encode(begun)

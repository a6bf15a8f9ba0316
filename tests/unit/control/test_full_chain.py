"""The whole way of a push except its last step: operator's tool, control server, uplink, verifier, PID 1's link to it.

Every program and process is the production one, with development keys made for the test. From the end of its
``TrustLink`` on, the test plays PID 1; it runs no deployment.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from milkyway_agent.deployments.verifier_link import News, NotAdmittedError, TrustLink
from milkyway_agent.ipc.messages import (
    AdmitLocally,
    Begin,
    CommandAdmitted,
    DesiredAdmitted,
    FetchLayer,
    LayerVerified,
    LinkState,
    RefusalNoted,
    SendReport,
)
from milkyway_agent.ipc.sealed_memory import seal
from milkyway_control.fleet import config as fleet_config
from milkyway_control.fleet.config import FleetSettings
from milkyway_formats.errors import RefusedError
from milkyway_signing.development import Local, make_development_set
from milkyway_signing.key_file import FileSigner
from tests.fakes.control_bench import HOST, STATUS, Bench, control_bench
from tests.fakes.layer_files import make_layer
from tests.fakes.people import FLEET

COREOS = "c0" * 32
PROGRAMS = {"verifier": "milkyway_agent.verifier.process", "uplink": "milkyway_agent.uplink.uplink"}


@dataclasses.dataclass
class AgentProcess:
    """A process of the agent, as PID 1 sees it."""

    process: trio.Process

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()

    async def wait(self) -> int:
        """Return its exit code."""
        return await self.process.wait()


@dataclasses.dataclass
class PlayedPid1:
    """PID 1 up to its line to verifier and uplink, on directories of its own."""

    directory: Path
    vendor_root: Path
    notes: list[tuple[str, dict[str, object]]] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        (self.directory / "trust").mkdir(parents=True, exist_ok=True)
        self.link = TrustLink(self._start, self._begin, lambda event, **facts: self.notes.append((event, facts)))

    @property
    def secure_config(self) -> Path:
        """The directory of the machine's secure configuration."""
        return self.directory / "secure-config"

    async def hear(self, kind: type[News]) -> News:
        """Return the next news of *kind*, skipping what comes before it."""
        with trio.fail_after(20):
            while True:
                news = await self.link.news.receive()
                if isinstance(news, kind):
                    return news

    async def connected(self) -> None:
        """Wait until the control server answers this machine."""
        while True:
            state = await self.hear(LinkState)
            if isinstance(state, LinkState) and state.connected:
                return

    async def _start(self, name: str, descriptors: dict[int, int]) -> AgentProcess:
        # Copies first, at numbers above any that the child uses: its numbers may be taken by descriptors still needed.
        copies = [fcntl.fcntl(ours, fcntl.F_DUPFD, 100) for ours in descriptors.values()]
        moves = "".join(f"os.dup2({copy}, {number});" for copy, number in zip(copies, descriptors, strict=True))
        program = f"import os; {moves} from {PROGRAMS[name]} import main; main()"
        arguments = [str(self.vendor_root)] if name == "verifier" else []
        try:
            return AgentProcess(await trio.lowlevel.open_process([sys.executable, "-c", program, *arguments], pass_fds=copies))
        finally:
            for copy in copies:
                os.close(copy)

    def _begin(self, number: int) -> tuple[Begin, list[int]]:
        begin = Begin(request=number, now=int(time.time()), boot_id="boot", coreos_root_hash=COREOS, development=True)
        return begin, [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (self.directory / "trust", self.secure_config)]


@asynccontextmanager
async def fleet_with_a_machine(directory: Path, *, local: Local = "read") -> AsyncGenerator[tuple[Bench, PlayedPid1], None]:
    """Give a control server, an operator with development keys, and a machine that is set up and running."""
    keys = directory / "keys"
    make_development_set(keys, FLEET, now=int(time.time()), local=local)
    async with control_bench(directory / "bench") as plain:
        config = fleet_config.create(
            directory / "fleet",
            FleetSettings(format="milkyway.fleet-settings/1", fleet=FLEET, host=HOST, port=plain.ports.operators),
            client=plain.config.client,
            ca=plain.config.ca,
            vendor=keys / "vendor-root.json",
            owner=keys / "owner-root.json",
        )
        named = {name: keys / f"{name}.key" for name in ("alice", "bob", "carol", "owner-root")}
        bench = dataclasses.replace(plain, config=config, keys=named, passphrase=keys / "passphrase")
        pid1 = PlayedPid1(directory / "machine", keys / "vendor-root.json")
        token = json.loads((await bench.fleet("token", "web-1", "--json")).stdout)["token"]
        await bench.fleet(
            "secure-config", "web-1", "--server", f"{HOST}:{bench.ports.agents}", "--ca", str(bench.site.machines.ca),
            "--token", token, "--out", str(pid1.secure_config), *bench.key("owner-root"),
        )  # fmt: skip
        async with trio.open_nursery() as nursery:

            async def live() -> None:
                await pid1.link.run(chance=lambda: 0.0)

            nursery.start_soon(live)
            yield bench, pid1
            nursery.cancel_scope.cancel()


async def test_a_push_goes_all_the_way_and_a_report_comes_back(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    async with fleet_with_a_machine(tmp_path) as (bench, pid1):
        carol = FileSigner.load(bench.keys["carol"], bench.passphrase.read_text().strip())
        layer = make_layer("example/nginx", carol)
        (tmp_path / "nginx.layer").write_bytes(layer.data)
        both = [*bench.key("alice"), *bench.key("bob")]

        await pid1.connected()
        await bench.fleet("enrol", "web-1", "--wait", "20", *bench.key("alice"))
        await bench.events.until("machine_enrolled")
        await pid1.link.begun.wait()

        await bench.fleet("deploy", str(tmp_path / "nginx.layer"), "--to", "web-1", "--name", "web", *both)
        admitted = await pid1.hear(DesiredAdmitted)
        assert isinstance(admitted, DesiredAdmitted)
        assert [deployment.stack for deployment in admitted.desired.deployments] == [[layer.pin]]

        staging = tmp_path / "staging"
        staging.touch()
        pair = [os.open(staging, os.O_WRONLY), os.open(staging, os.O_RDONLY)]
        question = FetchLayer(request=pid1.link.number(), sha256=layer.sha256, size=len(layer.data))
        verified = await pid1.link.ask(question, LayerVerified, pair)
        for descriptor in pair:
            os.close(descriptor)
        assert verified.manifest == layer.manifest
        assert hashlib.sha256(staging.read_bytes()).hexdigest() == layer.sha256

        await bench.fleet("restart", "web-1", "web/nginx", *bench.key("alice"))
        command = await pid1.hear(CommandAdmitted)
        assert isinstance(command, CommandAdmitted)
        assert command.signers == ["alice"]

        await pid1.link.tell(SendReport(now=int(time.time()), status=STATUS))
        await bench.events.until("report_stored")
        shown = json.loads((await bench.fleet("status", "web-1", "--json")).stdout)
        assert shown["report"]["status"]["root_hash"] == STATUS.root_hash


@pytest.mark.parametrize("local", ["read", "change"])
async def test_what_the_tool_prepares_unsigned_root_applies_where_the_owner_lets_it(tmp_path: Path, local: Local) -> None:
    """The layers come from the control server as always; the document comes by hand, and the server never sees it."""
    (tmp_path / "bench").mkdir()
    async with fleet_with_a_machine(tmp_path, local=local) as (bench, pid1):
        carol = FileSigner.load(bench.keys["carol"], bench.passphrase.read_text().strip())
        layer = make_layer("example/nginx", carol)
        (tmp_path / "nginx.layer").write_bytes(layer.data)
        await pid1.connected()
        await bench.fleet("enrol", "web-1", "--wait", "20", *bench.key("alice"))
        await bench.events.until("machine_enrolled")
        await pid1.link.begun.wait()

        draft = tmp_path / "change.json"
        await bench.fleet("deploy", str(tmp_path / "nginx.layer"), "--to", "web-1", "--unsigned", "--prepare", str(draft))
        handed_in = seal(draft.read_bytes().removesuffix(b"\n"), name="test")
        question = AdmitLocally(request=pid1.link.number(), now=int(time.time()), change=True)
        try:
            if local == "change":
                admitted = await pid1.link.ask(question, DesiredAdmitted, [handed_in])
                assert [deployment.stack for deployment in admitted.desired.deployments] == [[layer.pin]]
            else:
                with pytest.raises(
                    NotAdmittedError, match="the owner's policy does not let root at the machine change it"
                ) as refused:
                    await pid1.link.ask(question, DesiredAdmitted, [handed_in])
                assert "let the owner's next root say `local: change`" in refused.value.hint
        finally:
            os.close(handed_in)


async def test_a_forged_document_passes_the_server_and_not_the_verifier(tmp_path: Path) -> None:
    """The server's administrator bypasses the tool and stores a document that lacks a signature: only alice signed it."""
    (tmp_path / "bench").mkdir()
    async with fleet_with_a_machine(tmp_path) as (bench, pid1):
        carol = FileSigner.load(bench.keys["carol"], bench.passphrase.read_text().strip())
        (tmp_path / "nginx.layer").write_bytes(make_layer("example/nginx", carol).data)
        await pid1.connected()
        await bench.fleet("enrol", "web-1", "--wait", "20", *bench.key("alice"))
        await pid1.connected()
        draft = tmp_path / "draft.json"
        await bench.fleet(
            "deploy", str(tmp_path / "nginx.layer"), "--to", "web-1", "--prepare", str(draft), *bench.key("alice")
        )  # fmt: skip
        refused = await bench.fleet("push", str(draft), code=1)
        machine = json.loads((await bench.fleet("status", "--json")).stdout)[0]["id"]
        with bench.client() as client:
            await trio.to_thread.run_sync(client.push_desired, machine, draft.read_bytes().strip(), None)
        noted = await pid1.hear(RefusalNoted)
        both = [*bench.key("alice"), *bench.key("bob")]
        await bench.fleet("deploy", str(tmp_path / "nginx.layer"), "--to", "web-1", *both)
        admitted = await pid1.hear(DesiredAdmitted)
    assert isinstance(refused.exception, RefusedError)
    assert noted == RefusalNoted(check="threshold", message="cannot accept desired state: 1 of 2 persons signed (alice)")
    assert isinstance(admitted, DesiredAdmitted)
    assert admitted.desired.version == 1

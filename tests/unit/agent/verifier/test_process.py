"""The verifier between its two channels: descriptors are used once and closed, and neither peer holds up the other."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from milkyway_agent.ipc.channel import Channel, socket_pair
from milkyway_agent.ipc.messages import (
    AdmitLocally,
    CheckPolicy,
    Connect,
    DesiredAdmitted,
    Envelope,
    Fetch,
    Fetched,
    FetchLayer,
    FromUplink,
    FromVerifier,
    Handled,
    LayerVerified,
    LinkState,
    PolicyChecked,
    RefusalNoted,
    Refused,
    ToUplink,
    ToVerifier,
    Unavailable,
    VerifyLayer,
)
from milkyway_agent.verifier.answers import Verifier
from milkyway_agent.verifier.note_allowance import BURST
from milkyway_agent.verifier.process import Process
from milkyway_formats.codec import encode
from milkyway_formats.desired import DESIRED_TYPE, Desired
from tests.fakes.layer_files import make_layer
from tests.fakes.people import ALICE, BOB, FLEET, NOW, signed
from tests.fakes.verifier_peers import Peers
from tests.fakes.verifier_site import VENDOR_ROOT, Chance, deployment

NGINX = make_layer()


class Clock:
    """CLOCK_BOOTTIME that stands still until a test moves it."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
async def peers(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Peers]:
    before = set(os.listdir("/proc/self/fd"))
    (pid1_end, pid1), (uplink_end, uplink) = socket_pair(), socket_pair()
    process = Process(
        Verifier(vendor_root=VENDOR_ROOT, random=Chance()),
        Channel[FromVerifier, ToVerifier](pid1_end, ToVerifier, peer="PID 1"),
        Channel[ToUplink, FromUplink](uplink_end, FromUplink, peer="uplink"),
        Clock(),
    )
    done = trio.Event()

    async def run() -> None:
        await process.run()
        done.set()

    nursery.start_soon(run)
    with_both = Peers(Channel(pid1, FromVerifier, peer="verifier"), Channel(uplink, ToUplink, peer="verifier"), tmp_path)
    yield with_both
    with_both.pid1.close()
    with trio.fail_after(20):
        await done.wait()
    with_both.uplink.close()
    pid1_end.close()
    uplink_end.close()
    left = set(os.listdir("/proc/self/fd")) - before
    named = {name: os.readlink(f"/proc/self/fd/{name}") for name in left if Path(f"/proc/self/fd/{name}").exists()}
    kept = [path for path in named.values() if path.startswith(str(tmp_path)) and not path.endswith(("/trust", "/secure"))]
    assert kept == [], "every descriptor that was handed over is closed"


def memory(data: bytes) -> int:
    descriptor = os.memfd_create("test")
    os.write(descriptor, data)
    return descriptor


def desired_for(machine: str | None, version: int = 1) -> bytes:
    assert machine is not None
    document = Desired(
        format="milkyway.desired/1",
        fleet=FLEET,
        machine=machine,
        version=version,
        issued=NOW,
        not_before=NOW,
        expires=NOW + 3600,
        deployments=[deployment(NGINX)],
    )
    return signed(DESIRED_TYPE, document, ALICE, BOB)


async def test_a_push_goes_all_the_way(peers: Peers, tmp_path: Path) -> None:
    """Begin, the desired state from the network, its layer, its policy: as PID 1 and the uplink play it."""
    begun = await peers.begin()
    await peers.ordered(Connect)
    descriptor = memory(desired_for(begun.machine))
    await peers.uplink.send(Envelope(kind="desired"), [descriptor])
    os.close(descriptor)
    admitted = await peers.answer(DesiredAdmitted)
    pin = admitted.desired.deployments[0].stack[0]

    path = tmp_path / "staging"
    path.write_bytes(bytes(pin.size))
    await peers.tell(
        FetchLayer(request=2, sha256=pin.sha256, size=pin.size),
        [os.open(path, os.O_WRONLY), os.open(path, os.O_RDONLY)],
    )
    fetch, fds = await peers.ordered(Fetch)
    assert (fetch.sha256, fetch.size) == (pin.sha256, pin.size)
    os.write(fds[0], NGINX.data)
    os.close(fds[0])
    await peers.uplink.send(Fetched(request=fetch.request))
    assert (await peers.answer(LayerVerified)).request == 2

    output = memory(b"")
    await peers.tell(
        CheckPolicy(request=3, deployment="web_1", generation=1, sha256=pin.sha256),
        [os.open(path, os.O_RDONLY), os.dup(output)],
    )
    assert (await peers.answer(PolicyChecked)).domains == {"process": "web_1.v1.process"}
    assert os.pread(output, 9, 0) == b"(in web_1"
    os.close(output)

    await peers.tell(VerifyLayer(request=4, sha256=pin.sha256, size=pin.size), [os.open(path, os.O_RDONLY)])
    assert (await peers.answer(LayerVerified)).request == 4


async def test_an_order_through_a_pipe_is_refused_not_waited_for(peers: Peers) -> None:
    await peers.begin()
    reading, writing = os.pipe()
    await peers.tell(AdmitLocally(request=2, now=NOW), [reading])
    assert (await peers.answer(Refused)).message == "cannot read order: it did not come as a file"
    os.close(writing)


async def test_before_it_has_begun_nothing_is_answered_but_not_now(peers: Peers) -> None:
    await peers.tell(AdmitLocally(request=1, now=NOW), [memory(b"{}")])
    assert (await peers.answer(Unavailable)).message == "cannot check anything: the verifier has not begun"


async def test_a_message_that_is_none_is_told_and_survived(peers: Peers) -> None:
    begun = await peers.begin()
    raw = peers.uplink._socket  # the test is the compromised uplink
    await raw.send(b'{"type":"desired"}')
    note = await peers.answer(RefusalNoted)
    assert note.message.startswith("cannot read a message from uplink: Invalid value 'desired'")
    await peers.tell(AdmitLocally(request=2, now=NOW), [memory(desired_for(begun.machine))])
    assert (await peers.answer(DesiredAdmitted)).request == 2


async def test_an_envelope_that_can_not_be_taken_now_is_to_be_sent_again_and_a_refused_one_is_not(peers: Peers) -> None:
    """Before it has begun the verifier can keep nothing; nonsense is refused for good."""
    for number, again in ((1, True), (2, False)):
        descriptor = memory(b"nonsense")
        await peers.uplink.send(Envelope(kind="desired", number=number), [descriptor])
        os.close(descriptor)
        handled, _ = await peers.ordered(Handled)
        assert handled == Handled(number=number, again=again)
        if again:
            await peers.answer(RefusalNoted)
            await peers.begin()
            await peers.ordered(Connect)


async def test_an_uplink_that_floods_does_not_flood_pid1(peers: Peers) -> None:
    """It sends nonsense a hundred times: PID 1 hears of a few, and gets its own answer at once."""
    begun = await peers.begin()
    for _ in range(100):
        descriptor = memory(b"nonsense")
        await peers.uplink.send(Envelope(kind="command"), [descriptor])
        os.close(descriptor)
        await peers.uplink.send(LinkState(connected=True))
    await peers.uplink.send(Fetched(request=77))
    await trio.testing.wait_all_tasks_blocked()
    await peers.tell(AdmitLocally(request=2, now=NOW), [memory(desired_for(begun.machine))])
    told = 0
    while not isinstance((message := (await peers.pid1.receive())[0]), DesiredAdmitted):
        told += isinstance(message, RefusalNoted | LinkState)
    assert told == BURST


async def test_an_uplink_that_does_not_read_holds_up_nobody(peers: Peers, tmp_path: Path) -> None:
    """More requests than its socket and queue hold: those that do not fit are answered, and other work goes on."""
    begun = await peers.begin()
    path = tmp_path / "staging"
    path.write_bytes(b"")
    told: list[FromVerifier] = []

    async def listen() -> None:
        while True:
            told.append((await peers.pid1.receive())[0])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        for request in range(2, 900):
            await peers.tell(
                FetchLayer(request=request, sha256="ab" * 32, size=1),
                [os.open(path, os.O_WRONLY), os.open("/dev/null", os.O_RDONLY)],
            )
            await trio.testing.wait_all_tasks_blocked()
            if told:
                break
        await peers.tell(AdmitLocally(request=1000, now=NOW), [memory(desired_for(begun.machine))])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    first, last = told
    assert isinstance(first, Unavailable)
    assert first.message == "cannot fetch layer: the uplink does not take requests"
    assert isinstance(last, DesiredAdmitted)
    peers.uplink.close()


async def test_an_uplink_that_is_gone_is_told_and_survived(peers: Peers, tmp_path: Path) -> None:
    begun = await peers.begin()
    path = tmp_path / "staging"
    path.write_bytes(b"")
    await peers.tell(FetchLayer(request=2, sha256="ab" * 32, size=1), [os.open(path, os.O_WRONLY), os.open(path, os.O_RDONLY)])
    await peers.ordered(Connect)
    _, fds = await peers.ordered(Fetch)
    os.close(fds[0])
    peers.uplink.close()
    assert (await peers.answer(RefusalNoted)).message == "cannot receive from uplink: it is gone"
    assert (await peers.answer(Unavailable)).message == "cannot fetch layer: the uplink has ended"
    await peers.tell(AdmitLocally(request=3, now=NOW), [memory(desired_for(begun.machine))])
    assert (await peers.answer(DesiredAdmitted)).request == 3
    await peers.tell(FetchLayer(request=4, sha256="ab" * 32, size=1), [os.open(path, os.O_WRONLY), os.open(path, os.O_RDONLY)])
    assert (await peers.answer(Unavailable)).request == 4


async def test_trust_is_kept_for_its_owner_alone(peers: Peers) -> None:
    await peers.begin()
    files = sorted(peers.trust.iterdir())
    assert [file.name for file in files] == ["initialised", "keys.a", "keys.b", "state.a", "state.b"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert encode(Fetched(request=1))

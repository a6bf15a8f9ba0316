"""The uplink's waits, bounds and messages, against a server in memory and with a clock that jumps."""

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import h11
import pytest
import trio
import trio.testing

from milkyway_agent.ipc.channel import ChannelClosedError
from milkyway_agent.ipc.messages import Connect, Fetch, Fetched, FromUplink, LinkState, ToUplink
from milkyway_agent.uplink.backoff import (
    FREE_ANSWERS,
    LONGEST_S,
    SPACING_S,
    after_answer,
    after_failure,
    after_refusal,
    persist,
)
from milkyway_agent.uplink.fetch import FAILURES, fetch
from milkyway_agent.uplink.http import CHUNK_S, AnswerRefusedError, Link, LinkError, one_line
from milkyway_agent.uplink.poll import Poller
from milkyway_agent.uplink.uplink import Uplink
from milkyway_formats.agent_protocol import POLL_HOLD_S, PollQuery, read_poll_query
from milkyway_formats.codec import MalformedError
from milkyway_formats.errors import UnavailableError

WHERE = Connect(host="control.example", port=7443, ca="", private_key="", certificate="a certificate")
NOT_TEXT = "cannot enrol: the reply is not text"
Answer = Callable[[h11.Request], Awaitable[tuple[int, dict[str, str], bytes]]]


class Server:
    """A fake control server: *answer* makes the answers; ``asked`` records what was asked, and when."""

    def __init__(self, answer: Answer, nursery: trio.Nursery) -> None:
        self._answer = answer
        self._nursery = nursery
        self.asked: list[tuple[float, str]] = []

    async def dial(self, where: Connect) -> Link:
        """Return a link whose other end is us."""
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._serve, ours)
        return Link(theirs, where.host, shows_certificate=bool(where.certificate))

    async def _serve(self, stream: trio.abc.Stream) -> None:
        connection = h11.Connection(h11.SERVER)
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(4096)))
                continue
            if isinstance(event, h11.ConnectionClosed):
                return
            if isinstance(event, h11.Request):
                request = event
            if not isinstance(event, h11.EndOfMessage):
                continue
            self.asked.append((trio.current_time(), request.target.decode()))
            try:
                status, headers, body = await self._answer(request)
            except ConnectionError:
                await stream.aclose()
                return
            fields = list({"content-length": str(len(body)), **headers}.items())
            out = connection.send(h11.Response(status_code=status, headers=fields)) or b""
            await stream.send_all(out + body)
            if fields[0][1] != str(len(body)):
                await stream.aclose()
                return
            connection.send(h11.Data(data=body))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()


@asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[Server]:
    """Yield a server that answers with *answer*."""
    async with trio.open_nursery() as nursery:
        yield Server(answer, nursery)
        nursery.cancel_scope.cancel()


def test_waits_double_and_stop_growing() -> None:
    waits = [after_failure(failures, 0.999999) for failures in range(1, 12)]
    assert waits[:4] == pytest.approx([1, 2, 4, 8], rel=1e-3)
    assert waits[-1] == pytest.approx(LONGEST_S, rel=1e-3)
    assert after_failure(10_000, 0.0) == LONGEST_S / 2


@pytest.mark.parametrize("wait", [lambda chance: after_failure(5, chance), after_refusal])
def test_chance_spreads_a_wait_over_its_upper_half(wait: Callable[[float], float]) -> None:
    assert wait(0.0) < wait(0.5) < wait(0.999)
    assert wait(0.999) / wait(0.0) == pytest.approx(2, rel=0.01)


def test_a_server_that_answers_without_holding_is_asked_slowly() -> None:
    assert after_answer(FREE_ANSWERS) == 0
    assert after_answer(FREE_ANSWERS + 1) == SPACING_S


async def test_a_server_that_is_gone_is_asked_less_and_less(autojump_clock: trio.testing.MockClock) -> None:
    """Once it has answered, the next failure counts as the first again."""
    tries: list[float] = []
    said: list[tuple[bool, str]] = []

    async def attempt(answered: Callable[[str], Awaitable[None]]) -> None:
        tries.append(trio.current_time())
        if len(tries) == 7:
            return
        if len(tries) == 5:
            await answered("")
        raise LinkError("cannot reach it: gone")

    async def say(connected: bool, detail: str) -> None:
        said.append((connected, detail))

    await persist(attempt, say, lambda: 0.0)
    waits = [after - before for before, after in pairwise(tries)]
    assert waits == pytest.approx([0.5, 1, 2, 4, 0.5, 1])
    assert said.count((True, "")) == 1
    assert said[0] == (False, "cannot reach it: gone")


async def test_a_refusal_is_waited_out_longer_than_a_failure(autojump_clock: trio.testing.MockClock) -> None:
    tries: list[float] = []

    async def attempt(_: Callable[[str], Awaitable[None]]) -> None:
        tries.append(trio.current_time())
        if len(tries) < 2:
            raise AnswerRefusedError("no", status=403)

    async def say(connected: bool, detail: str) -> None:
        assert (connected, detail) == (False, "no")

    await persist(attempt, say, lambda: 0.0)
    assert tries[1] - tries[0] == pytest.approx(150)


async def test_the_first_question_is_not_held_and_later_ones_say_what_we_have(autojump_clock: trio.testing.MockClock) -> None:
    handed: list[tuple[str, bytes]] = []
    answers = [
        (200, {"milkyway-kind": "desired"}, b"a desired state"),
        (200, {"milkyway-kind": "command", "milkyway-cursor": "12"}, b"a command"),
        (204, {}, b""),
    ]

    async def answer(_: h11.Request) -> tuple[int, dict[str, str], bytes]:
        if not answers:
            await trio.sleep_forever()
        return answers.pop(0)

    async def hand_on(kind: str, body: bytes) -> None:
        handed.append((kind, body))

    async def answered(_: str) -> None:
        pass

    async with served(answer) as server:
        with pytest.raises(LinkError, match="no answer within 80 s"):
            await Poller(WHERE, server.dial, hand_on).poll(answered)
    assert handed == [("desired", b"a desired state"), ("command", b"a command")]
    digest = hashlib.sha256(b"a desired state").hexdigest()
    assert server.asked[0][1] == "/v1/poll?hold=0"
    assert server.asked[1][1] == f"/v1/poll?desired={digest}"
    assert server.asked[3][1].endswith("&commands=12")


async def test_what_the_verifier_cannot_keep_now_is_asked_for_again(autojump_clock: trio.testing.MockClock) -> None:
    """A full disk, say: the order stays with the server until it is persisted."""
    taken: list[bytes] = []
    full = [True, True, False]

    async def answer(request: h11.Request) -> tuple[int, dict[str, str], bytes]:
        if b"desired=" in request.target:
            await trio.sleep_forever()
        return 200, {"milkyway-kind": "desired"}, b"a desired state"

    async def hand_on(_kind: str, body: bytes) -> None:
        if full.pop(0):
            raise UnavailableError("cannot take it: the disk is full")
        taken.append(body)

    async def say(_connected: bool, _detail: str) -> None:
        pass

    async with served(answer) as server:
        with trio.move_on_after(60):
            await persist(Poller(WHERE, server.dial, hand_on).poll, say, lambda: 0.5)
    assert taken == [b"a desired state"]
    assert [target for _, target in server.asked[:3]] == ["/v1/poll?hold=0"] * 3
    assert all(later[0] > earlier[0] for earlier, later in pairwise(server.asked[:3]))


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({}, "its kind is unknown"),
        ({"milkyway-kind": "firmware"}, "its kind is unknown"),
        ({"milkyway-kind": "command"}, "a command without a valid cursor"),
        ({"milkyway-kind": "command", "milkyway-cursor": "-1"}, "a command without a valid cursor"),
        ({"milkyway-kind": "command", "milkyway-cursor": "9" * 16}, "a command without a valid cursor"),
    ],
)
async def test_an_answer_outside_the_protocol_is_not_handed_on(headers: dict[str, str], why: str) -> None:
    async def answer(_: h11.Request) -> tuple[int, dict[str, str], bytes]:
        return 200, headers, b"something"

    async def hand_on(_kind: str, _body: bytes) -> None:
        raise AssertionError("handed on")

    async def answered(_: str) -> None:
        raise AssertionError("counted as an answer")

    async with served(answer) as server:
        with pytest.raises(AnswerRefusedError, match=why):
            await Poller(WHERE, server.dial, hand_on).poll(answered)


async def test_a_download_goes_on_where_it_broke(autojump_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    blob = os.urandom(1000)
    ranges: list[str] = []

    async def answer(request: h11.Request) -> tuple[int, dict[str, str], bytes]:
        wanted = dict(request.headers).get(b"range", b"").decode()
        ranges.append(wanted)
        start = int(wanted[6:-1]) if wanted else 0
        part = blob[start : start + 300]
        return (206 if start else 200), {"content-length": str(len(blob) - start)}, part

    async with served(answer) as server:
        fd = os.open(tmp_path / "staging", os.O_WRONLY | os.O_CREAT)
        await fetch(WHERE, Fetch(request=1, sha256="a" * 64, size=1000), fd, server.dial, lambda: 0.0)
        os.close(fd)
    assert ranges == ["", "bytes=300-", "bytes=600-", "bytes=900-"]
    assert (tmp_path / "staging").read_bytes() == blob


async def test_a_download_without_progress_is_given_up(autojump_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    async def answer(_: h11.Request) -> tuple[int, dict[str, str], bytes]:
        raise ConnectionError

    async with served(answer) as server:
        fd = os.open(tmp_path / "staging", os.O_WRONLY | os.O_CREAT)
        with pytest.raises(LinkError, match="without an answer, probably because it rejects our certificate"):
            await fetch(WHERE, Fetch(request=1, sha256="a" * 64, size=1000), fd, server.dial, lambda: 0.0)
        os.close(fd)
    assert len(server.asked) == FAILURES


async def test_a_server_that_does_not_resume_is_refused(tmp_path: Path) -> None:
    async def answer(request: h11.Request) -> tuple[int, dict[str, str], bytes]:
        resumed = b"range" in dict(request.headers)
        return 200, {"content-length": "7" if resumed else "10"}, b"xyz"

    async with served(answer) as server:
        fd = os.open(tmp_path / "staging", os.O_WRONLY | os.O_CREAT)
        with pytest.raises(AnswerRefusedError, match="the server does not resume"):
            await fetch(WHERE, Fetch(request=1, sha256="a" * 64, size=10), fd, server.dial, lambda: 0.0)
        os.close(fd)


async def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    async def answer(_: h11.Request) -> tuple[int, dict[str, str], bytes]:
        return 200, {}, b"x" * 10

    async with served(answer) as server:
        fd = os.open("/dev/full", os.O_WRONLY)
        with pytest.raises(Exception, match="cannot write blob: No space left on device"):
            await fetch(WHERE, Fetch(request=1, sha256="a" * 64, size=10), fd, server.dial, lambda: 0.0)
        os.close(fd)


async def test_an_answer_that_stops_in_the_middle_is_a_failure(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    link = Link(theirs, "control.example")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_all, b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        await link.ask("GET", "/", within=5)
        before = trio.current_time()
        with pytest.raises(LinkError, match="nothing came for 60 s"):
            await link.body(100)
    assert trio.current_time() - before == pytest.approx(CHUNK_S)


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "not HTTP: illegal status line"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 20000, "not HTTP: Receive buffer too long"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world", "more than 10 bytes"),
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", r"the control server refused \(503\): no reason given"),
        (b'HTTP/1.1 400 No\r\ncontent-length: 29\r\n\r\n{"error":"bad \\u001b[2J red"}', r"refused \(400\): bad  \[2J red"),
    ],
)
async def test_what_is_not_an_answer_is_refused_with_a_reason(sent: bytes, why: str) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    link = Link(theirs, "control.example")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_all, sent)
        with pytest.raises((LinkError, AnswerRefusedError), match=why):
            await link.ask("GET", "/", within=5)
            await link.body(10)


def test_text_from_outside_becomes_one_short_printable_line() -> None:
    assert one_line("a\nb\x1b[2Jc") == "a b [2Jc"
    assert len(one_line("x" * 10_000)) == 300


def test_a_poll_says_only_what_is_known() -> None:
    assert PollQuery().target() == "/v1/poll"
    whole = PollQuery(desired="a" * 64, commands=3, hold=0)
    assert whole.target() == f"/v1/poll?desired={'a' * 64}&commands=3&hold=0"
    assert read_poll_query({"desired": "a" * 64, "commands": "3", "hold": "0"}) == whole


@pytest.mark.parametrize(
    "fields",
    [{"desired": "a"}, {"commands": "-1"}, {"commands": "x"}, {"hold": str(POLL_HOLD_S + 1)}, {"other": "1"}],
)
def test_a_malformed_poll_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(MalformedError, match="cannot read poll"):
        read_poll_query(fields)


class FakeVerifier:
    """The verifier's end in memory: sends *messages*, records in ``said`` what the uplink says, and is gone after the first."""

    def __init__(self, *messages: tuple[ToUplink, list[int]]) -> None:
        self._messages = list(messages)
        self.said: list[FromUplink] = []
        self.done = trio.Event()

    async def receive(self) -> tuple[ToUplink, list[int]]:
        """Return the next message; after the last, wait until the uplink has said something and be gone."""
        if self._messages:
            return self._messages.pop(0)
        await self.done.wait()
        raise ChannelClosedError("cannot receive from verifier: it is gone", peer="verifier")

    async def send(self, message: FromUplink, fds: object = ()) -> None:
        """Record *message*."""
        assert fds == ()
        self.said.append(message)
        self.done.set()


async def test_before_enrolment_nothing_is_fetched(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "staging", os.O_WRONLY | os.O_CREAT)
    verifier = FakeVerifier((Fetch(request=5, sha256="a" * 64, size=1), [fd]))
    await Uplink(verifier).run()
    assert verifier.said == [Fetched(request=5, error="cannot fetch: this machine is not enrolled")]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


async def test_an_invalid_certificate_is_reported() -> None:
    verifier = FakeVerifier((WHERE, []))
    await Uplink(verifier).run()
    (state,) = verifier.said
    assert isinstance(state, LinkState)
    assert not state.connected
    assert "cannot connect to control.example: key, certificate or authority" in state.detail


async def test_an_enrolment_reply_that_no_message_carries_is_refused() -> None:
    async def answer(_: h11.Request) -> tuple[int, dict[str, str], bytes]:
        return 200, {}, b"\xff\xfe"

    where = Connect(host="control.example", port=1, ca="", private_key="", enrolment="{}")
    verifier = FakeVerifier((where, []))
    async with served(answer) as server:
        await Uplink(verifier, server.dial).run()
    assert verifier.said == [LinkState(connected=False, detail=NOT_TEXT)]

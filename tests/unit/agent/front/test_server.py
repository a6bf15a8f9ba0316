"""The front: what a URL asks for, and one connection's conversation with clocks that jump."""

import json

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from milkyway_agent.front.routes import DO, READ, HttpRefusedError, Route, content_type, route
from milkyway_agent.front.server import Conversation
from milkyway_agent.ipc.messages import ApiAnswer


@pytest.mark.parametrize(
    ("method", "target", "asked"),
    [
        *[("GET", path, Route(verb, "", {})) for path, verb in READ.items()],
        *[("POST", path, Route(verb, "", {})) for path, verb in DO.items()],
        ("POST", "/v1/services/web/nginx/restart", Route("restart", "web/nginx", {})),
        ("POST", "/v1/services/dhcp/stop", Route("stop", "dhcp", {})),
        ("POST", "/v1/services/web%2Fnginx/start", Route("start", "web/nginx", {})),
        ("GET", "/v1/logs?service=web%2Fnginx&follow=1", Route("logs", "", {"service": "web/nginx", "follow": "1"})),
        ("GET", "/v1/logs?names=web%2Cdhcp&priority=err", Route("logs", "", {"names": "web,dhcp", "priority": "err"})),
        ("GET", "/v1/why/web/nginx", Route("why", "web/nginx", {})),
        ("GET", "/v1/critical-path?service=web%2Fnginx", Route("critical-path", "", {"service": "web/nginx"})),
        ("GET", "/v1/events?names=web&follow=1", Route("events", "", {"names": "web", "follow": "1"})),
        ("POST", "/v1/services/web/nginx/reload", Route("reload", "web/nginx", {})),
        ("GET", "/v1/logs?since=1&until=2", Route("logs", "", {"since": "1", "until": "2"})),
    ],
)
def test_a_url_asks_for_one_thing(method: str, target: str, asked: Route) -> None:
    assert route(method, target) == asked


@pytest.mark.parametrize(
    ("method", "target", "status", "message"),
    [
        ("GET", "/", 404, "cannot find '/': no such path"),
        ("GET", "/v1/status/", 404, "cannot find '/v1/status/': no such path"),
        ("GET", "*", 404, "cannot find"),
        ("POST", "/v1/services//restart", 404, "cannot find"),
        ("POST", "/v1/services/dhcp/format", 404, "cannot find"),
        ("GET", "/v1/services/dhcp/restart", 405, "cannot GET /v1/services/dhcp/restart: it takes POST"),
        ("POST", "/v1/services/%ff/restart", 400, "cannot read the URL: 'utf-8' codec can't decode"),
        ("GET", "/v1/logs?lines", 400, "cannot read the URL: bad query field"),
        ("GET", "/v1/logs?" + "&".join(f"a{n}=1" for n in range(17)), 400, "cannot read the URL: Max number of fields"),
        ("GET", "/v1/why", 404, "cannot find '/v1/why': no such path"),
        ("GET", "/v1/why/", 404, "cannot find '/v1/why/': no such path"),
        ("POST", "/v1/why/dhcp", 405, "cannot POST /v1/why/dhcp: it takes GET"),
        ("GET", "/v1/reexec", 405, "cannot GET /v1/reexec: it takes POST"),
        ("GET", "/v1/tree?service=dhcp", 400, "cannot GET /v1/tree: unknown parameter 'service'"),
        ("GET", "/v1/critical-path?names=dhcp", 400, "cannot GET /v1/critical-path: unknown parameter 'names'"),
        ("POST", "/v1/reboot?now=1", 400, "cannot POST /v1/reboot: unknown parameter 'now'"),
        ("GET", "/v1/logs?service=" + "a" * 257, 400, "cannot GET /v1/logs: longer than 256 characters"),
    ],
)
def test_a_url_that_asks_for_nothing_we_have_is_refused(method: str, target: str, status: int, message: str) -> None:
    with pytest.raises(HttpRefusedError) as caught:
        route(method, target)
    assert caught.value.status == status
    assert str(caught.value).startswith(message)


def test_an_answer_is_what_its_verb_says_and_a_failure_json() -> None:
    assert content_type("metrics", 200).startswith("text/plain; version=0.0.4")
    assert content_type("events", 200) == content_type("logs", 200) == "application/x-ndjson"
    assert content_type("tree", 200) == content_type("metrics", 403) == content_type("events", 409) == "application/json"


class FakePid1:
    """Answers every request with its verb; records what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, Route, bytes]] = []
        self.closed: list[int] = []
        self.broken = False

    async def ask(self, connection: int, asked: Route, body: bytes) -> tuple[ApiAnswer, list[int]]:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise RuntimeError("a bug")
        self.asked.append((connection, asked, body))
        return ApiAnswer(request=1, status=200, body=f'"{asked.verb}"'), []

    async def say_closed(self, connection: int) -> None:
        await trio.lowlevel.checkpoint()
        self.closed.append(connection)


async def converse(pid1: FakePid1, first: bytes = b"") -> tuple[bytes, float]:
    """Let a conversation hear *first* and then silence; return what it says until it closes, and after how long."""
    client, server = memory_stream_pair()
    answer, began = bytearray(), trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Conversation(server, 7, pid1).run)
        if first:
            await client.send_all(first)
        while data := await client.receive_some():
            answer += data
    return bytes(answer), trio.current_time() - began


async def test_silence_is_closed_after_ten_seconds_without_a_word(autojump_clock: MockClock) -> None:
    pid1 = FakePid1()
    answer, seconds = await converse(pid1)
    assert answer == b""
    assert 10 <= seconds < 12
    assert pid1.closed == [7]


async def test_half_a_head_is_told_so(autojump_clock: MockClock) -> None:
    answer, seconds = await converse(FakePid1(), b"GET /v1/status HT")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert (
        json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"] == "cannot read the request: not complete within 10 s"
    )
    assert 10 <= seconds < 12


async def test_half_a_body_is_told_so_and_asks_nothing(autojump_clock: MockClock) -> None:
    pid1 = FakePid1()
    answer, seconds = await converse(pid1, b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert 30 <= seconds < 32
    assert pid1.asked == []


async def test_a_connection_is_used_again_until_it_is_idle(autojump_clock: MockClock) -> None:
    pid1 = FakePid1()
    answer, _ = await converse(pid1, b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
    assert answer.count(b'"status"\n') == 2
    assert [asked.verb for _, asked, _ in pid1.asked] == ["status", "status"]
    assert pid1.closed == [7]


async def test_a_bug_in_one_conversation_ends_that_one(autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    pid1 = FakePid1()
    pid1.broken = True
    answer, _ = await converse(pid1, b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer == b""
    assert pid1.closed == [7]
    assert "RuntimeError: a bug" in capsys.readouterr().err

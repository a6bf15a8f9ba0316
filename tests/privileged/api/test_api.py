"""The whole local API natively: a real socket, the real front as a process, the real mwctl; only the machine is a fake."""

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
import pytest
import trio

from milkyway_agent.api.front_link import FrontProcess, Limits
from milkyway_agent.ipc.channel import Channel, ChannelClosedError, close_all
from milkyway_agent.ipc.messages import ApiRequest, FromFront, ToFront
from milkyway_formats.report import Status
from tests.fakes.api import RealFronts, RunningApi, running_api
from tests.fakes.machine import STATUS, FakeMachine

pytestmark = pytest.mark.privileged

NOBODY = 65534
GROUP = 4711
GET_STATUS = b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:200]
    return int(answer[9:12])


def body_of(answer: bytes) -> dict[str, dict[str, str]]:
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert isinstance(body, dict)
    return body


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process is about to do."""
    while not condition():
        await trio.lowlevel.checkpoint()
        await trio.sleep(0.01)


async def test_status_as_json_is_the_status_document_with_every_field() -> None:
    async with running_api() as api:
        code, out, err = await api.mwctl("status", "--json")
        assert (code, err) == (0, "")
        shown = json.loads(out)
        assert shown["slot"] is None
        assert shown["boot_failures"] == []
        assert msgspec.convert(shown, Status) == STATUS


async def test_every_command_does_what_it_says() -> None:
    async with running_api() as api:
        assert "web/nginx" in (await api.mwctl("services"))[1]
        assert "example/libraries" in (await api.mwctl("layers"))[1]
        assert "web_k3v9" in (await api.mwctl("deployments"))[1]
        assert "ada, grace" in (await api.mwctl("trust"))[1]
        assert await api.mwctl("restart", "web/nginx") == (0, "web/nginx is started, pid 500 (after restart)\n", "")
        assert await api.mwctl("stop", "dhcp") == (0, "dhcp is stopped (after stop)\n", "")
        assert await api.mwctl("reload", "dhcp") == (0, "dhcp is started, pid 500 (after reload)\n", "")
        assert await api.mwctl("reexec") == (0, "re-executing the agent\n", "")
        assert await api.mwctl("start", "web/nginx") == (0, "web/nginx is started, pid 500 (after start)\n", "")
        assert await api.mwctl("reboot") == (0, "rebooting\n", "")
        assert await api.mwctl("--json", "poweroff") == (0, '{\n  "accepted": "poweroff"\n}\n', "")
        assert api.machine.calls == [
            ("restart", "web/nginx"),
            ("stop", "dhcp"),
            ("reload", "dhcp"),
            ("reexec", ""),
            ("start", "web/nginx"),
            ("reboot", ""),
            ("poweroff", ""),
        ]
        assert len(api.fronts.started) == 1


async def test_every_view_is_shown_and_comes_as_json() -> None:
    async with running_api() as api:
        for arguments, word in (
            (("tree",), "└─ dhcp (optional)"),
            (("why", "shop/nginx"), "which has failed"),
            (("blame",), "phases of the boot"),
            (("critical-path",), "dhcp was ready"),
            (("critical-path", "shop/nginx"), "shop/nginx is not ready yet"),
            (("top",), "CPU WAIT %"),
            (("top", "--once", "--sort", "name"), "CPU %"),
            (("events",), "upstream gone"),
        ):
            code, out, err = await api.mwctl(*arguments)
            assert (code, err) == (0, ""), arguments
            assert word in out, arguments
            assert "\x1b" not in out, arguments
            code, out, _ = await api.mwctl(*arguments, "--json")
            assert code == 0
            assert json.loads(out), arguments
        code, out, _ = await api.mwctl("metrics")
        assert code == 0
        assert out.startswith("# HELP milkyway_info ")
        assert not out.endswith("\n\n")


async def test_a_mistyped_name_is_one_line_and_a_hint() -> None:
    async with running_api() as api:
        for arguments, message in (
            (("why", "nginx"), "cannot explain nginx: there is no such service\nhint: did you mean shop/nginx?\n"),
            (("why", "dhpc"), "cannot explain dhpc: there is no such service\nhint: did you mean dhcp?\n"),
            (
                ("tree", "x"),
                "cannot show the tree of x: there is no such service\nhint: `mwctl tree` without a name shows all\n",
            ),
        ):
            assert await api.mwctl(*arguments) == (3, "", message)


async def test_metrics_are_text_whether_they_are_short_or_long_and_failures_are_json() -> None:
    async with running_api() as api:
        answer = await api.raw(GET_STATUS.replace(b"status", b"metrics"))
        assert b"\r\ncontent-type: text/plain; version=0.0.4" in answer.lower()
        api.machine.state = msgspec.structs.replace(STATUS, boot_ms={f"phase-{number}": number for number in range(3000)})
        answer = await api.raw(GET_STATUS.replace(b"status", b"metrics"))
        assert b"\r\ncontent-type: text/plain; version=0.0.4" in answer.lower()
        assert answer.endswith(b"\n")
        assert b'phase="phase-2999"' in answer
        answer = await api.raw(GET_STATUS.replace(b"status", b"why/nowhere"))
        assert status_of(answer) == 409
        assert b"\r\ncontent-type: application/json" in answer.lower()


async def test_a_service_is_reloaded_by_the_group_and_the_agent_re_executed_by_root_alone() -> None:
    async with running_api(group=GROUP) as api:
        assert (await api.mwctl("reload", "dhcp", user=NOBODY, group=GROUP))[0] == 0
        code, _, err = await api.mwctl("reexec", user=NOBODY, group=GROUP)
        assert (code, err.splitlines()[0]) == (3, "cannot re-execute the agent: only root may")
        code, _, err = await api.mwctl("top", user=NOBODY, group=NOBODY)
        assert code == 3
        assert err.startswith(f"cannot show what services use: user {NOBODY} is neither root")
        assert api.machine.calls == [("reload", "dhcp")]


async def test_apply_hands_over_exactly_the_bytes_and_says_what_became_of_them() -> None:
    envelope = b'{"payload":"' + b"A" * 200_000 + b'"}'
    async with running_api() as api:
        code, out, _ = await api.mwctl("apply", "-", stdin=envelope)
        assert (code, out) == (0, f"admitted: desired state version 8 ({'e' * 32})\n")
        assert api.machine.envelopes == [envelope]
        assert await api.mwctl("apply", "-", stdin=b"forged") == (
            3,
            "",
            "cannot admit the document: signed by an unknown key\nhint: `mwctl trust` lists the keys\n",
        )


async def test_each_kind_of_failure_has_its_exit_code_and_one_line() -> None:
    async with running_api() as api:
        code, _, err = await api.mwctl("restart", "web/apache")
        assert (code, err.splitlines()[0]) == (3, "cannot restart web/apache: there is no such service")
        code, _, err = await api.mwctl("start", "time")
        assert (code, err) == (4, "cannot start time: the machine is shutting down\n")
        code, _, err = await api.mwctl("restart", "../../etc")
        assert code == 3
        assert err.startswith("cannot restart '../../etc': not the name of a service")
        api.machine.broken = ZeroDivisionError("division by zero")
        code, _, err = await api.mwctl("status")
        assert (code, err) == (1, "cannot answer: a bug in the agent, its log has the details\n")
        assert "division by zero" in str(api.events.seen)
        api.machine.broken = None
        assert (await api.mwctl("status"))[0] == 0
    code, _, err = await api.mwctl("status")
    assert code == 4
    assert err.startswith(f"cannot reach the agent at {api.path}: No such file or directory\nhint: ")


async def test_logs_come_in_order_and_cannot_steer_the_terminal() -> None:
    async with running_api() as api:
        code, out, _ = await api.mwctl("logs", "web/nginx", "-n", "1")
        assert code == 0
        assert out.endswith("web/nginx \\x1b[2Jupstream gone\n")
        assert len(out.splitlines()) == 1
        code, out, _ = await api.mwctl("--json", "logs", "web")
        assert [json.loads(line)["text"] for line in out.splitlines()] == ["ready", "\x1b[2Jupstream gone"]
        code, _, err = await api.mwctl("logs", "web/apache")
        assert (code, err) == (3, "cannot read logs of web/apache: there is no such service\n")
        code, _, err = await api.mwctl("logs", "-n", "10001")
        assert code == 3
        assert err == "cannot read logs: lines must be a number from 0 to 10000\n"


async def test_logs_are_chosen_by_several_names_time_and_priority() -> None:
    async with running_api() as api:
        _, out, _ = await api.mwctl("logs", "dhcp", "web", "--json")
        assert [json.loads(line)["service"] for line in out.splitlines()] == ["web/nginx", "dhcp", "web/nginx"]
        _, out, _ = await api.mwctl("logs", "--priority", "warning", "--json")
        assert [json.loads(line)["priority"] for line in out.splitlines()] == [4]
        _, out, _ = await api.mwctl("logs", "--since", "1790000061", "--until", "1790000062", "--json")
        assert [json.loads(line)["text"] for line in out.splitlines()] == ["lease renewed"]
        for wrong, why in (
            (
                ("--priority", "worst"),
                "priority must be 0 to 7 or one of emerg, alert, crit, err, warning, notice, info, debug",
            ),
            (("--since", "5", "--until", "5"), "until must be later than since"),
            (("-f", "--until", "5"), "follow goes on for ever, until does not"),
        ):
            assert await api.mwctl("logs", *wrong) == (3, "", f"cannot read logs: {why}\n")


async def test_a_followed_log_shows_new_lines_at_once_and_ends_quietly_with_its_reader() -> None:
    async with running_api() as api:
        stream = await trio.open_unix_socket(api.path)
        await stream.send_all(b"GET /v1/logs?follow=1&lines=0 HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: api.machine.followers == 1)
        api.machine.add_line("one more")
        seen = b""
        while b"one more" not in seen:
            seen += await stream.receive_some()
        await stream.aclose()
        await until(lambda: api.machine.followers == 0)
        assert "api_front_failed" not in api.events.names()


async def test_follow_ends_quietly_on_ctrl_c_and_on_a_broken_pipe() -> None:
    import sys

    from tests.fakes.api import MWCTL

    async with running_api() as api:
        command = [sys.executable, "-c", MWCTL, "--socket", api.path, "logs", "-f"]
        for end in ("ctrl-c", "broken pipe"):
            process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            assert process.stdout is not None and process.stderr is not None
            assert b"ready" in await process.stdout.receive_some()
            if end == "ctrl-c":
                process.send_signal(signal.SIGINT)
            else:
                await process.stdout.aclose()
                await until(lambda: api.machine.followers == 1)
                api.machine.add_line("into the void")
            assert await process.wait() == (130 if end == "ctrl-c" else 0)
            assert await process.stderr.receive_some() == b""
            await process.stdout.aclose()
            await until(lambda: api.machine.followers == 0)


async def test_following_a_log_says_so_when_the_front_is_gone() -> None:
    async with running_api() as api, trio.open_nursery() as nursery:

        async def kill_the_front() -> None:
            await until(lambda: api.machine.followers == 1)
            api.fronts.started[0].kill()

        nursery.start_soon(kill_the_front)
        code, out, err = await api.mwctl("logs", "-f")
        assert (code, len(out.splitlines())) == (4, 3)
        assert err.splitlines()[0] in (
            "cannot follow the log further: the agent closed the connection",
            "cannot read the agent's answer: it closed the connection",
        )


async def test_a_stranger_reads_nothing_but_may_hand_in_an_envelope() -> None:
    async with running_api(group=GROUP) as api:
        code, out, err = await api.mwctl("status", user=NOBODY, group=NOBODY)
        assert (code, out) == (3, "")
        assert err.startswith(f"cannot show status: user {NOBODY} is neither root nor in the group milkyway\nhint: ")
        assert (await api.mwctl("reboot", user=NOBODY, group=NOBODY))[0] == 3
        assert (await api.mwctl("apply", "-", user=NOBODY, group=NOBODY, stdin=b"{}"))[0] == 0
        assert api.machine.calls == []


async def test_the_group_reads_and_restarts_but_does_not_reboot() -> None:
    async with running_api(group=GROUP) as api:
        assert (await api.mwctl("status", user=NOBODY, group=GROUP))[0] == 0
        assert (await api.mwctl("restart", "dhcp", user=NOBODY, group=GROUP))[0] == 0
        code, _, err = await api.mwctl("reboot", user=NOBODY, group=GROUP)
        assert (code, err.splitlines()[0]) == (3, "cannot reboot: only root may")
        assert api.machine.calls == [("restart", "dhcp")]


async def test_curl_speaks_to_it() -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl on this machine")
    async with running_api() as api:

        async def run(*arguments: str, stdin: bytes = b"") -> bytes:
            command = [curl, "-s", "--unix-socket", api.path, *arguments]
            done = await trio.run_process(command, capture_stdout=True, stdin=stdin)
            return bytes(done.stdout)

        assert json.loads(await run("http://localhost/v1/status"))["selinux"] == "enforcing"
        assert json.loads(await run("-X", "POST", "http://localhost/v1/services/web/nginx/restart"))["pid"] == 500
        send = ("-H", "Expect: 100-continue", "--data-binary", "@-", "http://localhost/v1/apply")
        assert json.loads(await run(*send, stdin=b"x" * 400_000))["version"] == 8
        assert len((await run("http://localhost/v1/logs?lines=2")).splitlines()) == 2


@pytest.mark.parametrize(
    ("request_bytes", "status", "message"),
    [
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, "cannot read the request: illegal request line"),
        (b"GET /v1/status HTTP/1.1\r\n\r\n", 400, "cannot read the request: Missing mandatory Host: header"),
        (b"GET /v1/status HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 20_000, 431, "cannot read the request: Receive buffer too long"),
        (b"GET /v1/nothing HTTP/1.0\r\n\r\n", 404, "cannot find '/v1/nothing': no such path"),
        (b"GET /v1/%ff HTTP/1.0\r\n\r\n", 400, "cannot read the URL: 'utf-8' codec"),
        (b"DELETE /v1/status HTTP/1.0\r\n\r\n", 405, "cannot DELETE /v1/status: it takes GET"),
        (b"GET /v1/status?x=1 HTTP/1.0\r\n\r\n", 400, "cannot GET /v1/status: unknown parameter 'x'"),
        (b"GET /v1/logs?lines=1&lines=2 HTTP/1.0\r\n\r\n", 400, "cannot GET /v1/logs: a parameter is given twice"),
        (b"POST /v1/reboot HTTP/1.0\r\nContent-Length: 1\r\n\r\nx", 413, "cannot reboot: it takes no body"),
        (b"POST /v1/apply HTTP/1.0\r\nContent-Length: 424726\r\n\r\n", 413, "cannot apply: the body is longer than 424725"),
        (
            b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + (b"10000\r\n" + b"y" * 65536 + b"\r\n") * 7,
            413,
            "cannot apply: the body is longer than 424725",
        ),
        (b"POST /v1/apply HTTP/1.0\r\n\r\n", 400, "cannot apply: the body is empty"),
        (
            b"POST /v1/apply HTTP/1.0\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
            "cannot read the request: conflicting",
        ),
    ],
)
async def test_what_is_not_a_request_gets_its_status_and_the_reason(request_bytes: bytes, status: int, message: str) -> None:
    async with running_api() as api:
        answer = await api.raw(request_bytes)
        assert status_of(answer) == status
        error = body_of(answer)["error"]
        assert error["kind"] == "refused"
        assert error["message"].startswith(message)
        assert status_of(await api.raw(GET_STATUS)) == 200
        assert len(api.fronts.started) == 1
        assert api.machine.calls == []


async def test_a_slow_client_holds_up_nobody() -> None:
    async with running_api() as api:
        slow = await trio.open_unix_socket(api.path)
        await slow.send_all(b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this")
        assert (await api.mwctl("status"))[0] == 0
        await slow.aclose()
        assert (await api.mwctl("status"))[0] == 0
        assert len(api.fronts.started) == 1


async def test_several_requests_follow_each_other_on_one_connection() -> None:
    async with running_api() as api:
        answer = await api.raw(GET_STATUS.replace(b"Connection: close\r\n", b"") * 3 + GET_STATUS)
        assert answer.count(b"HTTP/1.1 200") == 4


async def test_a_long_status_comes_whole() -> None:
    long = msgspec.structs.replace(STATUS, processes=STATUS.processes * 3000)
    async with running_api(FakeMachine(state=long)) as api:
        code, out, _ = await api.mwctl("status", "--json")
        assert code == 0
        assert len(json.loads(out)["processes"]) == 3000


async def test_the_front_leaves_when_idle_and_comes_back() -> None:
    async with running_api(limits=Limits(idle_seconds=0.1)) as api:
        for number in (1, 2):
            assert status_of(await api.raw(GET_STATUS)) == 200
            assert len(api.fronts.started) == number
            assert await api.fronts.started[-1].wait() == 0
        assert "api_front_failed" not in api.events.names()


async def test_a_front_killed_in_mid_request_costs_its_own_connections_only() -> None:
    async with running_api() as api:
        follower = await trio.open_unix_socket(api.path)
        await follower.send_all(b"GET /v1/logs?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: api.machine.followers == 1)
        api.fronts.started[0].kill()
        async with follower:
            with suppress(trio.BrokenResourceError):  # an ordinary end is as good as a reset
                while await follower.receive_some():
                    pass
        await until(lambda: api.machine.followers == 0 and "api_front_failed" in api.events.names())
        assert (await api.mwctl("status"))[0] == 0
        assert len(api.fronts.started) == 2


async def test_too_many_connections_of_one_user_are_closed_and_root_still_gets_through() -> None:
    async with running_api(limits=Limits(connections=6, per_user=2), group=GROUP) as api:
        with open_as(NOBODY, api), open_as(NOBODY, api):
            await until(lambda: len(api.fronts.started) == 1)
            code, _, err = await api.mwctl("status", user=NOBODY, group=GROUP)
            assert code == 4
            assert "it closed the connection" in err
            assert (await api.mwctl("status"))[0] == 0


def open_as(user: int, api: RunningApi) -> socket.socket:
    """Connect while this thread's effective user is *user*, as the kernel then notes."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    os.seteuid(user)
    try:
        connection.connect(api.path)
    finally:
        os.seteuid(0)
    return connection


class BrokenFronts(RealFronts):
    """Starts, the first time, a process that is no front; after that real ones."""

    def __init__(self, first: Callable[[socket.socket], Awaitable[None]]) -> None:
        super().__init__()
        self._first = first

    async def start(self, end: socket.socket) -> FrontProcess:
        if not self.started:
            await self._first(end)
            process = await trio.lowlevel.open_process(["sleep", "60"], pass_fds=[end.fileno()])
            self.started.append(process)
            return process
        return await super().start(end)


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (b"not json", "cannot read a message from front: JSON is malformed"),
        (b'{"type":"api-closed","connection":99}', "it spoke of connection 99, which it does not have"),
        (b'{"type":"api-request","request":1,"connection":99,"verb":"reboot"}', "it spoke of connection 99, which it"),
        (
            b'{"type":"api-request","request":1,"connection":1,"verb":"format-disk"}',
            "cannot read a message from front: Invalid",
        ),
        (b'{"type":"desired","request":0}', "cannot read a message from front: Invalid value"),
        (b"x" * 131_073, "cannot read a message from front: 131073 bytes, at most"),
    ],
)
async def test_a_front_that_says_what_it_may_not_is_killed_and_replaced(message: bytes, fault: str) -> None:
    async def say(end: socket.socket) -> None:
        end.send(message)

    fronts = BrokenFronts(say)
    async with running_api(start_front=fronts.start) as api:
        assert await api.raw(GET_STATUS) == b""
        await until(lambda: "api_front_failed" in api.events.names())
        facts = dict(api.events.seen)["api_front_failed"]
        assert str(facts["why"]).startswith(fault)
        assert await fronts.started[0].wait() == -signal.SIGKILL
        assert status_of(await api.raw(GET_STATUS)) == 200
        assert api.machine.calls == []
        fronts.started[-1].kill()


async def test_a_front_that_asks_twice_at_once_on_a_connection_is_killed() -> None:
    async def ask_twice(end: socket.socket) -> None:
        for number in (1, 2):
            request = {"type": "api-request", "request": number, "connection": 1, "verb": "logs", "parameters": {"follow": "1"}}
            end.send(json.dumps(request, separators=(",", ":")).encode())

    fronts = BrokenFronts(ask_twice)
    async with running_api(start_front=fronts.start) as api:
        assert await api.raw(GET_STATUS) == b""
        await until(lambda: "api_front_failed" in api.events.names())
        assert dict(api.events.seen)["api_front_failed"]["why"] == "it asked on connection 1 before it took its answer"
        assert api.machine.followers == 0


async def test_a_front_that_cannot_be_started_is_noted_and_tried_again() -> None:
    fronts = RealFronts()
    attempts = []

    async def start(end: socket.socket) -> object:
        attempts.append(end)
        if len(attempts) == 1:
            raise OSError(11, "Resource temporarily unavailable")
        return await fronts.start(end)

    async with running_api(start_front=start) as api:  # type: ignore[arg-type]  # what it returns is a FrontProcess
        assert await api.raw(GET_STATUS) == b""
        assert status_of(await api.raw(GET_STATUS)) == 200
        assert api.events.names()[0] == "api_connection_failed"
        fronts.started[0].kill()


class TalkingFront:
    """A front in this process: a task that talks on its end of the channel as *talk* says, until it is killed."""

    def __init__(self, nursery: trio.Nursery, talk: Callable[[Channel[FromFront, ToFront]], Awaitable[None]]) -> None:
        self._nursery = nursery
        self._talk = talk
        self._scope = trio.CancelScope()
        self._gone = trio.Event()
        self.killed = False

    async def start(self, end: socket.socket) -> FrontProcess:
        self._nursery.start_soon(self._run, end.dup())
        return self

    def kill(self) -> None:
        self.killed = True
        self._scope.cancel()

    async def wait(self) -> object:
        await self._gone.wait()
        return None

    async def _run(self, end: socket.socket) -> None:
        async with Channel[FromFront, ToFront](end, ToFront, peer="agent") as channel:
            with self._scope, suppress(ChannelClosedError):
                await self._talk(channel)
        self._gone.set()


async def test_a_front_that_floods_is_heard_no_faster_than_allowed() -> None:
    done = trio.Event()

    async def flood(channel: Channel[FromFront, ToFront]) -> None:
        _, fds = await channel.receive()
        close_all(fds)
        for number in range(60):
            await channel.send(ApiRequest(request=number, connection=1, verb="trust"))
            await channel.receive()
        done.set()
        await channel.receive()  # stays until the other end closes: a front that leaves by itself is a fault

    async with trio.open_nursery() as nursery:
        front = TalkingFront(nursery, flood)
        async with running_api(start_front=front.start, limits=Limits(requests_per_second=40)) as api:
            with open_stream(api):
                began = trio.current_time()
                await done.wait()
                assert trio.current_time() - began >= 0.4  # forty at once, twenty at a fortieth of a second each
        assert not front.killed


async def say_nothing(_: Channel[FromFront, ToFront]) -> None:
    await trio.sleep_forever()


async def test_a_front_that_falls_silent_is_killed() -> None:
    async with trio.open_nursery() as nursery:
        front = TalkingFront(nursery, say_nothing)
        async with running_api(start_front=front.start, limits=Limits(silent_seconds=0.1)) as api:
            assert await api.raw(GET_STATUS) == b""
            assert front.killed
            assert dict(api.events.seen)["api_front_failed"]["why"] == "it neither asked on connection 1 nor closed it"


def open_stream(api: RunningApi) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(api.path)
    return connection

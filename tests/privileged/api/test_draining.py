"""The local API before a re-execution: whoever has come is answered, whoever comes waits, and nobody holds it up."""

import pytest
import trio

from milkyway_agent.api.front_link import FrontProcess, Limits
from tests.fakes.api import running_api
from tests.privileged.api.test_api import GET_STATUS, NOBODY, open_as, status_of, until

pytestmark = pytest.mark.privileged


async def test_who_has_come_is_answered_and_who_comes_waits() -> None:
    async with running_api() as api, trio.open_nursery() as nursery:
        answered: list[str] = []

        async def ask(name: str) -> None:
            assert status_of(await api.raw(GET_STATUS)) == 200
            answered.append(name)

        early = await trio.open_unix_socket(api.path)
        await until(lambda: len(api.drain.owed) == 1)

        async def ask_late() -> None:
            await trio.lowlevel.checkpoint()
            nursery.start_soon(ask, "late")
            await early.send_all(GET_STATUS)
            assert status_of(await early.receive_some()) == 200
            answered.append("early")
            await early.aclose()

        nursery.start_soon(ask_late)
        async with api.drain.drained():
            assert answered == ["early"]
            assert api.drain.owed == set()
        await until(lambda: answered == ["early", "late"])
        await until(lambda: not api.drain.owed)


async def test_who_follows_a_log_is_owed_nothing() -> None:
    async with running_api() as api, await trio.open_unix_socket(api.path) as follower:
        await follower.send_all(b"GET /v1/logs?follow=1&lines=0 HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: api.machine.followers == 1 and not api.drain.owed)


async def test_who_is_turned_away_or_lost_is_owed_nothing() -> None:
    async with running_api(limits=Limits(connections=4, per_user=1), group=4711) as api:
        with open_as(NOBODY, api):
            await until(lambda: len(api.drain.owed) == 1)
            with open_as(NOBODY, api):
                await until(lambda: "api_connection_refused" in api.events.names())
                await until(lambda: len(api.drain.owed) == 1)
            api.fronts.started[0].kill()
            await until(lambda: not api.drain.owed)

    async def start_none(_: object) -> FrontProcess:
        raise OSError("no process to be had")

    async with running_api(start_front=start_none) as api:
        assert await api.raw(GET_STATUS) == b""
        await until(lambda: "api_connection_failed" in api.events.names())
        assert api.drain.owed == set()

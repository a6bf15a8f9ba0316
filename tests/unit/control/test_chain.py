"""Control server, real uplink process and operator's tool together, over real TLS on loopback."""

import json
import os
from pathlib import Path

import pytest
import trio
import trio.testing

from milkyway_formats.envelope import read_draft
from milkyway_formats.errors import UnavailableError
from tests.fakes.control_bench import control_bench, machine
from tests.fakes.layer_files import make_layer
from tests.fakes.people import TRUST


async def test_a_machine_is_enrolled_with_a_token_and_a_signed_record(tmp_path: Path) -> None:
    async with control_bench(tmp_path) as bench, machine() as web:
        enrolled = await web.enrol(bench)
        listed = json.loads((await bench.fleet("status", "--json")).stdout)
    assert enrolled.record.machine == web.id
    assert enrolled.record.name == "web-1"
    assert [(entry["name"], entry["id"]) for entry in listed] == [("web-1", web.id)]
    assert "machine_enrolled" in bench.events.names


async def test_a_deployment_reaches_the_machine_at_once(tmp_path: Path) -> None:
    """The poll is held for 20 s; a push ends it."""
    layer = make_layer()
    (tmp_path / "nginx.layer").write_bytes(layer.data)
    async with control_bench(tmp_path) as bench, machine() as web:
        await web.enrol(bench)
        pushed = await bench.fleet(
            "deploy", str(tmp_path / "nginx.layer"), "--to", "web-1", "--name", "web", "--json",
            *bench.key("alice"), *bench.key("bob"),
        )  # fmt: skip
        with trio.fail_after(5):
            await web.until(lambda: web.envelopes)
        staging = os.open(tmp_path / "staging", os.O_RDWR | os.O_CREAT)
        fetched = await web.fetch(layer.sha256, len(layer.data), staging)
        os.close(staging)
    kind, envelope = web.envelopes[0]
    desired, verified = TRUST.verify_desired(envelope)
    assert kind == "desired"
    assert verified.persons == {"alice", "bob"}
    assert desired.version == 1
    assert desired.deployments[0].stack == [layer.pin]
    assert json.loads(pushed.stdout)["deployments"][0]["id"] == desired.deployments[0].id
    assert fetched.error == ""
    assert (tmp_path / "staging").read_bytes() == layer.data


async def test_the_next_deployment_keeps_its_id_and_counts_its_generation(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.layer").write_bytes(make_layer(content=b"%d" % number).data)
    async with control_bench(tmp_path) as bench, machine() as web:
        await web.enrol(bench)
        both = [*bench.key("alice"), *bench.key("bob")]
        for number in (1, 2):
            shown = await bench.fleet("deploy", str(tmp_path / f"{number}.layer"), "--to", "web-1", "--name", "web", *both)
        await web.until(lambda: len(web.envelopes) == 2)
        removed = await bench.fleet("remove", "web", "--from", "web-1", *both)
        await web.until(lambda: len(web.envelopes) == 3)
    first, second, third = (TRUST.verify_desired(data)[0] for _, data in web.envelopes)
    assert second.deployments[0].id == first.deployments[0].id
    assert [second.deployments[0].generation, second.version] == [2, 2]
    assert third.deployments == []
    assert "desired state 1 → 2" in shown.stdout
    assert "- deployment web" in removed.stdout


async def test_two_operators_sign_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "nginx.layer").write_bytes(make_layer().data)
    draft = str(tmp_path / "change.json")
    async with control_bench(tmp_path) as bench, machine() as web:
        await web.enrol(bench)
        await bench.fleet("upload", str(tmp_path / "nginx.layer"))
        deploy = ["deploy", str(tmp_path / "nginx.layer"), "--to", "web-1", *bench.key("alice")]
        alone = await bench.fleet(*deploy, code=1)
        await bench.fleet(*deploy, "--prepare", draft)
        early = await bench.fleet("push", draft, code=1)
        twice = await bench.fleet("sign", draft, *bench.key("alice"), code=1)
        await bench.fleet("sign", draft, *bench.key("bob"))
        await bench.fleet("push", draft)
        await web.until(lambda: web.envelopes)
        again = await bench.fleet("push", draft, code=1)
    assert str(alone.exception) == "cannot accept desired state: 1 of 2 persons signed (alice)"
    assert str(early.exception) == "cannot accept desired state: 1 of 2 persons signed (alice)"
    assert str(twice.exception) == "cannot sign: alice has signed this with the same key"
    assert str(again.exception) == "cannot push desired state 1: web-1 already has 1"
    assert TRUST.verify_desired(web.envelopes[0][1])[1].persons == {"alice", "bob"}


async def test_a_change_without_signatures_is_prepared_and_never_sent(tmp_path: Path) -> None:
    (tmp_path / "nginx.layer").write_bytes(make_layer().data)
    draft = tmp_path / "change.json"
    async with control_bench(tmp_path) as bench, machine() as web:
        await web.enrol(bench)
        deploy = ["deploy", str(tmp_path / "nginx.layer"), "--to", "web-1", "--unsigned"]
        for contradiction in ([], ["--prepare", str(draft), *bench.key("alice")]):
            await bench.fleet(*deploy, *contradiction, code=2)
        prepared = await bench.fleet(*deploy, "--prepare", str(draft))
        sent = await bench.fleet("push", str(draft), code=1)
    envelope = read_draft(draft.read_bytes().removesuffix(b"\n"), what="draft")
    assert (envelope.signatures, prepared.stdout.splitlines()[-1]) == ([], f"{draft}: 0 signatures")
    assert str(sent.exception) == "cannot read desired state: it is not signed"


async def test_a_change_is_numbered_above_what_the_machine_says_it_runs(tmp_path: Path) -> None:
    """The machine runs version 1, applied there and never seen by the server. A push must still get through."""
    (tmp_path / "nginx.layer").write_bytes(make_layer().data)
    async with control_bench(tmp_path) as bench, machine() as web:
        await web.enrol(bench)
        await web.report(1)
        await bench.events.until("report_stored")
        both = [*bench.key("alice"), *bench.key("bob")]
        pushed = await bench.fleet("deploy", str(tmp_path / "nginx.layer"), "--to", "web-1", *both)
        await web.until(lambda: web.envelopes)
    assert TRUST.verify_desired(web.envelopes[0][1])[0].version == 2
    warning = "warning: web-1 runs desired state 1, which was applied at the machine; this change builds on 0 and replaces it"
    assert warning in pushed.output


async def test_commands_count_in_their_stream(tmp_path: Path) -> None:
    async with control_bench(tmp_path) as bench, machine() as web:
        await web.enrol(bench)
        await bench.fleet("restart", "web-1", "web/nginx", *bench.key("alice"))
        await bench.fleet("command", "web-1", "stop", "web/nginx", *bench.key("alice"))
        await bench.fleet("restart", "web-1", "web/nginx", *bench.key("bob"))
        await web.until(lambda: len(web.envelopes) == 3)
        deep = await bench.fleet("command", "web-1", "reboot", *bench.key("alice"), code=1)
    commands = [TRUST.verify_command(data)[0] for _, data in web.envelopes]
    streams = [(command.stream.partition(".")[0], command.sequence) for command in commands]
    assert streams == [("alice", 1), ("alice", 2), ("bob", 1)]
    assert [command.command_class for command in commands] == ["restart", "stop", "restart"]
    assert str(deep.exception) == "cannot accept deep command: 1 of 2 persons signed (alice)"


async def test_a_new_uplink_gets_the_desired_state_again_and_no_acknowledged_command(tmp_path: Path) -> None:
    (tmp_path / "nginx.layer").write_bytes(make_layer().data)
    async with control_bench(tmp_path) as bench:
        async with machine() as web:
            enrolled = await web.enrol(bench)
            both = [*bench.key("alice"), *bench.key("bob")]
            await bench.fleet("deploy", str(tmp_path / "nginx.layer"), "--to", "web-1", *both)
            await bench.fleet("restart", "web-1", "web/nginx", *bench.key("alice"))
            await web.until(lambda: len(web.envelopes) == 2)
            await bench.events.until("commands_acknowledged")
        async with machine() as again:
            await again.connect(bench, certificate=enrolled.certificate)
            await again.until(lambda: again.states and again.states[-1].connected)
            await bench.fleet("restart", "web-1", "web/nginx", *bench.key("alice"))
            await again.until(lambda: len(again.envelopes) == 2)
    assert [kind for kind, _ in again.envelopes] == ["desired", "command"]
    assert TRUST.verify_command(again.envelopes[1][1])[0].sequence == 2


async def test_reports_are_kept_and_shown_once_their_signature_holds(tmp_path: Path) -> None:
    async with control_bench(tmp_path) as bench, machine() as web:
        await web.enrol(bench)
        await web.report(1)
        await bench.events.until("report_stored")
        shown = json.loads((await bench.fleet("status", "web-1", "--json")).stdout)
        text = (await bench.fleet("status", "web-1")).stdout
        logs = (await bench.fleet("logs", "web-1")).stdout
    assert shown["report"]["status"]["selinux"] == "enforcing"
    assert "SELinux enforcing, development" in text
    assert "nothing to report" in logs


@pytest.mark.parametrize("arguments", [["enrol", "nobody"], ["status", "nobody"], ["revoke", "nobody"]])
async def test_a_machine_that_does_not_exist_is_refused_in_one_line(tmp_path: Path, arguments: list[str]) -> None:
    async with control_bench(tmp_path) as bench:
        result = await bench.fleet(*arguments, code=1)
    assert str(result.exception).startswith(
        ("cannot enrol nobody: none is waiting", "cannot find machine nobody: there is none")
    )


async def test_an_operator_connects_with_what_init_made(tmp_path: Path) -> None:
    async with control_bench(tmp_path) as bench:
        files = [
            "--certificate", str(bench.site.operators.client("operator")), "--ca", str(bench.site.operators.ca),
            "--vendor-root", str(tmp_path / "vendor-root.json"), "--owner-root", str(tmp_path / "owner-root.json"),
        ]  # fmt: skip
        server = ["--server", f"127.0.0.1:{bench.ports.operators}"]
        mine = ["--config", str(tmp_path / "mine")]
        made = await bench.fleet(*mine, "connect", *server, "--fleet", "demo", *files, *bench.key("alice"))
        listed = await bench.fleet(*mine, "status")
        again = await bench.fleet(*mine, "connect", *server, "--fleet", "demo", *files, code=1)
        other = await bench.fleet("--config", str(tmp_path / "x"), "connect", *server, "--fleet", "other", *files, code=1)
    assert made.stdout.startswith(f"{tmp_path}/mine: fleet demo at 127.0.0.1:")
    assert listed.stdout == "no machine is enrolled\n"
    assert str(again.exception).endswith("it has a configuration already")
    assert "its owner root is of fleet demo, its server of other" in str(other.exception)


async def test_a_server_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    async with control_bench(tmp_path) as bench:
        bench.stop.cancel()
        await trio.testing.wait_all_tasks_blocked()
        gone = await bench.fleet("status", code=1)
    assert isinstance(gone.exception, UnavailableError)
    assert "cannot ask the control server at 127.0.0.1:" in str(gone.exception)
    assert "Connection refused" in str(gone.exception)

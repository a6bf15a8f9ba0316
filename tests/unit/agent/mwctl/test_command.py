"""What mwctl shows, word for word, and that it starts with little."""

import argparse
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from milkyway_agent.api.machine import layers_of, plain, services_of
from milkyway_agent.mwctl import command, options
from milkyway_agent.mwctl.screen import (
    Json,
    Painter,
    clean,
    deployments_lines,
    duration,
    layers_lines,
    log_line,
    services_lines,
    status_lines,
    trust_lines,
)
from milkyway_formats import envelope
from milkyway_formats.errors import RefusedError
from milkyway_formats.report import Status
from tests.fakes.machine import STATUS, TRUST

PLAIN = Painter(colour=False)
COLOUR = Painter(colour=True)

HEALTHY = """\
web-1  MilkyWay CoreOS 0.1.0

  slot       none
  root hash  3f2a9c41d2e0
  SELinux    enforcing
  up         2 h 14 min, ready 18.4 s after the kernel started
  desired    version 7
  control    connected

deployments
  web  active  generation 2  example/nginx 1.26.3, example/libraries 13.1
    web/nginx  started  u:r:web_k3v9.v2.process:s0  pid 412  for 2 h 13 min

services of CoreOS
  dhcp  started  u:r:dhcp_t:s0  pid 88  for 2 h 13 min
  time  stopped                         for 2 h 13 min"""

TROUBLED = """\
this machine  MilkyWay CoreOS 0.1.0

  slot       a
  root hash  3f2a9c41d2e0
  SELinux    PERMISSIVE
  up         350 ms
  desired    none yet
  control    not connected

warning: SELinux is permissive: nothing on this machine is confined
warning: quarantined, commands are refused: the trust state is missing
warning: development machine: its console gives a login, its disk key is no secret
warning: the control server does not answer; what runs goes on running

deployments
  web  failed  generation 2

services of CoreOS
  dhcp  failed  for 0 ms  3 restarts

failed
  boot: cannot mount /data: no such device
  web: cannot open layer: \\x1b[31mroot hash differs
  dhcp: exited with status 1

refused lately
  cannot admit document 6: version 7 is in force"""


SUPERVISOR = """\
web-1  milkyway-agent 0.1.0

services
  dhcp  failed  for 0 ms  3 restarts

failed
  dhcp: exited with status 1"""


def troubled() -> Status:
    web = msgspec.structs.replace(
        STATUS.deployments[0], state="failed", services=[], layers=[], reason="cannot open layer: \x1b[31mroot hash differs"
    )
    dhcp = msgspec.structs.replace(
        STATUS.services[0], state="failed", reason="exited with status 1", restarts=3, since_ms=350, pid=0, context=""
    )
    return msgspec.structs.replace(
        STATUS,
        slot="a",
        hostname="",
        selinux="permissive",
        development=True,
        quarantined="the trust state is missing",
        connected=False,
        uptime_ms=350,
        boot_ms={},
        desired_version=0,
        deployments=[web],
        services=[dhcp],
        boot_failures=["cannot mount /data: no such device"],
        refusals=["cannot admit document 6: version 7 is in force"],
    )


def shown(status: Status, painter: Painter = PLAIN) -> str:
    return "\n".join(status_lines(plain(status), painter))


def test_status_of_a_healthy_machine() -> None:
    assert shown(STATUS) == HEALTHY


def test_status_of_a_supervisor_by_itself_has_nothing_of_a_machine() -> None:
    dhcp = troubled().services[0]
    alone = msgspec.structs.replace(
        STATUS, root_hash="0" * 64, selinux="disabled", deployments=[], services=[dhcp], uptime_ms=350
    )
    assert shown(alone) == SUPERVISOR
    assert shown(msgspec.structs.replace(alone, services=[])).endswith("\nservices\n  none")


def test_status_of_a_machine_in_trouble_says_so_first_and_why_last() -> None:
    assert shown(troubled()) == TROUBLED


def test_status_of_a_machine_on_which_nothing_runs() -> None:
    bare = msgspec.structs.replace(STATUS, services=[], deployments=[], connected=None)
    assert shown(bare).endswith("desired    version 7\n\ndeployments\n  none")


def test_colour_changes_nothing_but_colour() -> None:
    import re

    coloured = shown(troubled(), COLOUR)
    assert "\x1b[1;31mPERMISSIVE\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == TROUBLED


def test_the_tables() -> None:
    services: Json = {"services": plain(services_of(STATUS))}
    assert services_lines(services, PLAIN) == [
        "SERVICE    STATE    PID  RESTARTS  CONTEXT",
        "dhcp       started  88   0         u:r:dhcp_t:s0",
        "time       stopped  -    0         -",
        "web/nginx  started  412  0         u:r:web_k3v9.v2.process:s0",
    ]
    layers: Json = {"layers": plain(layers_of(STATUS))}
    assert layers_lines(layers, PLAIN)[:2] == [
        "LAYER              VERSION  ROOT HASH     VERITY DEVICE                                       USED BY",
        "example/nginx      1.26.3   a1a1a1a1a1a1  /dev/mapper/layer-b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2  web",
    ]
    deployments: Json = {"deployments": plain(STATUS.deployments)}
    assert deployments_lines(deployments, PLAIN) == [
        "DEPLOYMENT  STATE   ID        GENERATION  SERVICES  LAYERS",
        "web         active  web_k3v9  2           1/1       example/nginx 1.26.3, example/libraries 13.1",
    ]
    assert deployments_lines({"deployments": []}, PLAIN) == ["no deployments"]


def test_trust() -> None:
    assert trust_lines(plain(TRUST), PLAIN, date=lambda seconds: f"day {seconds // 86400}") == [
        "machine  " + "5" * 64,
        "fleet    example",
        "desired  version 7",
        "",
        "owner root  version 1, until day 21990",
        "  sha256      " + "6" * 64,
        "  persons     ada, grace",
        "  thresholds  change 2, read 1",
        "  local       read: whoever changes this machine needs operators' signatures",
    ]


def test_trust_says_when_root_may_change_the_machine() -> None:
    [root] = TRUST.roots
    changed = msgspec.structs.replace(TRUST, roots=[msgspec.structs.replace(root, local="change")])
    lines = trust_lines(plain(changed), PLAIN, date=str)
    assert lines[-1] == "  local       change: root at this machine may apply what no operator signed"


def test_an_envelope_in_a_file_may_end_with_a_newline(tmp_path: Path) -> None:
    file = tmp_path / "change.json"
    for content in (b"{}\n", b"{}"):
        file.write_bytes(content)
        assert command._read_envelope(str(file)) == b"{}"
    file.write_bytes(b"\n")
    with pytest.raises(RefusedError, match="it is empty"):
        command._read_envelope(str(file))


def test_a_log_line_and_the_log_that_breaks_off() -> None:
    line = {"time_ms": 5, "service": "dhcp", "text": "a\tb\r\x9b2J\u202e", "stream": "output", "priority": 6}
    assert log_line(line, PLAIN, moment=str) == "5 dhcp a\tb\\r\\x9b2J\\u202e"
    assert log_line({"error": {"message": "gone"}}, PLAIN, moment=str) == "(the log ends here: gone)"


def test_a_log_line_has_the_colour_of_its_priority_where_there_are_colours() -> None:
    styles = []
    for priority in range(8):
        line = {"time_ms": 5, "service": "dhcp", "text": "said", "stream": "output", "priority": priority}
        styles.append(log_line(line, COLOUR, moment=str).rpartition("dhcp\x1b[0m ")[2])
        assert log_line(line, PLAIN, moment=str) == "5 dhcp said"
    bad, warning, notice, debug = "\x1b[1;31msaid\x1b[0m", "\x1b[33msaid\x1b[0m", "\x1b[1msaid\x1b[0m", "\x1b[2msaid\x1b[0m"
    assert styles == [bad, bad, bad, bad, warning, notice, "said", debug]


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (-5, "0 ms"),
        (350, "350 ms"),
        (18_449, "18.4 s"),
        (59_999, "59 s"),
        (843_000, "14 min 3 s"),
        (8_040_500, "2 h 14 min"),
        (273_600_000, "3 d 4 h"),
    ],
)
def test_durations_as_people_say_them(milliseconds: int, text: str) -> None:
    assert duration(milliseconds) == text


def test_ordinary_text_stays_as_it_is() -> None:
    assert clean("Grüße, 你好: 100 %") == "Grüße, 你好: 100 %"
    assert clean("\x00\x1b]0;title\x07") == "\\x00\\x1b]0;title\\x07"


def commands() -> dict[str, argparse.ArgumentParser]:
    for action in options.make_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("mwctl has no commands")


def test_every_command_has_help_with_an_example_that_it_takes() -> None:
    assert set(commands()) == {
        *("status", "services", "layers", "deployments", "trust", "logs"),
        *("tree", "why", "blame", "critical-path", "top", "metrics", "events"),
        *("start", "stop", "restart", "reload", "apply", "reexec", "reboot", "poweroff"),
    }
    for name, parser in commands().items():
        example = parser.format_help().rpartition("example: mwctl ")[2].split()
        assert options.make_parser().parse_args(example).verb == name


def test_what_the_network_takes_can_be_applied_too() -> None:
    assert command.MAX_ENVELOPE_BYTES == envelope.MAX_ENVELOPE_BYTES


@pytest.mark.parametrize("arguments", [["--json", "status"], ["status", "--json"]])
def test_json_may_stand_before_and_after_the_command(arguments: list[str]) -> None:
    assert options.make_parser().parse_args(arguments).json is True


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["apply", "/nonexistent"], 3, "cannot read /nonexistent: No such file or directory\n"),
        (["apply", "/dev/null"], 3, "cannot apply /dev/null: it is empty\nhint: "),
        (["apply", "/dev/zero"], 3, "cannot apply /dev/zero: longer than 424725 bytes\n"),
        (["logs", "--since", "yesterday"], 3, "cannot read --since 'yesterday': not like 90s"),
        (["logs", "web", "--until", "1w"], 3, "cannot read --until '1w': not like 90s"),
        (["status"], 4, "cannot reach the agent at /nonexistent/socket: No such file or directory\nhint: "),
    ],
)
def test_what_cannot_be_done_is_one_line_and_a_code(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(["--socket", "/nonexistent/socket", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)


def test_mwctl_starts_with_little() -> None:
    """Under emulation each of these costs a tenth of a second or more at every start."""
    code = "import sys; from milkyway_agent.mwctl.command import run; run(['--socket', '/none', 'status']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # What the interpreter of a virtual environment loads before any of this is not counted.
    before = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split()) - set(before.stdout.split())
    heavy = {"trio", "msgspec", "h11", "httpx", "click", "rich", "ssl", "email", "http", "urllib", "shutil", "pathlib", "json"}
    assert "argparse" in loaded
    assert loaded & heavy == set()

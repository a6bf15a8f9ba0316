import os
import pty
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from milkyway_coreos.vm.shell import Executed, Reader, Shell, script
from milkyway_formats.errors import UnavailableError


@pytest.fixture
def shell() -> Iterator[Shell]:
    """A real ``sh`` on a terminal that echoes, prompts and edits lines, like the machine's; a socket leads to it."""
    ours, theirs = socket.socketpair()
    terminal, inner = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "PS1": "# ", "PS2": "> ", "ENV": "/dev/null"}
    child = subprocess.Popen(
        ["setsid", "--ctty", "sh", "-i"], stdin=inner, stdout=inner, stderr=inner, env=environment, start_new_session=False
    )
    os.close(inner)
    up = threading.Thread(target=_carry, args=(lambda: theirs.recv(4096), lambda data: os.write(terminal, data)))
    down = threading.Thread(target=_carry, args=(lambda: os.read(terminal, 4096), theirs.sendall))
    up.start()
    down.start()
    yield Shell(ours)
    child.kill()
    child.wait()
    ours.close()
    up.join()
    down.join()
    theirs.close()
    os.close(terminal)


def _carry(take: object, give: object) -> None:
    assert callable(take)
    assert callable(give)
    try:
        while data := take():
            give(data)
    except OSError:
        return


def test_returns_exit_code_and_both_outputs(shell: Shell) -> None:
    assert shell.execute("echo out; echo err >&2; exit 3") == Executed(3, b"out\n", b"err\n")


def test_any_bytes_pass_both_ways(shell: Shell) -> None:
    data = bytes(range(256)) * 40
    assert shell.execute("cat", stdin=data) == Executed(0, data, b"")


def test_a_command_may_be_long_and_of_several_lines(shell: Shell) -> None:
    word = "x" * 6000
    assert shell.execute(f"set -- {word}\nprintf %s $1").stdout == word.encode()


def test_commands_follow_one_another(shell: Shell) -> None:
    assert [shell.execute(f"echo {number}").text for number in range(3)] == ["0", "1", "2"]


def test_a_command_that_prints_what_looks_like_a_frame_changes_nothing(shell: Shell) -> None:
    command = "cat /tmp/vm-*.command; echo vm-000000000000:code:0; echo vm-000000000000:end:0"
    executed = shell.execute(command)
    assert executed.code == 0
    assert executed.stdout.endswith(b"vm-000000000000:end:0\n")


def test_a_command_that_does_not_end_is_interrupted_and_the_next_one_runs(shell: Shell) -> None:
    with pytest.raises(UnavailableError, match=r"cannot execute 'sleep 600': no answer within 1 s"):
        shell.execute("sleep 600", deadline_s=1)
    assert shell.execute("echo again").text == "again"


def test_says_when_nobody_answers() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(UnavailableError, match="cannot reach the machine's shell: it does not answer"):
        Shell(ours).execute("true", deadline_s=0.2)


def test_says_when_the_machine_ends() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(UnavailableError, match="cannot reach the machine's shell"):
        Shell(ours).execute("true", deadline_s=5)


def test_an_echo_of_the_input_is_not_an_answer() -> None:
    sent = script("echo hello", b"", "vm-1")
    assert Reader("vm-1").feed(sent) is None


def test_the_answer_may_come_in_any_pieces() -> None:
    frame = b"# noise\r\nvm-1:code:7\r\naGk=\r\nvm-1:stderr:0\r\nvm-1:end:0\r\n"
    for cut in range(1, len(frame)):
        reader = Reader("vm-1")
        first = reader.feed(frame[:cut])
        assert first is None
        assert reader.feed(frame[cut:]) == Executed(7, b"hi", b"")
